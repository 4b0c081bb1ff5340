"""Tensors of published weight files, as NumPy arrays, without PyTorch and without running code of the file."""

from collections.abc import Callable
from collections.abc import Mapping
import io
import os
import struct
from typing import Any
from typing import BinaryIO
from typing import NamedTuple
import zipfile
import zlib

import numpy as np

from mlrec.models.convert import numpy_file
from mlrec.models.convert import torch_pickle
from mlrec.models.convert.torch_objects import ADVICE
from mlrec.models.convert.torch_objects import Foreign
from mlrec.models.convert.torch_objects import Name
from mlrec.models.convert.torch_objects import sort_of
from mlrec.models.convert.torch_objects import Storage
from mlrec.models.convert.torch_objects import Tensor

# Where training code keeps the weights among other things.
_KEYS = ("state_dict", "model_state", "model_state_dict", "model", "module")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Views may share a storage, or repeat it by strides of zero, and arrays may be compressed; together they stay below
# this many bytes for each of the file's, and this many more.
_MOST_GROWTH, _MOST_MORE = 16, 64 * 2**20
# What reading raises for a file whose bytes make no sense.
_DAMAGED = (
  ValueError, LookupError, TypeError, ArithmeticError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


class _Record(NamedTuple):
  """Where a storage lies in the file; a checksum of 0 is none."""

  start: int
  size: int
  checksum: int


class _Content(NamedTuple):
  root: Any
  record: Callable[[str], _Record]  # by the storage's key
  big_endian: bool


def read_torch(path: str | os.PathLike, key: str | None = None) -> dict[str, np.ndarray]:
  """The tensors of a file by name: safetensors, NumPy's `.npz`, or `torch.save`'s in its zip or its older format.

  What the file is, its content says, not its suffix. The code that a pickle names is never run or imported: tensors are
  rebuilt here, and other objects beside them are passed over, or refused where a tensor is wanted.

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
    ValueError: the file is damaged, holds no such dict, or names what no checkpoint needs.
    OSError: it cannot be read at all.
  """
  with open(path, "rb") as file:
    try:
      entries = _read(file, key)
    except _DAMAGED as error:
      reason = error if type(error) is ValueError else f"it is damaged ({type(error).__name__}: {error})"
      raise ValueError(f"{os.fspath(path)}: {reason}") from error
  if all(name.startswith("module.") and name != "module." for name in entries):
    entries = {name.removeprefix("module."): array for name, array in entries.items()}
  return entries


def _read(file: BinaryIO, key: str | None) -> dict[str, np.ndarray]:
  size = os.fstat(file.fileno()).st_size
  head = file.read(9)
  if head[8:] == b"{" or os.fspath(file.name).endswith(".safetensors"):
    if key is not None:
      raise ValueError(f"key = {key!r}: a safetensors file has tensors only, and no keys above them")
    return _safetensors(file.name)
  most = _MOST_GROWTH * size + _MOST_MORE
  if head.startswith(b"PK\x03\x04") and numpy_file.is_npz(file):
    if key is not None:
      raise ValueError(f"key = {key!r}: an .npz file has arrays only, and no keys above them")
    return numpy_file.read_npz(file, most)
  if head.startswith(b"PK\x03\x04"):
    content = _zip(file, size)
  elif head.startswith(b"\x80"):
    content = _legacy(file, size)
  else:
    raise ValueError(f"it begins with {head!r}: expected a safetensors or .npz file, or one that torch.save wrote")
  tensors = _picked(content.root, key)
  nbytes = sum(tensor.nbytes for tensor in tensors.values())
  if nbytes > most:
    raise ValueError(f"its tensors repeat their elements: {nbytes} bytes from a file of {size}; {ADVICE}")
  read = _Storages(file, content)
  return {name: _array(tensor, read) for name, tensor in tensors.items()}


def _safetensors(path: str) -> dict[str, np.ndarray]:
  from safetensors import SafetensorError
  from safetensors.numpy import load_file  # models stay importable where only JAX and Flax are

  try:
    return load_file(path)
  except SafetensorError as error:
    raise ValueError(f"it is no whole safetensors file: {error}") from error


def _zip(file: BinaryIO, size: int) -> _Content:
  """What `torch.save` writes: an archive of a pickle, `data.pkl`, and a file `data/KEY` for each storage."""
  entries: dict[str, zipfile.ZipInfo] = {}
  for entry in zipfile.ZipFile(file).infolist():
    name = entry.orig_filename
    if name in entries or name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
      raise ValueError(f"its archive has the entry {name[:80]!r}: names must be plain, and each there once")
    entries[name] = entry
  pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
  if len(pickles) != 1:
    raise ValueError(f"its archive has {len(pickles)} files FOLDER/data.pkl; expected one, as torch.save writes it")
  folder = pickles[0].removesuffix("data.pkl")
  if any(name.startswith(folder + "code/") for name in entries):
    raise ValueError(f"it is a TorchScript program, which holds code; {ADVICE}")

  def record(name: str) -> _Record:
    if folder + name not in entries:
      raise ValueError(f"its archive has no entry {name[:80]!r}")
    return _zip_record(file, size, entries[folder + name])

  pickle = _bytes(file, record("data.pkl"))
  root, _ = torch_pickle.load(torch_pickle.Part(io.BytesIO(pickle.data), 0, pickle.size))
  order = b"little"
  if folder + "byteorder" in entries:
    order = _bytes(file, record("byteorder")).tobytes()
  if order not in (b"little", b"big"):
    raise ValueError(f"its byte order is {order[:80]!r}; expected b'little' or b'big'")
  return _Content(root, lambda key: record(f"data/{key}"), order == b"big")


def _zip_record(file: BinaryIO, size: int, entry: zipfile.ZipInfo) -> _Record:
  what = f"its archive's entry {entry.filename[:80]!r}"
  if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
    raise ValueError(f"{what} is compressed or encrypted; torch.save only stores")
  header = b""
  if 0 <= entry.header_offset < size:
    file.seek(entry.header_offset)
    header = file.read(30)
  if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
    raise ValueError(f"{what} is not where the archive says")
  start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
  if start + entry.file_size > size:
    raise ValueError(f"{what} is cut off: {entry.file_size} bytes from {start} in a file of {size}")
  return _Record(start, entry.file_size, entry.CRC)


def _legacy(file: BinaryIO, size: int) -> _Content:
  """What `torch.save` wrote before PyTorch 1.6: five pickles, then the storages, always in little-endian order."""
  part = torch_pickle.Part(file, 0, size)
  magic, _ = torch_pickle.load(part)
  if type(magic) is not int or magic != _LEGACY_MAGIC:
    raise ValueError(f"it is a pickle that torch.save did not write; {ADVICE}")
  protocol, _ = torch_pickle.load(part)
  if type(protocol) is not int or protocol != _LEGACY_PROTOCOL:
    raise ValueError(f"its format is not version {_LEGACY_PROTOCOL}, the only one known")
  torch_pickle.load(part)  # sizes of the writer's types
  root, storages = torch_pickle.load(part)
  keys, _ = torch_pickle.load(part)
  if type(keys) is not list:
    raise ValueError(f"the list of its storages is a {sort_of(keys)}")
  records: dict[str, _Record] = {}
  place = part.tell()
  for key in keys:
    if type(key) is not str or key not in storages or key in records:
      raise ValueError("its list of storages has one that no tensor uses, or one twice")
    storage = storages[key]
    file.seek(place)
    (total,) = struct.unpack("<q", file.read(8))
    length = storage.total * storage.dtype.itemsize
    if total != storage.total or place + 8 + length > size:
      raise ValueError(f"storage {key[:80]!r} should have {length} bytes and has not; the file is cut off or damaged")
    records[key] = _Record(place + 8, length, 0)
    place += 8 + length
  return _Content(root, lambda key: records[key], False)


def _bytes(file: BinaryIO, record: _Record) -> np.ndarray:
  file.seek(record.start)
  data = np.empty(record.size, np.uint8)
  if file.readinto(data) != record.size:  # type: ignore[attr-defined]
    raise ValueError("the file is cut off")
  if record.checksum and zlib.crc32(data.data) != record.checksum:
    raise ValueError(f"the {record.size} bytes from {record.start} on are not those that were saved (checksum)")
  return data


class _Storages:
  """Reads each storage of the file that is wanted, once."""

  def __init__(self, file: BinaryIO, content: _Content):
    self._file, self._content = file, content
    self._read: dict[tuple[str, int, bool], np.ndarray] = {}

  def __call__(self, storage: Storage, dtype: np.dtype) -> np.ndarray:
    """Bytes of the whole storage, uint8, in the order in which this machine reads `dtype`."""
    width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    swapped = self._content.big_endian and width > 1
    truth = dtype.kind == "b"
    place = storage.key, width if swapped else 1, truth
    if place not in self._read:
      record = self._content.record(storage.key)
      if record.size < storage.total * storage.dtype.itemsize:
        raise ValueError(
          f"storage {storage.key[:80]!r} has {record.size} bytes; its {storage.total} elements need more"
        )
      data = _bytes(self._file, record)
      if swapped:
        data = data[: data.size // width * width].view(f"u{width}").byteswap(inplace=True).view(np.uint8)
      # Bytes that are no truth value must not reach NumPy as one.
      self._read[place] = (data != 0).view(np.uint8) if truth else data
    return self._read[place]


def _array(tensor: Tensor, read: _Storages) -> np.ndarray:
  if 0 in tensor.shape:
    return np.empty(tensor.shape, tensor.dtype)
  array: np.ndarray = np.ndarray(
    tensor.shape,
    tensor.dtype,
    read(tensor.storage, tensor.dtype),
    tensor.storage.start * tensor.storage.dtype.itemsize + tensor.offset * tensor.dtype.itemsize,
    tuple(stride * tensor.dtype.itemsize for stride in tensor.strides),
  )
  array.flags.writeable = False
  return array


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
