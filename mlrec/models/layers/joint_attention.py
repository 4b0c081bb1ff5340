"""Attention whose queries, keys and values come of one linear layer, as many published files have it."""

from collections.abc import Callable
from typing import Any

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.transformer import attend
from mlrec.models.layers.transformer import flattened
from mlrec.registry import OptionError

_INIT = truncated_normal(0.02)


class JointAttention(nnx.Module):
  """Each position mixes the values of all that it sees, in several heads (Vaswani et al., 2017, section 3.2.2)."""

  def __init__(
    self, dim: int, heads: int, *, use_bias: bool = True, kernel_init: Any = _INIT, dtype: Any, rngs: nnx.Rngs
  ):
    """Builds the layer.

    Args:
      dim: channels.
      heads: their number.
      use_bias: of both linear layers.
      kernel_init: likewise.
      dtype: of the computation; where there is none, that of inputs and parameters together.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` is no multiple of `heads`.
    """
    if heads < 1 or dim % heads:
      raise OptionError("dim", f"= {dim} must be a multiple of heads = {heads}")
    self.heads = heads
    options: dict[str, Any] = {"use_bias": use_bias, "kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
    self.qkv = nnx.Linear(dim, 3 * dim, **options)
    self.out = nnx.Linear(dim, dim, **options)

  def __call__(self, x: Array, mask: Array | None = None, *, turn: Callable[[Array], Array] | None = None) -> Array:
    """Mixes positions.

    Args:
      x: `[..., N, D]`.
      mask: that of `attend`.
      turn: what becomes of queries and of keys, `[..., N, H, D / H]`, to the same shape; None for nothing.

    Returns:
      `[..., N, D]`.
    """
    joint = self.qkv(flattened(x)).reshape(*x.shape[:-1], -1)
    query, key, value = rearrange(joint, "... (qkv h c) -> qkv ... h c", qkv=3, h=self.heads)
    if turn is not None:
      query, key = turn(query), turn(key)
    mixed = rearrange(attend(query, key, value, mask), "... h c -> ... (h c)")
    return self.out(flattened(mixed)).reshape(mixed.shape)

  def mixed(self, query: Array, x: Array) -> Array:
    """What `query [..., M, D]`, before its projection, takes of `x [..., N, D]`: `[..., M, D]`."""
    dim = x.shape[-1]
    kernel, bias = self.qkv.kernel[...].astype(x.dtype), self.qkv.bias
    added = jnp.zeros(3 * dim, x.dtype) if bias is None else bias[...].astype(x.dtype)
    query = query @ kernel[:, :dim] + added[:dim]
    key, value = jnp.split(x @ kernel[:, dim:] + added[dim:], 2, axis=-1)
    query, key, value = (rearrange(part, "... (h c) -> ... h c", h=self.heads) for part in (query, key, value))
    return self.out(rearrange(attend(query, key, value), "... h c -> ... (h c)"))
