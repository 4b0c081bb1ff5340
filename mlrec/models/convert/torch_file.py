"""Tensors of published weight files, as NumPy arrays, without PyTorch and without running code of the file."""

from collections.abc import Callable
from collections.abc import Mapping
import io
import os
import pickle
import stat
import struct
from typing import Any
from typing import BinaryIO
from typing import NamedTuple
import zipfile

import numpy as np

from mlrec.models.convert import numpy_file
from mlrec.models.convert import safetensors_file
from mlrec.models.convert import torch_pickle
from mlrec.models.convert.torch_pickle import ADVICE
from mlrec.models.convert.torch_pickle import Foreign
from mlrec.models.convert.torch_pickle import Name
from mlrec.models.convert.torch_pickle import Tensor

# Where training code keeps the weights among other things.
_KEYS = ("state_dict", "model_state", "model_state_dict", "model", "module")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Views may share a storage, or repeat it by strides of zero, and arrays may be compressed; together they stay below
# this many bytes for each of the file's, and this many more.
_MOST_GROWTH, _MOST_MORE = 16, 64 * 2**20
_ARRAY_BYTES = 200  # of an array without elements or axes, roughly
# What reading raises for a file whose bytes make no sense.
_DAMAGED = (
  ValueError, LookupError, TypeError, ArithmeticError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile,
  pickle.UnpicklingError,
)  # fmt: skip


class _Content(NamedTuple):
  root: Any
  read: Callable[[str], bytes]  # a storage by its key
  big_endian: bool = False


def read_torch(path: str | os.PathLike, key: str | None = None) -> dict[str, np.ndarray]:
  """The tensors of a file by name: safetensors, NumPy's `.npz`, or `torch.save`'s in its zip or its older format.

  What the file is, its content says, not its suffix. The code that a pickle names is never run or imported: tensors are
  rebuilt here, and other objects beside them are passed over, or refused where a tensor is wanted. Time and memory are
  proportional to the size of the file, whatever it says (`torch_pickle` has the details).

  Args:
    path: the file.
    key: where the dict of tensors lies in the file's dict. By default it is that dict itself if it holds tensors, else
      the one entry that does among `state_dict`, `model_state`, `model_state_dict`, `model` and `module`.

  Returns:
    Arrays of the tensors' own dtypes; bfloat16 and float8 are those of `ml_dtypes`, as in JAX. Tensors of a torch file
    that shared memory still do, so these arrays are read-only, as those of an `.npz` file are. Numbers, strings and
    None beside the tensors are left out. A `module.` that all names begin with, as DataParallel gives them, is taken
    off.

  Raises:
    ValueError: the file is damaged, holds no such dict, or names what no checkpoint needs; or it is no regular file.
    OSError: it cannot be read at all.
  """
  _check_regular(path, os.stat(path).st_mode)
  with open(path, "rb", opener=_open_without_waiting) as file:
    _check_regular(path, os.fstat(file.fileno()).st_mode)  # it may have been replaced
    try:
      entries = _read(file, key)
    except _DAMAGED as error:
      reason = error if type(error) is ValueError else f"it is damaged ({type(error).__name__}: {error})"
      raise ValueError(f"{os.fspath(path)}: {reason}") from error
  if all(name.startswith("module.") and name != "module." for name in entries):
    entries = {name.removeprefix("module."): array for name, array in entries.items()}
  return entries


def _check_regular(path: str | os.PathLike, mode: int) -> None:
  if not stat.S_ISREG(mode):
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    raise ValueError(f"{os.fspath(path)}: it is a {kinds.get(stat.S_IFMT(mode), 'device')}; expected a regular file")


def _open_without_waiting(path: str, flags: int) -> int:
  return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read(file: BinaryIO, key: str | None) -> dict[str, np.ndarray]:
  size = os.fstat(file.fileno()).st_size
  most = _MOST_GROWTH * size + _MOST_MORE
  head = file.read(9)
  file.seek(0)
  if head[8:] == b"{" or os.fspath(file.name).endswith(".safetensors"):
    _check_no_key(key, "a safetensors file")
    return safetensors_file.read_safetensors(file, size)
  if head.startswith(b"PK\x03\x04"):
    archive = _archive(file, size)
    if numpy_file.is_npz(archive):
      _check_no_key(key, "an .npz file")
      return numpy_file.read_npz(archive, most)
    content = _zip(archive)
  elif head.startswith(b"\x80"):
    content = _legacy(file, size)
  else:
    raise ValueError(f"it begins with {head!r}: expected a safetensors or .npz file, or one that torch.save wrote")
  tensors = _picked(content.root, key)
  nbytes = sum(_ARRAY_BYTES + tensor.nbytes + 16 * len(tensor.shape) for tensor in tensors.values())
  if nbytes > most:
    raise ValueError(f"its tensors repeat their elements: {nbytes} bytes from a file of {size}; {ADVICE}")
  return _arrays(tensors, content)


