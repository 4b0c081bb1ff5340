"""Published weights ↔ Flax, strict both ways."""

from mlrec.models.convert.flax_names import FlaxEntry
from mlrec.models.convert.flax_names import from_flax
from mlrec.models.convert.torch_file import read_torch
from mlrec.models.convert.torch_names import load_torch
from mlrec.models.convert.torch_names import to_torch

__all__ = ["FlaxEntry", "from_flax", "load_torch", "read_torch", "to_torch"]
