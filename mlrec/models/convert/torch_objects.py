"""What the pickles of PyTorch checkpoints are made of, and how each is read without running anything.

A pickle names classes and functions and has them called. Here a name is only ever compared with a table; nothing is
imported, and nothing is called but the functions of this file. There are three sorts of names:

* those that build tensors, sizes and ordered dicts: done here, from checked numbers (`_BUILDERS`);
* names of the standard library outside `_HARMLESS`: no checkpoint needs one, so the file is refused;
* all others (an optimiser, a config, a scalar of NumPy): an inert `Foreign`, of which only the class's name is kept. It
  may lie beside what is wanted, as in most published files, and is refused where a tensor is wanted.
"""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np

LONGEST_NAME = 4096
ADVICE = "save the bare tensors as safetensors where the file was made"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Name:
  """A class or function that the stream names."""

  module: str
  name: str

  def __str__(self) -> str:
    return f"{self.module}.{self.name}"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Foreign:
  """An object that is not read; only the name of what would have made it is kept."""

  made_by: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
  """`size` elements from `start` of the `total` elements stored under `key`."""

  key: str
  dtype: np.dtype
  start: int
  size: int
  total: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
  """A strided view of a storage; offset and strides in elements of `dtype`, and inside the storage."""

  storage: Storage
  dtype: np.dtype
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    size = self.dtype.itemsize
    for n in self.shape:
      size *= n
    return size


def sort_of(value: Any) -> str:
  """What `value` is, in few words."""
  return f"name ({value})" if isinstance(value, Name) else type(value).__name__


def name_of(value: Any) -> str:
  """The name that `value` is; anything else is not printed, as that may take time without bound."""
  return str(value) if type(value) is Name else f"<{type(value).__name__}>"


def pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
  """Alternating keys and values as the items of a dict."""
  if len(values) % 2:
    raise ValueError("its pickle has a dict with a key and no value")
  for key, value in zip(values[::2], values[1::2]):
    # Hashing tuples, or integers of any size, may take time without bound; no name of a tensor is one.
    plain = type(key) in (str, bytes, bool, float, type(None)) or (type(key) is int and abs(key) < 2**60)
    yield (key if plain else Foreign(sort_of(key))), value


