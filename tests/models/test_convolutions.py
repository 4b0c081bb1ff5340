"""Convolutions and pools: every form against XLA's own, in value and gradients."""

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
from support import convolutions as cases

each_form = pytest.mark.parametrize("form", cases.FORMS.values(), ids=cases.FORMS)
some_forms = pytest.mark.parametrize(
  "form", [cases.FORMS[name] for name in ("tiles", "stem", "full", "depthwise with stride")],
  ids=["tiles", "stem", "full", "depthwise"],
)  # fmt: skip


@each_form
def test_values_and_gradients_are_those_of_xla(form):
  x, kernel, geometry = cases.arrays(form)
  found = jax.jit(lambda *both: cases.with_gradients(lambda *both: convolve(*both, *geometry), *both))(x, kernel)
  cases.assert_close(found, cases.wanted(x, kernel, *geometry))


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
  x, kernel, geometry = cases.arrays(form, clips=1)
  found = jax.jit(lambda *both: cases.with_gradients(lambda *both: convolve(*both, *geometry), *both))(x, kernel)
  cases.assert_close(found, cases.wanted(x, kernel, *geometry))


@each_form
def test_bfloat16_is_computed_in_float32_and_rounded_once(form):
  x, kernel, geometry = cases.arrays(form, jnp.bfloat16)
  found = jax.jit(lambda *both: cases.with_gradients(lambda *both: convolve(*both, *geometry), *both))(x, kernel)
  wide = [np.asarray(array, np.float32) for array in (x, kernel)]
  wanted = cases.wanted(*wide, *geometry)
  assert {array.dtype for array in found} == {jnp.dtype(jnp.bfloat16)}
  # The cotangent of `found` is rounded too.
  cases.assert_close([np.asarray(array, np.float32) for array in found], wanted, tolerance=1e-2)


@some_forms
def test_vmap_remat_and_loops_change_nothing(form):
  x, kernel, geometry = cases.arrays(form)
  wanted = cases.wanted(x, kernel, *geometry)
  x, kernel = np.asarray(x), np.asarray(kernel)
  several, kernels = np.stack([x, 2 * x, -x]), np.stack([kernel, kernel, 3 * kernel])

  def function(x, kernel):
    return convolve(x, kernel, *geometry)

  of_each = jax.jit(jax.vmap(lambda *both: cases.with_gradients(function, *both)))(several, kernels)
  of_each = [np.asarray(array) for array in of_each]
  cases.assert_close([array[0] for array in of_each], wanted)
  cases.assert_close(of_each[0][2], -3 * np.asarray(wanted[0]))
  cases.assert_close(jax.jit(lambda *both: cases.with_gradients(jax.checkpoint(function), *both))(x, kernel), wanted)

  @jax.jit
  def looped(x, kernel):
    def turn(_, results):
      return cases.with_gradients(function, x, kernel + 0 * results[2])

    return jax.lax.fori_loop(0, 2, turn, jax.tree.map(jnp.zeros_like, tuple(wanted)))

  cases.assert_close(looped(x, kernel), wanted)


@pytest.mark.parametrize("pool", cases.POOLS.values(), ids=cases.POOLS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pool_and_its_gradient_are_those_of_xla(pool, dtype):
  window, stride, padding, sizes = pool
  # After a ReLU, so that ties are common: the first of equal ones gets it all.
  x = jnp.asarray(np.maximum(np.random.default_rng(0).normal(size=(2, *sizes, 3)), 0).astype(dtype))
  found = jax.jit(lambda x: cases.with_gradients(lambda x: max_pool(x, window, stride, padding), x))(x)
  wanted = cases.wanted_of_pool(x, window, stride, padding)
  np.testing.assert_array_equal(found[0], wanted[0])
  cases.assert_close(found, wanted, 1e-6 if dtype == jnp.float32 else 1e-2)


def test_padding_never_wins_a_pool():
  x = -jnp.ones((1, 1, 3, 3, 1))
  assert float(max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)).max()) == -1


