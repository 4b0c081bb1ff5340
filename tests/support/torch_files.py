"""Writes the file formats of `torch.save` by hand: pickle operations as bytes, and the two containers around them."""

from collections.abc import Mapping
import pathlib
import struct
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
  np.dtype(dtype): f"{name}Storage"
  for name, dtype in (
    ("Double", "f8"), ("Float", "f4"), ("Half", "f2"), ("BFloat16", ml_dtypes.bfloat16), ("Long", "i8"), ("Int", "i4"),
    ("Short", "i2"), ("Char", "i1"), ("Byte", "u1"), ("Bool", "?"), ("ComplexFloat", "c8"), ("ComplexDouble", "c16"),
  )
}  # fmt: skip
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
NONE, TRUE, FALSE, EMPTY, REDUCE, BUILD, NEWOBJ, STOP = b"N", b"\x88", b"\x89", b")", b"R", b"b", b"\x81", b"."


def text(value: str) -> bytes:
  return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
  data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
  return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
  return b"c" + f"{module}\n{attribute}\n".encode()


def group(*parts: bytes) -> bytes:
  return b"(" + b"".join(parts) + b"t"


def numbers(values) -> bytes:
  return group(*(number(int(value)) for value in values))


def call(function: bytes, *arguments: bytes) -> bytes:
  return function + group(*arguments) + REDUCE


def mapping(entries: Mapping[str, bytes] | list[tuple[bytes, bytes]]) -> bytes:
  pairs = entries.items() if isinstance(entries, Mapping) else entries
  return b"}(" + b"".join((text(key) if isinstance(key, str) else key) + value for key, value in pairs) + b"u"


def ordered(entries: Mapping[str, bytes]) -> bytes:
  """An OrderedDict with attributes, as `state_dict()` has them."""
  items = b"(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"
  state = mapping({"_metadata": mapping({"": mapping({"version": number(1)})})})
  return name("collections", "OrderedDict") + EMPTY + REDUCE + items + state + BUILD


def storage(key: str, array: np.ndarray, *, total: int | None = None, view: bytes | None = None) -> bytes:
  kind = name("torch", STORAGES[array.dtype])
  total = array.size if total is None else total
  view = b"" if view is None else view
  return group(text("storage"), kind, text(key), text("cpu"), number(total), view) + b"Q"


def tensor(stored: bytes, offset: int, shape, strides) -> bytes:
  """`_rebuild_tensor_v2` over the bytes of `storage`; strides in elements."""
  hooks = name("collections", "OrderedDict") + EMPTY + REDUCE
  arguments = (stored, number(offset), numbers(shape), numbers(strides), FALSE, hooks)
  return call(name("torch._utils", "_rebuild_tensor_v2"), *arguments)


def whole(key: str, array: np.ndarray) -> bytes:
  """A contiguous tensor with a storage of its own."""
  strides = [stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides]
  return tensor(storage(key, array), 0, array.shape, strides)


def parameter(data: bytes) -> bytes:
  hooks = name("collections", "OrderedDict") + EMPTY + REDUCE
  return call(name("torch._utils", "_rebuild_parameter"), data, TRUE, hooks)


def write_zip(
  path: pathlib.Path, body: bytes, storages: Mapping[str, np.ndarray] | None = None, *, order: str | None = "little",
  folder: str = "archive", more: Mapping[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED,
) -> pathlib.Path:  # fmt: skip
  """The format since PyTorch 1.6; `body` is the pickle between its protocol and its STOP."""
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr(f"{folder}/data.pkl", b"\x80\x02" + body + STOP)
    if order is not None:
      archive.writestr(f"{folder}/byteorder", order)
    for key, array in (storages or {}).items():
      archive.writestr(f"{folder}/data/{key}", swapped(array).tobytes() if order == "big" else array.tobytes())
    archive.writestr(f"{folder}/version", "3\n")
    for entry, data in (more or {}).items():
      archive.writestr(entry, data)
  return path


def write_legacy(path: pathlib.Path, body: bytes, storages: Mapping[str, np.ndarray] | None = None) -> pathlib.Path:
  """The format before PyTorch 1.6."""
  storages = storages or {}
  info = mapping({"protocol_version": number(1001), "little_endian": TRUE, "type_sizes": mapping({"int": number(4)})})
  keys = b"](" + b"".join(text(key) for key in storages) + b"e"
  data = MAGIC + b"".join(b"\x80\x02" + part + STOP for part in (number(1001), info, body, keys))
  for array in storages.values():
    data += struct.pack("<q", array.size) + array.tobytes()
  path.write_bytes(data)
  return path


def swapped(array: np.ndarray) -> np.ndarray:
  """The bytes of a machine of the other byte order."""
  width = array.itemsize // 2 if array.dtype.kind == "c" else array.itemsize
  return array.view(f"u{width}").byteswap()
