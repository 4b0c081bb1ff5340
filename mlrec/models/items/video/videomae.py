"""VideoMAE's encoder (Tong et al., NeurIPS 2022), as Hugging Face's library publishes it."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.encoder import IMAGENET
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.initializers import uniform
from mlrec.models.layers.patches import PatchEmbedding
from mlrec.models.layers.patches import sinusoids
from mlrec.models.layers.transformer import Block
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import variant

_EPSILON = 1e-12
_INIT = nnx.initializers.normal(0.02)


class VideoMAE(VideoEncoder):
  """A plain vision transformer over patches of two frames; the mean of its tokens is the output, without a last norm.

  Positions are fixed sinusoids over tokens in the order time, height, width, so any number of frames from 2 on and
  any multiple of the patch will do. The last of an odd number of frames is not read.
  """

  # What the benchmark calls the projection that follows.
  projection_name = "linear"
  torch_names = (
    (r"^embedding\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attention\.query\.bias$", ".attention.attention.q_bias"),
    (r"\.attention\.value\.bias$", ".attention.attention.v_bias"),
    (r"\.attention\.(query|key|value)\.weight$", r".attention.attention.\1.weight"),
    (r"\.attention\.out\.", ".attention.output.dense."),
    (r"\.mlp\.up\.", ".intermediate.dense."),
    (r"\.mlp\.down\.", ".output.dense."),
    (r"\.attention_norm\.", ".layernorm_before."),
    (r"\.mlp_norm\.", ".layernorm_after."),
  )
  # The decoder of the pre-training and the classes of the fine-tuning, each with the norm before it. A key's bias adds
  # the same to all scores of a query, so the softmax removes it.
  torch_dropped = (
    r"^(decoder|encoder_to_decoder|layernorm|fc_norm|classifier)\.",
    r"^(mask_token|position_embeddings)$",
    r"\.attention\.attention\.key\.bias$",
  )

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    patch: int = 16,
    tubelet: int = 2,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`: they are `dim`.
      dim: channels.
      depth: blocks.
      heads: of the attention.
      hidden: channels within the MLPs.
      patch: height and width of a patch.
      tubelet: its frames.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` is no multiple of `heads`, or there is no block.
    """
    at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, patch=patch, tubelet=tubelet)
    self.spec = dataclasses.replace(spec, features=dim)
    self.stages = ("embeddings", *(f"encoder.layer.{n}" for n in range(depth)))
    self.embedding = PatchEmbedding(dim, tubelet, patch, kernel_init=_INIT, dtype=dtype, rngs=rngs)
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(
        Block(dim, heads, hidden=hidden, biases="qv", epsilon=_EPSILON, kernel_init=_INIT, dtype=dtype, rngs=rngs)
      )

  def projection(self, dim: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """As for all encoders, but that MicroLens's code leaves this one at PyTorch's own start."""
    start = uniform(self.spec.features**-0.5)
    return nnx.Linear(self.spec.features, dim, kernel_init=start, bias_init=start, rngs=rngs)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      tokens = rearrange(self.embedding(x), "b t h w d -> b (t h w) d")
      return tokens + sinusoids(*tokens.shape[1:]).astype(tokens.dtype)
    tokens = self.blocks[index - 1](x)
    return tokens.mean(1, dtype=jnp.float32) if index == len(self.blocks) else tokens

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries under one spelling: whole models prefix the encoder, and newer ones rename two biases.

    Raises:
      ValueError: both spellings are there, and differ.
    """
    prefixed = any(name.startswith("videomae.") for name in entries)
    prepared: dict[str, Any] = {}
    for name, array in entries.items():
      # Beside the prefixed encoder, a decoder's entries have names that it must not be confused with.
      name = name.removeprefix("videomae.") if prefixed else name
      short = re.sub(r"^(encoder\.layer\.\d+\.attention\.attention)\.(q|v)(?:uery|alue)\.bias$", r"\1.\2_bias", name)
      if short in prepared and not np.array_equal(np.asarray(prepared[short]), np.asarray(array)):
        raise ValueError(f"entries {name!r} and {short!r} are two spellings of one parameter, but differ")
      prepared[short] = array
    return prepared


def _spec(weights: str) -> Spec:
  return Spec(
    frames=5, interval=1, size=224, **IMAGENET, features=768, weights=weights, licence="CC-BY-NC-4.0",
    top="encoder.layer.10", half="encoder.layer.6", source="MCG-NJU/videomae-base, self-supervised on Kinetics-400",
  )  # fmt: skip


VARIANTS: dict[str, Spec] = {"videomae_b": _spec("pytorch_model.bin")}


for _name, _published in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(VideoMAE, spec=_published))
