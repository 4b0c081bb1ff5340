"""Rotary positions turn pairs of channels."""

import numpy as np
import pytest

from mlrec.models.layers.rotary import angles
from mlrec.models.layers.rotary import HALVES
from mlrec.models.layers.rotary import NEIGHBOURS
from mlrec.models.layers.rotary import turned


@pytest.mark.parametrize(("pairs", "channels"), [(HALVES, ([0, 1], [2, 3])), (NEIGHBOURS, ([0, 2], [1, 3]))])
def test_each_pair_is_turned_by_its_angle_and_the_rest_by_none(pairs, channels):
  x = np.random.default_rng(0).normal(size=(2, 3, 1, 6)).astype(np.float32)
  by = angles([0, 1, 2.5], 2, 100.0)
  np.testing.assert_allclose(by, np.outer([0, 1, 2.5], [1, 0.1]))
  out = np.asarray(turned(x, by, pairs))
  first, second = channels
  wanted = (x[..., first] + 1j * x[..., second]) * np.exp(1j * by)[:, None]
  np.testing.assert_allclose(out[..., first], wanted.real, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(out[..., second], wanted.imag, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(out[..., 4:], x[..., 4:])


@pytest.mark.parametrize("pairs", [HALVES, NEIGHBOURS])
def test_scores_depend_on_the_way_between_places_alone(pairs):
  query, key = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
  by = angles(np.arange(5), 4, 10_000.0)
  query, key = (np.asarray(turned(np.broadcast_to(x, (5, 1, 8)), by, pairs))[:, 0] for x in (query, key))
  scores = query @ key.T
  np.testing.assert_allclose(scores[1, 3], scores[0, 2], rtol=1e-4)
  assert abs(scores[1, 3] - scores[0, 3]) > 1e-3
