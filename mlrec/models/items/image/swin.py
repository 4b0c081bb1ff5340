"""Swin (Liu et al., ICCV 2021), as Hugging Face's library publishes it."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.encoder import IMAGENET
from mlrec.models.items.image.encoder import ImageEncoder
from mlrec.models.items.image.encoder import Spec
from mlrec.models.layers.context import Context
from mlrec.models.layers.dropout import DropPath
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.patches import ImagePatches
from mlrec.models.layers.transformer import attend
from mlrec.models.layers.transformer import Attention
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.transformer import MLP
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import models
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-5
_INIT = truncated_normal(0.02)


class Swin(ImageEncoder):
  """Attention within windows, every other time of an image rolled by half a window; four patches merge between stages.

  The output is the mean of the tokens after the last norm. Images of any multiple of the patch will do: what windows
  lack is filled with zeros. MicroLens's code puts its projection in the place of the published classes.
  """

  projection_name = "image_net.classifier"
  torch_names = (
    (r"^embedding\.patches\.", "swin.embeddings.patch_embeddings.projection."),
    (r"^embedding\.norm\.", "swin.embeddings.norm."),
    (r"^layers\.", "swin.encoder.layers."),
    (r"^norm\.", "swin.layernorm."),
    (r"\.attention\.(query|key|value)\.", r".attention.self.\1."),
    (r"\.attention\.table$", ".attention.self.relative_position_bias_table"),
    (r"\.attention\.out\.", ".attention.output.dense."),
    (r"\.mlp\.up\.", ".intermediate.dense."),
    (r"\.mlp\.down\.", ".output.dense."),
    (r"\.attention_norm\.", ".layernorm_before."),
    (r"\.mlp_norm\.", ".layernorm_after."),
  )
  # Classes, and which row of the table is whose, which follows from the window.
  torch_dropped = (r"^classifier\.", r"\.relative_position_index$")

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 96,
    depths: Sequence[int] = (2, 2, 6, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    patch: int = 4,
    drop_path: float = 0.1,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`.
      dim: channels of the first stage; each stage has twice those of the one before.
      depths: blocks of each stage.
      heads: of the attention of each stage.
      window: height and width of a window in patches.
      patch: height and width of a patch.
      drop_path: how probably an image skips the last block's attention in training; from the first block, which none
        skips, the probability grows linearly.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: stages do not fit, or `drop_path` is no probability below 1.
    """
    if not depths or len(depths) != len(heads) or min(depths) < 1:
      raise OptionError(
        "depths", f"= {tuple(depths)} and heads = {tuple(heads)} must be of the same stages, each of at least one block"
      )
    at_least(1, dim=dim, window=window, patch=patch)
    widths = [dim * 2**n for n in range(len(depths))]
    last = len(depths) - 1
    top, half = f"swin.encoder.layers.{last}.blocks.0", f"swin.encoder.layers.{max(last - 1, 0)}.blocks.0"
    self.spec = dataclasses.replace(spec, features=widths[-1], top=top, half=half)
    self.embedding = Embedding(dim, patch, dtype=dtype, rngs=rngs)
    rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())
    self.layers: Any = nnx.List([])
    parts: list[tuple[str, int]] = []
    for n, (depth, width, number) in enumerate(zip(depths, widths, heads)):
      stage = Stage(
        width, number, window=window, rates=[next(rates) for _ in range(depth)], merges=n < last, dtype=dtype, rngs=rngs
      )
      self.layers.append(stage)
      parts += [(f"{n}.blocks.{k}", k) for k in range(depth)] + ([(f"{n}.downsample", depth)] if n < last else [])
    self.norm = LayerNorm(widths[-1], _EPSILON, rngs=rngs)
    self._parts = tuple(parts)
    self.stages = ("swin.embeddings", *(f"swin.encoder.layers.{name}" for name, _ in parts), "swin.layernorm")

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, H, W, C]`; the last stage's result is float32 `[B, spec.features]`."""
    if index == 0:
      return self.embedding(x)
    if index == len(self.stages) - 1:
      return self.norm(x).mean((1, 2), dtype=jnp.float32)
    name, part = self._parts[index - 1]
    layer = self.layers[int(name.split(".")[0])]
    return layer.blocks[part](x, context) if part < len(layer.blocks) else layer.downsample(x)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries under the prefix that those of a classifier have, and those of the encoder alone do not."""
    whole = any(name.startswith("swin.") for name in entries)
    return {name if whole else f"swin.{name}": array for name, array in entries.items()}


class Embedding(nnx.Module):
  """Patches, normalised."""

  def __init__(self, dim: int, patch: int, *, dtype: Any, rngs: nnx.Rngs):
    self.patches = ImagePatches(dim, patch, dtype=dtype, rngs=rngs)
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    """`[B, H, W, 3]` to `[B, H / p, W / p, dim]`."""
    return self.norm(self.patches(x))


class Stage(nnx.Module):
  """Blocks on one grid, and what halves it for the next stage."""

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    window: int,
    rates: Sequence[float],
    merges: bool,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """`rates`: the probability of each block that an image skips its attention."""
    self.blocks: Any = nnx.List([])
    for n, rate in enumerate(rates):
      self.blocks.append(
        Block(dim, heads, window=window, shift=n % 2 * (window // 2), rate=rate, dtype=dtype, rngs=rngs)
      )
    self.downsample = Merge(dim, dtype=dtype, rngs=rngs) if merges else None


class Merge(nnx.Module):
  """Four neighbouring tokens as one of twice the channels; beyond an odd number of them are zeros."""

  def __init__(self, dim: int, *, dtype: Any, rngs: nnx.Rngs):
    self.reduction = nnx.Linear(4 * dim, 2 * dim, use_bias=False, kernel_init=_INIT, dtype=dtype, rngs=rngs)
    self.norm = LayerNorm(4 * dim, _EPSILON, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    """`[B, H, W, C]` to `[B, H / 2, W / 2, 2 C]`, rounded up."""
    x = _filled(x, 2)
    # The order of the four: down the columns first.
    return self.reduction(self.norm(rearrange(x, "b (h p) (w q) c -> b h w (q p c)", p=2, q=2)))


class Block(nnx.Module):
  """Attention within windows, then an MLP, each after a norm of its input and beside a shortcut."""

  def __init__(self, dim: int, heads: int, *, window: int, shift: int, rate: float, dtype: Any, rngs: nnx.Rngs):
    """`shift`: by how many tokens the image is rolled; `rate`: see `Stage`."""
    self.window, self.shift = window, shift
    self.attention_norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.attention = WindowAttention(dim, heads, window, dtype=dtype, rngs=rngs)
    self.drop_path = DropPath(rate)
    self.mlp_norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.mlp = MLP(dim, 4 * dim, kernel_init=_INIT, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, context: Context) -> Array:
    """`x [B, H, W, C]` to the same shape."""
    height, width = x.shape[1:3]
    # A grid no wider than a window is a window itself.
    window = min(self.window, height, width)
    shift = self.shift if window < min(height, width) else 0
    rolled = jnp.roll(_filled(self.attention_norm(x), window), (-shift, -shift), (1, 2))
    windows, grid = _windows(rolled, window)
    mixed = self.attention(windows, window, _adjacent(*rolled.shape[1:3], window, shift) if shift else None)
    mixed = jnp.roll(_joined(mixed, grid, window), (shift, shift), (1, 2))[:, :height, :width]
    x = x + self.drop_path(mixed, context.rngs if context.train else None)
    return x + self.mlp(self.mlp_norm(x))


class WindowAttention(Attention):
  """Attention among the tokens of a window, whose scores have a learned bias for the way from one to the other."""

  def __init__(self, dim: int, heads: int, window: int, *, dtype: Any, rngs: nnx.Rngs):
    if heads < 1 or dim % heads:
      raise OptionError("heads", f"has {heads}: channels {dim} of a stage must be a multiple of its heads = {heads}")
    self.window = window
    self.table = nnx.Param(_INIT(rngs.params(), ((2 * window - 1) ** 2, heads)))
    super().__init__(dim, heads, kernel_init=_INIT, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, window: int, adjacent: np.ndarray | None) -> Array:  # type: ignore[override]
    """`x [B, M, N, C]` to the same shape.

    Args:
      x: M windows of an image, of N tokens each.
      window: their height and width, at most that of the table.
      adjacent: `[M, N, N]` bool, which tokens of a window see each other; None for all.
    """
    bias = rearrange(self.table[...][_ways(window, self.window)], "query key h -> h query key")
    mask = None if adjacent is None else jnp.asarray(rearrange(adjacent, "m query key -> m 1 query key"))
    return self.joined(attend(*self.projected(x), mask, bias=bias))


def _filled(x: Array, size: int) -> Array:
  """`x [B, H, W, C]` with zeros at the lower and right edges, up to multiples of `size`."""
  below, right = -x.shape[1] % size, -x.shape[2] % size
  return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0))) if below or right else x


def _windows(x: Array, size: int) -> tuple[Array, tuple[int, int]]:
  """`x [B, H, W, C]` as `[B, M, size * size, C]`, and how many windows are in a column and in a row."""
  grid = x.shape[1] // size, x.shape[2] // size
  return rearrange(x, "b (h p) (w q) c -> b (h w) (p q) c", p=size, q=size), grid


def _joined(x: Array, grid: tuple[int, int], size: int) -> Array:
  """What `_windows` took apart."""
  return rearrange(x, "b (h w) (p q) c -> b (h p) (w q) c", h=grid[0], w=grid[1], p=size, q=size)


@functools.lru_cache(maxsize=64)
def _ways(size: int, widest: int) -> np.ndarray:
  """`[N, N]`: the row, in a table for windows of `widest`, of the way between two of a window's N places."""
  places = rearrange(np.indices((size, size)), "yx p q -> yx (p q)")
  down, right = places[:, :, None] - places[:, None] + widest - 1
  return down * (2 * widest - 1) + right


@functools.lru_cache(maxsize=64)
def _adjacent(height: int, width: int, size: int, shift: int) -> np.ndarray:
  """`[M, N, N]` bool: which tokens of a window see each other in an image rolled by `shift`.

  Not those that lie beside each other only because it was rolled.
  """

  def region(length: int) -> np.ndarray:
    place = np.arange(length)
    return (place >= length - size).astype(int) + (place >= length - shift)

  regions = 3 * region(height)[:, None] + region(width)
  regions = rearrange(regions, "(h p) (w q) -> (h w) (p q)", p=size, q=size)
  return regions[:, :, None] == regions[:, None]


def _spec(weights: str, source: str) -> Spec:
  return Spec(
    size=224, **IMAGENET, features=768, weights=weights, licence="Apache-2.0", top="swin.encoder.layers.3.blocks.0",
    half="swin.encoder.layers.2.blocks.0", source=f"microsoft/{source}, ImageNet",
  )  # fmt: skip


# Name: options, specification.
VARIANTS: dict[str, tuple[dict[str, Any], Spec]] = {
  "swin_t": ({}, _spec("pytorch_model.bin", "swin-tiny-patch4-window7-224")),
  "swin_b": (
    {"dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    _spec("pytorch_model.bin", "swin-base-patch4-window7-224"),
  ),
}


for _name, (_options, _published) in VARIANTS.items():
  models.register(_name, kind=IMAGE_ENCODER)(variant(Swin, spec=_published, **_options))
