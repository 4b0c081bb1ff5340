"""Convolutions and pools: every form against XLA's own, in value and gradients."""

import os
import subprocess
import sys
import textwrap

from flax import nnx
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.layers.convolution import average_pool
from mlrec.models.layers.convolution import Conv3D
from mlrec.models.layers.convolution import max_pool
from mlrec.models.layers.convolution_forms import convolve
from mlrec.models.layers.convolution_shifts import largest

# Kernel, stride, padding, groups, inputs, outputs, time, height, width: one of each form.
FORMS = {
  "pointwise": ((1, 1, 1), (1, 1, 1), (0, 0, 0), 1, 4, 6, 3, 5, 4),
  "pointwise with stride": ((1, 1, 1), (2, 2, 2), (0, 0, 0), 1, 4, 6, 5, 7, 6),
  "tiles": ((2, 4, 4), (2, 4, 4), (0, 0, 0), 1, 3, 8, 5, 9, 8),
  "temporal": ((3, 1, 1), (1, 1, 1), (1, 0, 0), 1, 6, 4, 5, 3, 3),
  "temporal with few frames": ((7, 1, 1), (4, 1, 1), (3, 0, 0), 1, 4, 8, 2, 3, 3),
  "spatial": ((1, 3, 3), (1, 1, 1), (0, 1, 1), 1, 4, 4, 2, 5, 6),
  "spatial with stride": ((1, 3, 3), (1, 2, 2), (0, 1, 1), 1, 4, 4, 2, 7, 6),
  "stem": ((5, 7, 7), (1, 2, 2), (2, 3, 3), 1, 3, 16, 5, 11, 12),
  "stem with stride in time": ((3, 7, 7), (2, 4, 4), (1, 3, 3), 1, 3, 16, 5, 11, 12),
  "full": ((3, 3, 3), (2, 2, 2), (1, 1, 1), 1, 4, 6, 5, 6, 7),
  "groups": ((3, 3, 3), (1, 2, 2), (1, 1, 1), 2, 4, 6, 3, 6, 7),
  "depthwise": ((3, 3, 3), (1, 1, 1), (1, 1, 1), 6, 6, 6, 3, 5, 6),
  "depthwise in time": ((5, 1, 1), (1, 1, 1), (2, 0, 0), 6, 6, 6, 5, 4, 3),
  "depthwise with stride": ((3, 3, 3), (2, 2, 2), (1, 1, 1), 6, 6, 6, 5, 7, 6),
  "depthwise with steps beyond its kernel": ((3, 3, 3), (1, 8, 8), (1, 1, 1), 6, 6, 6, 2, 17, 16),
  "depthwise of one frame": ((3, 3, 3), (1, 1, 1), (1, 1, 1), 6, 6, 6, 1, 4, 4),
}


def by_xla(x, kernel, stride, padding, groups):
  return jax.lax.conv_general_dilated(
    x, kernel, stride, [(size, size) for size in padding], dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    feature_group_count=groups,
  )  # fmt: skip


def pool_by_xla(x, window, stride, padding):
  return nnx.max_pool(x, window, stride, [(size, size) for size in padding])


