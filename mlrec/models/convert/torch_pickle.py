"""What the pickle of a PyTorch checkpoint holds, without importing or running anything that it names.

The machine is the standard library's `pickle.Unpickler`, on a stream that one pass of `pickletools.genops` has checked
and rewritten: operations that torch.save does not write are refused, and each that acts on objects (a call, a state, an
item) becomes a tuple of its operands, which the machine hands to `persistent_load` and so to a method of `_Reader`. The
machine itself is left with constants, the stack, the memo, tuples and lists. Names in the stream are only compared:

* those that build tensors, sizes and ordered dicts are followed, from checked numbers (`_Reader.call`);
* names of the standard library outside `_HARMLESS` are refused, as no checkpoint needs them;
* all others (an optimiser, a config, a scalar of NumPy) make an inert `Foreign`, which may lie beside what is wanted.

A pickle of n bytes takes time proportional to n and at most some 150 n bytes of memory, whatever it says:

* The pass reads a claimed length no further than the pickle's end, and a line of text, such as a decimal number, no
  further than `_LONGEST` bytes. There are at most `_MOST_OPERATIONS`, and the memo has no more places than operations.
* An operation takes constant time, and a constant more for each value that it takes off the stack, which an operation
  of its own has put there. Values that the memo repeats are only looked into where their number is fixed: the arguments
  of a call by its pattern, a tensor's axes by `_MOST_AXES`. Only text of up to `_LONGEST` characters is hashed or
  compared. No state is applied.
* Ordered dicts made of lists are the exception: these lists may together have no more pairs than n bytes can hold.
"""

from collections.abc import Callable
import dataclasses
import io
import math
import pickle
import pickletools
import sys
from typing import Any
from typing import BinaryIO
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

ADVICE = "save the bare tensors as safetensors where the file was made"
_MOST_OPERATIONS = 5_000_000
_LONGEST = 500
_MOST_AXES = 64  # of NumPy


class Name(str):
  """A class or function that the stream names, in full."""

  __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Foreign:
  """An object that is not read; only the name of what would have made it is kept."""

  made_by: str


class Storage(NamedTuple):
  """`size` elements from `start` of the `total` elements stored under `key`."""

  key: str
  dtype: np.dtype
  start: int
  size: int
  total: int

  @property
  def nbytes(self) -> int:
    """Bytes of all elements under the key."""
    return self.total * self.dtype.itemsize


class Tensor(NamedTuple):
  """A strided view of a storage; offset and strides in elements of `dtype`, and inside the storage."""

  storage: Storage
  dtype: np.dtype
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def load(file: BinaryIO, start: int, end: int) -> tuple[Any, dict[str, Storage], int]:
  """Reads one pickle from the bytes `[start, end)` of a file.

  Returns:
    The object, made of dict, list, tuple, str, bytes, bytearray, int, float, bool, None and the classes above, where
    keys of dicts are text or `Foreign`; the storages that it refers to, by key; and where the pickle ends.

  Raises:
    ValueError: the stream is damaged, too long, or names what no checkpoint needs.
    pickle.UnpicklingError, LookupError, TypeError, EOFError: the stream is damaged.
  """
  part = _Part(file, start, end)
  reader = _Reader(_rewritten(part))
  return reader.load(), reader.storages, part.position


class _Part:
  """Bytes of a file for `genops`, which believes the lengths that it reads; `taken` are those of the last operation."""

  def __init__(self, file: BinaryIO, start: int, end: int):
    self._file, self.position, self._end, self.taken = file, start, end, b""
    file.seek(start)

  def read(self, size: int) -> bytes:
    return self._take(self._file.read(max(0, min(size, self._end - self.position))))

  def readline(self) -> bytes:
    return self._take(self._file.readline(max(0, min(_LONGEST, self._end - self.position))))

  def _take(self, data: bytes) -> bytes:
    self.position += len(data)
    self.taken += data
    return data


def _rewritten(part: _Part) -> bytearray:
  """The stream in which each operation on objects is a reference to `(operands, code of the operation)`."""
  stream = bytearray()
  for count, (opcode, argument, _) in enumerate(pickletools.genops(part)):  # type: ignore[arg-type]
    if count >= _MOST_OPERATIONS:
      raise ValueError(f"its pickle has more than {_MOST_OPERATIONS} operations; {ADVICE}")
    if opcode.name in _ACTIONS:
      stream += _ACTIONS[opcode.name][0] + b"K" + part.taken + b"\x86Q"
    elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
      raise ValueError(f"its pickle puts operation {count} into place {argument} of the memo; expected at most {count}")
    elif opcode.name in _KEPT:
      stream += part.taken
    elif opcode.name != "FRAME":  # a length that the machine can do without, and that is another now
      raise ValueError(f"its pickle has the operation {opcode.name}, which torch.save does not write; {ADVICE}")
    part.taken = b""
  return stream


