"""VideoPrism's video encoder (Zhao et al., ICML 2024), under the names of Hugging Face's library.

Google publishes the weights as an `.npz` file of Flax parameters, which loads too. That file itself was never loaded
here: names and shapes are those that the code of google-deepmind/videoprism (`encoders.py`, `layers.py`) gives them.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import functools
import re
from typing import Any

from einops import rearrange
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.convert import FlaxEntry
from mlrec.models.convert import from_flax
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.patches import PatchEmbedding
from mlrec.models.layers.transformer import attend
from mlrec.models.layers.transformer import Attention
from mlrec.models.layers.transformer import gelu
from mlrec.models.layers.transformer import MLP
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-6
_INIT = nnx.initializers.lecun_normal()


# A block in Google's file: name and axes there, name and axes here; a kernel's outputs come first here.
_FLAX_BLOCK = (
  ("layer_norm/scale", "dim", "layernorm_before.weight", "dim"),
  ("layer_norm/bias", "dim", "layernorm_before.bias", "dim"),
  ("self_attention/query/w", "dim heads head", "attention.q_proj.weight", "(heads head) dim"),
  ("self_attention/query/b", "heads head", "attention.q_proj.bias", "(heads head)"),
  ("self_attention/key/w", "dim heads head", "attention.k_proj.weight", "(heads head) dim"),
  ("self_attention/key/b", "heads head", "attention.k_proj.bias", "(heads head)"),
  ("self_attention/value/w", "dim heads head", "attention.v_proj.weight", "(heads head) dim"),
  ("self_attention/value/b", "heads head", "attention.v_proj.bias", "(heads head)"),
  # From heads to channels, though its axes are in the order of those above.
  ("self_attention/post/w", "dim heads head", "attention.o_proj.weight", "dim (heads head)"),
  ("self_attention/post/b", "dim", "attention.o_proj.bias", "dim"),
  ("ff_layer/layer_norm/scale", "dim", "layernorm_after.weight", "dim"),
  ("ff_layer/layer_norm/bias", "dim", "layernorm_after.bias", "dim"),
  ("ff_layer/ffn_layer1/linear/kernel", "dim hidden", "mlp.fc1.weight", "hidden dim"),
  ("ff_layer/ffn_layer1/linear/bias", "hidden", "mlp.fc1.bias", "hidden"),
  ("ff_layer/ffn_layer2/linear/kernel", "hidden dim", "mlp.fc2.weight", "dim hidden"),
  ("ff_layer/ffn_layer2/linear/bias", "dim", "mlp.fc2.bias", "dim"),
)
# Beside the blocks, likewise. A norm's scale is the difference from 1 there too.
_FLAX_REST = (
  ("patch_projection/linear/bias", "dim", "spatial_embeddings.patch_embeddings.projection.bias", "dim"),
  ("spatial_pos_emb/emb_var", "places dim", "spatial_embeddings.position_embeddings", "1 places dim"),
  ("spatial_ln/scale", "dim", "layernorm1.weight", "dim"),
  ("spatial_ln/bias", "dim", "layernorm1.bias", "dim"),
  ("temporal_pos_emb/emb_var", "times dim", "temporal_embeddings.position_embeddings", "1 times dim"),
  ("temporal_ln/scale", "dim", "layernorm2.weight", "dim"),
  ("temporal_ln/bias", "dim", "layernorm2.bias", "dim"),
)
# What models for text hold beside the encoder.
_FLAX_DROPPED = r"^params/(auxiliary_encoder|contrastive_vision_pooler|text_encoder)/"


class VideoPrism(VideoEncoder):
  """A transformer over the patches of each frame, then one over the times of each patch (ViViT's factorised encoder).

  The output is the mean over all frames and patches after the last norm; the pooling head of the models for text is
  not used. Learned positions are interpolated for clips of other lengths and sizes, as the published code does it. It
  was trained with 8 frames; the published tables of positions have 16.
  """

  torch_names = (
    (r"^spatial\.patches\.", "spatial_embeddings.patch_embeddings.projection."),
    (r"^(spatial|temporal)\.table$", r"\1_embeddings.position_embeddings"),
    (r"^spatial_norm\.", "layernorm1."),
    (r"^temporal_norm\.", "layernorm2."),
  )
  torch_dropped = (r"^(text_model|auxiliary_layers|head|head_layernorm|classifier)\.",)

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    spatial_depth: int = 12,
    temporal_depth: int = 4,
    heads: int = 12,
    hidden: int = 3072,
    patch: int = 18,
    size: int = 288,
    num_frames: int = 16,
    cap: float = 50.0,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`, `frames` and `size`.
      dim: channels.
      spatial_depth: blocks over patches.
      temporal_depth: blocks over times.
      heads: of the attention.
      hidden: channels within the MLPs.
      patch: height and width of a patch.
      size: height and width of the frames that the table of positions fits, a multiple of `patch`.
      num_frames: rows of the table of times.
      cap: scores of the attention stay below it.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: an option is not possible.
    """
    at_least(1, spatial_depth=spatial_depth, temporal_depth=temporal_depth, num_frames=num_frames)
    at_least(1, dim=dim, heads=heads, hidden=hidden, patch=patch)
    if cap <= 0:
      raise OptionError("cap", f"= {cap} must be above 0")
    if size < patch or size % patch:
      nearest = patch * max(1, round(size / patch))
      raise OptionError("size", f"= {size} must be a multiple of patch = {patch}: the nearest is {nearest}")
    self.spec = dataclasses.replace(spec, features=dim, frames=num_frames, size=size)
    self.stages = (
      "spatial_embeddings", *(f"spatial_layers.{n}" for n in range(spatial_depth)), "layernorm1",
      "temporal_embeddings", *(f"temporal_layers.{n}" for n in range(temporal_depth)), "layernorm2",
    )  # fmt: skip

    def blocks(depth: int) -> nnx.List:
      return nnx.List([Block(dim, heads, hidden, cap, dtype=dtype, rngs=rngs) for _ in range(depth)])

    self.spatial = SpatialEmbedding(dim, patch, size // patch, dtype=dtype, rngs=rngs)
    self.spatial_layers = blocks(spatial_depth)
    self.spatial_norm = OffsetNorm(dim)
    self.temporal = TemporalEmbedding(dim, num_frames, rngs=rngs)
    self.temporal_layers = blocks(temporal_depth)
    self.temporal_norm = OffsetNorm(dim)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, T, N, D]`, N patches of a frame; the last stage's result is float32 `[B, D]`."""
    del context  # Nothing here acts otherwise in training.
    name, _, number = self.stages[index].partition(".")
    if name == "spatial_embeddings":
      return self.spatial(x)
    if name == "spatial_layers":
      return _along(self.spatial_layers[int(number)], x, "(b t) n d")
    if name == "layernorm1":
      return self.spatial_norm(x)
    if name == "temporal_embeddings":
      return self.temporal(x)
    if name == "temporal_layers":
      return _along(self.temporal_layers[int(number)], x, "(b n) t d")
    return self.temporal_norm(x).mean((1, 2), dtype=jnp.float32)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries without the prefixes that those of models for text or classes have, Google's renamed.

    Raises:
      ValueError: the file is Google's, and an entry is missing, unused or wrongly shaped.
    """
    if any(name.startswith("params/") for name in entries):
      inner = any(name.startswith("params/vision_encoder/") for name in entries)
      return from_flax(entries, self._flax_table("params/vision_encoder/" if inner else "params/"), _FLAX_DROPPED)
    return {re.sub(r"^(video_model\.)?(vision_model\.)?", "", name): array for name, array in entries.items()}

  def _flax_table(self, prefix: str) -> list[FlaxEntry]:
    patch, dim = self.spatial.patches.kernel.shape[1], self.spatial.patches.kernel.shape[-1]
    sizes = {"dim": dim, "places": self.spatial.side**2, "times": self.temporal.table.shape[1]}

    def patches(kernel: np.ndarray) -> np.ndarray:
      return rearrange(kernel, "(p q c) dim -> dim c 1 p q", p=patch, q=patch)

    renamed = "spatial_embeddings.patch_embeddings.projection.weight"
    return [
      *flax_entries(prefix, _FLAX_REST, sizes),
      FlaxEntry(f"{prefix}patch_projection/linear/kernel", (3 * patch**2, dim), renamed, patches),
      *flax_blocks(f"{prefix}spatial_encoder/transformers_stack/", self.spatial_layers, "spatial_layers"),
      *flax_blocks(f"{prefix}temporal_encoder/transformers_stack/", self.temporal_layers, "temporal_layers"),
    ]


def flax_entries(
  prefix: str, rows: Iterable[tuple[str, str, str, str]], sizes: Mapping[str, int], layers: int | None = None
) -> list[FlaxEntry]:
  """How entries of Google's file become PyTorch's.

  Args:
    prefix: of their names there.
    rows: of each its name and axes there, name and axes here.
    sizes: of the axes.
    layers: how many are stacked; None where none are.
  """
  return [
    FlaxEntry(
      f"{prefix}{name}",
      tuple(sizes[axis] for axis in axes.split()),
      renamed,
      functools.partial(rearrange, pattern=f"{axes} -> {axes_here}"),
      layers,
    )
    for name, axes, renamed, axes_here in rows
  ]


def flax_blocks(prefix: str, blocks: Any, renamed: str) -> list[FlaxEntry]:
  """Those of a stack of `Block`s, which are called `renamed` here."""
  first: Block = blocks[0]
  dim, heads = first.mlp.up.in_features, first.attention.heads
  sizes = {"dim": dim, "heads": heads, "head": dim // heads, "hidden": first.mlp.up.out_features}
  rows = [(name, axes, f"{renamed}.{{}}.{torch_name}", axes_here) for name, axes, torch_name, axes_here in _FLAX_BLOCK]
  return flax_entries(f"{prefix}x_layers/", rows, sizes, len(blocks))


class SpatialEmbedding(nnx.Module):
  """Patches of each frame and their places."""

  def __init__(self, dim: int, patch: int, side: int, *, dtype: Any, rngs: nnx.Rngs):
    self.side = side
    self.table = nnx.Param(_positions(rngs, side * side, dim))
    self.patches = PatchEmbedding(dim, 1, patch, kernel_init=_INIT, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    """`x [B, T, H, W, 3]` to `[B, T, N, dim]`."""
    tokens = self.patches(x)
    places = rearrange(self.table[...], "1 (h w) d -> h w d", h=self.side)
    places = _interpolated(places, tokens.shape[2:]).astype(tokens.dtype)
    return rearrange(tokens + places, "b t h w d -> b t (h w) d")


class TemporalEmbedding(nnx.Module):
  """The times of a clip's frames."""

  def __init__(self, dim: int, num_frames: int, *, rngs: nnx.Rngs):
    self.table = nnx.Param(_positions(rngs, num_frames, dim))

  def __call__(self, x: Array) -> Array:
    """`x [B, T, N, dim]` to the same shape."""
    times = _interpolated(self.table[...][0], (x.shape[1], x.shape[-1]))
    return x + times[:, None].astype(x.dtype)


class OffsetNorm(nnx.Module):
  """A layer norm in float32 whose scale is kept as its difference from 1."""

  def __init__(self, features: int):
    self.scale = nnx.Param(jnp.zeros(features))
    self.bias = nnx.Param(jnp.zeros(features))

  def __call__(self, x: Array) -> Array:
    """`x [..., features]` to the same shape and dtype."""
    exact = x.astype(jnp.float32)
    centred = exact - exact.mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _EPSILON)
    return (normed * (1 + self.scale[...]) + self.bias[...]).astype(x.dtype)


class CappedAttention(Attention):
  """Attention whose scores s become cap tanh(s / cap), so that none leaves (-cap, cap)."""

  torch_names = ((r"^(query|key|value|out)\.", lambda match: f"{match[1][0]}_proj."),)

  def __init__(self, dim: int, heads: int, cap: float, *, dtype: Any, rngs: nnx.Rngs):
    super().__init__(dim, heads, kernel_init=_INIT, dtype=dtype, rngs=rngs)
    self.cap = cap

  def __call__(self, x: Array, mask: Array | None = None) -> Array:  # type: ignore[override]
    """`x [B, N, D]` to the same shape; `mask` is that of `attend`."""
    return self.joined(attend(*self.projected(x), mask, cap=self.cap))


class Block(nnx.Module):
  """Attention, then an MLP, each after a norm of its input and beside a shortcut."""

  torch_names = (
    (r"^attention_norm\.", "layernorm_before."),
    (r"^mlp_norm\.", "layernorm_after."),
    (r"^mlp\.up\.", "mlp.fc1."),
    (r"^mlp\.down\.", "mlp.fc2."),
  )

  def __init__(
    self,
    dim: int,
    heads: int,
    hidden: int,
    cap: float,
    *,
    activation: Callable[[Array], Array] = gelu,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    self.attention_norm = OffsetNorm(dim)
    self.attention = CappedAttention(dim, heads, cap, dtype=dtype, rngs=rngs)
    self.mlp_norm = OffsetNorm(dim)
    self.mlp = MLP(dim, hidden, activation=activation, kernel_init=_INIT, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, mask: Array | None = None) -> Array:
    """`x [B, N, D]` to the same shape; `mask` is that of the attention."""
    x = x + self.attention(self.attention_norm(x), mask)
    return x + self.mlp(self.mlp_norm(x))


def _along(block: Block, x: Array, sequences: str) -> Array:
  """The block over `x [B, T, N, D]` as `sequences`, of patches n in a frame t or of times t in a place n."""
  mixed = block(rearrange(x, f"b t n d -> {sequences}"))
  return rearrange(mixed, f"{sequences} -> b t n d", t=x.shape[1], n=x.shape[2])


def _positions(rngs: nnx.Rngs, rows: int, dim: int) -> Array:
  """A first table `[1, rows, dim]`, of the length that a token has."""
  return nnx.initializers.normal(dim**-0.5)(rngs.params(), (1, rows, dim))


def _interpolated(table: Array, shape: tuple[int, ...]) -> Array:
  """A table for another grid: linear, and over as many old rows as a new one spans where there are fewer new ones."""
  if table.shape == shape:
    return table
  return jax.image.resize(table, shape, "linear", antialias=True, precision=jax.lax.Precision.HIGHEST)


VARIANTS: dict[str, Spec] = {
  # Pixels are fed on a scale of 0 to 1.
  "videoprism_b": Spec(
    frames=16, interval=1, size=288, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), features=768,
    weights="flax_base_f16r288_repeated.npz", licence="Apache-2.0", top="temporal_layers.2", half="spatial_layers.8",
    source="google/videoprism-base-f16r288",
  ),
}  # fmt: skip


for _name, _published in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(VideoPrism, spec=_published))
