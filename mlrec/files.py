"""Files that appear whole or not at all, JSON that is bounded, and locks that end with their process."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import pathlib
import shutil
import socket
import stat
import tempfile
from typing import Any
from typing import IO
import uuid

_READ_BYTES = 1 << 20
# The longest integer that JSON may hold here: what fits an int64, with its sign.
_MOST_DIGITS = 20


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary name beside `path`, which takes its place, on disk, once the block has ended without an error."""
  # Other threads, and processes of other machines, may be at the same file.
  temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
  try:
    with naming(path, temporary):
      yield temporary
      sync(temporary)
      temporary.replace(path)
      sync(path.parent)
  finally:
    # Gone already where all went well.
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: pathlib.Path, *temporary: pathlib.Path) -> Iterator[None]:
  """Has errors of the block name `path` where they name what stands for it meanwhile, or something in that.

  Nobody has heard of temporary names, which are gone by the time that a message is read.
  """
  try:
    yield
  except Exception as error:
    for name in map(str, temporary):
      if isinstance(error, OSError):
        for attribute in ("filename", "filename2"):
          named = getattr(error, attribute)
          if named is not None and pathlib.Path(name) in (own := pathlib.Path(os.fsdecode(named)), *own.parents):
            setattr(error, attribute, str(path))
        if error.filename2 == error.filename:  # a rename from one to the other
          del error.filename2  # None would be shown
      # Libraries have the name in their text.
      error.args = tuple(arg.replace(name, str(path)) if isinstance(arg, str) else arg for arg in error.args)
    raise


def check_name(path: str | os.PathLike[str]) -> None:
  """Raises an OSError for a path with a NUL in it, of which Python itself raises another error."""
  if "\0" in os.fspath(path):
    raise OSError(errno.EINVAL, "a name has no NUL character in it", os.fspath(path))


def check_writable(path: pathlib.Path) -> None:
  """Raises an OSError where no file of that name can be written, before what takes time is done for it."""
  check_name(path)
  if path.is_dir():
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
  with tempfile.TemporaryFile(dir=path.parent):
    pass


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a whole file or none."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a whole file or none. NaN is refused."""
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_safetensors(path: pathlib.Path, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
  """Writes NumPy arrays by name, a whole file or none, that whoever may read its folder's other files can read.

  Raises:
    SafetensorError, OSError: it cannot be written.
  """
  import numpy as np
  from safetensors.numpy import save_file  # models and data are used where it is not installed

  with replacing(path) as temporary:
    temporary.touch()
    mode = temporary.stat().st_mode  # safetensors may make a file that nobody else can read
    # Safetensors writes memory as it lies, whatever the strides; and a scalar is no row of one.
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    save_file(plain, temporary, dict(metadata) if metadata else None)
    temporary.chmod(mode)


def read_safetensors(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, str]]:
  """NumPy arrays by name, and the metadata, of a file of safetensors.

  Raises:
    OSError: there is none, or it is no regular file, whose reading might not end.
    ValueError: it is damaged.
  """
  from safetensors import safe_open
  from safetensors import SafetensorError

  open_regular(path).close()
  try:
    with safe_open(path, framework="numpy") as file:
      names = file.keys()
      return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
  except SafetensorError as error:
    raise ValueError(str(error)) from error


def canonical_json(value: Any) -> str:
  """The same text for equal values, for digests."""
  return json.dumps(value, sort_keys=True)


def sha256_of_json(value: Any) -> str:
  """The digest of a value that JSON has, in hexadecimal digits; the same for equal ones."""
  return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def finite(metrics: Mapping[str, Any]) -> dict[str, float | None]:
  """Numbers for JSON, which has no NaN: those that are not finite become null."""
  return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def parse_json(text: str, *, allow_nan: bool = False) -> Any:
  """The value of a JSON text, in time and memory bounded by its length.

  Args:
    text: to be parsed.
    allow_nan: takes `NaN` and `Infinity`, which are no JSON, as Python's own `json` writes them, and numbers beyond a
      double as infinity.

  Raises:
    ValueError: it is no JSON, nested too deeply, names a key of an object twice, or holds an integer beyond 64 bits or
      a number beyond a double.
  """
  constant, number = (float, float) if allow_nan else (_no_constant, _finite)
  try:
    return json.loads(
      text, parse_constant=constant, parse_float=number, parse_int=_integer, object_pairs_hook=_object
    )  # fmt: skip
  except RecursionError as error:
    raise ValueError("its values are nested too deeply") from error


