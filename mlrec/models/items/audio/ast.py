"""The Audio Spectrogram Transformer (Gong et al., Interspeech 2021), as Hugging Face's library publishes it."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from einops import rearrange
from einops import repeat
from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.audio.encoder import AudioEncoder
from mlrec.models.items.audio.encoder import Spec
from mlrec.models.items.hugging_face import VIT_LAYERS
from mlrec.models.layers.context import Context
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.log_mel import frame_sizes
from mlrec.models.layers.log_mel import log_mel
from mlrec.models.layers.patches import resized
from mlrec.models.layers.transformer import Block
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import AUDIO_ENCODER
from mlrec.models.registry import models
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-12
_INIT = truncated_normal(0.02)
# Of log-mel values over AudioSet.
_MEAN, _STD = -4.2677393, 4.5689974
# The class token and the one that the distillation of a teacher had.
_TOKENS = 2
_PUBLISHED_FRAMES, _PUBLISHED_MELS = 1024, 128


class AST(AudioEncoder):
  """Overlapping patches of a log-mel spectrogram through a vision transformer; the mean of its two first tokens.

  The first stage computes the spectrogram: a row each 10 ms, cut to `frames` rows or filled up to them with zeros, then
  normalised as (x - mean) / (2 std) by AudioSet's statistics.
  """

  torch_names = (
    (r"^embedding\.patches\.", "embeddings.patch_embeddings.projection."),
    (r"^embedding\.positions$", "embeddings.position_embeddings"),
    (r"^embedding\.token$", "embeddings.cls_token"),
    (r"^embedding\.distilled$", "embeddings.distillation_token"),
    (r"^norm\.", "layernorm."),
    *VIT_LAYERS,
  )
  torch_dropped = (r"^classifier\.",)

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    patch: int = 16,
    stride: int = 10,
    frames: int = 1024,
    mels: int = 128,
    samples: int = 0,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features` and `samples`.
      dim: channels, and the width of the output.
      depth: blocks; in the mode `top` the last two are trained.
      heads: of the attention.
      hidden: channels within the MLPs.
      patch: rows and bands of a patch.
      stride: from one patch to the next, in both.
      frames: rows of the spectrogram, 100 a second.
      mels: its bands.
      samples: of the waveforms that it is fed; 0 for those of `spec`, or those of `frames` where they are fewer.
      dtype: of the computation; parameters and the spectrogram are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: sizes do not fit, or there is no block.
    """
    at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, patch=patch, stride=stride)
    if min(frames, mels) < patch:
      raise OptionError("frames", f"= {frames} and mels = {mels} must be at least patch = {patch}")
    if samples < 0:
      raise OptionError("samples", f"= {samples} must be at least 1, or 0 for those of the encoder")
    self.spec = dataclasses.replace(
      spec, features=dim, samples=samples or min(spec.samples, _samples_of(frames, spec.rate)),
      top=f"encoder.layer.{max(depth - 2, 0)}", half=f"encoder.layer.{depth // 2}",
    )  # fmt: skip
    self.stages = ("embeddings", *(f"encoder.layer.{n}" for n in range(depth)), "layernorm")
    self.frames, self.mels = frames, mels
    self.grid = tuple((length - patch) // stride + 1 for length in (mels, frames))
    self.published_grid = tuple((length - patch) // stride + 1 for length in (_PUBLISHED_MELS, _PUBLISHED_FRAMES))
    self.embedding = Embedding(dim, patch, stride, self.grid, dtype=dtype, rngs=rngs)
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(Block(dim, heads, hidden=hidden, epsilon=_EPSILON, kernel_init=_INIT, dtype=dtype, rngs=rngs))
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, 2 + N, D]`; the last stage's result is float32 `[B, D]`."""
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      return self.embedding(self.spectrogram(x))
    if index <= len(self.blocks):
      return self.blocks[index - 1](x)
    return self.norm(x[:, :_TOKENS]).mean(1, dtype=jnp.float32)

  def spectrogram(self, waveforms: Array) -> Array:
    """`[B, S]` to the normalised log-mel spectrogram, float32 `[B, frames, mels]`."""
    rows = log_mel(waveforms, rate=self.spec.rate, mels=self.mels)[:, : self.frames]
    rows = jnp.pad(rows, ((0, 0), (0, self.frames - rows.shape[1]), (0, 0)))
    return (rows - _MEAN) / (2 * _STD)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries without the prefix of a classifier's, and with positions for this net's rows and bands.

    Where the published grid of 12 bands of patches by 101 in time is larger, its middle is taken, and where it is
    smaller it is interpolated linearly, as AST's own code does (YuanGongND/ast, `ast_models.py`).
    """
    prepared = {name.removeprefix("audio_spectrogram_transformer."): array for name, array in entries.items()}
    name = "embeddings.position_embeddings"
    table = np.asarray(prepared.get(name, ()))
    rows = _TOKENS + int(np.prod(self.published_grid))
    if table.shape == (1, rows, self.spec.features) and self.grid != self.published_grid:
      bands, times = self.published_grid
      grid = _fitted(rearrange(table[0, _TOKENS:], "(f t) c -> f t c", f=bands, t=times), self.grid)
      prepared[name] = np.concatenate([table[0, :_TOKENS], grid])[None]
    return prepared


class Embedding(nnx.Module):
  """Patches of a spectrogram and their positions, behind two tokens."""

  def __init__(self, dim: int, patch: int, stride: int, grid: tuple[int, ...], *, dtype: Any, rngs: nnx.Rngs):
    """`grid`: patches in frequency and in time."""

    def drawn(rows: int) -> nnx.Param:
      return nnx.Param(_INIT(rngs.params(), (1, rows, dim)))

    self.patches = nnx.Conv(
      1, dim, (patch, patch), strides=(stride, stride), padding="VALID", kernel_init=_INIT, dtype=dtype, rngs=rngs
    )
    self.token, self.distilled = drawn(1), drawn(1)
    self.positions = drawn(_TOKENS + int(np.prod(grid)))

  def __call__(self, x: Array) -> Array:
    """`[B, T, mels]` to `[B, 2 + N, dim]`, patches in the order frequency, time."""
    patches = rearrange(self.patches(rearrange(x, "b t f -> b f t 1")), "b f t d -> b (f t) d")
    tokens = jnp.concatenate([self.token[...], self.distilled[...]], axis=1).astype(patches.dtype)
    tokens = jnp.concatenate([repeat(tokens, "1 n d -> b n d", b=len(x)), patches], axis=1)
    return tokens + self.positions[...].astype(patches.dtype)


def _samples_of(frames: int, rate: int) -> int:
  """As many hops as so many windows reach into."""
  window, hop = frame_sizes(rate)
  return (frames - 1 - (-window // hop)) * hop


def _fitted(table: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
  """`[F, T, C]` for another grid, `[product of grid, C]`."""
  for axis, wanted in enumerate(grid):
    first = table.shape[axis] // 2 - wanted // 2
    table = np.take(table, np.arange(first, first + wanted), axis) if wanted < table.shape[axis] else table
  return np.asarray(resized(rearrange(table, "f t c -> (f t) c"), table.shape[:2], grid))


# Name: options, specification. AudioSet's clips last ten seconds: 998 rows, and 26 of zeros.
VARIANTS: dict[str, tuple[dict[str, Any], Spec]] = {
  "ast_b": (
    {},
    Spec(
      rate=16_000, samples=160_000, features=768, weights="model.safetensors", licence="BSD-3-Clause",
      top="encoder.layer.10", half="encoder.layer.6", source="MIT/ast-finetuned-audioset-10-10-0.4593",
    ),
  ),
  "ast_s": (
    {"dim": 192, "depth": 4, "heads": 3, "hidden": 768, "frames": 98, "mels": 64},
    Spec(
      rate=16_000, samples=16_000, features=192, weights="", licence="", top="encoder.layer.2", half="encoder.layer.2",
      source="trained from a random start",
    ),
  ),
}  # fmt: skip


for _name, (_options, _published) in VARIANTS.items():
  models.register(_name, kind=AUDIO_ENCODER)(variant(AST, spec=_published, **_options))
