"""The video tower's gradient, whole and in parts, on one device and on eight."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.items.video.tower import normalise
from mlrec.models.layers import variables
from mlrec.models.layers.variables import ENCODER
from mlrec.models.layers.variables import HEAD
from mlrec.registry import OptionError
from support import dense_tower as dense


@pytest.mark.parametrize("mode", ["scratch", "top"])
@pytest.mark.parametrize("number", [16, 18])
def test_gradients_accumulated_over_parts_are_those_of_the_whole_batch(mode, number):
  found, needed = {}, {}
  for parts in (1, 4):
    step, params = dense.gradient(dense.tower(mode, accumulate=parts))
    compiled = step.lower(params, *dense.clips(number)).compile()
    found[parts], needed[parts] = compiled(params, *dense.clips(number)), compiled.memory_analysis().temp_size_in_bytes
  dense.assert_close(found[4], found[1])
  if mode == "scratch":
    assert needed[4] < 0.5 * needed[1]


def test_frozen_stages_are_computed_once_where_gradients_accumulate():
  step, params = dense.gradient(dense.tower("top", accumulate=4))
  dots = [line for line in step.lower(params, *dense.clips(16)).as_text().splitlines() if "dot_general" in line]
  # In the frozen stage three colours become 64 channels.
  assert sum("x3xf32>, tensor<3x64xf32>" in line for line in dots) == 1, dots


def test_evaluation_takes_no_parts():
  items, frames = dense.clips(16)
  whole, in_parts = (dense.tower(accumulate=parts)(items, {"frames": frames}) for parts in (1, 4))
  np.testing.assert_array_equal(whole, in_parts)


@pytest.mark.parametrize(("asked", "group"), [("", ENCODER), ("encoder", ENCODER), ("head", HEAD)])
def test_the_projection_learns_as_its_group_does(asked, group):
  said = variables.groups(nnx.state(dense.tower(projection_group=asked), nnx.Param))
  projection = {name: said[name] for name in said if name.startswith("projection.")}
  assert projection == dict.fromkeys(("projection.bias.value", "projection.kernel.value"), group)
  assert {found for name, found in said.items() if name not in projection} == {ENCODER}


def test_a_group_that_is_none_is_refused():
  with pytest.raises(OptionError, match=r"projection_group = 'heads': did you mean 'head'"):
    dense.tower(projection_group="heads")


@pytest.mark.slow
def test_eight_devices_find_the_statistics_and_gradients_of_one(eight_devices):
  eight_devices.call("dense_tower:devices_agree")


def test_pixels_are_normalised_as_stated():
  bytes_ = np.arange(256, dtype=np.uint8)
  frames = np.broadcast_to(bytes_[None, :, None, None, None], (1, 256, 1, 1, 3))
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  stretched = (bytes_.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
  # The released code's cast to bytes wraps negative numbers; these are the values that it is known to give.
  wrapped = (stretched * np.float32(255)).astype(np.int64).astype(np.uint8)
  np.testing.assert_array_equal(wrapped[[0, 10, 60, 128, 150, 255]], [1, 21, 121, 1, 45, 255])
  for pixels, wanted in (("spec", bytes_ / 255), ("double", stretched), ("reference", wrapped / 255)):
    found = jax.jit(lambda frames, pixels=pixels: normalise(frames, mean, std, pixels))(frames)
    assert found.dtype == jnp.float32
    wanted = (wanted[:, None] - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(found[0, :, 0, 0, :], wanted, atol=1e-5, err_msg=pixels)
