"""What files in OpenCLIP's form call the parts of their transformers, and arrays that have names of their own there."""

from flax import nnx
from jax import Array

# Below an encoder's `blocks`.
OPEN_CLIP_LAYERS = (
  (r"^blocks\.", "transformer.resblocks."),
  (r"\.attention\.qkv\.", ".attn.in_proj_"),
  (r"\.attention\.out\.", ".attn.out_proj."),
  (r"\.attention_norm\.", ".ln_1."),
  (r"\.mlp_norm\.", ".ln_2."),
  (r"\.mlp\.up\.", ".mlp.c_fc."),
  (r"\.mlp\.down\.", ".mlp.c_proj."),
)


class Table(nnx.Module):
  """One learned array that belongs to no layer: a token, positions, or a projection `[inputs, outputs]`."""

  def __init__(self, values: Array):
    self.values = nnx.Param(values)

  def __call__(self) -> Array:
    """The array, float32."""
    return self.values[...]
