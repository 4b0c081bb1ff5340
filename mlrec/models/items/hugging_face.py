"""What published files of Hugging Face's library call the parts of their transformers."""

from collections.abc import Mapping
from typing import Any

# The layers of its ViT models (also ViT-MAE, AST), below an encoder's `blocks`.
VIT_LAYERS = (
  (r"^blocks\.", "encoder.layer."),
  (r"\.attention\.(query|key|value)\.", r".attention.attention.\1."),
  (r"\.attention\.out\.", ".attention.output.dense."),
  (r"\.mlp\.up\.", ".intermediate.dense."),
  (r"\.mlp\.down\.", ".output.dense."),
  (r"\.attention_norm\.", ".layernorm_before."),
  (r"\.mlp_norm\.", ".layernorm_after."),
)


def clip_layers(half: str) -> tuple[tuple[str, str], ...]:
  """Likewise of CLIP and SigLIP, in their half of that name."""
  return (
    (r"^blocks\.", f"{half}.encoder.layers."),
    (r"\.attention\.(q|k|v)(?:uery|ey|alue)\.", r".self_attn.\1_proj."),
    (r"\.attention\.out\.", ".self_attn.out_proj."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
    (r"\.attention_norm\.", ".layer_norm1."),
    (r"\.mlp_norm\.", ".layer_norm2."),
  )


# Of the half that sees images.
CLIP_LAYERS = clip_layers("vision_model")
# What files of both hold beside the half that sees images. Older ones list the numbers of positions.
CLIP_DROPPED = r"^(text_model\.|text_projection\.|visual_projection\.|logit_scale$|logit_bias$)|\.position_ids$"


def vision_prefixed(entries: Mapping[str, Any]) -> dict[str, Any]:
  """Entries of CLIP's or SigLIP's file under the prefix of a whole model's, which the image half alone may not have."""
  return prefixed(entries, "vision_model.")


def prefixed(entries: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """Entries as they are where some name has the prefix, and otherwise all under it."""
  whole = any(name.startswith(prefix) for name in entries)
  return {name if whole else f"{prefix}{name}": array for name, array in entries.items()}
