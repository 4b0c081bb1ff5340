"""Reads compiled programs as XLA prints them: computations, their instructions, and the bytes of arrays.

The grammar is XLA's HLO text (openxla.org/xla/operation_semantics, and its tiled layouts at
openxla.org/xla/tiled_layout).
"""

from collections.abc import Iterator
import math
import re
from typing import NamedTuple

_BITS = {
  "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
  "s64": 64, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "token": 0, "opaque": 0,
}  # fmt: skip
_ARRAY = re.compile(r"(\w+)\[([\d,<= ]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_NAME = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
  """The type of an array.

  Attributes:
    dtype: XLA's name.
    dims: sizes of the axes.
    layout: as it is printed, such as `1,0:T(8,128)S(1)`; empty where none is.
  """

  dtype: str
  dims: tuple[int, ...]
  layout: str = ""

  @property
  def bits(self) -> int:
    return _BITS.get(self.dtype, 8)

  @property
  def bytes(self) -> int:
    """What its elements take."""
    return math.prod(self.dims) * self.bits // 8

  @property
  def padded_bytes(self) -> int:
    """What it takes in memory, where the outermost tile fills up the innermost axes."""
    order, _, tiles = self.layout.partition(":")
    found = re.search(r"T\(([\d,]+)\)", tiles)
    if not found or not order:
      return self.bytes
    tile = [int(size) for size in found[1].split(",")]
    inner = [int(axis) for axis in order.split(",")][: len(tile)][::-1]
    sizes = list(self.dims)
    for axis, size in zip(inner, tile[len(tile) - len(inner) :]):
      sizes[axis] = -(-sizes[axis] // size) * size
    return math.prod(sizes) * self.bits // 8

  @property
  def in_main_memory(self) -> bool:
    """Whether it lies in memory space 0, a TPU's HBM; others are on the chip."""
    return not re.search(r"S\([1-9]", self.layout)

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.dims))}]"


class Instruction(NamedTuple):
  """An instruction.

  Attributes:
    name: in its computation.
    opcode: of it.
    arrays: what it gives; several for a tuple.
    operands: names of instructions.
    attributes: all that follows the operands, as it is printed.
    literal: what stands between the brackets of a constant or a parameter.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str
  literal: str

  def called(self, attribute: str) -> str | None:
    """The computation that an attribute names, such as `body`."""
    found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
    return found[1] if found else None

  @property
  def channel(self) -> int | None:
    found = re.search(r"channel_id=(\d+)", self.attributes)
    return int(found[1]) if found else None


class Computation(NamedTuple):
  """A computation: its instructions by name, and the one whose value it has."""

  name: str
  instructions: dict[str, Instruction]
  root: str


class Module(NamedTuple):
  """A program: computations by name, and the one that runs."""

  computations: dict[str, Computation]
  entry: str


class Visit(NamedTuple):
  """A computation that runs, and how often; not those that are part of one instruction (fusions, reducers)."""

  computation: Computation
  times: int


def parse(text: str) -> Module:
  """The module of HLO text.

  Raises:
    ValueError: there is no entry computation in it.
  """
  computations: dict[str, Computation] = {}
  entry, name, root = "", "", ""
  instructions: dict[str, Instruction] = {}
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      name, root, instructions = head[2], "", {}
      entry = name if head[1] else entry
    elif line == "}" and name:
      computations[name] = Computation(name, instructions, root)
    elif name and " = " in line:
      instruction = _instruction(line)
      if instruction is not None:
        instructions[instruction.name] = instruction
        root = instruction.name if line.lstrip().startswith("ROOT ") else root
  if not entry:
    raise ValueError("the text holds no entry computation: it is no HLO module")
  return Module(computations, entry)


def arrays(text: str) -> tuple[Array, ...]:
  """The array types in a text."""
  return tuple(
    Array(dtype, tuple(int(size.lstrip("<= ")) for size in dims.split(",") if size.strip()), layout or "")
    for dtype, dims, layout in _ARRAY.findall(text)
  )


def visits(module: Module) -> Iterator[Visit]:
  """The computations that run, bodies of loops as often as their loops do; a loop whose turns are not known runs once.

  A loop over steps of training, whose number is an argument, thus counts as one step.
  """
  waiting = [(module.entry, 1)]
  while waiting:
    name, times = waiting.pop()
    computation = module.computations[name]
    yield Visit(computation, times)
    for instruction in computation.instructions.values():
      if instruction.opcode == "while":
        body = instruction.called("body")
        if body in module.computations:
          waiting.append((body, times * (turns(module, computation, instruction) or 1)))
      elif instruction.opcode in ("call", "conditional", "async-start"):
        for called in _NAME.findall(re.sub(r"metadata=\{[^}]*\}", "", instruction.attributes)):
          if called in module.computations:
            waiting.append((called, times))


def turns(module: Module, computation: Computation, loop: Instruction) -> int | None:
  """How often a loop turns that counts from 0; None where the program alone does not say."""
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
  if known:
    return int(known[1])
  condition = module.computations.get(loop.called("condition") or "")
  test = condition and condition.instructions.get(condition.root)
  if not condition or not test or test.opcode != "compare" or "direction=LT" not in test.attributes:
    return None
  bound = condition.instructions.get(test.operands[1])
  if bound is not None and bound.opcode == "get-tuple-element":
    start = computation.instructions.get(loop.operands[0])
    place = re.search(r"index=(\d+)", bound.attributes)
    named = start.operands[int(place[1])] if start and start.opcode == "tuple" and place else ""
    bound = computation.instructions.get(named)
  return int(bound.literal) if bound is not None and bound.opcode == "constant" and bound.literal.isdecimal() else None


def _instruction(line: str) -> Instruction | None:
  left, _, right = line.strip().removeprefix("ROOT ").partition(" = ")
  end = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
  given, rest = right[:end], right[end:].lstrip()
  opcode, bracket, _ = rest.partition("(")
  if not bracket or not re.fullmatch(r"[\w\-]+", opcode):
    return None
  close = _closing(rest, len(opcode))
  inside = rest[len(opcode) + 1 : close]
  return Instruction(
    left.lstrip("%"), opcode, arrays(given), tuple(_NAME.findall(inside)), rest[close + 1 :], inside.strip()
  )


def _closing(text: str, start: int) -> int:
  """The place of the bracket that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] == "(") - (text[place] == ")")
    if depth == 0:
      return place
  return len(text)
