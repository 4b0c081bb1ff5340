"""A plan in words and tables for a terminal, and in JSON."""

from collections.abc import Sequence
from typing import Any

from mlrec.planning.costs import Collective
from mlrec.planning.costs import shown_bytes as _size
from mlrec.planning.estimate import Estimate
from mlrec.planning.estimate import Plan
from mlrec.planning.topology import GPU

_GIB = 1 << 30
_SHOWN = 4


def text(plan: Plan, advice: Sequence[str]) -> str:
  """Lines for a terminal."""
  topology, chip = plan.topology, plan.topology.chip
  held = ", ".join(f"{number:,} {what}" for what, number in plan.slots.items())
  lines = [
    f"{topology.name}: {topology.chips:,} chips of {chip.flops / 1e12:,.0f} TFLOP/s (bfloat16), "
    f"{chip.memory / _GIB:.0f} GiB at {chip.bandwidth / 1e9:,.0f} GB/s ({chip.source})",
    f"{plan.parameters:,} parameters, {plan.items:,} items, {plan.users:,} users; a step of {plan.batch_size:,} users "
    f"holds {held}",
  ]
  if topology.chip.kind == GPU:
    lines.append("no GPU is compiled for here: temporaries, and so what fits, and bytes moved are those of CPU devices")
  for one in plan.estimates:
    lines += ["", *_program(one)]
  lines += [f"{name}: not compiled in the time given" for name in plan.unfinished]
  if advice:
    lines += ["", "what to change:", *(f"- {sentence}" for sentence in advice)]
  return "\n".join(lines)


def _program(one: Estimate) -> list[str]:
  head = f"{one.name} (compiled in {one.seconds_to_compile:.0f} s)"
  if one.memory is None:
    lines = [f"{head}: DOES NOT FIT: {_size(one.needed)} a device of {_size(one.room)}"]
    return lines + [f"  {_size(large.padded_bytes):>10}  {large.array}  {large.source}" for large in one.largest]
  memory, line = one.memory, one.roofline
  assert line is not None
  lines = [
    f"{head}: {'fits' if one.fits else 'DOES NOT FIT'}",
    f"  memory a device   {_size(memory.total)} of {_size(one.room)}: arguments {_size(memory.arguments)}, temporaries "
    f"{_size(memory.temporaries)}, outputs {_size(memory.outputs)}, code {_size(memory.code)}",
    f"  products          {one.flops / 1e12:,.3f} TFLOP over all chips: {_ms(line.compute)} at peak",
    f"  bytes moved       {_size(one.moved)} a device: {_ms(line.memory)}",
    f"  transfers         {_size(sum(c.bytes * c.times for c in one.collectives))} in {len(one.collectives)}: "
    f"{_ms(line.communication)}",
    *(f"    {_transfer(c)}" for c in one.collectives[:_SHOWN]),
    f"  at the least      {_ms(line.overlapped)} ({line.bound}), MFU at most {line.mfu(line.overlapped):.1%}; with "
    f"transfers not hidden {_ms(line.serial)}, MFU {line.mfu(line.serial):.1%}",
  ]
  return lines


def _transfer(one: Collective) -> str:
  times = f" {one.times} times" if one.times > 1 else ""
  return f"{one.kind} of {_size(one.bytes)}{times} among {one.group}: {one.what}  {one.source}"


def record(plan: Plan, advice: Sequence[str]) -> dict[str, Any]:
  """The plan in JSON's types; bytes and seconds are of a device."""
  return {
    "topology": plan.topology.name,
    "chips": plan.topology.chips,
    "chip": plan.topology.chip._asdict(),
    "users": plan.users,
    "items": plan.items,
    "parameters": plan.parameters,
    "batch_size": plan.batch_size,
    "step": plan.slots,
    "filler": round(plan.filler, 4),
    "programs": [_record(one) for one in plan.estimates],
    "unfinished": plan.unfinished,
    "advice": list(advice),
  }


def _record(one: Estimate) -> dict[str, Any]:
  out: dict[str, Any] = {
    "name": one.name,
    "fits": one.fits,
    "seconds_to_compile": round(one.seconds_to_compile, 1),
    "flops": one.flops,
    "needed_bytes": one.needed,
    "room_bytes": one.room,
    "largest": [large._asdict() for large in one.largest],
  }
  if one.memory is None or one.roofline is None:
    return out
  line = one.roofline
  return out | {
    "memory_bytes": one.memory._asdict(),
    "moved_bytes": one.moved,
    "counted_by_xla": one.xla,
    "collectives": [collective._asdict() for collective in one.collectives],
    "seconds": {
      "compute": line.compute,
      "memory": line.memory,
      "communication": line.communication,
      "least": line.overlapped,
      "serial": line.serial,
    },
    "bound": line.bound,
    "mfu": {"most": line.mfu(line.overlapped), "serial": line.mfu(line.serial)},
    "communication_share": line.communication_share,
  }


def _ms(seconds: float) -> str:
  return f"{seconds * 1e3:,.3f} ms"