class _Reader(pickle.Unpickler):
  """The machine on a rewritten stream, and what becomes of names and of the operations in `_ACTIONS`."""

  def __init__(self, stream: bytearray):
    super().__init__(io.BytesIO(stream), encoding="latin1")
    self.storages: dict[str, Storage] = {}
    self._names: dict[tuple[str, str], Name] = {}
    self._most_items = len(stream) // 4  # a pair that is not repeated takes as many bytes

  def find_class(self, module: str, name: str) -> Any:
    if len(module) + len(name) > _LONGEST:  # before it is hashed
      raise ValueError(f"its pickle has a name of {len(module) + len(name)} characters; expected at most {_LONGEST}")
    if (module, name) not in self._names:
      self._names[module, name] = _checked_name(module, name)
    return self._names[module, name]

  def persistent_load(self, reference: Any) -> Any:
    operands, code = reference
    return _METHODS[code](self, *operands)

  def call(self, function: Any, arguments: Any) -> Any:
    if type(function) is not Name or type(arguments) not in (tuple, Foreign):
      raise ValueError(f"its pickle calls a {sort_of(function)} with a {sort_of(arguments)}, not a name with a tuple")
    match function, arguments:
      case "collections.OrderedDict", (items,):
        return self._ordered_dict(items)
      case "collections.OrderedDict" | "collections.defaultdict", _:
        return {}
      case "torch.Size", (shape,):
        return _counts(shape)
      case "torch._utils._rebuild_tensor", (storage, offset, shape, strides):
        return _tensor(storage, offset, shape, strides)
      case "torch._utils._rebuild_tensor_v2", (storage, offset, shape, strides, _, _):
        return _tensor(storage, offset, shape, strides)
      case "torch._utils._rebuild_tensor_v3", (storage, offset, shape, strides, _, _, Name() as dtype):
        return _tensor(storage, offset, shape, strides, _DTYPES[dtype]) if dtype in _DTYPES else Foreign(dtype)
      case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", (tensor, *_):
        if type(tensor) not in (Tensor, Foreign):
          raise ValueError(f"a parameter is made of a {sort_of(tensor)}, not of a tensor")
        return tensor
      case "torch._tensor._rebuild_from_type_v2", (Name() as inner, Name() as kind, values, _) if inner != function:
        # Attributes of a tensor are left out; what another subclass means by its data is not known.
        return self.call(inner, values) if kind in _TENSORS else Foreign(kind)
      case "copyreg._reconstructor", (Name() as kind, _, _):
        return Foreign(kind)
    return Foreign(function)

  def _ordered_dict(self, items: Any) -> Any:
    if type(items) not in (tuple, list):
      raise ValueError(f"an ordered dict is made of a {sort_of(items)}, not of pairs")
    self._most_items -= len(items)
    if self._most_items < 0:
      raise ValueError("its pickle makes ordered dicts of one list again and again")
    if not all(type(item) in (tuple, list) and len(item) == 2 for item in items):
      raise ValueError("an ordered dict is not made of pairs")
    return self.new_dict([value for item in items for value in item])

  def build(self, target: Any, state: Any) -> Any:
    # An ordered dict carries attributes, such as the versions of a state dict's modules.
    if type(target) not in (dict, Foreign):
      raise ValueError(f"its pickle sets the state of a {sort_of(target)}, which torch.save does not write")
    if type(state) is dict and any(hook in state for hook in _HOOKS):
      replaced = [hook for hook in _HOOKS if hook in state]
      raise ValueError(f"its pickle replaces {replaced} of an object, as no checkpoint does")
    return target

  def set_items(self, target: Any, values: Any) -> Any:
    if type(target) not in (dict, Foreign) or len(values) % 2:
      raise ValueError(f"its pickle sets items of a {sort_of(target)} by {len(values)} keys and values")
    if type(target) is dict:
      alternating = iter(values)
      for key, value in zip(alternating, alternating):
        # Numbers and tuples of equal hashes are easily made, and tuples of tuples may take for ever to hash.
        plain = type(key) is str and len(key) <= _LONGEST
        target[key if plain else Foreign(type(key).__name__)] = value
    return target

  def extend(self, target: Any, values: Any) -> Any:
    if type(target) is list:
      target.extend(values)
    elif type(target) is not Foreign:
      raise ValueError(f"its pickle appends to a {sort_of(target)}")
    return target

  def new_dict(self, values: Any) -> Any:
    return self.set_items({}, values)

  def new_set(self, _: Any) -> Any:
    return Foreign("builtins.set")

  def refer(self, identity: Any) -> Any:
    match identity:
      case "module", kind, _, _:
        return kind  # the class of a whole pickled model, which is refused later
      case ("storage", sort, key, _, total) | ("storage", sort, key, _, total, None):
        storage = _storage(sort, key, 0, total, total)
      case "storage", sort, key, _, total, (_, start, size):
        storage = _storage(sort, key, start, size, total)
      case _:
        raise ValueError("its pickle refers to something outside it that is no storage")
    self.storages.setdefault(key, storage)
    return storage


