"""The video tower's gradient, whole and in parts, on one device and on eight."""

import os
import subprocess
import sys
import textwrap

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.items.video.tower import normalise
from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER

_SIZE = 8


@models.register("dense_stages_for_tests", kind=VIDEO_ENCODER)
class DenseStages(VideoEncoder):
  """Two dense stages over pixels, wide enough to see what is kept of them."""

  stages = ("low", "high")
  spec = Spec(2, 1, _SIZE, **KINETICS, features=6, weights="", licence="", top="high")

  def __init__(self, *, norm: bool = False, dtype=jnp.float32, rngs: nnx.Rngs):
    self.low = nnx.Linear(3, 64, dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(64) if norm else None
    self.high = nnx.Linear(64, 6, dtype=dtype, rngs=rngs)

  def stage(self, index, x, context):
    if index:
      return self.high(jnp.sin(x)).mean((1, 2, 3))
    x = self.low(x)
    return nnx.gelu(x if self.norm is None else self.norm(x, context))


def tower(mode="scratch", *, norm=False, **options):
  return models.create(
    "video", 100, 4, kind=ITEM_TOWER, rngs=nnx.Rngs(0), encoder="dense_stages_for_tests", mode=mode,
    weights="" if mode == "scratch" else "random", options={"norm": norm}, **options,
  )  # fmt: skip


def clips(number):
  frames = np.random.default_rng(0).integers(0, 256, (number, 2, _SIZE, _SIZE, 3), np.uint8)
  # Filler at the end, as batches have it.
  return np.where(np.arange(number) < number - 2, np.arange(number) + 1, 0), frames


def gradient(tower):
  """The function `(params, items, frames) -> ((loss, statistics), gradient)` of a tower in training."""
  graph, params, rest = nnx.split(tower, nnx.Param, ...)

  def loss(params, items, frames):
    model = nnx.merge(graph, params, rest, copy=True)
    vectors = model(items, {"frames": frames}, Context(True, nnx.Rngs(dropout=0), items != 0))
    vectors = vectors * (items != 0)[:, None]
    # All items meet, as in a batch's softmax.
    return jnp.square(vectors @ vectors.T).mean(), nnx.state(model, nnx.BatchStat)

  return jax.jit(jax.value_and_grad(loss, has_aux=True)), params


def assert_close(found, wanted):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), found, wanted)


@pytest.mark.parametrize("mode", ["scratch", "top"])
@pytest.mark.parametrize("number", [16, 18])
def test_gradients_accumulated_over_parts_are_those_of_the_whole_batch(mode, number):
  found, needed = {}, {}
  for parts in (1, 4):
    step, params = gradient(tower(mode, accumulate=parts))
    compiled = step.lower(params, *clips(number)).compile()
    found[parts], needed[parts] = compiled(params, *clips(number)), compiled.memory_analysis().temp_size_in_bytes
  assert_close(found[4], found[1])
  if mode == "scratch":
    assert needed[4] < 0.5 * needed[1]


def test_frozen_stages_are_computed_once_where_gradients_accumulate():
  step, params = gradient(tower("top", accumulate=4))
  dots = [line for line in step.lower(params, *clips(16)).as_text().splitlines() if "dot_general" in line]
  # In the frozen stage three colours become 64 channels.
  assert sum("x3xf32>, tensor<3x64xf32>" in line for line in dots) == 1, dots


def test_evaluation_takes_no_parts():
  items, frames = clips(16)
  whole, in_parts = (tower(accumulate=parts)(items, {"frames": frames}) for parts in (1, 4))
  np.testing.assert_array_equal(whole, in_parts)


def devices_agree() -> None:
  """Run where there are eight devices."""
  from jax.sharding import NamedSharding
  from jax.sharding import PartitionSpec

  from mlrec.train.sharding import make_mesh

  assert len(jax.devices()) == 8
  split = NamedSharding(make_mesh(), PartitionSpec("data"))
  whole = NamedSharding(make_mesh(), PartitionSpec())
  for options in ({"norm": True}, {"accumulate": 2}, {"accumulate": 2, "norm": True}):
    step, params = gradient(tower(**options))
    alone = step(params, *clips(32))
    together = step(jax.device_put(params, whole), *(jax.device_put(array, split) for array in clips(32)))
    assert_close(together, alone)


def test_eight_devices_find_the_statistics_and_gradients_of_one():
  # Devices are counted when JAX starts, so this is a process of its own.
  program = """
    from test_video_tower import devices_agree
    devices_agree()
  """
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
  }  # fmt: skip
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr[-3000:]


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
