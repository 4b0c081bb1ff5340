"""Writes `image_pe_core_tiny.npz`, `text_pe_core_tiny.npz` and the lists of PE-Core's names, from timm and OpenCLIP.

It needs PyTorch, timm and open_clip_torch (made with 2.15.0, 1.0.31 and 3.3.0); no test runs it. Of the image half
timm has names of its own, which it makes of Meta's; the lists here are of Meta's names, and each is seen to become
timm's. Weights are drawn from a seed, norms away from 1 and 0, so that an error in one shows.
"""

import json
import pathlib

from make_images import images
import names
import numpy as np
import open_clip
from open_clip.transformer import TextTransformer
import timm
from timm.models import eva
import torch

_FOLDER = pathlib.Path(__file__).parent
_TINY = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "num_classes": 12}
_TEXT = {"width": 32, "layers": 3, "heads": 2, "vocab_size": 50, "context_length": 10, "output_dim": 12}
_SIDES = (16, 24)
_FULL = {
  "pe_core_t_16": "PE-Core-T-16-384", "pe_core_s_16": "PE-Core-S-16-384", "pe_core_b_16": "PE-Core-B-16",
  "pe_core_l_14": "PE-Core-L-14-336",
}  # fmt: skip
# timm's name below a block, and Meta's; both hold a weight and a bias.
_BLOCK = {
  "norm1": "ln_1.", "attn.qkv": "attn.in_proj_", "attn.proj": "attn.out_proj.", "norm2": "ln_2.",
  "mlp.fc1": "mlp.c_fc.", "mlp.fc2": "mlp.c_proj.",
}  # fmt: skip
_POOL = {"proj": "attn.out_proj.", "norm": "layernorm.", "mlp.fc1": "mlp.c_fc.", "mlp.fc2": "mlp.c_proj."}


def _draw(model: torch.nn.Module, generator: torch.Generator) -> None:
  for name, parameter in model.named_parameters():
    if "norm" in name or "ln_" in name:
      low, high = (0.6, 1.4) if name.endswith("weight") else (-0.4, 0.4)
      parameter.uniform_(low, high, generator=generator)
    else:
      fan = parameter[0].numel() if parameter.ndim > 1 else 4
      gain = 3 if "qkv" in name or "in_proj" in name else 1.5
      parameter.normal_(0, gain / fan**0.5, generator=generator)


def _meta(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
  """The state of timm's model under Meta's names."""
  depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
  found = {
    "class_embedding": state["cls_token"][0, 0],
    "positional_embedding": state["pos_embed"][0],
    "proj": state["head.weight"].T,
    "conv1.weight": state["patch_embed.proj.weight"],
  }
  parts = ("weight", "bias")
  for old, new in (("norm_pre", "ln_pre."), ("norm", "ln_post.")):
    found |= {f"{new}{part}": state[f"{old}.{part}"] for part in parts}
  for n in range(depth):
    for old, new in _BLOCK.items():
      found |= {f"transformer.resblocks.{n}.{new}{part}": state[f"blocks.{n}.{old}.{part}"] for part in parts}
  found["attn_pool.probe"] = state["attn_pool.latent"]
  for part in parts:
    joint = [state[f"attn_pool.{name}.{part}"] for name in ("q", "kv")]
    found[f"attn_pool.attn.in_proj_{part}"] = torch.cat(joint)
  for old, new in _POOL.items():
    found |= {f"attn_pool.{new}{part}": state[f"attn_pool.{old}.{part}"] for part in parts}
  found = {f"visual.{name}": value for name, value in found.items()}
  # timm's own reading of Meta's file gives what there was, and nothing else.
  back = eva.checkpoint_filter_fn(found, None)
  assert {name: value.shape for name, value in back.items()} == {name: value.shape for name, value in state.items()}
  return found


def _images() -> None:
  arrays, weights = {}, {}
  with torch.no_grad():
    for case, side in enumerate(_SIDES):
      grid = side // _TINY["patch_size"]
      options = {"img_size": side, "ref_feat_shape": (grid, grid)}
      model = timm.create_model("vit_pe_core_base_patch16_224", **_TINY, **options).eval()
      if not weights:
        _draw(model, torch.Generator().manual_seed(1))
        model.head.bias.zero_()
        weights = dict(model.state_dict())
        old = grid
      first, table = weights["pos_embed"][:, :1], weights["pos_embed"][:, 1:]
      table = table.reshape(1, old, old, -1).permute(0, 3, 1, 2)
      # As Meta's code interpolates it; timm's does it otherwise.
      table = torch.nn.functional.interpolate(table, size=(grid, grid), mode="bilinear", align_corners=False)
      table = table.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
      model.load_state_dict(weights | {"pos_embed": torch.cat([first, table], dim=1)})
      pixels = images(case, side, side)
      arrays[f"input_{case}"] = pixels.permute(0, 2, 3, 1).numpy()
      arrays[f"output_{case}"] = model(pixels).numpy()
  arrays |= {f"sd/{name}": value.numpy() for name, value in _meta(weights).items()}
  np.savez_compressed(_FOLDER / "image_pe_core_tiny.npz", **arrays)


def _texts() -> None:
  model = TextTransformer(**_TEXT).eval()
  generator = torch.Generator().manual_seed(1)
  lengths = torch.tensor([10, 3, 6])[:, None]
  mask = torch.arange(10) < lengths
  ids = torch.randint(1, 48, mask.shape, generator=generator) * mask
  # The last token, by which a text is found to end, has the highest id.
  ids[torch.arange(3), lengths[:, 0] - 1] = 49
  with torch.no_grad():
    _draw(model, generator)
    arrays = {"output": model(ids).numpy(), "titles": np.stack([ids.numpy(), mask.numpy()], 1).astype(np.int32)}
  arrays |= {f"sd/{name}": value.numpy() for name, value in model.state_dict().items()}
  np.savez_compressed(_FOLDER / "text_pe_core_tiny.npz", **arrays)


def main() -> None:
  _images()
  _texts()
  with torch.device("meta"):
    for file, name in _FULL.items():
      config = json.loads((pathlib.Path(open_clip.__file__).parent / "model_configs" / f"{name}.json").read_text())
      vision = timm.create_model(config["vision_cfg"]["timm_model_name"], num_classes=config["embed_dim"])
      text = TextTransformer(**config["text_cfg"], output_dim=config["embed_dim"])
      names.write(f"{file}.txt", _meta(vision.state_dict()) | text.state_dict() | {"logit_scale": torch.empty(())})


if __name__ == "__main__":
  main()
