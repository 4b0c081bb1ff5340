"""The video tower: an item is what a video encoder makes of its frames."""

from collections.abc import Mapping
import functools
from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.data.content import Need
from mlrec.models.convert.torch_names import names_by_path
from mlrec.models.items.encoder import FROZEN
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.frozen import freeze
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import closest

MODES = ("frozen", "top", "full", "scratch")
PIXELS = ("spec", "double", "reference")
# Stands for weights where an encoder is to start at random in a mode that is meant for published ones.
RANDOM = "random"


class FrozenEncoder(NamedTuple):
  """All that the vectors of a frozen encoder depend on, beside the videos.

  Attributes:
    encoder: its name.
    options: its options.
    weights: the file of its weights, or `random`.
    pixels: how pixels are normalised.
    frames: frames a clip.
    size: their height and width.
    dtype: of the computation.
  """

  encoder: str
  options: Mapping[str, Any]
  weights: str
  pixels: str
  frames: int
  size: int
  dtype: str

  def build(self, *, rngs: nnx.Rngs) -> VideoEncoder:
    """The encoder, at random."""
    fitted = {}
    if getattr(models.get(self.encoder, kind=VIDEO_ENCODER), "fitted_to_clips", False):
      # Built for other clips, it would interpolate a file's positions twice, and lose some in between.
      fitted = {name: value for name, value in (("num_frames", self.frames), ("size", self.size)) if value}
    options = fitted | dict(self.options)
    return models.create(self.encoder, kind=VIDEO_ENCODER, rngs=rngs, dtype=jnp.dtype(self.dtype), **options)


@models.register("video", kind=ITEM_TOWER)
class VideoTower(nnx.Module):
  """GELU of a projection of a video encoder's output (arXiv 2309.15379, section 4.1, and its released code).

  Modes: `frozen` takes the encoder as it is, its vectors computed once and kept on disk, and trains the projection;
  `top` trains the encoder from a stage on; `full` trains all of it from published weights; `scratch` from a random
  start. Frozen stages run as in evaluation: their statistics do not move. The padding item is a clip of zeros.

  Gradients may be accumulated over parts of a batch's items: the loss stays that of the whole batch, with all of its
  negatives, and so does the gradient, but what the backward pass needs is kept for one part at a time. Batch
  normalisation then takes the statistics of a part.
  """

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    encoder: str = "videomae_b",
    mode: str = "full",
    weights: str = "",
    train_from: str = "",
    frames: int = 0,
    size: int = 0,
    pixels: str = "spec",
    dtype: str = "float32",
    remat: bool = False,
    accumulate: int = 1,
    frozen_in_training: bool = False,
    cache: bool = True,
    options: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ):
    """Builds the tower.

    Args:
      num_items: not used; videos say which item they are of.
      dim: width of item vectors.
      encoder: a video encoder's name.
      mode: one of `MODES`.
      weights: a file of published weights, which every mode but `scratch` needs; `random` where it is meant so.
      train_from: in the mode `top`, the first stage trained; empty for the encoder's own choice.
      frames: frames a clip; 0 for the encoder's own.
      size: height and width of frames; 0 for the encoder's own.
      pixels: `spec` normalises by the encoder's statistics; `double` and `reference` do as MicroLens's code did.
      dtype: of the encoder's computation; parameters are float32.
      remat: computes each stage again in the backward pass instead of keeping what it needs.
      accumulate: the number of parts in which a training step encodes its items, each computed again in the backward
        pass. On a CPU convolutions are slow in parts.
      frozen_in_training: runs frozen stages as in training, as MicroLens's code did: their statistics move and dropout
        draws. Their vectors cannot be kept then.
      cache: in the mode `frozen`, whether vectors are computed once and kept.
      options: the encoder's options.
      rngs: random streams.

    Raises:
      ValueError: a name or a combination is not possible.
    """
    del num_items
    if mode not in MODES:
      raise ValueError(f"config.model.item.mode = {mode!r}: {closest(mode, MODES)}")
    if pixels not in PIXELS:
      raise ValueError(f"config.model.item.pixels = {pixels!r}: {closest(pixels, PIXELS)}")
    if (mode == "scratch") == bool(weights):
      raise ValueError(
        f"config.model.item.mode = {mode!r} "
        + (
          "starts at random: it takes no weights"
          if weights
          else f"needs config.model.item.weights: a file, or {RANDOM!r}"
        )
      )
    if accumulate < 1:
      raise ValueError(f"config.model.item.accumulate = {accumulate}: expected at least 1 part")
    if frozen_in_training and mode == "frozen" and cache:
      raise ValueError(
        "config.model.item.frozen_in_training changes vectors from step to step: it needs config.model.item.cache=False"
      )
    given = dict(options)
    recipe = FrozenEncoder(encoder, given, weights or RANDOM, pixels, frames, size, dtype)
    built = recipe.build(rngs=rngs)
    spec = built.spec
    recipe = recipe._replace(frames=frames or spec.frames, size=size or spec.size)
    self.mode, self.pixels, self.mean, self.std = mode, pixels, spec.mean, spec.std
    self.first_trained = _first_trained(mode, train_from, spec, built.stages)
    self.frozen = recipe if mode == "frozen" and cache else None
    self.weights = "" if weights in ("", RANDOM) or self.frozen else weights
    self.dtype = dtype
    clip = (recipe.frames, recipe.size, recipe.size, 3)
    self.reads = {"features": Need((spec.features,), "float32")} if self.frozen else {"frames": Need(clip, "uint8")}
    self.accumulate = accumulate
    self.torch_names = (
      (r"^encoder\.", "video_encoder.video_net."),
      (r"^projection\.", f"video_encoder.{built.projection_name}."),
    )
    if self.frozen is None:
      built.remat, built.frozen_in_training = remat, frozen_in_training
      below = tuple(f"{stage}." for stage in built.stages[: self.first_trained])
      freeze(built, [path for path, name in names_by_path(built).items() if below and f"{name}.".startswith(below)])
      self.encoder = built
    self.projection = built.projection(dim, rngs=rngs)

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """Vectors of items.

    Args:
      items: `[U]` int.
      content: `frames [U, F, S, S, 3]` uint8, or `features [U, spec.features]` where the encoder is frozen.
      context: for evaluation or training.

    Returns:
      `[U, dim]` float32.
    """
    if self.frozen is not None:
      features = content["features"]
    else:
      clips = normalise(content["frames"], self.mean, self.std, self.pixels)
      clips = jnp.where((items == 0)[:, None, None, None, None], 0, clips).astype(self.dtype)
      if context.train and self.accumulate > 1:
        features = self._encode_in_parts(clips, context)
      else:
        features = self.encoder(clips, context, first_trained=self.first_trained)
    return jax.nn.gelu(self.projection(features.astype(jnp.float32)), approximate=False)

  def _encode_in_parts(self, clips: Array, context: Context) -> Array:
    """The encoder's `[U, F]` of `clips [U, ...]`, in training, a part of the clips after another."""
    weights = jnp.ones(len(clips)) if context.weights is None else context.weights.astype(jnp.float32)
    number, parts = len(clips), self.accumulate
    filler = -number % parts

    def split(x: Array) -> Array:
      # Strided: a part is spread over the devices as the batch is, and filler over the parts.
      x = jnp.pad(x, [(0, filler)] + [(0, 0)] * (x.ndim - 1))
      return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    key = None if context.rngs is None else context.rngs.dropout()
    graph, params, statistics, rest = nnx.split(self.encoder, nnx.Param, nnx.BatchStat, ...)  # type: ignore[misc]

    # The scan itself keeps the compiler from merging the two computations of a part.
    @functools.partial(jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(FROZEN))
    def encode(statistics, part):
      index, clips, weights = part
      encoder = nnx.merge(graph, params, statistics, rest, copy=True)
      rngs = None if key is None else nnx.Rngs(dropout=jax.random.fold_in(key, index))
      features = encoder(clips, Context(True, rngs, weights), first_trained=self.first_trained)
      return nnx.state(encoder, nnx.BatchStat), features

    statistics, features = jax.lax.scan(encode, statistics, (jnp.arange(parts), split(clips), split(weights)))
    nnx.update(self.encoder, statistics)
    return features.swapaxes(0, 1).reshape(-1, features.shape[-1])[:number]


