"""The video half of VideoPrism LvT (Zhao et al., ICML 2024), which was trained beside texts.

Files of both its publishers are read, under the names of Hugging Face's library.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from einops import rearrange
from einops import repeat
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.convert import FlaxEntry
from mlrec.models.convert import from_flax
from mlrec.models.items.encoder import of_unit_length
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.videoprism import Block
from mlrec.models.items.video.videoprism import flax_blocks
from mlrec.models.items.video.videoprism import flax_entries
from mlrec.models.items.video.videoprism import OffsetNorm
from mlrec.models.items.video.videoprism import VideoPrism
from mlrec.models.layers.context import Context
from mlrec.models.layers.transformer import attend
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_INIT = nnx.initializers.lecun_normal()
# The pool in Google's file: name and axes there, name and axes here.
_FLAX_POOL = (
  ("pooling_attention_query", "one dim", "head.pooling_attention_query", "1 one dim"),
  ("pooling_attention/per_dim_scale/per_dim_scale", "head", "head.per_dim_scale", "head"),
  ("pooling_attention/query/w", "dim heads head", "head.q_proj.weight", "(heads head) dim"),
  ("pooling_attention/query/b", "heads head", "head.q_proj.bias", "(heads head)"),
  ("pooling_attention/key/w", "dim heads head", "head.k_proj.weight", "(heads head) dim"),
  ("pooling_attention/key/b", "heads head", "head.k_proj.bias", "(heads head)"),
  ("pooling_attention/value/w", "dim heads head", "head.v_proj.weight", "(heads head) dim"),
  ("pooling_attention/value/b", "heads head", "head.v_proj.bias", "(heads head)"),
  ("pooling_attention/post/w", "dim heads head", "head.o_proj.weight", "dim (heads head)"),
  ("pooling_attention/post/b", "dim", "head.o_proj.bias", "dim"),
  ("pooling_attention_layer_norm/scale", "dim", "head_layernorm.weight", "dim"),
  ("pooling_attention_layer_norm/bias", "dim", "head_layernorm.bias", "dim"),
)


class VideoPrismLvT(VideoPrism):
  """VideoPrism with blocks over all tokens of a clip, which a learned query then pools; the output has length 1.

  It lies in the space that videos share with the texts of the encoder of the same name.
  """

  torch_dropped = (r"^(text_model|classifier)\.",)

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    heads: int = 12,
    hidden: int = 3072,
    auxiliary_depth: int = 2,
    cap: float = 50.0,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    **clips: Any,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`, `frames` and `size`.
      dim: channels.
      heads: of the attention, and of the pool's, whose heads have `hidden` channels together.
      hidden: channels within the MLPs.
      auxiliary_depth: blocks over all tokens.
      cap: scores of the attention stay below it, but for those of the pool.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.
      **clips: the other options of `VideoPrism`.

    Raises:
      ValueError: an option is not possible.
    """
    at_least(1, auxiliary_depth=auxiliary_depth)
    shared: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
    super().__init__(spec=spec, dim=dim, heads=heads, hidden=hidden, cap=cap, **shared, **clips)
    self.stages = (
      *self.stages, *(f"auxiliary_layers.{n}" for n in range(auxiliary_depth)), "head", "head_layernorm",
    )  # fmt: skip
    self.auxiliary_layers = nnx.List([Block(dim, heads, hidden, cap, **shared) for _ in range(auxiliary_depth)])
    self.head = Pool(dim, heads, hidden, **shared)
    self.head_layernorm = OffsetNorm(dim)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, T, N, D]`, then `[B, T N, D]`; the last stage's result is float32 `[B, D]`."""
    name, _, number = self.stages[index].partition(".")
    if name == "layernorm2":
      return rearrange(self.temporal_norm(x), "b t n d -> b (t n) d")
    if name == "auxiliary_layers":
      return self.auxiliary_layers[int(number)](x)
    if name == "head":
      return self.head(x)
    if name == "head_layernorm":
      return of_unit_length(self.head_layernorm(x).astype(jnp.float32))
    return super().stage(index, x, context)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries without the prefixes of a whole model's, Google's renamed.

    Raises:
      ValueError: the file is Google's, and an entry is missing, unused or wrongly shaped.
    """
    if any(name.startswith("params/") for name in entries):
      return from_flax(entries, self._flax_table("params/vision_encoder/"), r"^params/text_encoder/")
    return {re.sub(r"^(video_model\.)?(vision_model\.)?", "", name): array for name, array in entries.items()}

  def _flax_table(self, prefix: str) -> list[FlaxEntry]:
    dim, hidden, heads = self.head.query.in_features, self.head.query.out_features, self.head.heads
    sizes = {"dim": dim, "heads": heads, "head": hidden // heads, "one": 1}
    return [
      *super()._flax_table(prefix),
      *flax_blocks("params/auxiliary_encoder/transformers_stack/", self.auxiliary_layers, "auxiliary_layers"),
      *flax_entries("params/contrastive_vision_pooler/", _FLAX_POOL, sizes),
    ]


class Pool(nnx.Module):
  """Attention of one learned query to all tokens, each channel of whose heads has a scale of its own."""

  torch_names = ((r"^(query|key|value|out)\.", lambda match: f"{match[1][0]}_proj."),)

  def __init__(self, dim: int, heads: int, hidden: int, *, dtype: Any, rngs: nnx.Rngs):
    if hidden % heads:
      raise OptionError("hidden", f"= {hidden} must be a multiple of heads = {heads}")

    def linear(inputs: int, outputs: int) -> nnx.Linear:
      return nnx.Linear(inputs, outputs, kernel_init=_INIT, dtype=dtype, rngs=rngs)

    self.heads = heads
    self.query, self.key, self.value = (linear(dim, hidden) for _ in range(3))
    self.out = linear(hidden, dim)
    self.per_dim_scale = nnx.Param(jnp.zeros(hidden // heads))
    self.pooling_attention_query = nnx.Param(jnp.zeros((1, 1, dim)))

  def __call__(self, x: Array) -> Array:
    """`x [B, N, dim]` to `[B, dim]`."""
    probe = repeat(self.pooling_attention_query[...].astype(x.dtype), "1 1 d -> b 1 d", b=len(x))
    query, key, value = (
      rearrange(layer(y), "b n (h c) -> b n h c", h=self.heads)
      for layer, y in ((self.query, probe), (self.key, x), (self.value, x))
    )
    # A scale of 0 stands for 1.
    scale = jax.nn.softplus(self.per_dim_scale[...]) / jnp.log(2.0)
    return self.out(rearrange(attend(query * scale.astype(x.dtype), key, value), "b 1 h c -> b (h c)"))


def _spec(name: str, frames: int, features: int, top: str) -> Spec:
  """Pixels are fed on a scale of 0 to 1."""
  return Spec(
    frames=frames, interval=1, size=288, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), features=features,
    weights="model.safetensors", licence="Apache-2.0", top=top, half="spatial_layers.8", source=f"google/{name}",
  )  # fmt: skip


# Name: specification and options.
VARIANTS: dict[str, tuple[Spec, dict[str, Any]]] = {
  "videoprism_lvt_b": (_spec("videoprism-lvt-base-f16r288", 16, 768, "temporal_layers.2"), {}),
  "videoprism_lvt_l": (
    dataclasses.replace(
      _spec("videoprism-lvt-large-f8r288", 8, 1024, "temporal_layers.2"), half="spatial_layers.14"
    ),
    {"dim": 1024, "spatial_depth": 24, "heads": 16, "hidden": 4096, "num_frames": 8},
  ),
}  # fmt: skip


for _name, (_published, _options) in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(VideoPrismLvT, spec=_published, **_options))
