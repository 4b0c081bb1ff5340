"""Writes `video_vjepa2_tiny.npz` and the lists of V-JEPA 2's names, from Hugging Face's VJEPA2Model.

It needs PyTorch and transformers (made with 2.13.0 and 5.23.0); no test runs it. Weights are drawn from a seed, norms
away from 1 and 0, so that an error in one shows.
"""

import pathlib

import numpy as np
import torch
from transformers import VJEPA2Config
from transformers import VJEPA2Model

_FOLDER = pathlib.Path(__file__).parent
# Heads of 16 channels: four to an axis, and four that no axis turns.
_TINY = {
  "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "mlp_ratio": 2.0, "patch_size": 4,
  "pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 1,
}  # fmt: skip
# Frames, height and width: whole windows, an odd number of frames on a larger grid, and less than a window.
_CLIPS = ((6, 16), (5, 24), (1, 12))


def _drawn(model: torch.nn.Module, generator: torch.Generator) -> None:
  for name, parameter in model.named_parameters():
    if "norm" in name:
      low, high = (0.6, 1.4) if name.endswith("weight") else (-0.4, 0.4)
      parameter.uniform_(low, high, generator=generator)
    else:
      fan = parameter[0].numel() if parameter.ndim > 1 else 4
      parameter.normal_(0, 1.5 / fan**0.5, generator=generator)


def main() -> None:
  arrays, weights = {}, {}
  with torch.no_grad():
    for n, (frames, size) in enumerate(_CLIPS):
      # Places are counted on the grid of the configured size.
      model = VJEPA2Model(VJEPA2Config(**_TINY, crop_size=size, frames_per_clip=frames)).eval()
      if not weights:
        _drawn(model, torch.Generator().manual_seed(1))
        weights = model.state_dict()
      model.load_state_dict(weights)
      clips = torch.randn(2, frames, 3, size, size, generator=torch.Generator().manual_seed(2 + n))
      arrays[f"input_{n}"] = clips.numpy()
      arrays[f"output_{n}"] = model(clips, skip_predictor=True).last_hidden_state.mean(1).numpy()
  arrays |= {f"sd/{name}": value.numpy() for name, value in weights.items() if name.startswith("encoder.")}
  np.savez_compressed(_FOLDER / "video_vjepa2_tiny.npz", **arrays)

  with torch.device("meta"):
    model = VJEPA2Model(VJEPA2Config())
  lines = [f"{name} {tuple(value.shape)}\n" for name, value in model.state_dict().items()]
  (_FOLDER / "keys" / "vjepa2_l.txt").write_text("".join(lines))
  parameters = [name for name, _ in model.named_parameters() if name.startswith("encoder.")]
  shapes = model.state_dict()
  lines = [f"{n} {name} {tuple(shapes[name].shape)}\n" for n, name in enumerate(parameters)]
  (_FOLDER / "keys" / "vjepa2_l.net.params.txt").write_text("".join(lines))


if __name__ == "__main__":
  main()
