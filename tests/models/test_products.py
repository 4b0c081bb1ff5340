"""Products of layers, and their gradients."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.layers.products import Linear
from mlrec.models.layers.products import product


def _drawn(*shape, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), dtype)


def _pulled(function, x, kernel):
  out, pull = jax.vjp(function, x, kernel)
  return out, *pull(jnp.cos(out))


@pytest.mark.parametrize("leading", [(6,), (2, 3), (2, 3, 5)])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 9), (9, 4), (1, 1)])
def test_a_product_and_its_gradients_are_those_of_autodiff(leading, inputs, outputs):
  x, kernel = _drawn(*leading, inputs), _drawn(inputs, outputs)
  for found, wanted in zip(_pulled(product, x, kernel), _pulled(jnp.matmul, x, kernel)):
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_gradients_have_the_dtype_of_what_they_are_of():
  for found in _pulled(product, _drawn(3, 4, dtype=jnp.bfloat16), _drawn(4, 5, dtype=jnp.bfloat16)):
    assert found.dtype == jnp.bfloat16


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_layer_is_that_of_flax(use_bias):
  ours, theirs = (
    layer(4, 6, use_bias=use_bias, dtype=jnp.bfloat16, bias_init=nnx.initializers.normal(), rngs=nnx.Rngs(0))
    for layer in (Linear, nnx.Linear)
  )
  x = _drawn(2, 3, 4)
  found, wanted = ours(x), theirs(x)
  assert found.dtype == wanted.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(wanted, np.float32))


def test_a_layer_refuses_what_its_product_does_not_take():
  with pytest.raises(TypeError, match="precision"):
    Linear(4, 6, precision="highest", rngs=nnx.Rngs(0))(_drawn(2, 4))


@pytest.mark.parametrize(("platform", "ordered"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_the_order_of_gradients_is_asked_for_on_a_cpu_alone(platform, ordered):
  gradients = jax.jit(jax.grad(lambda x, kernel: product(x, kernel).sum(), argnums=(0, 1)))
  text = gradients.trace(_drawn(3, 4), _drawn(4, 5)).lower(lowering_platforms=(platform,)).as_text()
  assert ("optimization_barrier" in text) == ordered
