"""Matrix products of layers, whose gradients a CPU is asked for in the order that it is fast in."""

from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.platforms import by_platform


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
  """`x [..., C] @ kernel [C, O]`, of one dtype; differentiated in reverse mode only.

  Autodiff names the output's gradient first in the product that gives the kernel's, and XLA for CPUs turns what is
  first: in one loop with all that makes it, such as a batch norm's gradient or that of all later blocks' residual sums,
  for which whole arrays are read against their order and made again for each kernel. It was a fifth of SlowFast-R50's
  step and a tenth of MViT-B's. There the input now comes first, and what both products read is made once.
  """
  return x @ kernel


def _gradients(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  return by_platform(x, kernel, grad, cpu=_input_first, default=_of_autodiff)


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _gradients)


def _of_autodiff(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
  return jax.vjp(jnp.matmul, x, kernel)[1](grad)


def _input_first(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
  x, grad = jax.lax.optimization_barrier((x, grad))
  return grad @ kernel.T, x.reshape(-1, x.shape[-1]).T @ grad.reshape(-1, grad.shape[-1])


class Linear(nnx.Linear):
  """Flax's layer, `[..., C]` to `[..., O]`, by `product`."""

  def __init__(self, in_features: int, out_features: int, **options: Any):
    """Takes the options of `nnx.Linear`, but those of the product, which is `product`."""
    super().__init__(in_features, out_features, dot_general=_last_by_first, **options)


def _last_by_first(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
  """What `nnx.Linear` asks for: the last axis of `x` by the first of `kernel`."""
  given = sorted(name for name, value in options.items() if value is not None)
  if given:
    raise TypeError(f"a product takes no {', '.join(given)}")
  return product(x, kernel)
