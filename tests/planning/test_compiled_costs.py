"""What is read from a compiled program's text: transfers, turns of loops, bytes and the filler of layouts."""

import jax
import jax.numpy as jnp
import pytest

from mlrec.planning import costs
from mlrec.planning import hlo
from mlrec.planning.flops import matmul_flops
from support import hlo_texts


def test_a_transfer_counts_as_often_as_its_loop_turns_and_once_where_it_is_cut_in_parts():
  module = hlo.parse(hlo_texts.LOOPS)
  reduced, gathered = sorted(costs.collectives(module, 4), key=lambda one: one.kind, reverse=True)
  assert (gathered.kind, gathered.bytes, gathered.group, gathered.times) == ("all-gather", 64 * 8 * 4, 4, 5)
  # The loop over steps, whose number is an argument, counts as one step.
  assert (reduced.kind, reduced.bytes, reduced.group, reduced.times) == ("all-reduce", 64 * 8 * 4 + 4, 2, 1)
  assert reduced.source == "transpose(jvp())/scatter-add"


@pytest.mark.parametrize(
  ("written", "group"),
  [
    ("replica_groups={{0,1},{2,3}}", 2),
    ("replica_groups=[2,8]<=[16]", 8),
    ("replica_groups=[4,4]<=[4,4]T(1,0)", 4),
    ("replica_groups=mesh['data'=4,'model'=2] {'data'}", 4),
    ("replica_groups=mesh['data'=4,'model'=2] {'data','model'}", 8),
    ("replica_groups={}", 16),
  ],
)
def test_groups_are_read_in_all_of_their_forms(written, group):
  text = (
    "ENTRY %main (x: f32[8]) -> f32[8] {\n  %x = f32[8]{0} parameter(0)\n"
    f"  ROOT %r = f32[8]{{0}} all-reduce(%x), channel_id=1, {written}, to_apply=%add\n}}\n"
  )
  (found,) = costs.collectives(hlo.parse(text), 16)
  assert found.group == group


def test_a_transfer_that_is_begun_and_ended_counts_once():
  text = """\
ENTRY %main (x: f32[8]) -> f32[32] {
  %x = f32[8]{0} parameter(0)
  %begin = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %end = f32[32]{0} all-gather-done(%begin)
}
"""
  (found,) = costs.collectives(hlo.parse(text), 4)
  assert (found.kind, found.bytes) == ("all-gather", 128)


def test_a_row_of_a_table_is_read_and_written_not_the_table():
  row, table = 128 * 4, 1000 * 128 * 4
  moved = costs.bytes_moved(hlo.parse(hlo_texts.ROWS))
  # The row is read and written by one fusion, read and written by the other; places are a few bytes.
  assert 4 * row <= moved <= 4 * row + 64 < table


@pytest.mark.parametrize(
  ("begun", "size"),
  [
    # Brought onto the chip: read, and written nowhere else.
    ("(f32[64,128]{1,0:S(1)}, f32[64,128]{1,0}, u32[]) copy-start(%x)", 64 * 128 * 4),
    ("(f32[64,128]{1,0}, f32[8,128]{1,0:S(1)}, s32[]) slice-start(%x), slice={[0:8], [0:128]}", 8 * 128 * 4),
    ("(f32[64,128]{1,0}, f32[256,128]{1,0}) all-gather-start(%x), dimensions={0}", 5 * 64 * 128 * 4),
  ],
)
def test_what_is_begun_moves_what_it_reads_and_writes(begun, size):
  text = f"ENTRY %main (x: f32[64,128]) -> f32[] {{\n  %x = f32[64,128]{{1,0}} parameter(0)\n  %b = {begun}\n}}\n"
  assert costs.bytes_moved(hlo.parse(text)) == size


def test_a_scatter_writes_its_updates_not_the_table():
  text = """\
ENTRY %main (table: f32[1000,128], places: s32[4], rows: f32[4,128]) -> f32[1000,128] {
  %table = f32[1000,128]{1,0} parameter(0)
  %places = s32[4]{0} parameter(1)
  %rows = f32[4,128]{1,0} parameter(2)
  ROOT %new = f32[1000,128]{1,0} scatter(%table, %places, %rows), to_apply=%add
}
"""
  assert costs.bytes_moved(hlo.parse(text)) == 2 * 4 * 128 * 4


def test_what_lies_on_the_chip_moves_no_main_memory():
  text = """\
ENTRY %main (x: f32[64,128]) -> f32[64,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %near = f32[64,128]{1,0:T(8,128)S(1)} negate(%x)
  ROOT %out = f32[64,128]{1,0:T(8,128)} negate(%near)
}
"""
  assert costs.bytes_moved(hlo.parse(text)) == 2 * 64 * 128 * 4


@pytest.mark.parametrize(
  ("array", "size"),
  [
    ("f32[1000,64]{1,0:T(8,128)}", 1000 * 128 * 4),
    ("f32[1000,64]{0,1:T(8,128)}", 1024 * 64 * 4),
    ("bf16[3,5,512]{2,1,0:T(8,128)(2,1)}", 3 * 8 * 512 * 2),
    ("f32[100]{0:T(128)}", 128 * 4),
    ("pred[3,5]{1,0}", 15),
    ("f32[]", 4),
  ],
)
def test_tiles_fill_up_the_innermost_axes(array, size):
  (found,) = hlo.arrays(array)
  assert found.padded_bytes == size


def test_the_largest_arrays_are_named_with_their_filler():
  first = costs.largest(hlo.parse(hlo_texts.ROWS))[0]
  assert (first.array, first.bytes, first.padded_bytes) == ("f32[1000,128]", 512_000, 512_000)


def test_a_real_program_is_read_whole():
  """Of the program that XLA prints here: a scan of 7 products."""

  def scanned(x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=7)[0]

  module = hlo.parse(jax.jit(scanned).lower(jnp.ones((16, 16))).compile().as_text())
  times = [visit.times for visit in hlo.visits(module)]
  assert 7 in times
  assert costs.bytes_moved(module) > 7 * 16 * 16 * 4


def test_text_that_is_no_program_is_refused():
  with pytest.raises(ValueError, match="no HLO module"):
    hlo.parse("func.func @main() {}")


def test_products_count_as_often_as_their_loops_turn():
  def products(x, y):
    scanned = jax.lax.scan(lambda carry, _: (carry @ y, None), x, length=5)[0]
    return jax.lax.fori_loop(0, scanned.shape[0] + jnp.int32(x[0, 0]), lambda _, z: z @ y, scanned)

  traced = jax.jit(products).trace(jnp.ones((4, 8)), jnp.ones((8, 8)))
  assert matmul_flops(traced.jaxpr) == (5 + 1) * 2 * 4 * 8 * 8


def test_of_forms_by_device_that_of_the_planned_device_counts():
  def product(x):
    return jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, cuda=lambda x: x + 1, default=lambda x: x @ x)

  jaxpr = jax.jit(product).trace(jnp.ones((8, 8))).jaxpr
  once = 2 * 8**3
  assert (matmul_flops(jaxpr, "tpu"), matmul_flops(jaxpr, "cpu")) == (once, 2 * once)
  # A kernel hides its products: they are taken for those of another form.
  assert matmul_flops(jaxpr, "cuda") == 2 * once


def test_convolutions_count_their_window_and_their_channels():
  def convolved(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )

  traced = jax.jit(convolved).trace(jnp.ones((3, 9, 9, 4)), jnp.ones((3, 3, 2, 6)))
  assert matmul_flops(traced.jaxpr) == 2 * (3 * 4 * 4 * 6) * (3 * 3 * 2)
