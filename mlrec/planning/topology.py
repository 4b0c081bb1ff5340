"""Accelerators by name: their peaks, their memory and how they are linked; and TPU devices that are described only."""

import contextlib
import importlib.util
import math
import os
import re
from typing import Any
from typing import NamedTuple
from typing import Self

from mlrec.config import ConfigError
from mlrec.registry import closest

TPU, GPU = "tpu", "gpu"
_GB, _GIB = 1e9, float(1 << 30)
_CLOUD = "docs.cloud.google.com/tpu/docs"


class Chip(NamedTuple):
  """An accelerator, by the figures of who makes it.

  Attributes:
    kind: `tpu` or `gpu`.
    flops: dense bfloat16 operations a second; float32 products on TPUs run as bfloat16 ones by default, on GPUs they
      are slower.
    memory: bytes.
    bandwidth: of that memory, bytes a second.
    link: of one link to a neighbour, bytes a second one way; of a GPU, all of its NVLink, one way.
    axes: of the largest torus; 0 for GPUs, all of which are linked with one another in a machine.
    wraps: an axis of a multiple of so many chips is a ring; others are lines.
    megacore: whether both of the chip's cores are one device by a name that libtpu must be told.
    source: of the figures.
  """

  kind: str
  flops: float
  memory: float
  bandwidth: float
  link: float
  axes: int
  wraps: int
  megacore: bool
  source: str


# Links of a chip: the bandwidth of all of its ports, both ways, over two ways and so many ports. v4's is that of
# all-reduces over a pod, 1.1 PB/s of 4,096 chips of six ports.
CHIPS: dict[str, Chip] = {
  "v4": Chip(TPU, 275e12, 32 * _GIB, 1200 * _GB, 1.1e15 / 4096 / 6, 3, 4, True, f"{_CLOUD}/v4"),
  "v5e": Chip(TPU, 197e12, 16 * _GIB, 819 * _GB, 400 * _GB / 2 / 4, 2, 16, False, f"{_CLOUD}/v5e"),
  "v5p": Chip(TPU, 459e12, 95 * _GIB, 2765 * _GB, 1200 * _GB / 2 / 6, 3, 4, False, f"{_CLOUD}/v5p"),
  "v6e": Chip(TPU, 918e12, 32 * _GIB, 1638 * _GB, 800 * _GB / 2 / 4, 2, 16, False, f"{_CLOUD}/v6e"),
  "tpu7x": Chip(TPU, 2307e12, 192 * _GIB, 7380 * _GB, 1200 * _GB / 2 / 6, 3, 4, False, f"{_CLOUD}/tpu7x"),
  "a100": Chip(GPU, 312e12, 80 * _GB, 2039 * _GB, 300 * _GB, 0, 1, False, "NVIDIA A100 80GB SXM data sheet"),
  "h100": Chip(GPU, 989e12, 80 * _GB, 3350 * _GB, 450 * _GB, 0, 1, False, "NVIDIA H100 SXM data sheet"),
  "h200": Chip(GPU, 989e12, 141 * _GB, 4800 * _GB, 450 * _GB, 0, 1, False, "NVIDIA H200 SXM data sheet"),
}
# GPUs of a machine that NVLink joins; more of them are joined by what a plan knows nothing of.
GPUS_LINKED = 8
# What an addressed neighbour costs whatever is sent (jax-ml.github.io/scaling-book/tpus: about a microsecond).
HOP_SECONDS = 1e-6
# Chips that a host has at least, along each axis, unless the slice is of one chip.
_HOST = (2, 2, 1)
# libtpu asks the network what machine this is, and lets one process in, unless it is told otherwise.
_DESCRIBED_ONLY = {
  "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3",
}  # fmt: skip