# What checkpoints hold beside tensors; of all but the ordered dict only the name is kept.
_HARMLESS = {
  "_codecs": {"encode"},
  "_io": {"BytesIO"},
  "argparse": {"Namespace"},
  "builtins": {
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
    "slice", "str", "tuple",
  },
  "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
  "copyreg": {"_reconstructor"},
  "datetime": {"date", "datetime", "timedelta", "timezone"},
  "decimal": {"Decimal"},
  "fractions": {"Fraction"},
  "functools": {"partial"},
  "pathlib": {"Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
  "pathlib._local": {"PosixPath", "WindowsPath"},
  "types": {"SimpleNamespace"},
  "uuid": {"UUID"},
}  # fmt: skip
_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def checked_name(module: Any, name: Any) -> Name:
  """The name, if a checkpoint may hold it.

  Raises:
    ValueError: it belongs to the standard library and is not known to be harmless, or reaches into an object.
  """
  if type(module) is not str or type(name) is not str or not module or not name:
    raise ValueError("its pickle has a name that is no text")
  module = _RENAMED_MODULES.get(module, module)
  full = f"{module}.{name}"
  if len(full) > LONGEST_NAME:
    raise ValueError(f"its pickle has a name of {len(full)} letters")
  ours = module.partition(".")[0] in sys.stdlib_module_names
  if (ours and name not in _HARMLESS.get(module, ())) or any(part.startswith("__") for part in name.split(".")):
    raise ValueError(f"it names {full!r}, which no checkpoint needs: refused, and nothing was run; {ADVICE}")
  return Name(module, name)


def built(function: Any, arguments: Any) -> Any:
  """What `function(*arguments)` stands for; only the builders of this file are called."""
  if type(function) is not Name or type(arguments) not in (tuple, Foreign):
    raise ValueError(f"its pickle calls a {sort_of(function)} with a {sort_of(arguments)}, not a name with a tuple")
  builder = _BUILDERS.get(str(function))
  if builder is not None and type(arguments) is tuple:
    return builder(*arguments)
  if str(function) == "copyreg._reconstructor" and type(arguments) is tuple and type(arguments[0]) is Name:
    function = arguments[0]
  return Foreign(str(function))


_EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_PLAIN = (
  "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool",
  "complex64", "complex128",
)  # fmt: skip
_DTYPES = {f"torch.{name}": np.dtype(name) for name in _PLAIN}
_DTYPES |= {f"torch.{name}": np.dtype(getattr(jnp, name)) for name in _EXTENDED}
_STORED = {
  "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
  "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
  "ComplexDouble": "complex128", "Untyped": "uint8",
}  # fmt: skip
_STORAGES = {
  f"{module}.{name}Storage": _DTYPES[f"torch.{dtype}"]
  for module in ("torch", "torch.cuda", "torch.storage")
  for name, dtype in _STORED.items()
}


def storage_of(sort, storage_type, key, location, total, view=None) -> tuple[Storage, Storage]:
  """The storage that a persistent identity stands for, and the whole one that it is part of."""
  del location
  if sort != "storage" or type(key) is not str:
    raise ValueError("its pickle refers to something outside it that is no storage")
  dtype = _STORAGES.get(name_of(storage_type))
  if dtype is None:
    raise ValueError(f"a storage has the type {name_of(storage_type)}; expected one of {', '.join(_STORED)}")
  _check_counts((total,))
  whole = Storage(key, dtype, 0, total, total)
  if view is None:
    return whole, whole
  _, start, size = view
  _check_counts((start, size))
  if start + size > total:
    raise ValueError(f"elements {start} to {start + size} of a storage of {total}")
  return Storage(key, dtype, start, size, total), whole


def _check_counts(values: Any) -> None:
  if type(values) is not tuple or not all(type(n) is int and 0 <= n < 2**62 for n in values):
    raise ValueError("a size, stride or offset of a tensor is not a whole number from 0 to 2**62")


def _tensor(storage, offset, shape, strides, dtype=None) -> Tensor | Foreign:
  if type(storage) is Foreign:
    return storage
  if type(storage) is not Storage:
    raise ValueError(f"a tensor lies in a {sort_of(storage)}, not in a storage")
  dtype = dtype or storage.dtype
  for values in ((offset,), shape, strides):
    _check_counts(values)
  if len(shape) != len(strides) or len(shape) > 64:
    raise ValueError(f"a tensor has {len(shape)} sizes and {len(strides)} strides; expected as many, at most 64")
  held = storage.size * storage.dtype.itemsize // dtype.itemsize
  last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
  if 0 not in shape and last >= held:
    raise ValueError(f"a tensor of shape {shape} and strides {strides} at {offset} exceeds its storage of {held}")
  return Tensor(storage, dtype, offset, shape, strides)


def _tensor_v2(storage, offset, shape, strides, requires_grad, hooks, metadata=None) -> Tensor | Foreign:
  if metadata:
    return Foreign("a tensor that is negated or conjugated when read")
  return _tensor(storage, offset, shape, strides)


def _tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None) -> Tensor | Foreign:
  if metadata or name_of(dtype) not in _DTYPES:
    return Foreign(f"a tensor of {name_of(dtype)}")
  return _tensor(storage, offset, shape, strides, _DTYPES[name_of(dtype)])


def _parameter(data, *_) -> Tensor | Foreign:
  if type(data) not in (Tensor, Foreign):
    raise ValueError(f"a parameter is made of a {sort_of(data)}, not of a tensor")
  return data


def _typed(function, kind, arguments, _) -> Any:
  """A tensor with attributes of its own, which are left out; subclasses may mean something else by their data."""
  if name_of(kind) not in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"):
    return Foreign(name_of(kind))
  return _parameter(built(function, arguments))


def _ordered_dict(items=()) -> dict:
  if type(items) not in (tuple, list) or not all(type(item) in (tuple, list) and len(item) == 2 for item in items):
    raise ValueError("an ordered dict is not made of pairs")
  return dict(pairs([value for item in items for value in item]))


def _size(shape) -> tuple:
  _check_counts(shape)
  return shape


_BUILDERS: dict[str, Callable[..., Any]] = {
  "collections.OrderedDict": _ordered_dict,
  "collections.defaultdict": lambda *_: {},
  "torch.Size": _size,
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor_v2,
  "torch._utils._rebuild_tensor_v3": _tensor_v3,
  "torch._utils._rebuild_parameter": _parameter,
  "torch._utils._rebuild_parameter_with_state": _parameter,
  "torch._tensor._rebuild_from_type_v2": _typed,
}