# How the operands of an operation become a tuple on the stack, and which method that is given to.
_ACTIONS: dict[str, tuple[bytes, Callable[..., Any]]] = {
  "REDUCE": (b"\x86", _Reader.call),
  "NEWOBJ": (b"\x86", _Reader.call),
  "NEWOBJ_EX": (b"0\x86", _Reader.call),
  "BUILD": (b"\x86", _Reader.build),
  "BINPERSID": (b"\x85", _Reader.refer),
  "SETITEM": (b"\x86\x86", _Reader.set_items),
  "SETITEMS": (b"t\x86", _Reader.set_items),
  "APPEND": (b"\x85\x86", _Reader.extend),
  "APPENDS": (b"t\x86", _Reader.extend),
  "ADDITEMS": (b"t\x86", _Reader.extend),
  "EMPTY_DICT": (b")\x85", _Reader.new_dict),
  "DICT": (b"t\x85", _Reader.new_dict),
  "EMPTY_SET": (b")\x85", _Reader.new_set),
  "FROZENSET": (b"t\x85", _Reader.new_set),
}
_METHODS = {ord(opcode.code): _ACTIONS[opcode.name][1] for opcode in pickletools.opcodes if opcode.name in _ACTIONS}
_KEPT = frozenset({
  "PROTO", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
  "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "GLOBAL", "STACK_GLOBAL", "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT",
  "LONG_BINPUT", "MEMOIZE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
  "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
  "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip


def sort_of(value: Any) -> str:
  """What `value` is, in few words."""
  return f"name ({value})" if type(value) is Name else type(value).__name__


# What checkpoints hold of the standard library beside tensors; of all but the ordered dict only the name is kept. Up to
# protocol 2, int, range and str have their names of Python 2.
_HARMLESS = frozenset({
  "_codecs.encode", "_io.BytesIO", "argparse.Namespace", "builtins.bool", "builtins.bytearray", "builtins.bytes",
  "builtins.complex", "builtins.dict", "builtins.float", "builtins.frozenset", "builtins.int", "builtins.list",
  "builtins.long", "builtins.object", "builtins.range", "builtins.set", "builtins.slice", "builtins.str",
  "builtins.tuple", "builtins.unicode", "builtins.xrange", "collections.Counter", "collections.OrderedDict",
  "collections.defaultdict", "collections.deque", "copyreg._reconstructor", "datetime.date", "datetime.datetime",
  "datetime.timedelta", "datetime.timezone", "decimal.Decimal", "fractions.Fraction", "functools.partial",
  "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath", "pathlib.WindowsPath",
  "types.SimpleNamespace", "typing.Any", "uuid.UUID",
})  # fmt: skip
_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "pathlib._local": "pathlib"}
# What a state may not set: an object's own methods of being read and made.
_HOOKS = ("__class__", "__getattribute__", "__reduce__", "__reduce_ex__", "__setstate__")


def _checked_name(module: str, name: str) -> Name:
  """The name, if a checkpoint may hold it: not of the standard library unless harmless, and not inside an object."""
  module = _RENAMED_MODULES.get(module, module)
  full = f"{module}.{name}"
  ours = module.partition(".")[0] in sys.stdlib_module_names
  if (ours and full not in _HARMLESS) or any(part.startswith("__") for part in name.split(".")):
    raise ValueError(f"it names {full!r}, which no checkpoint needs: refused, and nothing was run; {ADVICE}")
  return Name(full)


_DTYPES = {f"torch.{name}": np.dtype(name) for name in (
  "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool",
  "complex64", "complex128",
)} | {f"torch.{name}": np.dtype(getattr(jnp, name)) for name in (
  "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
)}  # fmt: skip
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
_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


def _storage(sort: Any, key: Any, start: Any, size: Any, total: Any) -> Storage:
  if type(sort) is not Name or sort not in _STORAGES:
    raise ValueError(f"a storage has the type {sort_of(sort)}; expected one of {', '.join(_STORED)}")
  if type(key) is not str or len(key) > _LONGEST:
    raise ValueError(f"the key of a storage is a {sort_of(key)}; expected text of at most {_LONGEST} characters")
  _counts((start, size, total))
  if start + size > total:
    raise ValueError(f"elements {start} to {start + size} of a storage of {total}")
  return Storage(key, _STORAGES[sort], start, size, total)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None) -> Tensor | Foreign:
  if type(storage) is Foreign:
    return storage
  if type(storage) is not Storage:
    raise ValueError(f"a tensor lies in a {sort_of(storage)}, not in a storage")
  dtype = storage.dtype if dtype is None else dtype
  _counts((offset,))
  if len(_counts(shape)) != len(_counts(strides)):
    raise ValueError(f"a tensor has {len(shape)} sizes and {len(strides)} strides; expected as many")
  held = storage.size * storage.dtype.itemsize // dtype.itemsize
  last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
  if 0 not in shape and last >= held:
    raise ValueError(f"a tensor of shape {shape} and strides {strides} at {offset} exceeds its storage of {held}")
  return Tensor(storage, dtype, offset, shape, strides)


def _counts(values: Any) -> tuple[int, ...]:
  if type(values) is tuple and len(values) > _MOST_AXES:
    raise ValueError(f"a tensor has {len(values)} sizes or strides; expected at most {_MOST_AXES}")
  if type(values) is not tuple or not all(type(n) is int and 0 <= n < 2**62 for n in values):
    raise ValueError("a size, stride or offset of a tensor is not a whole number from 0 to 2**62")
  return values