class Topology(NamedTuple):
  """So many chips of a kind, and how they are arranged.

  Attributes:
    name: as it was given, such as `v5e:4x4` or `h100:8`.
    chip_name: a key of `CHIPS`.
    shape: chips along each axis.
  """

  name: str
  chip_name: str
  shape: tuple[int, ...]

  @classmethod
  def parse(cls, name: str) -> Self:
    """The topology of a name.

    Raises:
      ConfigError: there is no such chip, or its chips cannot be arranged so.
    """
    chip_name, colon, shape = name.partition(":")
    if chip_name not in CHIPS:
      hint = "name the GPU, such as h100:8" if chip_name in ("cuda", "gpu") else closest(chip_name, CHIPS)
      raise ConfigError(f"--topology={name}: there is no accelerator {chip_name!r}; {hint}")
    chip = CHIPS[chip_name]
    example = f"{chip_name}:8" if chip.kind == GPU else f"{chip_name}:{'x'.join(['4'] * chip.axes)}"
    if not colon or not re.fullmatch(r"[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})*", shape):
      raise ConfigError(f"--topology={name}: expected chips along each axis, such as {example}")
    axes = tuple(int(size) for size in shape.split("x"))
    if chip.kind == GPU and len(axes) > 1:
      raise ConfigError(f"--topology={name}: GPUs are counted, such as {example}")
    if chip.kind == TPU and len(axes) != chip.axes:
      raise ConfigError(f"--topology={name}: {chip_name} is a torus of {chip.axes} axes, such as {example}")
    if chip.kind == TPU and (odd := [size for size, least in zip(axes, _HOST) if size % least]) and set(axes) != {1}:
      near = "x".join(str(-(-size // least) * least) for size, least in zip(axes, _HOST))
      raise ConfigError(
        f"--topology={name}: an axis of {odd[0]} is not made of whole hosts of 2x2 chips; did you mean "
        f"{chip_name}:{near}?"
      )
    return cls(name, chip_name, axes)

  @property
  def chip(self) -> Chip:
    return CHIPS[self.chip_name]

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def bandwidth(self) -> float:
    """Bytes a second, one way, that a chip sends on all of its links together; 0 for a chip alone."""
    return sum(self._along(size) for size in self.shape)

  @property
  def bandwidth_of_one_axis(self) -> float:
    """The same along the slowest axis that has neighbours."""
    return min((self._along(size) for size in self.shape if size > 1), default=0.0)

  def hops(self) -> int:
    """Neighbours on the way from a chip to the farthest."""
    if self.chip.kind == GPU:
      return 1
    return sum(size // 2 if self._is_ring(size) else size - 1 for size in self.shape)

  def _along(self, size: int) -> float:
    if size == 1:
      return 0.0
    return self.chip.link * (2 if self._is_ring(size) else 1)

  def _is_ring(self, size: int) -> bool:
    return self.chip.kind == TPU and size % self.chip.wraps == 0

  def devices(self) -> list[Any]:
    """The devices of such a TPU slice: programs can be compiled for them, not run.

    Raises:
      ConfigError: libtpu is not installed, or it cannot describe the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
      raise ConfigError(
        f"--topology={self.name}: compiling for a TPU needs libtpu, which is not installed: pip install 'mlrec[tpu]'"
      )
    for name, value in _DESCRIBED_ONLY.items():
      os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if self.chips == 1:
      options["chips_per_host_bounds"] = (1, 1, 1)
    if self.chip.megacore:
      options["chip_config_name"] = "megacore"
    try:
      with _quiet():
        return list(topologies.get_topology_desc(platform="tpu", topology_name=self.name, **options).devices)
    except Exception as error:  # libtpu raises anything
      lines = str(error).strip().splitlines() or [type(error).__name__]
      raise ConfigError(f"--topology={self.name}: libtpu cannot describe it: {lines[0]}") from error


@contextlib.contextmanager
def _quiet() -> Any:
  """What libtpu writes to standard error, past all of its settings, when it starts is of no use here."""
  kept = os.dup(2)
  nowhere = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nowhere, 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(nowhere)