def _archive(file: BinaryIO, size: int) -> zipfile.ZipFile:
  """The archive in a file, whose entries lie inside it, and next to each other, as far as their sizes tell."""
  try:
    archive = zipfile.ZipFile(file)
  except OSError as error:  # of seeking to before the file, for which Python 3.11 does not look
    raise zipfile.BadZipFile(str(error)) from error
  for entry in archive.infolist():
    if not 0 <= entry.header_offset <= size - entry.compress_size:
      raise ValueError(f"its archive's entry {entry.filename[:80]!r} is cut off, or not where the archive says")
  stored = sum(entry.compress_size for entry in archive.infolist())
  if stored > size:
    raise ValueError(f"its archive's entries overlap: they have {stored} bytes, and the file {size}")
  return archive


def _check_no_key(key: str | None, file: str) -> None:
  if key is not None:
    raise ValueError(f"key = {key!r}: {file} has arrays only, and no keys above them")


def _zip(archive: zipfile.ZipFile) -> _Content:
  """What `torch.save` writes: an archive of a pickle, `data.pkl`, and a file `data/KEY` for each storage."""
  entries: dict[str, zipfile.ZipInfo] = {}
  for entry in archive.infolist():
    name = entry.orig_filename
    if name in entries or name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
      raise ValueError(f"its archive has the entry {name[:80]!r}: names must be plain, and each there once")
    entries[name] = entry
  pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
  if len(pickles) != 1:
    raise ValueError(f"its archive has {len(pickles)} files FOLDER/data.pkl; expected one, as torch.save writes it")
  folder = pickles[0].removesuffix("data.pkl")
  code = folder + "code/"
  if any(name.startswith(code) for name in entries):
    raise ValueError(f"it is a TorchScript program, which holds code; {ADVICE}")

  def read(name: str) -> bytes:
    entry = entries.get(folder + name)
    if entry is None:
      raise ValueError(f"its archive has no entry {name[:80]!r}")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
      raise ValueError(f"its archive's entry {name[:80]!r} is compressed or encrypted; torch.save only stores")
    entry.CRC = entry.CRC or None  # type: ignore[assignment]  # torch.save may be told to leave checksums out
    return archive.read(entry)

  data = read("data.pkl")
  root, _, _ = torch_pickle.load(io.BytesIO(data), 0, len(data))
  order = read("byteorder") if folder + "byteorder" in entries else b"little"
  if order not in (b"little", b"big"):
    raise ValueError(f"its byte order is {order[:80]!r}; expected b'little' or b'big'")
  return _Content(root, lambda key: read(f"data/{key}"), order == b"big")


def _legacy(file: BinaryIO, size: int) -> _Content:
  """What `torch.save` wrote before PyTorch 1.6: five pickles, then the storages, always in little-endian order."""
  magic, _, place = torch_pickle.load(file, 0, size)
  if magic != _LEGACY_MAGIC:
    raise ValueError(f"it is a pickle that torch.save did not write; {ADVICE}")
  protocol, _, place = torch_pickle.load(file, place, size)
  if protocol != _LEGACY_PROTOCOL:
    raise ValueError(f"its format is not version {_LEGACY_PROTOCOL}, the only one known")
  _, _, place = torch_pickle.load(file, place, size)  # sizes of the writer's types
  root, storages, place = torch_pickle.load(file, place, size)
  keys, _, place = torch_pickle.load(file, place, size)
  if type(keys) is not list:
    raise ValueError(f"the list of its storages is a {torch_pickle.sort_of(keys)}")
  places: dict[str, int] = {}
  for key in keys:
    if type(key) is not str or key not in storages or key in places:
      raise ValueError("its list of storages has one that no tensor uses, or one twice")
    file.seek(place)
    places[key] = place + 8
    place += 8 + storages[key].nbytes
    if file.read(8) != struct.pack("<q", storages[key].total) or place > size:
      what = f"storage {key[:80]!r} should have {storages[key].nbytes} bytes and has not"
      raise ValueError(f"{what}; the file is cut off or damaged")

  def read(key: str) -> bytes:
    file.seek(places[key])
    return file.read(storages[key].nbytes)

  return _Content(root, read)


