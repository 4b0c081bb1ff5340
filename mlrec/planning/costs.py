"""What a compiled program costs each device: collectives, bytes moved, memory, and its largest arrays."""

import re
from typing import Any
from typing import NamedTuple

from mlrec.planning import hlo
from mlrec.planning.hlo import Instruction

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all-reduce", "all-gather", "reduce-scatter"
ALL_TO_ALL, PERMUTE = "all-to-all", "collective-permute"
_COLLECTIVES = (
  ALL_REDUCE,
  ALL_GATHER,
  REDUCE_SCATTER,
  ALL_TO_ALL,
  "ragged-all-to-all",
  PERMUTE,
  "collective-broadcast",
)
# What gives a name to what is there already, or ends what another instruction has begun.
_FREE = (
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
  "partition-id", "replica-id", "opt-barrier", "iota",
)  # fmt: skip
# What updates an array in place, and which of its operands is the update.
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
_READS_A_PART = ("dynamic-slice", "gather", "slice")


class Collective(NamedTuple):
  """A transfer between devices.

  Attributes:
    kind: XLA's name of it.
    bytes: of the whole array that is gathered, or of what each device gives.
    group: devices that take part together.
    times: how often it runs in the program.
    what: the types of its arrays, shortened, for people.
    source: the operation of the model that asked for it.
  """

  kind: str
  bytes: int
  group: int
  times: int
  what: str
  source: str


class Memory(NamedTuple):
  """Bytes of a device's memory.

  Attributes:
    arguments: what the program is given: parameters, moments, a batch.
    outputs: what it gives that takes no argument's place.
    temporaries: what it needs meanwhile.
    code: the program itself.
  """

  arguments: int
  outputs: int
  temporaries: int
  code: int

  @property
  def total(self) -> int:
    return self.arguments + self.outputs + self.temporaries + self.code

  @classmethod
  def of(cls, compiled: Any) -> "Memory":
    """That of a `jax.stages.Compiled`."""
    found = compiled.memory_analysis()
    return cls(
      found.argument_size_in_bytes, found.output_size_in_bytes - found.alias_size_in_bytes, found.temp_size_in_bytes,
      found.generated_code_size_in_bytes,
    )  # fmt: skip


class Large(NamedTuple):
  """An array of a program, and what it takes with the filler of its layout."""

  array: str
  bytes: int
  padded_bytes: int
  source: str


def collectives(module: hlo.Module, devices: int) -> list[Collective]:
  """The transfers of a program, largest first.

  One that XLA has cut into parts, to overlap it with other work, keeps its channel in all of them and counts once.
  """
  found: dict[Any, Collective] = {}
  inside = _times_inside(module)
  for name, times in inside.items():
    for instruction in module.computations[name].instructions.values():
      kind = instruction.opcode.removesuffix("-start")
      if kind in _COLLECTIVES:
        one = _collective(kind, instruction, module.computations[name], devices, times)
        key = (kind, instruction.channel) if instruction.channel is not None else (name, instruction.name)
        found[key] = max(one, found[key], key=lambda c: c.bytes * c.times) if key in found else one
  return sorted(
    (one for one in found.values() if one.group > 1), key=lambda one: -one.bytes * one.times
  )  # fmt: skip


def bytes_moved(module: hlo.Module) -> int:
  """Bytes that a device reads from and writes to its main memory, as an estimate from the program's text.

  Each instruction reads its operands and writes what it gives, except for what XLA keeps on the chip; of a slice or
  gather no more is read than it gives, and an update in place writes the update. Loops count as `hlo.visits` has them.
  """
  total = 0
  for computation, times in hlo.visits(module):
    for instruction in computation.instructions.values():
      total += times * _moved(module, computation, instruction)
  return total


def largest(module: hlo.Module, number: int = 5) -> list[Large]:
  """The largest arrays that a program makes or is given, one of each type."""
  found: dict[str, Large] = {}
  for computation, _ in hlo.visits(module):
    for instruction in computation.instructions.values():
      if instruction.opcode in ("tuple", "while", "get-tuple-element", "bitcast") or len(instruction.arrays) != 1:
        continue
      (array,) = instruction.arrays
      large = Large(str(array), array.bytes, array.padded_bytes, source_of(instruction))
      if array.in_main_memory and large.padded_bytes > found.get(large.array, Large("", 0, -1, "")).padded_bytes:
        found[large.array] = large
  return sorted(found.values(), key=lambda large: -large.padded_bytes)[:number]


def source_of(instruction: Instruction) -> str:
  """The operation that the instruction stems from, without the jits around it."""
  found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', instruction.attributes)
  parts = found[1].replace("\\'", "'").split("/") if found else []
  return "/".join(part for part in parts if not re.fullmatch(r"jit\(\w+\)|while|body|closed_call", part))


def _times_inside(module: hlo.Module) -> dict[str, int]:
  """How often each computation runs, those that are part of an instruction included; they may hold collectives."""
  out: dict[str, int] = {}
  for computation, times in hlo.visits(module):
    out[computation.name] = out.get(computation.name, 0) + times
  waiting = list(out.items())
  while waiting:
    name, times = waiting.pop()
    for instruction in module.computations[name].instructions.values():
      called = instruction.called("calls")
      if called in module.computations and called not in out:
        out[called] = times
        waiting.append((called, times))
  return out


