"""The least time that a program takes, by what it computes, moves and sends (Williams et al., CACM 2009)."""

from collections.abc import Iterable
from typing import NamedTuple

from mlrec.planning import costs
from mlrec.planning.costs import Collective
from mlrec.planning.topology import GPU
from mlrec.planning.topology import HOP_SECONDS
from mlrec.planning.topology import Topology


class Roofline(NamedTuple):
  """Seconds that a run of a program takes at the least.

  Attributes:
    compute: of its matrix products and convolutions, at the chips' peak.
    memory: of the bytes that a chip moves.
    communication: of its collectives, one after another.
    flops: over all chips.
    peak: operations a second of all chips.
  """

  compute: float
  memory: float
  communication: float
  flops: float
  peak: float

  @property
  def overlapped(self) -> float:
    """All three at once: no run is faster."""
    return max(self.compute, self.memory, self.communication)

  @property
  def serial(self) -> float:
    """Work on the chip first, then transfers, with nothing hidden behind anything else but products behind memory."""
    return max(self.compute, self.memory) + self.communication

  @property
  def bound(self) -> str:
    """What takes longest."""
    times = {"compute": self.compute, "memory": self.memory, "communication": self.communication}
    return max(times, key=lambda name: times[name])

  def mfu(self, seconds: float) -> float:
    """The share of the peak that the products are, were the program to take so many seconds."""
    return self.flops / (seconds * self.peak) if seconds > 0 else 0.0

  @property
  def communication_share(self) -> float:
    """Of the serial time."""
    return self.communication / self.serial if self.serial > 0 else 0.0


def roofline(topology: Topology, *, flops: float, moved: float, collectives: Iterable[Collective]) -> Roofline:
  """The times of a program.

  Args:
    topology: what it runs on.
    flops: operations of products over all chips.
    moved: bytes of main memory that a chip moves.
    collectives: of a chip.
  """
  peak = topology.chip.flops * topology.chips
  sent = sum(one.times * collective_seconds(topology, one) for one in collectives)
  return Roofline(flops / peak, moved / topology.chip.bandwidth, sent, flops, peak)


def collective_seconds(topology: Topology, one: Collective) -> float:
  """What one transfer takes on a torus (jax-ml.github.io/scaling-book/sharding), or within a machine of GPUs.

  With V bytes, n chips in a group and W bytes a second out of a chip: an all-gather or a reduce-scatter takes
  V (n - 1) / n / W, an all-reduce both of them, an all-to-all of n parts on a ring a quarter of V n / W, a permutation
  V / W. A group of all chips has all axes of the torus to send along; of a smaller one it is not known which, and the
  slowest is taken.
  """
  whole = one.group >= topology.chips
  width = topology.bandwidth if whole else topology.bandwidth_of_one_axis
  if topology.chip.kind == GPU:
    width = topology.chip.link
  if not width:
    return 0.0
  n, hops = one.group, topology.hops() * HOP_SECONDS
  share = (n - 1) / n
  if one.kind == costs.ALL_REDUCE:
    return 2 * (one.bytes * share / width + hops)
  if one.kind == costs.PERMUTE:
    return one.bytes / topology.chip.link + HOP_SECONDS
  if one.kind.endswith(costs.ALL_TO_ALL) and topology.chip.kind != GPU:
    return one.bytes * max(topology.shape) / 4 / width + hops
  return one.bytes * share / width + hops
