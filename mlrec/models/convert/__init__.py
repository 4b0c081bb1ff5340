"""Published PyTorch weights ↔ Flax, strict both ways."""

from mlrec.models.convert.torch_file import read_torch
from mlrec.models.convert.torch_names import load_torch
from mlrec.models.convert.torch_names import to_torch

__all__ = ["load_torch", "read_torch", "to_torch"]
