"""Writes `video_vjepa2_1_tiny.npz` and the lists of V-JEPA 2.1's names, from Meta's own code.

It takes the folder of a checkout of facebookresearch/vjepa2, of which it imports `app.vjepa_2_1.models`, and needs
PyTorch, timm and einops; no test runs it. The array here was made with PyTorch 2.15.0 by those classes cut down to what
runs in evaluation: V-JEPA 2's published modules, with what `app/vjepa_2_1` has otherwise. Weights are drawn from a
seed, norms away from 1 and 0, so that an error in one shows, and rounded to float16, in which they are kept.
"""

import functools
import pathlib
import sys

import names
import numpy as np
import torch

_FOLDER = pathlib.Path(__file__).parent
# The code takes no fewer blocks. Heads of 14 channels: four to an axis, and two that no axis turns.
_TINY = {"embed_dim": 28, "num_heads": 2, "depth": 12, "mlp_ratio": 1.0, "patch_size": 16}
_OPTIONS = {
  "num_frames": 64, "tubelet_size": 2, "use_rope": True, "interpolate_rope": True, "img_temporal_dim_size": 1,
}  # fmt: skip
# Frames, height and width: whole windows, an odd number of frames, and an image.
_CLIPS = ((4, 32, 48), (5, 32, 32), (1, 48, 32))
_FULL = {
  "vjepa2_1_b": "vit_base", "vjepa2_1_l": "vit_large", "vjepa2_1_giant": "vit_giant_xformers",
  "vjepa2_1_gigantic": "vit_gigantic_xformers",
}  # fmt: skip


def main(checkout: str) -> None:
  sys.path.insert(0, checkout)
  from app.vjepa_2_1.models import vision_transformer

  norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
  model = vision_transformer.VisionTransformer(img_size=(384, 384), norm_layer=norm, **_TINY, **_OPTIONS).eval()
  generator = torch.Generator().manual_seed(1)
  arrays = {}
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if "norm" in name:
        low, high = (0.6, 1.4) if name.endswith("weight") else (-0.4, 0.4)
        parameter.uniform_(low, high, generator=generator)
      else:
        fan = parameter[0].numel() if parameter.ndim > 1 and parameter.shape[0] > 1 else 4
        gain = 3 if ".qkv." in name else 1.2
        parameter.normal_(0, gain / fan**0.5, generator=generator)
      parameter.copy_(parameter.half().float())
    for n, (frames, height, width) in enumerate(_CLIPS):
      clips = torch.randn(1, 3, frames, height, width, generator=torch.Generator().manual_seed(2 + n)).half()
      arrays[f"input_{n}"] = clips.permute(0, 2, 3, 4, 1).numpy()
      arrays[f"output_{n}"] = model(clips.float()).mean(1).numpy()
  arrays |= {f"sd/{name}": value.half().numpy() for name, value in model.state_dict().items()}
  np.savez_compressed(_FOLDER / "video_vjepa2_1_tiny.npz", **arrays)

  with torch.device("meta"):
    for file, name in _FULL.items():
      model = getattr(vision_transformer, name)(img_size=(384, 384), **_OPTIONS)
      names.write(f"{file}.txt", model.state_dict())


if __name__ == "__main__":
  main(*sys.argv[1:])
