"""A video tower over two dense stages, and its gradient on one device and on eight."""

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.train.sharding import make_mesh

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


def devices_agree() -> None:
  """Where there are eight devices, they find the statistics and gradients of one."""
  split = NamedSharding(make_mesh(), PartitionSpec("data"))
  whole = NamedSharding(make_mesh(), PartitionSpec())
  for options in ({"norm": True}, {"accumulate": 2}, {"accumulate": 2, "norm": True}):
    step, params = gradient(tower(**options))
    alone = step(params, *clips(32))
    together = step(jax.device_put(params, whole), *(jax.device_put(array, split) for array in clips(32)))
    assert_close(together, alone)