def arrays(form, dtype=jnp.float32, clips=2):
  kernel, stride, padding, groups, inputs, outputs, *sizes = form
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(clips, *sizes, inputs)), dtype)
  return x, jnp.asarray(rng.normal(size=(*kernel, inputs // groups, outputs)), dtype), (stride, padding, groups)


def with_gradients(function, *inputs):
  """The result and what a fixed cotangent brings to each input."""
  y, pull = jax.vjp(function, *inputs)
  grad = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
  return y, *pull(grad)


def assert_close(found, wanted, tolerance=1e-5):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(initial=0), 1e-3))


each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
some_forms = pytest.mark.parametrize(
  "form", [FORMS[name] for name in ("tiles", "stem", "full", "depthwise with stride")],
  ids=["tiles", "stem", "full", "depthwise"],
)  # fmt: skip


@each_form
def test_values_and_gradients_are_those_of_xla(form):
  x, kernel, geometry = arrays(form)
  found = jax.jit(lambda *both: with_gradients(lambda *both: convolve(*both, *geometry), *both))(x, kernel)
  assert_close(found, with_gradients(lambda *both: by_xla(*both, *geometry), x, kernel))


@st.composite
def geometries(draw):
  kernel = tuple(draw(st.integers(1, 4)) for _ in range(3))
  stride = tuple(draw(st.integers(1, 3)) for _ in range(3))
  padding = tuple(draw(st.integers(0, size // 2)) for size in kernel)
  sizes = [draw(st.integers(max(size - 2 * pad, 1), 6)) for size, pad in zip(kernel, padding)]
  groups = draw(st.sampled_from([1, 1, 2, 4]))
  outputs = 4 if groups == 4 else draw(st.sampled_from([2, 6, 12]))
  return kernel, stride, padding, groups, 4, outputs, *sizes


@settings(max_examples=12, deadline=None, derandomize=True)
@given(geometries())
def test_any_geometry_equals_xla(form):
  x, kernel, geometry = arrays(form, clips=1)
  found = jax.jit(lambda *both: with_gradients(lambda *both: convolve(*both, *geometry), *both))(x, kernel)
  assert_close(found, with_gradients(lambda *both: by_xla(*both, *geometry), x, kernel))


@each_form
def test_bfloat16_is_computed_in_float32_and_rounded_once(form):
  x, kernel, geometry = arrays(form, jnp.bfloat16)
  found = jax.jit(lambda *both: with_gradients(lambda *both: convolve(*both, *geometry), *both))(x, kernel)
  wide = [array.astype(jnp.float32) for array in (x, kernel)]
  wanted = with_gradients(lambda *both: by_xla(*both, *geometry), *wide)
  assert {array.dtype for array in found} == {jnp.dtype(jnp.bfloat16)}
  # The cotangent of `found` is rounded too.
  assert_close([array.astype(jnp.float32) for array in found], wanted, tolerance=1e-2)


@some_forms
def test_vmap_remat_and_loops_change_nothing(form):
  x, kernel, geometry = arrays(form)
  wanted = with_gradients(lambda *both: by_xla(*both, *geometry), x, kernel)
  several, kernels = jnp.stack([x, 2 * x, -x]), jnp.stack([kernel, kernel, 3 * kernel])

  def function(x, kernel):
    return convolve(x, kernel, *geometry)

  of_each = jax.jit(jax.vmap(lambda *both: with_gradients(function, *both)))(several, kernels)
  assert_close([array[0] for array in of_each], wanted)
  assert_close(of_each[0][2], -3 * wanted[0])
  assert_close(jax.jit(lambda *both: with_gradients(jax.checkpoint(function), *both))(x, kernel), wanted)

  @jax.jit
  def looped(x, kernel):
    def turn(_, results):
      return with_gradients(function, x, kernel + 0 * results[2])

    return jax.lax.fori_loop(0, 2, turn, jax.tree.map(jnp.zeros_like, tuple(wanted)))

  assert_close(looped(x, kernel), wanted)


POOLS = {
  "spatial": ((1, 3, 3), (1, 2, 2), (0, 1, 1), (2, 7, 8)),
  "of frames": ((2, 1, 1), (2, 1, 1), (0, 0, 0), (5, 3, 2)),
  "overlapping": ((3, 3, 2), (1, 2, 1), (1, 1, 0), (4, 5, 6)),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pool_and_its_gradient_are_those_of_xla(pool, dtype):
  window, stride, padding, sizes = pool
  # After a ReLU, so that ties are common: the first of equal ones gets it all.
  x = jax.nn.relu(jnp.asarray(np.random.default_rng(0).normal(size=(2, *sizes, 3)), dtype))
  found = jax.jit(lambda x: with_gradients(lambda x: max_pool(x, window, stride, padding), x))(x)
  wanted = with_gradients(lambda x: pool_by_xla(x, window, stride, padding), x)
  np.testing.assert_array_equal(found[0], wanted[0])
  assert_close(found, wanted, 1e-6 if dtype == jnp.float32 else 1e-2)


def test_padding_never_wins_a_pool():
  x = -jnp.ones((1, 1, 3, 3, 1))
  assert float(max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)).max()) == -1


def test_max_pool_is_the_same_under_vmap_and_in_a_loop():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 6, 7, 3)), jnp.float32)
  window, stride, padding, _ = POOLS["spatial"]
  wanted = with_gradients(lambda x: pool_by_xla(x, window, stride, padding), x[0])

  def gradients(x):
    return with_gradients(lambda x: largest(x, window, stride, padding), x)

  assert_close([array[0] for array in jax.jit(jax.vmap(gradients))(x)], wanted)
  none = jax.tree.map(jnp.zeros_like, tuple(wanted))
  loop = jax.jit(lambda x: jax.lax.fori_loop(0, 2, lambda _, results: gradients(x + 0 * results[1]), none))
  assert_close(loop(x[0]), wanted)


@pytest.mark.parametrize(
  ("window", "sizes"), [((1, 7, 7), (3, 7, 7)), ((4, 7, 7), (5, 7, 7)), ((1, 7, 7), (2, 8, 8)), ((2, 3, 4), (2, 3, 4))]
)
def test_average_pool_and_its_gradient_are_those_of_xla(window, sizes):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *sizes, 3)), jnp.float32)
  found = with_gradients(lambda x: average_pool(x, window), x)
  assert_close(found, with_gradients(lambda x: nnx.avg_pool(x, window, (1, 1, 1), "VALID"), x))


