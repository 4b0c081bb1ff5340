"""Compiles a run's programs for a topology and puts their costs together."""

from collections.abc import Callable
import re
import threading
import time
from typing import Any
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from mlrec.config import ConfigError
from mlrec.data.splits import Split
from mlrec.planning import costs
from mlrec.planning import hlo
from mlrec.planning.costs import Collective
from mlrec.planning.costs import Large
from mlrec.planning.costs import Memory
from mlrec.planning.flops import matmul_flops
from mlrec.planning.program import filler_share
from mlrec.planning.program import planned_run
from mlrec.planning.program import Program
from mlrec.planning.program import programs
from mlrec.planning.program import slots
from mlrec.planning.roofline import Roofline
from mlrec.planning.roofline import roofline
from mlrec.planning.topology import GPU
from mlrec.planning.topology import Topology

# What XLA says of a program that does not fit, and of what it would need; G and M are powers of 1024.
_NO_ROOM = re.compile(r"Used ([\d.]+)([KMG]?) of ([\d.]+)([KMG]?) hbm")
_ALLOCATION = re.compile(
  r"Size: ([\d.]+)([KMG]?).*?(?:op_name=\"(.*?)\".*?)?Shape: (\S+?)\s.*?Unpadded size: ([\d.]+)([KMG]?)", re.DOTALL
)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class TooLong(Exception):  # an end that was asked for
  """A program was not compiled in the time given; its compiler cannot be stopped but with the process."""


class Estimate(NamedTuple):
  """What a program would take on a topology.

  Attributes:
    name: of the program.
    seconds_to_compile: here.
    flops: operations of products and convolutions over all chips.
    memory: a device's, in bytes; None where the program does not fit, and then `needed` says what it needs.
    needed: bytes a device.
    room: bytes that a device has for it.
    moved: bytes of main memory that a device moves.
    xla: what XLA counts itself: `flops` and `bytes accessed` of a device, each loop once.
    collectives: largest first.
    largest: the largest arrays.
    roofline: None where the program does not fit.
  """

  name: str
  seconds_to_compile: float
  flops: float
  memory: Memory | None
  needed: int
  room: int
  moved: int
  xla: dict[str, float]
  collectives: list[Collective]
  largest: list[Large]
  roofline: Roofline | None

  @property
  def fits(self) -> bool:
    return self.needed <= self.room and self.memory is not None


class Plan(NamedTuple):
  """What a config would take on a topology.

  Attributes:
    topology: of which.
    users, items: of the data.
    parameters: of the model.
    batch_size: users in a global batch.
    slots: what a training step holds, over all devices.
    filler: the share of a batch's rows of users that nobody fills.
    steps: in a dispatch.
    estimates: by program, training first.
    unfinished: programs that were not compiled in time.
  """

  topology: Topology
  users: int
  items: int
  parameters: int
  batch_size: int
  slots: dict[str, int]
  filler: float
  steps: int
  estimates: list[Estimate]
  unfinished: list[str]


def plan(
  config: ConfigDict, topology: Topology, split: Split, *, timeout: float = 0.0, say: Callable[[str], None] = print
) -> Plan:
  """What a run would take on machines that are not here.

  Its training steps and what evaluation runs are compiled ahead of time for the topology, by the code that trains and
  evaluates. For GPUs they are lowered only, and compiled for as many CPU devices: what a device is given, and what is
  sent between them, is the same; temporaries and the bytes moved are not, and are those of CPUs.

  Args:
    config: validated.
    topology: of which.
    split: the data, as of `mlrec.planning.population`.
    timeout: seconds that a program may take to compile; 0 for as long as it takes. What is under way at its end goes on
      until the process ends.
    say: told what is being done.

  Raises:
    ConfigError, DataError: the run, or the topology, is not possible.
  """
  devices = cpu_devices(topology) if topology.chip.kind == GPU else topology.devices()
  if len(devices) % topology.chips:
    raise ConfigError(f"--topology={topology.name}: {len(devices)} devices are not a whole number for each chip")
  run = planned_run(config, split, devices)
  estimates, unfinished = list[Estimate](), list[str]()
  for program in programs(run):
    if unfinished:
      unfinished.append(program.name)
      continue
    say(f"{topology.name}: compiling {program.name} for {len(devices)} devices …")
    try:
      estimates.append(estimate(program, topology, len(devices), timeout=timeout))
    except TooLong:
      unfinished.append(program.name)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(run.spec.abstract.params))
  return Plan(
    topology, split.num_users, split.num_items, parameters, config.train.batch_size, slots(run), filler_share(run),
    config.train.steps_per_dispatch, estimates, unfinished,
  )  # fmt: skip


