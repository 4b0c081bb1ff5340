"""The pickle machine, as far as PyTorch checkpoints need it; `torch_objects` says what becomes of names and calls.

What reading costs is bounded by the size of the file, and by a limit of operations.
"""

from collections.abc import Callable
import pickletools
from typing import Any
from typing import BinaryIO

from mlrec.models.convert.torch_objects import ADVICE
from mlrec.models.convert.torch_objects import built
from mlrec.models.convert.torch_objects import checked_name
from mlrec.models.convert.torch_objects import Foreign
from mlrec.models.convert.torch_objects import LONGEST_NAME
from mlrec.models.convert.torch_objects import pairs
from mlrec.models.convert.torch_objects import sort_of
from mlrec.models.convert.torch_objects import Storage
from mlrec.models.convert.torch_objects import storage_of

_MOST_OPERATIONS = 5_000_000
# What a state may not set: an object's own methods of being read and made.
_HOOKS = frozenset({"__class__", "__getattribute__", "__reduce__", "__reduce_ex__", "__setstate__"})


class Part:
  """Bytes `[start, end)` of a file; a length that the file claims is never asked for beyond its end."""

  def __init__(self, file: BinaryIO, start: int, end: int):
    self._file, self._position, self._end = file, start, end
    file.seek(start)

  def tell(self) -> int:
    return self._position

  def read(self, size: int) -> bytes:
    return self._moved(self._file.read(max(0, min(size, self._end - self._position))))

  def readline(self) -> bytes:
    return self._moved(self._file.readline(max(0, min(LONGEST_NAME, self._end - self._position))))

  def _moved(self, data: bytes) -> bytes:
    self._position += len(data)
    return data


def load(part: Part) -> tuple[Any, dict[str, Storage]]:
  """The object of one pickle, up to its STOP, and the whole storages that it refers to, by key.

  The object is made of dict, list, tuple, str, bytes, int, float, bool, None, `Tensor`, `Storage`, `Name`, `Foreign`.

  Raises:
    ValueError: the stream is damaged, too long, or names what no checkpoint needs.
    IndexError, KeyError, TypeError: the stream is damaged.
  """
  machine = _Machine()
  for count, (opcode, argument, _) in enumerate(pickletools.genops(part)):  # type: ignore[arg-type]
    if count >= _MOST_OPERATIONS:
      raise ValueError(f"its pickle has more than {_MOST_OPERATIONS} operations; {ADVICE}")
    if opcode.name in _CONSTANTS:
      machine.stack.append(_CONSTANTS[opcode.name])
    elif opcode.name in _ARGUMENTS:
      machine.stack.append(argument)
    elif opcode.name in _OPERATIONS:
      _OPERATIONS[opcode.name](machine, argument)
    else:
      raise ValueError(f"its pickle has the operation {opcode.name}, which torch.save does not write; {ADVICE}")
  return machine.stack.pop(), machine.storages


