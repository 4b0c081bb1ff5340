"""Convolutions and pools of every form, and how they are compared with XLA's own."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mlrec.models.layers.convolution_forms import convolve
from mlrec.models.layers.convolution_shifts import largest
from mlrec.train.sharding import make_mesh

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
POOLS = {
  "spatial": ((1, 3, 3), (1, 2, 2), (0, 1, 1), (2, 7, 8)),
  "of frames": ((2, 1, 1), (2, 1, 1), (0, 0, 0), (5, 3, 2)),
  "overlapping": ((3, 3, 2), (1, 2, 1), (1, 1, 0), (4, 5, 6)),
}


def by_xla(x, kernel, stride, padding, groups):
  return jax.lax.conv_general_dilated(
    x, kernel, stride, [(size, size) for size in padding], dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    feature_group_count=groups,
  )  # fmt: skip


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def wanted(x, kernel, stride, padding, groups):
  """XLA's own convolution, with gradients."""
  return with_gradients(lambda *both: by_xla(*both, stride, padding, groups), x, kernel)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def wanted_of_pool(x, window, stride, padding):
  """XLA's own pool, with its gradient."""
  return with_gradients(lambda x: pool_by_xla(x, window, stride, padding), x)


def pool_by_xla(x, window, stride, padding):
  return nnx.max_pool(x, window, stride, [(size, size) for size in padding])


def arrays(form, dtype=jnp.float32, clips=2):
  kernel, stride, padding, groups, inputs, outputs, *sizes = form
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(clips, *sizes, inputs)).astype(dtype))
  kernel = jnp.asarray(rng.normal(size=(*kernel, inputs // groups, outputs)).astype(dtype))
  return x, kernel, (stride, padding, groups)


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


def devices_agree() -> None:
  """Where there are eight devices, they compute what one does, and exchange nothing but the kernel's gradient."""
  mesh = make_mesh()
  split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
  for name in ("stem", "temporal", "spatial with stride", "full", "depthwise with stride"):
    x, kernel, geometry = arrays(FORMS[name], clips=16)
    run = jax.jit(
      lambda x, kernel, geometry=geometry: with_gradients(lambda *both: convolve(*both, *geometry), x, kernel)
    )
    placed = jax.device_put(x, split), jax.device_put(kernel, whole)
    compiled = run.lower(*placed).compile()
    assert_close(compiled(*placed), wanted(x, kernel, *geometry))
    text = compiled.as_text()
    assert "all-gather" not in text, name
    assert text.count(" all-reduce(") <= 1, name
  window, stride, padding, sizes = POOLS["spatial"]
  x = jax.random.normal(jax.random.key(0), (16, *sizes, 3))
  run = jax.jit(lambda x: with_gradients(lambda x: largest(x, window, stride, padding), x))
  assert_close(run(jax.device_put(x, split)), wanted_of_pool(x, window, stride, padding))