def _collective(
  kind: str, instruction: Instruction, computation: hlo.Computation, devices: int, times: int
) -> Collective:
  given = [
    array
    for name in instruction.operands
    if name in computation.instructions
    for array in computation.instructions[name].arrays
  ]
  if kind == ALL_GATHER and instruction.opcode.endswith("-start") and len(instruction.arrays) == 2 * len(given):
    arrays = instruction.arrays[len(given) :]
  else:
    arrays = instruction.arrays if kind == ALL_GATHER or not given else tuple(given)
  text = ", ".join(map(str, arrays[:3])) + (f", … ({len(arrays)} arrays)" if len(arrays) > 3 else "")
  return Collective(
    kind, sum(array.bytes for array in arrays), _group(instruction.attributes, devices), times, text,
    source_of(instruction),
  )  # fmt: skip


def _group(attributes: str, devices: int) -> int:
  """Devices in each group, by any of the ways that XLA has of writing them."""
  mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
  if mesh:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    size = 1
    for axis in re.findall(r"'([^']+)'", mesh[2]):
      size *= int(sizes.get(axis, 1))
    return size
  tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes)
  if tiled:
    return int(tiled[2])
  listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
  if listed:
    return len(listed[1].split(","))
  pairs = re.search(r"source_target_pairs=\{\{", attributes)
  return 2 if pairs else devices


def _moved(module: hlo.Module, computation: hlo.Computation, instruction: Instruction) -> int:
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith(("-done", "-update")):
    return 0
  operands = [computation.instructions[name] for name in instruction.operands if name in computation.instructions]
  if opcode == "fusion":
    inside = module.computations.get(instruction.called("calls") or "")
    if inside is not None:
      return _moved_by_fusion(module, inside, instruction, operands)
  if opcode.endswith("-start"):
    return _moved_by_start(instruction, [array for operand in operands for array in operand.arrays])
  written = _written(computation, instruction)
  if opcode in _READS_A_PART:
    return 2 * written
  read = [array for operand in operands for array in operand.arrays]
  if opcode in _UPDATES:
    return 2 * written
  return written + sum(_main(array) for array in read)


def _moved_by_start(instruction: Instruction, given: list[hlo.Array]) -> int:
  """Of what is begun: its tuple holds the operands and the results, a copy's result first."""
  number = len(given)
  first = 0 if instruction.opcode == "copy-start" else number
  results = instruction.arrays[first : first + number]
  if instruction.opcode.removesuffix("-start") in _READS_A_PART:
    given = [result._replace(layout="") for result in results]
  return sum(_main(array) for array in (*given, *results))


def _moved_by_fusion(
  module: hlo.Module, inside: hlo.Computation, fusion: Instruction, operands: list[Instruction]
) -> int:
  parameters = _parameters(inside)
  root = inside.instructions[inside.root]
  roots = [inside.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
  total = sum(
    _written(inside, one) if one.opcode in _UPDATES else _main(array) for one, array in zip(roots, fusion.arrays)
  )
  for place, operand in enumerate(operands):
    whole = sum(_main(array) for array in operand.arrays)
    if whole:
      total += min(whole, _read(module, inside, parameters.get(place, ""), whole))
  return total


def _read(module: hlo.Module, computation: hlo.Computation, name: str, whole: int) -> int:
  """Bytes that a part of an instruction reads of the array `name`, of `whole` bytes: of slices what they give."""
  total = 0
  for user in computation.instructions.values():
    if name not in user.operands:
      continue
    first = user.operands[0] == name
    inside = module.computations.get(user.called("calls") or "") if user.opcode == "fusion" else None
    if user.opcode in _READS_A_PART and first:
      total += sum(array.bytes for array in user.arrays)
    elif user.opcode in _UPDATES and first:
      total += _written(computation, user) if user.opcode == "scatter" else 0  # updated in place; a scatter adds
    elif user.opcode == "bitcast":
      total += _read(module, computation, user.name, whole)
    elif inside is not None:
      named = _parameters(inside).get(user.operands.index(name), "")
      total += _read(module, inside, named, whole)
    else:
      return whole
  return total


def _parameters(computation: hlo.Computation) -> dict[int, str]:
  return {int(one.literal): name for name, one in computation.instructions.items() if one.opcode == "parameter"}


def _written(computation: hlo.Computation, instruction: Instruction) -> int:
  """Bytes that an instruction writes; one that updates an array in place, those of the update."""
  place = _UPDATES.get(instruction.opcode)
  if place is not None and len(instruction.operands) > place:
    update = computation.instructions.get(instruction.operands[place])
    if update is not None and all(array.in_main_memory for array in instruction.arrays):
      return sum(array.bytes for array in update.arrays)
  return sum(_main(array) for array in instruction.arrays)


def _main(array: hlo.Array) -> int:
  return array.padded_bytes if array.in_main_memory else 0


def shown_bytes(size: float) -> str:
  """A number of bytes in the largest unit that it has one of."""
  for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
    if size >= unit:
      return f"{size / unit:.2f} {name}"
  return f"{size:.0f} B"
