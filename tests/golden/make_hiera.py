"""Writes `video_hiera_tiny.npz` and the lists of Hiera-B's names, from the authors' package hiera-transformer.

It needs PyTorch, torchvision, timm and hiera-transformer (made with 2.13.0, 0.28.0, 1.0.31 and 0.1.4); no test runs it.
Weights are drawn from a seed, norms away from 1 and 0, so that an error in one shows.
"""

import pathlib

import hiera
import numpy as np
import torch

_FOLDER = pathlib.Path(__file__).parent
_FRAMES, _SIZE = 6, 64
# Each stage at its end and its start; several heads from the second stage on.
_TINY = {"input_size": (_FRAMES, _SIZE, _SIZE), "embed_dim": 6, "num_heads": 1, "stages": (1, 2, 2, 1)}
_VIDEO = {
  "q_stride": (1, 2, 2), "mask_unit_size": (1, 8, 8), "patch_kernel": (3, 7, 7), "patch_stride": (2, 4, 4),
  "patch_padding": (1, 3, 3), "sep_pos_embed": True, "num_classes": 3,
}  # fmt: skip


def main() -> None:
  model = hiera.Hiera(**_TINY, **_VIDEO).eval()
  generator = torch.Generator().manual_seed(1)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if "norm" in name:
        low, high = (0.6, 1.4) if name.endswith("weight") else (-0.4, 0.4)
        parameter.uniform_(low, high, generator=generator)
      elif name.startswith("pos_embed"):
        parameter.normal_(0, 0.7, generator=generator)
      else:
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.normal_(0, 1.5 / fan**0.5, generator=generator)
    # Whole numbers pack well; a thirty-second of them is fed.
    clips = torch.randint(-64, 64, (2, 3, _FRAMES, _SIZE, _SIZE), generator=generator, dtype=torch.int8)
    outputs: list[torch.Tensor] = []
    # What the classes are computed from.
    model.norm.register_forward_hook(lambda _, __, output: outputs.append(output))
    model(clips.float() / 32)
  arrays = {f"sd/{name}": value.numpy() for name, value in model.state_dict().items()}
  path = _FOLDER / "video_hiera_tiny.npz"
  np.savez_compressed(path, input=clips.numpy(), output=outputs[0].numpy(), **arrays)

  model = hiera.hiera_base_16x224()
  lines = [f"{name} {tuple(value.shape)}\n" for name, value in model.state_dict().items()]
  (_FOLDER / "keys" / "hiera_b.txt").write_text("".join(lines))
  encoder = [(name, value) for name, value in model.named_parameters() if not name.startswith("head.")]
  lines = [f"{n} {name} {tuple(value.shape)}\n" for n, (name, value) in enumerate(encoder)]
  (_FOLDER / "keys" / "hiera_b.net.params.txt").write_text("".join(lines))


if __name__ == "__main__":
  main()