def read_json(path: pathlib.Path, *, allow_nan: bool = False) -> Any:
  """The value in a JSON file, as of `parse_json`.

  Raises:
    ValueError: it holds something else; the message does not name the file.
    OSError: it cannot be read, or is no file.
  """
  return parse_json(read_regular(path).decode("utf-8"), allow_nan=allow_nan)


def read_regular(path: pathlib.Path) -> bytes:
  """The bytes of a regular file; an OSError for a pipe or a device, whose reading might not end."""
  with open_regular(path) as file:
    return file.read()


def open_regular(path: str | os.PathLike) -> IO[bytes]:
  """Opens a regular file for reading.

  Raises:
    OSError: there is none of that name, or it is a folder, a pipe or a device.
  """
  # Without waiting for whoever might write into a pipe.
  descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  mode = os.fstat(descriptor).st_mode
  if not stat.S_ISREG(mode):
    os.close(descriptor)
    raise OSError(0, "it is no regular file", os.fspath(path))
  return os.fdopen(descriptor, "rb")


def reason(error: Exception) -> str:
  """What an error says, of the system's without their number and the name of the file."""
  return (error.strerror if isinstance(error, OSError) else "") or str(error)


def is_special(path: pathlib.Path) -> bool:
  """Whether it is there and neither a file nor a folder: a pipe or a device, whose reading might not end."""
  return path.exists() and not (path.is_file() or path.is_dir())


def sha256(path: pathlib.Path) -> str:
  """The digest of a file, in hexadecimal digits."""
  digest = hashlib.sha256()
  with open_regular(path) as file:
    while block := file.read(_READ_BYTES):
      digest.update(block)
  return digest.hexdigest()


def remove(path: pathlib.Path) -> None:
  """Removes a file or a folder, if there is one."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def try_lock(path: pathlib.Path) -> IO[str] | None:
  """Locks a file, which is made where it is missing, until what is returned is closed or the process ends.

  Returns:
    The open file, for the holder to say who it is (`sign_lock`); None if another process holds it.

  Raises:
    OSError: the file cannot be written.
  """
  file = path.open("a+", encoding="utf-8")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.close()
    return None
  except OSError:
    file.close()
    raise
  return file


def sign_lock(lock: IO[str]) -> None:
  """Has a lock that this process holds say so, for `lock_holder`."""
  lock.truncate(0)
  json.dump({"host": socket.gethostname(), "pid": os.getpid()}, lock)
  lock.flush()


def lock_holder(path: pathlib.Path) -> str:
  """Who holds a lock, for messages."""
  try:
    holder = read_json(path)
    return f"process {holder['pid']} on {holder['host']}"
  except (OSError, ValueError, KeyError, TypeError):
    return "another process"


def sync_all(folder: pathlib.Path, *, below: bool = True) -> None:
  """Has a folder be on the disk, with all files and folders `below` it."""
  for path in sorted(folder.rglob("*")) if below else ():
    sync(path)
  sync(folder)


def is_disk_full(error: BaseException | None) -> bool:
  """Whether an error, or one that it came from, says that the disk is full."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
      return True
    if any(words in str(error).lower() for words in ("no space left", "disk quota exceeded")):
      return True
    error = error.__cause__ or error.__context__
  return False


def sync(path: pathlib.Path) -> None:
  """Has a file, or the names in a folder, on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _no_constant(name: str) -> Any:
  raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
  if not math.isfinite(value := float(text)):
    raise ValueError(f"the number {text[:24]} exceeds a double")
  return value


def _integer(digits: str) -> int:
  if len(digits) > _MOST_DIGITS or not -(2**63) <= int(digits) < 2**64:
    raise ValueError(f"the integer {digits[:24]}… of {len(digits)} digits exceeds 64 bits")
  return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    known: set[str] = set()
    twice = next(key for key, _ in pairs if key in known or known.add(key))  # type: ignore[func-returns-value]
    raise ValueError(f"the key {twice[:80]!r} occurs twice in an object")
  return found
