"""Writes `video_videoprism_tiny.npz` and the lists of VideoPrism's names, from Hugging Face's VideoPrismVisionModel.

It needs PyTorch and transformers (made with 2.13.0 and 5.23.0); no test runs it. Weights are drawn from a seed, norms
away from their start, so that an error in one shows; queries and keys are large, so that the cap on scores acts.

`keys/videoprism_b.flax.txt` is no work of this script: it has the names and shapes that the modules of
google-deepmind/videoprism (`encoders.py`, `layers.py`, base model) give to the entries of its published `.npz` file.
"""

import pathlib

import numpy as np
import torch
from transformers import VideoPrismVisionConfig
from transformers import VideoPrismVisionModel

_FOLDER = pathlib.Path(__file__).parent
_TINY = {
  "image_size": 24, "num_frames": 4, "tubelet_size": [1, 6, 6], "hidden_size": 24, "num_attention_heads": 2,
  "intermediate_size": 48, "num_spatial_layers": 2, "num_temporal_layers": 2,
}  # fmt: skip
# Frames, height and width: as configured, then positions for more frames on a smaller picture, and the reverse.
_CLIPS = ((4, 24, 24), (7, 18, 12), (3, 36, 30))
# PyTorch's order is not that of the computation, in which stages are numbered.
_STAGES = ("spatial_embeddings", "spatial_layers", "layernorm1", "temporal_embeddings", "temporal_layers", "layernorm2")


def main() -> None:
  model = VideoPrismVisionModel(VideoPrismVisionConfig(**_TINY)).eval()
  generator = torch.Generator().manual_seed(1)
  arrays = {}
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if "layernorm" in name:
        parameter.uniform_(-0.4, 0.4, generator=generator)
      elif "position" in name:
        parameter.normal_(0, 0.7, generator=generator)
      else:
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        gain = 4 if "q_proj" in name or "k_proj" in name else 1.5
        parameter.normal_(0, gain / fan**0.5, generator=generator)
    for n, (frames, height, width) in enumerate(_CLIPS):
      clips = torch.rand(2, frames, 3, height, width, generator=generator)
      arrays[f"input_{n}"] = clips.numpy()
      arrays[f"output_{n}"] = model(clips, interpolate_pos_encoding=n > 0).last_hidden_state.mean(1).numpy()
  arrays |= {f"sd/{name}": value.numpy() for name, value in model.state_dict().items()}
  np.savez_compressed(_FOLDER / "video_videoprism_tiny.npz", **arrays)

  with torch.device("meta"):
    model = VideoPrismVisionModel(VideoPrismVisionConfig())
  lines = [f"{name} {tuple(value.shape)}\n" for name, value in model.state_dict().items()]
  (_FOLDER / "keys" / "videoprism_b.txt").write_text("".join(lines))
  parameters = sorted(model.named_parameters(), key=lambda entry: _STAGES.index(entry[0].partition(".")[0]))
  lines = [f"{n} {name} {tuple(value.shape)}\n" for n, (name, value) in enumerate(parameters)]
  (_FOLDER / "keys" / "videoprism_b.net.params.txt").write_text("".join(lines))


if __name__ == "__main__":
  main()
