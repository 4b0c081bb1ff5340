"""Attention whose queries, keys and values come of one linear layer, as many published files have it."""

from collections.abc import Callable
from typing import Any

from einops import rearrange
from einops import repeat
from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.transformer import attend
from mlrec.models.layers.transformer import flattened
from mlrec.models.layers.transformer import gelu
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.transformer import MLP
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


class JointBlock(nnx.Module):
  """Such attention, then an MLP, each after a norm of its input and beside a shortcut."""

  def __init__(
    self,
    dim: int,
    heads: int,
    hidden: int,
    *,
    epsilon: float,
    activation: Callable[[Array], Array] = gelu,
    kernel_init: Any = _INIT,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Builds the block, as `mlrec.models.layers.transformer.Block` is built."""
    options: dict[str, Any] = {"kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
    self.attention_norm = LayerNorm(dim, epsilon, rngs=rngs)
    self.attention = JointAttention(dim, heads, **options)
    self.mlp_norm = LayerNorm(dim, epsilon, rngs=rngs)
    self.mlp = MLP(dim, hidden, activation=activation, **options)

  def __call__(self, x: Array, mask: Array | None = None, *, turn: Callable[[Array], Array] | None = None) -> Array:
    """`x [..., N, D]` to the same shape; `mask` and `turn` are those of the attention."""
    x = x + self.attention(self.attention_norm(x), mask, turn=turn)
    return x + self.mlp(self.mlp_norm(x))


class AttentionPool(nnx.Module):
  """Attention of one learned query to all tokens, then an MLP beside a shortcut (Zhai et al., CVPR 2022)."""

  torch_names = (
    (r"^attention\.qkv\.", "attention.in_proj_"),
    (r"^attention\.out\.", "attention.out_proj."),
    (r"^norm\.", "layernorm."),
    (r"^mlp\.up\.", "mlp.fc1."),
    (r"^mlp\.down\.", "mlp.fc2."),
  )

  def __init__(
    self,
    dim: int,
    heads: int,
    hidden: int,
    *,
    epsilon: float,
    activation: Callable[[Array], Array] = gelu,
    kernel_init: Any = _INIT,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """Builds the layer, as the block is built."""
    options: dict[str, Any] = {"kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
    self.probe = nnx.Param(kernel_init(rngs.params(), (1, 1, dim)))
    self.attention = JointAttention(dim, heads, **options)
    self.norm = LayerNorm(dim, epsilon, rngs=rngs)
    self.mlp = MLP(dim, hidden, activation=activation, **options)

  def __call__(self, x: Array) -> Array:
    """`x [B, N, D]` to `[B, D]`."""
    probe = repeat(self.probe[...].astype(x.dtype), "1 1 d -> b 1 d", b=len(x))
    pooled = self.attention.mixed(probe, x)[:, 0]
    return pooled + self.mlp(self.norm(pooled))
