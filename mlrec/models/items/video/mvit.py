"""MViT (Fan et al., ICCV 2021) for clips and for images, as PyTorchVideo publishes it."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
import re
from typing import Any

from einops import rearrange
from einops import repeat
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.encoder import IMAGENET
from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.convolution import Conv3D
from mlrec.models.layers.convolution import max_pool
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.initializers import uniform
from mlrec.models.layers.patches import resized
from mlrec.models.layers.products import Linear
from mlrec.models.layers.transformer import attend
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.transformer import MLP
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-6
_INIT = truncated_normal(0.02)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["grid", "images"])
@dataclasses.dataclass(frozen=True)
class Tokens:
  """What passes between stages.

  Attributes:
    values: `[B * images, 1 + t * h * w, C]`: the class token, then patches in the order time, height, width.
    grid: (t, h, w).
    images: the frames of a clip that are encoded each on its own; 1 where clips are encoded whole.
  """

  values: Array
  grid: tuple[int, int, int]
  images: int = 1


class MViT(VideoEncoder):
  """A transformer whose grid of tokens shrinks as its channels grow; attention pools queries, keys and values.

  Any number of frames and any size will do: tables of positions that fit another grid are interpolated.
  """

  torch_names = (
    (r"^patches\.", "patch_embed.patch_model."),
    (r"^positions\.token", "cls_positional_encoding.cls_token"),
    (r"^positions\.of_token", "cls_positional_encoding.pos_embed_class"),
    (r"^positions\.", "cls_positional_encoding.pos_embed_"),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.mlp_norm\.", ".norm2."),
    (r"\.attention\.((?:pool_|norm_)?[qkv])(?:uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
    (r"\.widened\.", ".proj."),
    (r"^norm\.", "norm_embed."),
    (r"^classes\.", "head.proj."),
  )
  # Whether the patches and the pools span time.
  _spans_time = True

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 96,
    depth: int = 16,
    heads: int = 1,
    halved: Sequence[int] = (1, 3, 14),
    kv_stride: int = 8,
    size: int = 224,
    num_frames: int = 6,
    num_classes: int = 400,
    feature: str = "classes",
    dropout: float = 0.5,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`: they are `num_classes`.
      dim: channels of the first block; each head has as many, where `heads` is 1.
      depth: blocks.
      heads: of the first block.
      halved: blocks that halve height and width; they have twice as many heads as those before, and channels.
      kv_stride: by how much the first block pools keys and values; each block that halves the grid halves it too.
      size: height and width of the frames that the tables of positions fit.
      num_frames: the frames that they fit; in a tower both are its clips', where they are not given.
      num_classes: the width of the output.
      feature: `classes`, or `pooled` for the normalised class token in their place.
      dropout: before the classes.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: blocks or heads do not fit, or `feature` is unknown.
    """
    at_least(1, dim=dim, heads=heads, kv_stride=kv_stride, size=size, num_frames=num_frames, num_classes=num_classes)
    if depth < 1 or dim % heads or not all(0 < n < depth for n in halved):
      raise OptionError(
        "halved",
        f"= {tuple(halved)} must be among blocks 1 to depth - 1 = {depth - 1}, and dim = {dim} a multiple of "
        f"heads = {heads}",
      )
    widths = [dim * 2 ** sum(n <= block for n in halved) for block in range(depth)]
    scored = self.scores_classes(feature)
    self.spec = dataclasses.replace(spec, features=num_classes if scored else widths[-1])
    self.stages = ("patch_embed", "cls_positional_encoding", *(f"blocks.{n}" for n in range(depth)), "norm_embed")
    if scored:
      self.stages += ("head",)
    self.torch_dropped = () if scored else (r"^head\.",)
    self.patches = self._patches(dim, dtype, rngs)
    # Windows of 3 frames, 2 apart, and of 7 pixels, 4 apart.
    frames = _ceil(num_frames, 2) if self._spans_time else 1
    self.positions = Positions((frames, _ceil(size, 4), _ceil(size, 4)), dim, rngs=rngs)
    self.blocks: Any = nnx.List([])
    for block, (width, outputs) in enumerate(zip(widths, [*widths[1:], widths[-1]])):
      self.blocks.append(
        Block(
          width,
          outputs,
          heads=heads * width // dim,
          kernel=(3 if self._spans_time else 1, 3, 3),
          query_stride=2 if block in halved else 1,
          key_stride=max(kv_stride // 2 ** sum(n <= block for n in halved), 1),
          dtype=dtype,
          rngs=rngs,
        )
      )
    self.norm = LayerNorm(widths[-1], _EPSILON, rngs=rngs)
    self.dropout = Dropout(dropout)
    self.classes = nnx.Linear(widths[-1], num_classes, kernel_init=_INIT, dtype=dtype, rngs=rngs) if scored else None

  def stage(self, index: int, x: Any, context: Context) -> Any:
    if index == 0:
      if x.ndim != 5 or x.shape[-1] != 3 or 0 in x.shape:
        raise ValueError(f"MViT expects clips [B, T, H, W, 3] of at least one frame, not an array of shape {x.shape}")
      return self._embedded(x)
    if index == 1:
      return self.positions(x)
    if index < 2 + len(self.blocks):
      return self.blocks[index - 2](x)
    if index == 2 + len(self.blocks):
      # No later stage reads the patches.
      x = dataclasses.replace(x, values=self.norm(x.values[:, :1]))
      return x if self.classes is not None else _averaged(x.values, x.images)
    assert self.classes is not None
    return _averaged(self.classes(self.dropout(x.values, context.rngs)), x.images)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries for this net's clips and under one name each.

    Newer files hold the parameters of pools twice, under a long name too. Tables of positions of other lengths or
    sizes are interpolated, as `resized` says; a published one has 8 or 16 rows in place of the 3 for 5 or 6 frames.

    Raises:
      ValueError: both names are there, and what they hold differs.
    """
    prepared: dict[str, Any] = {}
    for name, array in entries.items():
      short = re.sub(r"\._attention_pool_([qkv])\.(pool|norm)\.", r".\2_\1.", name)
      if short in prepared and not np.array_equal(np.asarray(prepared[short]), np.asarray(array)):
        raise ValueError(f"entries {name!r} and {short!r} are two names of one parameter, but differ")
      prepared[short] = array
    time, height, width = self.positions.grid
    spatial, temporal = (f"cls_positional_encoding.pos_embed_{axis}" for axis in ("spatial", "temporal"))
    prepared |= _fitted(prepared, temporal, (time,), lambda rows: (rows,))
    return prepared | _fitted(prepared, spatial, (height, width), lambda rows: (math.isqrt(rows),) * 2)

  def _patches(self, dim: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Conv:
    conv = Conv3D(
      3, dim, (3, 7, 7), stride=(2, 4, 4), use_bias=True, kernel_init=_pytorch_init(441), dtype=dtype, rngs=rngs
    )
    return _with_pytorch_bias(conv, 441, rngs)

  def _embedded(self, x: Array) -> Tokens:
    x = self.patches(x)
    return Tokens(rearrange(x, "b t h w c -> b (t h w) c"), x.shape[1:4])  # type: ignore[arg-type]


class ImageMViT(MViT):
  """The same over each frame on its own; scores of classes are averaged over frames."""

  _spans_time = False

  def _patches(self, dim: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Conv:
    conv = nnx.Conv(
      3, dim, (7, 7), strides=(4, 4), padding=((3, 3), (3, 3)), kernel_init=_pytorch_init(147), dtype=dtype, rngs=rngs
    )
    return _with_pytorch_bias(conv, 147, rngs)

  def _embedded(self, x: Array) -> Tokens:
    images = x.shape[1]
    x = self.patches(rearrange(x, "b t h w c -> (b t) h w c"))
    return Tokens(rearrange(x, "b h w c -> b (h w) c"), (1, *x.shape[1:3]), images)  # type: ignore[arg-type]


class Positions(nnx.Module):
  """Puts the class token first and adds learned positions: the sum of one in time and one in space."""

  def __init__(self, grid: tuple[int, int, int], dim: int, *, rngs: nnx.Rngs):
    def table(rows: int) -> nnx.Param:
      return nnx.Param(_INIT(rngs.params(), (1, rows, dim)))

    self.grid = grid
    self.token, self.of_token = table(1), table(1)
    self.spatial = table(grid[1] * grid[2])
    self.temporal = table(grid[0])

  def __call__(self, x: Tokens) -> Tokens:
    """`x.values [B, t * h * w, C]` to one more token."""
    dtype = x.values.dtype
    temporal = resized(self.temporal[0], self.grid[:1], x.grid[:1])
    spatial = resized(self.spatial[0], self.grid[1:], x.grid[1:])
    patches = x.values + rearrange(temporal[:, None] + spatial, "t s c -> (t s) c").astype(dtype)
    token = repeat(self.token[...] + self.of_token[...], "1 1 c -> b 1 c", b=len(patches))
    return dataclasses.replace(x, values=jnp.concatenate([token.astype(dtype), patches], axis=1))


class Block(nnx.Module):
  """Pooling attention, then an MLP that may widen; a linear layer takes the place of its shortcut then."""

  def __init__(
    self,
    dim: int,
    outputs: int,
    *,
    heads: int,
    kernel: Sequence[int],
    query_stride: int,
    key_stride: int,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    self.query_stride = query_stride
    self.attention_norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.attention = PoolingAttention(
      dim, heads, kernel=kernel, query_stride=query_stride, key_stride=key_stride, dtype=dtype, rngs=rngs
    )
    self.mlp_norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.mlp = MLP(dim, 4 * dim, outputs, kernel_init=_INIT, dtype=dtype, rngs=rngs)
    self.widened = None if outputs == dim else Linear(dim, outputs, kernel_init=_INIT, dtype=dtype, rngs=rngs)

  def __call__(self, x: Tokens) -> Tokens:
    mixed, grid = self.attention(self.attention_norm(x.values), x.grid)
    values = x.values
    if self.query_stride > 1:
      values = _shortened(values, x.grid, self.query_stride)
    values = values + mixed
    inner = self.mlp_norm(values)
    values = (values if self.widened is None else self.widened(inner)) + self.mlp(inner)
    return dataclasses.replace(x, values=values, grid=grid)


class PoolingAttention(nnx.Module):
  """Attention of queries to keys and values that depthwise convolutions pool within each head (section 3.1)."""

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    kernel: Sequence[int],
    query_stride: int,
    key_stride: int,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    def linear() -> Linear:
      return Linear(dim, dim, kernel_init=_INIT, dtype=dtype, rngs=rngs)

    self.heads = heads
    width = dim // heads
    # A query has no pool where it would keep the grid, and neither has it a norm.
    strides = {"query": query_stride, "key": key_stride, "value": key_stride}
    self.pooled = tuple(name for name in strides if name != "query" or query_stride > 1)
    self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()
    for name in self.pooled:
      stride = (1, strides[name], strides[name])
      init = _pytorch_init(math.prod(kernel))
      pool = Conv3D(width, width, kernel, stride=stride, groups=width, kernel_init=init, dtype=dtype, rngs=rngs)
      setattr(self, f"pool_{name}", pool)
      setattr(self, f"norm_{name}", LayerNorm(width, _EPSILON, rngs=rngs))

  def __call__(self, x: Array, grid: tuple[int, int, int]) -> tuple[Array, tuple[int, int, int]]:
    """`x [B, 1 + t * h * w, D]` and (t, h, w) to the same of the queries' grid."""
    query, grid_after = self._projected("query", x, grid)
    key, _ = self._projected("key", x, grid)
    value, _ = self._projected("value", x, grid)
    mixed = attend(query, key, value)
    return self.out(rearrange(mixed, "b n h c -> b n (h c)")), grid_after

  def _projected(self, name: str, x: Array, grid: tuple[int, int, int]) -> tuple[Array, tuple[int, int, int]]:
    x = rearrange(getattr(self, name)(x), "b n (head c) -> b n head c", head=self.heads)
    if name not in self.pooled:
      return x, grid
    # Heads share the kernel, so they are so many more examples; the class token has no place in the grid.
    patches = rearrange(x[:, 1:], "b (t h w) head c -> (b head) t h w c", t=grid[0], h=grid[1], w=grid[2])
    patches = getattr(self, f"pool_{name}")(patches)
    grid = patches.shape[1:4]
    patches = rearrange(patches, "(b head) t h w c -> b (t h w) head c", head=self.heads)
    return getattr(self, f"norm_{name}")(jnp.concatenate([x[:, :1], patches], axis=1)), grid


def _shortened(values: Array, grid: tuple[int, int, int], stride: int) -> Array:
  """The largest of windows of patches, the class token kept."""
  patches = rearrange(values[:, 1:], "b (t h w) c -> b t h w c", t=grid[0], h=grid[1], w=grid[2])
  window, padding = stride + 1, (stride + 1) // 2
  patches = max_pool(patches, (1, window, window), (1, stride, stride), (0, padding, padding))
  return jnp.concatenate([values[:, :1], rearrange(patches, "b t h w c -> b (t h w) c")], axis=1)


def _averaged(values: Array, images: int) -> Array:
  """`[B * images, 1, C]` to float32 `[B, C]`."""
  return rearrange(values, "(b images) 1 c -> b images c", images=images).mean(1, dtype=jnp.float32)


def _fitted(entries: Mapping[str, Any], name: str, wanted: tuple[int, ...], old: Callable) -> dict[str, np.ndarray]:
  """The table of that name for the wanted grid; none where it is absent or no table."""
  table = np.asarray(entries.get(name, ()))
  if table.ndim != 3 or len(table) != 1 or math.prod(old(table.shape[1])) != table.shape[1]:
    return {}
  return {name: np.asarray(resized(table[0], old(table.shape[1]), wanted))[None]}


def _ceil(length: int, stride: int) -> int:
  return -(-length // stride)


def _pytorch_init(fan_in: int) -> Callable:
  return uniform(1 / math.sqrt(fan_in))


def _with_pytorch_bias(conv: nnx.Conv, fan_in: int, rngs: nnx.Rngs) -> nnx.Conv:
  bias = conv.bias
  assert bias is not None
  bias[...] = _pytorch_init(fan_in)(rngs.params(), bias.shape)
  return conv


def _spec(weights: str, statistics: Mapping[str, Any], source: str) -> Spec:
  return Spec(
    frames=5, interval=1, size=224, **statistics, features=400, weights=weights, licence="Apache-2.0",
    top="blocks.14", half="blocks.8", source=f"PyTorchVideo's model zoo, {source}",
  )  # fmt: skip


# Name: class, its options, specification. The video nets differ in weights alone.
VARIANTS: dict[str, tuple[type[MViT], dict[str, Any], Spec]] = {
  "mvit_b_16x4": (MViT, {}, _spec("MVIT_B_16x4.pyth", KINETICS, "Kinetics-400")),
  "mvit_b_32x3": (MViT, {}, _spec("MVIT_B_32x3_f294077834.pyth", KINETICS, "Kinetics-400")),
  "mvit_b_16": (
    ImageMViT,
    {"kv_stride": 4, "num_classes": 1000},
    _spec("MVIT_B_16_f292487636.pyth", IMAGENET, "ImageNet-1k"),
  ),
}


for _name, (_family, _options, _published) in VARIANTS.items():
  _build = variant(_family, spec=_published, **_options)
  # A tower builds it for its own clips, so that a file's positions are interpolated once, or not at all.
  _build.fitted_to_clips = True  # type: ignore[attr-defined]
  models.register(_name, kind=VIDEO_ENCODER)(_build)