def _arrays(tensors: Mapping[str, Tensor], content: _Content) -> dict[str, np.ndarray]:
  """The tensors as views of their storages, each of which is read once, or once a width if it has to be swapped."""
  storages: dict[tuple[str, int], np.ndarray] = {}
  arrays = {}
  for name, (storage, dtype, offset, shape, strides) in tensors.items():
    width = dtype.itemsize // (2 if dtype.kind == "c" else 1) if content.big_endian else 1
    if 0 in shape:
      arrays[name] = np.empty(shape, dtype)
      continue
    if (storage.key, width) not in storages:
      data = content.read(storage.key)
      if len(data) < storage.nbytes:
        raise ValueError(f"storage {storage.key[:80]!r} has {len(data)} bytes; its {storage.total} elements need more")
      whole = np.frombuffer(data, f"u{width}", len(data) // width)
      storages[storage.key, width] = whole if width == 1 else whole.byteswap()
    begin = storage.start * storage.dtype.itemsize + offset * dtype.itemsize
    steps = tuple(stride * dtype.itemsize for stride in strides)
    array: np.ndarray = np.ndarray(shape, dtype, storages[storage.key, width], begin, steps)
    if dtype.kind == "b":  # other bytes than 0 and 1 must not reach NumPy as truth values
      array = np.asarray(array.view(np.uint8) != 0)
    array.flags.writeable = False
    arrays[name] = array
  return arrays


def _picked(root: Any, key: str | None) -> dict[str, Tensor]:
  """The dict of tensors under `key`, or where it usually lies."""
  if type(root) is not dict:
    raise ValueError(f"it holds {_described(root)}, not a dict; {ADVICE}, under the names of state_dict()")
  found = root
  where = ""
  if key is not None:
    if key not in root:
      raise ValueError(f"key = {key!r}: there is no such key; it has {_listed(root)}")
    found = root[key]
  elif not _holds_tensors(root):
    usual = [name for name in _KEYS if _holds_tensors(root.get(name))]
    if len(usual) != 1:
      what = "tensors under more than one of the usual keys" if usual else "no tensors under the usual keys"
      raise ValueError(f"it has {what} ({', '.join(_KEYS)}): say which key holds the weights; it has {_listed(root)}")
    key = usual[0]
    found = root[key]
  if key is not None:
    where = f" under {key!r}"
  if not _holds_tensors(found):
    raise ValueError(f"{_described(found)}{where} is no dict of tensors; the file has {_listed(root)}")
  tensors = {}
  for name, value in found.items():
    if type(value) is Tensor and type(name) is str:
      tensors[name] = value
    elif type(value) not in (int, float, bool, str, type(None)):
      hint = f"; {ADVICE}" if type(value) is Foreign else f"; say which key holds the weights: it has {_listed(root)}"
      raise ValueError(f"entry {str(_key(name))!r}{where} is {_described(value)}, not a tensor{hint}")
  return tensors


def _holds_tensors(value: Any) -> bool:
  return type(value) is dict and any(type(entry) is Tensor for entry in value.values())


def _described(value: Any) -> str:
  if type(value) is Foreign:
    return f"an object of {value.made_by[:200]}"
  if type(value) is Name:
    return f"the name {str(value)[:200]}"
  return f"a {type(value).__name__.lower()}"


def _key(key: Any) -> Any:
  return key[:80] if type(key) is str else key if type(key) in (int, float, bool) else f"<{type(key).__name__}>"


def _listed(entries: Mapping[Any, Any], most: int = 20) -> str:
  """The keys of a dict, and what each holds."""
  names = [f"{_key(name)!r} ({_described(value)})" for name, value in list(entries.items())[:most]]
  more = f" and {len(entries) - most} more" if len(entries) > most else ""
  return ", ".join(names) + more if names else "no keys"
