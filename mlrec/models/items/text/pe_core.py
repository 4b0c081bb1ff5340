"""The text half of PE-Core (Bolya et al., Perception Encoder, arXiv 2504.13181), as Meta publishes it.

Its tokens are those of CLIP: `config.model.item.tokenizer` names a `tokenizer.json` of CLIP's, for none is published
beside the weights.
"""

import dataclasses
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.open_clip import OPEN_CLIP_LAYERS
from mlrec.models.items.open_clip import Table
from mlrec.models.items.text.encoder import ids_and_mask
from mlrec.models.items.text.encoder import places
from mlrec.models.items.text.encoder import Spec
from mlrec.models.items.text.encoder import TextEncoder
from mlrec.models.items.text.encoder import Tokens
from mlrec.models.layers.context import Context
from mlrec.models.layers.joint_attention import JointBlock
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import models
from mlrec.models.registry import TEXT_ENCODER
from mlrec.registry import at_least
from mlrec.registry import variant

_EPSILON = 1e-5
_INIT = nnx.initializers.normal(0.02)


class PECoreText(TextEncoder):
  """A transformer in which a token sees those before it; the projection of a text's last token is the output.

  It lies in the space that texts share with the images of the encoder without `_text` in its name.
  """

  torch_names = (
    (r"^embedding\.", "token_embedding."),
    (r"^positions\.values$", "positional_embedding"),
    (r"^norm\.", "ln_final."),
    (r"^projection\.values$", "text_projection"),
    *OPEN_CLIP_LAYERS,
  )
  # The half that sees images.
  torch_dropped = (r"^visual\.", r"^logit_scale$")

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 1024,
    depth: int = 24,
    heads: int = 16,
    hidden: int = 4096,
    features: int = 1024,
    vocabulary: int = 49_408,
    positions: int = 32,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for what the other options say.
      dim: channels.
      depth: blocks; in the mode `top` the last two are trained, and what follows them.
      heads: of the attention.
      hidden: channels within the MLPs.
      features: width of the output.
      vocabulary: how many token ids there are.
      positions: rows of the table of positions, and by default the tokens of a title that are read.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` is no multiple of `heads`, or a number is out of range.
    """
    at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, features=features, vocabulary=vocabulary)
    at_least(1, positions=positions)
    blocks = [f"transformer.resblocks.{n}" for n in range(depth)]
    self.spec = dataclasses.replace(
      spec, vocabulary=vocabulary, features=features, length=positions,
      top=blocks[max(depth - 2, 0)], half=blocks[depth // 2],
    )  # fmt: skip
    self.stages = ("token_embedding", "positional_embedding", *blocks, "ln_final", "text_projection")
    self.embedding = nnx.Embed(vocabulary, dim, embedding_init=_INIT, dtype=dtype, rngs=rngs)
    self.positions = Table(nnx.initializers.normal(0.01)(rngs.params(), (positions, dim)))
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(JointBlock(dim, heads, hidden, epsilon=_EPSILON, kernel_init=_INIT, dtype=dtype, rngs=rngs))
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.projection = Table(nnx.initializers.normal(dim**-0.5)(rngs.params(), (dim, features)))

  def stage(self, index: int, x: Any, context: Context) -> Any:
    """Takes titles `[B, 2, L]` or `Tokens`; gives `Tokens`, or in the last stage float32 `[B, features]`."""
    del context  # Nothing here acts otherwise in training.
    name = self.stages[index]
    if name == "token_embedding":
      ids, there = ids_and_mask(x)
      return Tokens(self.embedding(ids), there)
    if name == "positional_embedding":
      return x._replace(x=x.x + places(self.positions(), x.x.shape[1]).astype(x.x.dtype))
    if name == "ln_final":
      return x._replace(x=self.norm(x.x))
    if name == "text_projection":
      return (_last(x) @ self.projection().astype(x.x.dtype)).astype(jnp.float32)
    # What follows a text's last token is seen by none before it.
    length = x.x.shape[1]
    return x._replace(x=self.blocks[index - 2](x.x, jnp.tri(length, dtype=bool)))


def _last(tokens: Tokens) -> Array:
  """`[B, D]`: of each text the last token that is there, of one without any the first."""
  last = jnp.maximum(tokens.there.sum(1) - 1, 0)
  return jnp.take_along_axis(tokens.x, last[:, None, None], axis=1)[:, 0]


def _spec(name: str) -> Spec:
  """Without what the options say: the net fills it in."""
  return Spec(
    vocabulary=0, length=32, features=0, weights=f"{name}.pt", licence="Apache-2.0", top="",
    source=f"facebook/{name}",
  )  # fmt: skip


_SMALL = {"dim": 512, "depth": 12, "heads": 8, "hidden": 2048, "features": 512}
# Name: specification and options.
VARIANTS: dict[str, tuple[Spec, dict[str, Any]]] = {
  "pe_core_t_16_text": (_spec("PE-Core-T16-384"), _SMALL),
  "pe_core_s_16_text": (_spec("PE-Core-S16-384"), _SMALL),
  "pe_core_b_16_text": (_spec("PE-Core-B16-224"), {}),
  "pe_core_l_14_text": (_spec("PE-Core-L14-336"), {}),
}


for _name, (_published, _options) in VARIANTS.items():
  models.register(_name, kind=TEXT_ENCODER)(variant(PECoreText, spec=_published, **_options))
