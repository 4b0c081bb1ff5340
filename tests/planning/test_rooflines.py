"""Topologies by name, and the arithmetic of the least time."""

import pytest

from mlrec.config import ConfigError
from mlrec.planning import roofline
from mlrec.planning.costs import Collective
from mlrec.planning.topology import CHIPS
from mlrec.planning.topology import HOP_SECONDS
from mlrec.planning.topology import Topology


def collective(kind: str, size: int, group: int, times: int = 1) -> Collective:
  return Collective(kind, size, group, times, "", "")


@pytest.mark.parametrize(
  ("name", "pattern"),
  [
    ("v5:2x2", r"no accelerator 'v5'; did you mean 'v5e' or 'v5p'|did you mean 'v5p' or 'v5e'"),
    ("cuda:8", r"name the GPU, such as h100:8"),
    ("v5e", r"expected chips along each axis, such as v5e:4x4"),
    ("v5e:0x2", r"expected chips along each axis"),
    ("v5e:4x4x4", r"v5e is a torus of 2 axes, such as v5e:4x4"),
    ("v5p:4x4", r"v5p is a torus of 3 axes, such as v5p:4x4x4"),
    ("v5e:3x4", r"an axis of 3 is not made of whole hosts.* did you mean v5e:4x4"),
    ("h100:2x4", r"GPUs are counted, such as h100:8"),
  ],
)
def test_a_topology_that_cannot_be_is_refused_with_what_can(name, pattern):
  with pytest.raises(ConfigError, match=pattern):
    Topology.parse(name)


def test_a_chip_sends_on_all_axes_and_both_ways_on_a_ring():
  link = CHIPS["v5e"].link
  assert Topology.parse("v5e:2x2").bandwidth == 2 * link
  assert Topology.parse("v5e:8x16").bandwidth == 3 * link
  assert Topology.parse("v5e:16x16").bandwidth == 4 * link == CHIPS["v5e"].link * 4
  assert Topology.parse("v5p:4x4x4").bandwidth == 6 * CHIPS["v5p"].link
  assert Topology.parse("v5e:1x1").bandwidth == 0
  assert Topology.parse("v5e:16x16").hops() == 16
  assert Topology.parse("v5e:2x4").hops() == 4


def test_an_all_reduce_is_a_scatter_and_a_gather():
  topology = Topology.parse("v5e:16x16")
  gathered = roofline.collective_seconds(topology, collective("all-gather", 10**9, 256))
  reduced = roofline.collective_seconds(topology, collective("all-reduce", 10**9, 256))
  assert gathered == pytest.approx(10**9 * 255 / 256 / 200e9 + 16 * HOP_SECONDS)
  assert reduced == pytest.approx(2 * gathered)


def test_a_small_group_has_one_axis_to_send_along():
  topology = Topology.parse("v5e:2x16")
  slow = roofline.collective_seconds(topology, collective("reduce-scatter", 10**9, 2))
  assert slow == pytest.approx(10**9 / 2 / CHIPS["v5e"].link + topology.hops() * HOP_SECONDS)


def test_the_least_time_is_that_of_the_scarcest():
  topology = Topology.parse("v5e:2x2")
  line = roofline.roofline(topology, flops=4 * 197e12, moved=819e9 / 2, collectives=[])
  assert (line.compute, line.memory, line.communication) == pytest.approx((1.0, 0.5, 0.0))
  assert line.bound == "compute"
  assert line.mfu(line.overlapped) == pytest.approx(1.0)
  assert line.mfu(4.0) == pytest.approx(0.25)
  sent = collective("all-gather", 400_000_000_000, 4, times=2)
  late = roofline.roofline(topology, flops=4 * 197e12, moved=0, collectives=[sent])
  assert late.bound == "communication"
  assert late.serial == pytest.approx(late.compute + late.communication)
  assert late.communication_share == pytest.approx(late.communication / late.serial)


def test_a_chip_alone_sends_nothing():
  line = roofline.roofline(
    Topology.parse("v5e:1x1"), flops=1.0, moved=1.0, collectives=[collective("all-reduce", 8, 1)]
  )
  assert line.communication == 0