def normalise(frames: Array, mean: tuple[float, ...], std: tuple[float, ...], pixels: str = "spec") -> Array:
  """uint8 pixels to what encoders are fed, float32.

  `spec` is (P / 255 - mean) / std. MicroLens's released code first stretches pixels to [-1, 1]; `double` goes on from
  there, and `reference` also wraps the result into 8 bits, as the library version that it pins did.
  """
  x = jnp.asarray(_wrapped())[frames.astype(jnp.int32)] if pixels == "reference" else frames.astype(jnp.float32) / 255
  if pixels == "double":
    x = (x - 0.5) / 0.5
  return (x - jnp.asarray(mean)) / jnp.asarray(std)


@functools.cache
def _wrapped() -> np.ndarray:
  """`[256]` float32: each byte stretched to [-1, 1] and wrapped into 8 bits, on a scale of 0 to 1.

  Before the fraction is cut off a result may lie a rounding to either side of a whole number, so this is NumPy's
  division: a compiler that multiplies by the inverse gives every eighth byte another value.
  """
  stretched = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
  return (np.trunc(stretched * np.float32(255)) % 256).astype(np.float32) / np.float32(255)


def _first_trained(mode: str, train_from: str, spec: Spec, stages: tuple[str, ...]) -> int:
  if train_from and mode != "top":
    raise ValueError(f"config.model.item.train_from = {train_from!r} is for the mode 'top', not {mode!r}")
  if mode in ("full", "scratch"):
    return 0
  if mode == "frozen":
    return len(stages)
  stage = train_from or spec.top
  if stage not in stages:
    raise ValueError(f"config.model.item.train_from = {stage!r}: {closest(stage, stages)}")
  return stages.index(stage)
