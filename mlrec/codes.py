"""Semantic IDs: codes of all items, made of their vectors, for `tiger` and the item tower `codes`.

  python -m mlrec.codes --features=FOLDER --quantizer=residual_kmeans --to=codes.safetensors
  python -m mlrec.codes --features=FILE.npy --quantizer=rq_vae --levels=3 --size=256 --to=codes.safetensors

FOLDER is one that `python -m mlrec.features` has made. Items that come out with the same codes are numbered by one
more, so that no two have the same. What the codes are worth is printed, and kept in the file.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from mlrec import command_line
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.registry import OptionError

if TYPE_CHECKING:
  from mlrec.models.quantizers.quantizer import Quality
  from mlrec.models.quantizers.quantizer import Quantized

_FEATURES = flags.DEFINE_string(
  "features", None, "Vectors of the items, a .npy or .json file or a folder, as of config.data.features."
)  # fmt: skip
_WHITEN = flags.DEFINE_bool("whiten", False, "Whether the vectors are whitened first, over all items.")
_QUANTIZER = flags.DEFINE_string(
  "quantizer", "residual_kmeans", "What makes the codes; python -m mlrec.main --list prints all."
)
_LEVELS = flags.DEFINE_integer("levels", 3, "Codes of an item, less that which tells items of the same codes apart.")
_SIZE = flags.DEFINE_integer("size", 256, "Codes to choose from at each level.")
_SEED = flags.DEFINE_integer("seed", 0, "Of all that is drawn.")
_OPTIONS = flags.DEFINE_string("options", "", "Other options of the quantizer, such as steps=5000,latent=64.")
_MOST_ALIKE = flags.DEFINE_integer("most_alike", 1024, "Items that may come out with the same codes, at most.")
_TO = flags.DEFINE_string("to", None, "The file that is made, for config.data.codes: such as codes.safetensors.")


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --features=FOLDER")
    for flag in (_FEATURES, _TO):
      if not flag.value:
        raise ConfigError(f"--{flag.name} is required")
    terminal.log_plainly()
    command_line.clean_up_on_sigterm()
    _make(str(_FEATURES.value), pathlib.Path(str(_TO.value)).expanduser())
    return 0
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _make(features: str, path: pathlib.Path) -> None:
  """Makes the codes, tells what they are worth, and writes them."""
  from mlrec.content import codes as code_files
  from mlrec.content import vectors
  from mlrec.models.quantizers import quantizer as quantizers
  from mlrec.models.registry import models
  from mlrec.models.registry import QUANTIZER

  known = {"levels": _LEVELS.value, "size": _SIZE.value, "seed": _SEED.value}
  options = command_line.parse_options(_OPTIONS.value)
  try:
    quantizer = models.create(str(_QUANTIZER.value), kind=QUANTIZER, section=options, **known)
  except OptionError as error:
    raise ConfigError(f"{'--options: ' if error.option in options else '--'}{error}") from error
  except ValueError as error:
    raise ConfigError(f"--quantizer={_QUANTIZER.value}: {error}") from error
  if not path.parent.is_dir():
    raise ConfigError(f"--to={path}: there is no folder {path.parent}")
  named = f"--features={features}"
  items = vectors.items_of(features, named=named)
  found = vectors.read(features, items, named=named)
  if _WHITEN.value:
    found = vectors.whitened(found, items)
  quantized = quantizer.fit(found.vectors[1:], terminal.say)
  worth = quantizers.quality(quantized.codes)
  if worth.most_alike > _MOST_ALIKE.value:
    raise ConfigError(
      f"--most_alike={_MOST_ALIKE.value}: {worth.most_alike:,} items come out with the same codes; are their vectors "
      "the same? Else give more --levels or a larger --size"
    )
  recipe = {
    "vectors": found.fingerprint, "quantizer": _QUANTIZER.value, **known, **options,
    "errors": quantized.errors.tolist(), "used": worth.used.tolist(), "perplexity": worth.perplexity.tolist(),
    "shared": worth.shared, "most_alike": worth.most_alike,
  }  # fmt: skip
  try:
    code_files.write(path, quantizers.told_apart(quantized.codes), items[1:], recipe)
  except OSError as error:
    raise ConfigError(f"--to={path}: {error.strerror or error}") from error
  terminal.say(_table(quantized, worth))
  terminal.say(str(path))


def _table(quantized: "Quantized", worth: "Quality") -> str:
  """What codes are worth, a line for each level and one of all."""
  lines = ["level  variance left  codes used  perplexity"]
  for level, (error, used, perplexity) in enumerate(zip(quantized.errors, worth.used, worth.perplexity), start=1):
    lines.append(f"{level:>5}  {error:>13.4f}  {used:>10,}  {perplexity:>10.1f}")
  number = terminal.counted(len(quantized.codes), "item")
  lines.append(f"{number}: {worth.shared:.1%} share their codes with others, at most {worth.most_alike:,} the same")
  return "\n".join(lines)


if __name__ == "__main__":
  command_line.run(main)