class _Machine:
  """The stack, marks and memo of a pickle that is being read."""

  def __init__(self):
    self.stack: list[Any] = []
    self.marks: list[int] = []
    self.memo: dict[int, Any] = {}
    self.storages: dict[str, Storage] = {}

  def since_mark(self) -> list[Any]:
    mark = self.marks.pop()
    values = self.stack[mark:]
    del self.stack[mark:]
    return values

  def last(self, count: int) -> list[Any]:
    """Takes the last values; never those before a mark."""
    place = len(self.stack) - count
    if place < (self.marks[-1] if self.marks else 0):
      raise ValueError("its pickle takes more values than there are")
    values = self.stack[place:]
    del self.stack[place:]
    return values

  def pop(self, _) -> None:
    self.last(1)

  def pop_mark(self, _) -> None:
    self.since_mark()

  def frozen_set(self, _) -> None:
    self.since_mark()
    self.stack.append(Foreign("builtins.frozenset"))

  def name(self, module: str, name: str) -> None:
    self.stack.append(checked_name(module, name))

  def global_(self, argument: str) -> None:
    module, _, name = argument.partition(" ")
    self.name(module, name)

  def persistent(self, _) -> None:
    (identity,) = self.last(1)
    if type(identity) is not tuple or not identity:
      raise ValueError("its pickle refers to something outside it that is no storage")
    if identity[0] == "module":  # of a whole pickled model, which is refused later by its class
      self.stack.append(identity[1])
      return
    storage, whole = storage_of(*identity)
    self.storages.setdefault(storage.key, whole)
    self.stack.append(storage)

  def call(self, _) -> None:
    function, arguments = self.last(2)
    self.stack.append(built(function, arguments))

  def call_with_keywords(self, _) -> None:
    function, arguments, _ = self.last(3)
    self.stack.append(built(function, arguments))

  def build(self, _) -> None:
    target, state = self.last(2)
    # An ordered dict carries attributes, such as the versions of a state dict's modules.
    if type(target) not in (Foreign, dict):
      raise ValueError(f"its pickle sets the state of a {sort_of(target)}, which torch.save does not write")
    if type(state) is dict and not _HOOKS.isdisjoint(state):
      raise ValueError(f"its pickle replaces {sorted(_HOOKS & state.keys())} of an object, as no checkpoint does")
    self.stack.append(target)

  def append(self, values: list[Any]) -> None:
    target = self.stack[-1]
    if type(target) is list:
      target.extend(values)
    elif type(target) is not Foreign:
      raise ValueError(f"its pickle appends to a {sort_of(target)}")

  def set_items(self, values: list[Any]) -> None:
    target = self.stack[-1]
    if type(target) is dict:
      target.update(pairs(values))
    elif type(target) is not Foreign:
      raise ValueError(f"its pickle sets items of a {sort_of(target)}")

  def protocol(self, version: int) -> None:
    if version > 5:
      raise ValueError(f"its pickle has protocol {version}; expected at most 5")


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ARGUMENTS = frozenset({
  "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
  "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
  "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
  "PROTO": _Machine.protocol,
  "FRAME": lambda m, _: None,
  "STOP": lambda m, _: None,
  "MARK": lambda m, _: m.marks.append(len(m.stack)),
  "POP": _Machine.pop,
  "POP_MARK": _Machine.pop_mark,
  "DUP": lambda m, _: m.stack.append(m.stack[-1]),
  "EMPTY_LIST": lambda m, _: m.stack.append([]),
  "EMPTY_DICT": lambda m, _: m.stack.append({}),
  "EMPTY_SET": lambda m, _: m.stack.append(Foreign("builtins.set")),
  "FROZENSET": _Machine.frozen_set,
  "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
  "TUPLE1": lambda m, _: m.stack.append(tuple(m.last(1))),
  "TUPLE2": lambda m, _: m.stack.append(tuple(m.last(2))),
  "TUPLE3": lambda m, _: m.stack.append(tuple(m.last(3))),
  "LIST": lambda m, _: m.stack.append(m.since_mark()),
  "DICT": lambda m, _: m.stack.append(dict(pairs(m.since_mark()))),
  "APPEND": lambda m, _: m.append(m.last(1)),
  "APPENDS": lambda m, _: m.append(m.since_mark()),
  "ADDITEMS": lambda m, _: m.append(m.since_mark()),
  "SETITEM": lambda m, _: m.set_items(m.last(2)),
  "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
  "GET": lambda m, place: m.stack.append(m.memo[place]),
  "BINGET": lambda m, place: m.stack.append(m.memo[place]),
  "LONG_BINGET": lambda m, place: m.stack.append(m.memo[place]),
  "PUT": lambda m, place: m.memo.__setitem__(place, m.stack[-1]),
  "BINPUT": lambda m, place: m.memo.__setitem__(place, m.stack[-1]),
  "LONG_BINPUT": lambda m, place: m.memo.__setitem__(place, m.stack[-1]),
  "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
  "GLOBAL": _Machine.global_,
  "STACK_GLOBAL": lambda m, _: m.name(*m.last(2)),
  "REDUCE": _Machine.call,
  "NEWOBJ": _Machine.call,
  "NEWOBJ_EX": _Machine.call_with_keywords,
  "BUILD": _Machine.build,
  "BINPERSID": _Machine.persistent,
}
