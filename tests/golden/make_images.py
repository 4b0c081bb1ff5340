"""Writes `image_*_tiny.npz` and lists of names, from Hugging Face's CLIP, ViT-MAE, Swin and SigLIP and torchvision.

It needs PyTorch, transformers and a torchvision that fits (made with 2.13.0, 5.24.0 and 0.28.0); no test runs it.
Weights are drawn from a seed, norms and their statistics away from 1 and 0, so that an error in one shows. They are
kept under the names of published files, which are those that the library writes, not those of its modules.
"""

from collections.abc import Callable
import pathlib

import numpy as np
import torch
from torchvision.models import resnet
from transformers import CLIPVisionConfig
from transformers import CLIPVisionModel
from transformers import SiglipVisionConfig
from transformers import SiglipVisionModel
from transformers import SwinConfig
from transformers import SwinForImageClassification
from transformers import ViTMAEConfig
from transformers import ViTMAEModel
from transformers.core_model_loading import revert_weight_conversion

_FOLDER = pathlib.Path(__file__).parent
_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_PATCHES = {"image_size": 16, "patch_size": 4}


def drawn(model: torch.nn.Module, seed: int = 1) -> None:
  """Draws all of a model's parameters and statistics."""
  generator = torch.Generator().manual_seed(seed)
  for name, value in [*model.named_parameters(), *model.named_buffers()]:
    if not value.is_floating_point():
      continue
    if "norm" in name or ".bn" in f".{name}" or "running" in name or ".downsample.1." in name:
      low, high = (0.6, 1.4) if name.endswith(("weight", "var")) else (-0.4, 0.4)
      value.uniform_(low, high, generator=generator)
    else:
      fan = value[0].numel() if value.ndim > 1 else 4
      value.normal_(0, 1.5 / fan**0.5, generator=generator)


def published(model: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
  """The model's state in its own order, under the names that files have."""
  found = {}
  for name, value in model.state_dict().items():
    found |= {f"{prefix}{key}": part for key, part in revert_weight_conversion(model, {name: value}).items()}
  return found


def images(case: int, height: int, width: int) -> torch.Tensor:
  return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2 + case))


def write(
  name: str,
  model: torch.nn.Module,
  run: Callable[..., dict[str, torch.Tensor]],
  sizes: tuple[tuple[int, int], ...],
  prefix: str = "",
) -> None:
  """Writes the weights, and for each size images and what `run` makes of them."""
  arrays = {f"sd/{key}": value.numpy() for key, value in published(model, prefix).items()}
  for case, (height, width) in enumerate(sizes):
    pixels = images(case, height, width)
    arrays[f"input_{case}"] = pixels.permute(0, 2, 3, 1).numpy()
    arrays |= {f"{key}_{case}": value.numpy() for key, value in run(pixels).items()}
  np.savez_compressed(_FOLDER / f"{name}.npz", **arrays)


def names(file: str, model: torch.nn.Module, prefix: str = "") -> None:
  """Writes names and shapes of the full-size model, in order."""
  lines = [f"{name} {tuple(value.shape)}\n" for name, value in published(model, prefix).items()]
  (_FOLDER / "keys" / f"{file}.txt").write_text("".join(lines))


def _clip() -> None:
  model = CLIPVisionModel(CLIPVisionConfig(**_TINY, **_PATCHES)).eval()
  drawn(model)

  def run(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"output": model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]}

  write("image_clip_tiny", model, run, ((16, 16), (24, 12)), "vision_model.")


def _vit_mae() -> None:
  model = ViTMAEModel(ViTMAEConfig(**_TINY, **_PATCHES, mask_ratio=0.0)).eval()
  drawn(model)
  noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(9))

  def run(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    model.config.mask_ratio = 0.0
    results = {"output": model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]}
    if pixels.shape[2:] == (16, 16):
      model.config.mask_ratio = 0.75
      results |= {"noise": noise, "masked": model(pixels, noise=noise).last_hidden_state[:, 0]}
    return results

  write("image_vit_mae_tiny", model, run, ((16, 16), (24, 12)))


def _swin() -> None:
  # Grids of 16 and 8 patches; then of 13 by 9 and 7 by 5, which neither windows nor fours fill.
  config = SwinConfig(
    embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4, patch_size=2, image_size=32, num_labels=3
  )
  model = SwinForImageClassification(config).eval()
  drawn(model)

  def run(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"output": model.swin(pixels).pooler_output}

  write("image_swin_tiny", model, run, ((32, 32), (26, 18)))


def _siglip() -> None:
  model = SiglipVisionModel(SiglipVisionConfig(**_TINY, **_PATCHES)).eval()
  drawn(model)

  def run(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    results = model(pixels, interpolate_pos_encoding=True)
    return {"pooled": results.pooler_output, "mean": results.last_hidden_state.mean(1)}

  write("image_siglip_tiny", model, run, ((16, 16), (24, 12)), "vision_model.")


class _Narrow(resnet.ResNet):
  """The published net at a sixteenth of its widths, with its features in place of classes."""

  def __init__(self, block: type, depths: list[int]):
    super().__init__(resnet.BasicBlock, [1, 1, 1, 1])
    self.inplanes = 4
    self.conv1 = torch.nn.Conv2d(3, 4, 7, 2, 3, bias=False)
    self.bn1 = torch.nn.BatchNorm2d(4)
    for n, depth in enumerate(depths):
      setattr(self, f"layer{n + 1}", self._make_layer(block, 4 * 2**n, depth, stride=2 if n else 1))
    self.fc = torch.nn.Identity()


def _resnet() -> None:
  for name, block in (("basic", resnet.BasicBlock), ("bottleneck", resnet.Bottleneck)):
    model = _Narrow(block, [1, 2, 1, 1]).eval()
    drawn(model)
    write(f"image_resnet_{name}_tiny", model, lambda pixels, model=model: {"output": model(pixels)}, ((48, 40),))


def main() -> None:
  with torch.no_grad():
    for make in (_clip, _vit_mae, _swin, _siglip, _resnet):
      make()
  with torch.device("meta"):
    names("siglip_b_16", SiglipVisionModel(SiglipVisionConfig(image_size=224, patch_size=16)), "vision_model.")
    config = SwinConfig(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], num_labels=1000)
    names("swin_b", SwinForImageClassification(config))
    names("image_resnet18", resnet.resnet18())
    names("image_resnet50", resnet.resnet50())


if __name__ == "__main__":
  main()