@each_form
def test_other_devices_run_one_convolution_and_no_shifts(form):
  x, kernel, geometry = arrays(form)
  traced = jax.jit(lambda x, kernel: convolve(x, kernel, *geometry)).trace(x, kernel)
  own = jax.jit(lambda x, kernel: by_xla(x, kernel, *geometry)).trace(x, kernel)
  for platform in ("cuda", "tpu"):
    text, plain = (each.lower(lowering_platforms=(platform,)).as_text() for each in (traced, own))
    assert text.count("stablehlo.convolution") == plain.count("stablehlo.convolution") == 1
    for operation in ("slice", "dot", "pad", "multiply", "add", "while"):
      assert f"stablehlo.{operation}" not in text


@some_forms
def test_other_devices_run_xlas_gradients(form):
  x, kernel, geometry = arrays(form)
  traced = jax.jit(lambda *both: with_gradients(lambda *both: convolve(*both, *geometry), *both)).trace(x, kernel)
  for platform in ("cuda", "tpu"):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    for operation in ("slice", "dot", "multiply", "while"):
      assert f"stablehlo.{operation}" not in text


def test_other_devices_pool_by_windows():
  window, stride, padding, sizes = POOLS["spatial"]
  x = jnp.zeros((2, *sizes, 3))
  traced = jax.jit(lambda x: with_gradients(lambda x: largest(x, window, stride, padding), x)).trace(x)
  own = jax.jit(lambda x: with_gradients(lambda x: pool_by_xla(x, window, stride, padding), x)).trace(x)
  text, plain = (each.lower(lowering_platforms=("cuda",)).as_text() for each in (traced, own))
  for operation in ("reduce_window", "select_and_scatter", "slice", "maximum", "select", "while"):
    assert text.count(f"stablehlo.{operation}") == plain.count(f"stablehlo.{operation}"), operation


@some_forms
def test_an_exported_program_serves_all_devices_and_any_number_of_clips(form):
  x, kernel, geometry = arrays(form)
  (clips,) = jax.export.symbolic_shape("clips")
  shapes = jax.ShapeDtypeStruct((clips, *x.shape[1:]), x.dtype), jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
  run = jax.jit(lambda x, kernel: jax.grad(lambda *both: jnp.sin(convolve(*both, *geometry)).sum(), (0, 1))(x, kernel))
  exported = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(*shapes)
  assert_close(jax.jit(exported.call)(x, kernel), run(x, kernel))


def test_a_layer_computes_in_its_dtype_and_adds_its_bias():
  layer = Conv3D(4, 6, (3, 3, 3), stride=(1, 2, 2), use_bias=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  layer.bias[...] = jnp.arange(6.0)
  x = jnp.ones((2, 3, 5, 5, 4))
  wanted = by_xla(x, layer.kernel[...], (1, 2, 2), (1, 1, 1), 1) + jnp.arange(6.0)
  assert layer(x).dtype == jnp.bfloat16
  assert_close(layer(x).astype(jnp.float32), wanted, 2e-2)


def test_eight_devices_compute_what_one_does():
  # Devices are counted when JAX starts, so this is a process of its own.
  program = """
    import jax, jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec
    from test_convolutions import FORMS, POOLS, arrays, assert_close, by_xla, convolve, largest, pool_by_xla
    from mlrec.train.sharding import make_mesh
    from test_convolutions import with_gradients

    mesh = make_mesh()
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    for name in ("stem", "temporal", "spatial with stride", "full", "depthwise with stride"):
      x, kernel, geometry = arrays(FORMS[name], clips=16)
      run = jax.jit(lambda x, kernel: with_gradients(lambda *both: convolve(*both, *geometry), x, kernel))
      found = run(jax.device_put(x, split), jax.device_put(kernel, whole))
      assert_close(found, with_gradients(lambda *both: by_xla(*both, *geometry), x, kernel))
      text = run.lower(jax.device_put(x, split), jax.device_put(kernel, whole)).compile().as_text()
      assert "all-gather" not in text, name
      assert text.count(" all-reduce(") <= 1, name
    window, stride, padding, sizes = POOLS["spatial"]
    x = jax.random.normal(jax.random.key(0), (16, *sizes, 3))
    run = jax.jit(lambda x: with_gradients(lambda x: largest(x, window, stride, padding), x))
    assert_close(run(jax.device_put(x, split)), with_gradients(lambda x: pool_by_xla(x, window, stride, padding), x))
    assert len(jax.devices()) == 8
  """
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
  }  # fmt: skip
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr[-2000:]