def test_max_pool_is_the_same_under_vmap_and_in_a_loop():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 6, 7, 3)), jnp.float32)
  window, stride, padding, _ = cases.POOLS["spatial"]
  wanted = cases.wanted_of_pool(x[0], window, stride, padding)

  def gradients(x):
    return cases.with_gradients(lambda x: largest(x, window, stride, padding), x)

  cases.assert_close([array[0] for array in jax.jit(jax.vmap(gradients))(x)], wanted)
  none = jax.tree.map(jnp.zeros_like, tuple(wanted))
  loop = jax.jit(lambda x: jax.lax.fori_loop(0, 2, lambda _, results: gradients(x + 0 * results[1]), none))
  cases.assert_close(loop(x[0]), wanted)


@pytest.mark.parametrize(
  ("window", "sizes"), [((1, 7, 7), (3, 7, 7)), ((4, 7, 7), (5, 7, 7)), ((1, 7, 7), (2, 8, 8)), ((2, 3, 4), (2, 3, 4))]
)
def test_average_pool_and_its_gradient_are_those_of_xla(window, sizes):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *sizes, 3)), jnp.float32)
  found = jax.jit(lambda x: cases.with_gradients(lambda x: average_pool(x, window), x))(x)
  wanted = jax.jit(lambda x: cases.with_gradients(lambda x: nnx.avg_pool(x, window, (1, 1, 1), "VALID"), x))(x)
  cases.assert_close(found, wanted)


@each_form
def test_other_devices_run_one_convolution_and_no_shifts(form):
  x, kernel, geometry = cases.arrays(form)
  traced = jax.jit(lambda x, kernel: convolve(x, kernel, *geometry)).trace(x, kernel)
  own = jax.jit(lambda x, kernel: cases.by_xla(x, kernel, *geometry)).trace(x, kernel)
  for platform in ("cuda", "tpu"):
    text, plain = (each.lower(lowering_platforms=(platform,)).as_text() for each in (traced, own))
    assert text.count("stablehlo.convolution") == plain.count("stablehlo.convolution") == 1
    for operation in ("slice", "dot", "pad", "multiply", "add", "while"):
      assert f"stablehlo.{operation}" not in text


@some_forms
def test_other_devices_run_xlas_gradients(form):
  x, kernel, geometry = cases.arrays(form)
  traced = jax.jit(lambda *both: cases.with_gradients(lambda *both: convolve(*both, *geometry), *both)).trace(x, kernel)
  for platform in ("cuda", "tpu"):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    for operation in ("slice", "dot", "multiply", "while"):
      assert f"stablehlo.{operation}" not in text


def test_other_devices_pool_by_windows():
  window, stride, padding, sizes = cases.POOLS["spatial"]
  x = jnp.zeros((2, *sizes, 3))
  traced = jax.jit(lambda x: cases.with_gradients(lambda x: largest(x, window, stride, padding), x)).trace(x)
  own = jax.jit(lambda x: cases.with_gradients(lambda x: cases.pool_by_xla(x, window, stride, padding), x)).trace(x)
  text, plain = (each.lower(lowering_platforms=("cuda",)).as_text() for each in (traced, own))
  for operation in ("reduce_window", "select_and_scatter", "slice", "maximum", "select", "while"):
    assert text.count(f"stablehlo.{operation}") == plain.count(f"stablehlo.{operation}"), operation


@some_forms
def test_an_exported_program_serves_all_devices_and_any_number_of_clips(form):
  x, kernel, geometry = cases.arrays(form)
  (clips,) = jax.export.symbolic_shape("clips")
  shapes = jax.ShapeDtypeStruct((clips, *x.shape[1:]), x.dtype), jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
  run = jax.jit(lambda x, kernel: jax.grad(lambda *both: jnp.sin(convolve(*both, *geometry)).sum(), (0, 1))(x, kernel))
  exported = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(*shapes)
  cases.assert_close(jax.jit(exported.call)(x, kernel), run(x, kernel))


def test_a_layer_computes_in_its_dtype_and_adds_its_bias():
  layer = Conv3D(4, 6, (3, 3, 3), stride=(1, 2, 2), use_bias=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  layer.bias[...] = jnp.arange(6.0)
  x = jnp.ones((2, 3, 5, 5, 4))
  wanted = cases.by_xla(x, layer.kernel[...], (1, 2, 2), (1, 1, 1), 1) + jnp.arange(6.0)
  assert layer(x).dtype == jnp.bfloat16
  cases.assert_close(layer(x).astype(jnp.float32), wanted, 2e-2)


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(eight_devices):
  eight_devices.call("convolutions:devices_agree")
