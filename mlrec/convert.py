"""Converts published weights to safetensors: `python -m mlrec.convert FILE --to=OUT.safetensors [--key=…] [--list]`.

FILE may be one of `torch.save`, in its zip or its older format, NumPy's `.npz`, or safetensors; no code that it names
is run. Names and shapes stay those of FILE.

  python -m mlrec.convert SLOWFAST_8x8_R50.pyth --to=weights/slowfast_r50.safetensors
  python -m mlrec.convert SLOWFAST_8x8_R50.pyth --list
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

from collections.abc import Mapping
import os
import pathlib
import sys

from absl import flags
import numpy as np

from mlrec import files
from mlrec import terminal

_FLAGS = flags.FlagValues()
_TO = flags.DEFINE_string("to", None, "The safetensors file to write.", flag_values=_FLAGS)
_KEY = flags.DEFINE_string(
  "key",
  None,
  "Where in FILE's dict the weights lie, if not in the usual place, such as model_state.",
  flag_values=_FLAGS,
)
_LIST = flags.DEFINE_bool("list", False, "Print names, shapes and dtypes, and write nothing.", flag_values=_FLAGS)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the file of --to if there is one.", flag_values=_FLAGS)
_HELP = flags.DEFINE_bool("help", False, "Print this.", flag_values=_FLAGS)
_FLAGS.set_gnu_getopt(True)

_REFUSED = 2


def main(argv: list[str]) -> int:
  """Does what the command line says; returns the exit status."""
  _FLAGS.unparse_flags()
  for name in _FLAGS:
    _FLAGS[name].unparse()
  try:
    files = _FLAGS(argv)[1:]
    if _HELP.value:
      terminal.say(f"{__doc__}\n{_FLAGS.get_help()}")
      return 0
    return _convert(files)
  except (ValueError, OSError, flags.Error) as error:
    known = isinstance(error, OSError) and error.filename and error.strerror
    message = f"{error.filename}: {error.strerror}" if known else str(error)  # type: ignore[union-attr]
    terminal.tell(f"error: {terminal.one_line(' '.join(message.split()))}")
    return _REFUSED


def _convert(files: list[str]) -> int:
  if len(files) != 1:
    raise ValueError(f"expected one FILE, not {len(files)}, such as: python -m mlrec.convert FILE --to=OUT.safetensors")
  if not _LIST.value:
    target = _target(_TO.value, files[0])
  # JAX and Flax come in here: mistakes in flags are told at once.
  from mlrec.models.convert import read_torch

  arrays = read_torch(files[0], key=_KEY.value)
  if _LIST.value:
    for name, array in arrays.items():
      terminal.say(f"{name if name.isprintable() else repr(name)}  {array.shape}  {array.dtype.name}")
    return 0
  write(arrays, target)
  terminal.say(f"{target}: {len(arrays)} tensors")
  return 0


def _target(name: str | None, file: str) -> pathlib.Path:
  if not name:
    raise ValueError("--to=OUT.safetensors is required (or --list, to see what is in FILE)")
  target = pathlib.Path(name).expanduser()
  if target.suffix != ".safetensors":
    raise ValueError(f"--to={name}: expected a name that ends in .safetensors")
  if not target.parent.is_dir():
    raise ValueError(f"--to={name}: there is no folder {str(target.parent)!r}")
  if target.exists() and not target.is_file():
    raise ValueError(f"--to={name}: it is {'a folder' if target.is_dir() else 'no regular file'}")
  if target.exists() and os.path.exists(file) and target.samefile(file):
    raise ValueError(f"--to={name}: it is FILE itself; expected another name")
  if target.exists() and not _OVERWRITE.value:
    raise ValueError(f"--to={name}: the file is there already; --overwrite replaces it")
  return target


def write(arrays: Mapping[str, np.ndarray], target: pathlib.Path) -> None:
  """Writes arrays by name as safetensors; the file appears under its name only when it is whole and on the disk.

  Raises:
    ValueError: it cannot be written: safetensors has no such dtype, the disk is full, the folder may not be written to.
  """
  from safetensors import SafetensorError

  if "__metadata__" in arrays:
    raise ValueError(f"{target}: cannot be written: in safetensors, '__metadata__' is no name of a tensor")
  try:
    files.write_safetensors(target, arrays)
  except (SafetensorError, OSError) as error:
    raise ValueError(f"{target}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


if __name__ == "__main__":
  sys.exit(main(sys.argv))
