"""What all encoders of covers and of audio have in common."""

import functools
import re

from flax import nnx
import numpy as np
import pytest

from mlrec.models.convert.torch_names import names_by_path
from mlrec.models.layers.context import Context
from mlrec.models.registry import AUDIO_ENCODER
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import models as registry
from support import encoder_checks as checks
from support import tiny_encoders as tiny

# Each family once; a deeper net of the same class tells nothing more.
_FAMILIES = ("clip_vit_b_32", "vit_mae_b", "siglip_b_16", "swin_t", "resnet18", "resnet50", "vit_image_s", "ast_b")
# With as few layers as have one of each sort.
_SHALLOW = {
  "clip_vit_b_32": {"depth": 1},
  "vit_mae_b": {"depth": 1},
  "siglip_b_16": {"depth": 1},
  "swin_t": {"depths": (2,), "heads": (2,), "drop_path": 0.5},
  "resnet18": {"depths": (1, 1, 1, 1)},
  "ast_b": {"depth": 1},
}
# Stages that draw, and that do not.
_COMPUTED_AGAIN = ("swin_t", "clip_vit_b_32")
# A key's bias adds the same to all scores of a query, so the softmax removes it.
_WITHOUT_GRADIENT = r"(key|k_proj)\.bias$"


def test_every_encoder_has_its_name_and_kind():
  assert registry.names(IMAGE_ENCODER) == [
    "clip_vit_b_32", "pe_core_b_16", "pe_core_l_14", "pe_core_s_16", "pe_core_t_16", "resnet101", "resnet152",
    "resnet18", "resnet34", "resnet50", "siglip2_b_16", "siglip2_l_16",
    "siglip2_so400m_16", "siglip_b_16", "swin_b", "swin_t", "vit_image_s", "vit_mae_b",
  ]  # fmt: skip
  assert registry.names(AUDIO_ENCODER) == ["ast_b", "ast_s"]


def _training():
  return Context(train=True, rngs=nnx.Rngs(dropout=7))


def _found(model, first_trained, name):
  found = checks.gradients(model, tiny.content(name), first_trained, context=_training)
  # What is no parameter has no gradient.
  learned = {names_by_path(model)[path] for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
  return {key: value for key, value in found.items() if key in learned}


@pytest.mark.parametrize("name", _SHALLOW)
def test_every_parameter_is_trained_and_stages_computed_again_give_the_same(name):
  model = tiny.drawn(name, **_SHALLOW[name])
  whole = _found(model, 0, name)
  for key, value in whole.items():
    assert np.isfinite(value).all(), key
    assert np.abs(value).max() > 1e-6 or re.search(_WITHOUT_GRADIENT, key), key
  if name not in _COMPUTED_AGAIN:
    return
  model.remat = True
  below = f"{model.stages[0]}."
  largest = max(np.abs(value).max() for value in whole.values())
  for key, value in _found(model, 1, name).items():
    wanted = np.zeros_like(value) if key.startswith(below) else whole[key]
    np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-6 * largest * wanted.any(), err_msg=key)


@pytest.mark.parametrize("name", _FAMILIES)
def test_what_is_loaded_comes_back_and_what_does_not_fit_is_named(name):
  model = tiny.built(name)
  checks.assert_comes_back(model)
  key = sorted(tiny.shapes(model))[-1]
  prefix = re.match(r"(vision_model\.|swin\.)?", key).group()
  checks.assert_misfits_are_named(model, key, unused=f"{prefix}blocks.77.weight")


def test_half_precision_is_near_the_exact_output():
  make = functools.partial(tiny.drawn, "ast_b", **_SHALLOW["ast_b"])
  checks.assert_near_in_half_precision(make, tiny.content("ast_b"), 0.08)


@pytest.mark.parametrize(
  ("name", "projection"),
  [
    ("clip_vit_b_32", "image_proj"),
    ("swin_t", "image_net.classifier"),
    ("resnet18", "image_net.fc"),
    ("ast_b", "audio_proj"),
  ],
)
def test_a_projection_starts_xavier_normal_without_a_bias_under_its_own_name(name, projection):
  model = tiny.built(name)
  layer = model.make_projection(512, rngs=nnx.Rngs(0))
  assert model.projection_name == projection
  assert layer.kernel.shape == (model.spec.features, 512)
  wanted = (2 / (model.spec.features + 512)) ** 0.5
  np.testing.assert_allclose(np.std(layer.kernel[...]), wanted, rtol=0.03)
  assert not np.any(layer.bias[...])