def estimate(program: Program, topology: Topology, devices: int, *, timeout: float = 0.0) -> Estimate:
  """Compiles a program and counts what it costs.

  Raises:
    TooLong: it was not compiled within `timeout` seconds.
  """
  begin = time.monotonic()
  traced = program.trace()
  is_gpu = topology.chip.kind == GPU
  flops = matmul_flops(traced.jaxpr, "cuda" if is_gpu else "tpu")
  if is_gpu:
    traced.lower(lowering_platforms=("cuda",))  # what CUDA has no rule for is told here
  a_device = topology.chips / devices
  room = int(topology.chip.memory * a_device)
  try:
    compiled = _within(timeout, traced.lower().compile)
  except jax.errors.JaxRuntimeError as error:
    return _without_room(program.name, str(error), time.monotonic() - begin, flops, room)
  seconds = time.monotonic() - begin
  module = hlo.parse(compiled.as_text())
  moved, sent = costs.bytes_moved(module), costs.collectives(module, devices)
  memory = Memory.of(compiled)
  return Estimate(
    program.name, seconds, flops, memory, memory.total, room, moved, _counted_by_xla(compiled), sent,
    costs.largest(module), roofline(topology, flops=flops, moved=moved / a_device, collectives=sent),
  )  # fmt: skip


def cpu_devices(topology: Topology) -> list[Any]:
  """As many CPU devices as a topology has chips, to compile for in place of GPUs.

  Raises:
    ConfigError: JAX has started already, with fewer.
  """
  try:
    if topology.chips > jax.config.jax_num_cpu_devices:  # type: ignore[attr-defined]
      jax.config.update("jax_num_cpu_devices", topology.chips)
  except RuntimeError:
    pass  # it has started
  devices = jax.devices("cpu")
  if len(devices) < topology.chips:
    raise ConfigError(
      f"--topology={topology.name}: JAX has started with {len(devices)} CPU devices in this process, and programs for "
      f"GPUs are planned on as many: plan them first, or set XLA_FLAGS=--xla_force_host_platform_device_count="
      f"{topology.chips}"
    )
  return devices[: topology.chips]


def _within(seconds: float, work: Callable[[], Any]) -> Any:
  """What `work` returns, or raises; it runs in a thread of its own where its time is bounded.

  Raises:
    TooLong: it has not ended in time.
  """
  if not seconds:
    return work()
  out: list[Any] = []
  failed: list[BaseException] = []

  def caught() -> None:
    try:
      out.append(work())
    except BaseException as error:  # raised again below
      failed.append(error)

  thread = threading.Thread(target=caught, daemon=True)
  thread.start()
  thread.join(seconds)
  if thread.is_alive():
    raise TooLong
  if failed:
    raise failed[0]
  return out[0]


def _counted_by_xla(compiled: Any) -> dict[str, float]:
  found = compiled.cost_analysis() or {}
  return {name: float(found[name]) for name in ("flops", "bytes accessed") if name in found}


def _without_room(name: str, message: str, seconds: float, flops: float, room: int) -> Estimate:
  """The estimate of a program that XLA refused for want of memory.

  Raises:
    ConfigError: it was refused for another reason.
  """
  found = _NO_ROOM.search(message)
  if not found:
    lines = message.strip().splitlines() or ["no reason was given"]
    raise ConfigError(f"{name}: XLA refuses to compile it: {lines[0]}")
  needed, has = (int(float(found[n]) * _UNITS[found[n + 1]]) for n in (1, 3))
  large = [
    Large(shape.partition("{")[0], int(float(bare) * _UNITS[unit]), int(float(size) * _UNITS[of]), source or "")
    for size, of, source, shape, bare, unit in _ALLOCATION.findall(message)
  ]
  return Estimate(name, seconds, flops, None, needed, min(room, has), 0, {}, [], large[:5], None)
