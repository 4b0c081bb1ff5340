"""Parts of transformers that encoders of content share; `Block` is the one of vision transformers, whose norms come
first (Dosovitskiy et al., ICLR 2021).
"""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import truncated_normal

_INIT = truncated_normal(0.02)
# The widest head that cuDNN's fused attention takes on all GPUs that have it.
_WIDEST_FUSED_HEAD = 128


class LayerNorm(nnx.LayerNorm):
  """Normalises the channels of each position (Ba et al., 2016) in float32, `[..., C]` to the same shape and dtype."""

  def __init__(self, features: int, epsilon: float, *, rngs: nnx.Rngs):
    # The variance as a difference of two means would lose what a large mean leaves of it.
    super().__init__(features, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)

  def __call__(self, x: Array) -> Array:  # type: ignore[override]
    return super().__call__(x).astype(x.dtype)


class Attention(nnx.Module):
  """Each position mixes the values of all, in several heads."""

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    biases: str = "qkv",
    dropout: float = 0.0,
    kernel_init: Any = _INIT,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    """Builds the layer.

    Args:
      dim: channels.
      heads: their number.
      biases: which of the projections to queries (q), keys (k) and values (v) have one; the output's has.
      dropout: of the weights that values are mixed by, where `rngs` are given in the call.
      kernel_init: of all four projections.
      dtype: of the computation.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` is no multiple of `heads`.
    """
    if heads < 1 or dim % heads:
      raise ValueError(f"dim = {dim} must be a multiple of heads = {heads}")

    def linear(bias: bool):
      return nnx.Linear(dim, dim, use_bias=bias, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

    self.heads = heads
    self.query, self.key, self.value = (linear(name in biases) for name in "qkv")
    self.out = linear(True)
    self.dropout = Dropout(dropout)

  def __call__(self, x: Array, mask: Array | None = None, rngs: nnx.Rngs | None = None) -> Array:
    """`x [B, N, D]` to the same shape; `mask` is that of `attend`."""
    flat = flattened(x)
    query, key, value = (
      layer(flat).reshape(*x.shape[:2], self.heads, -1) for layer in (self.query, self.key, self.value)
    )
    mixed = attend(query, key, value, mask, dropout=self.dropout, rngs=rngs)
    return self.out(flattened(mixed.reshape(x.shape))).reshape(x.shape)


def gelu(x: Array) -> Array:
  """x times the share of a normal distribution below it, exactly (Hendrycks and Gimpel, 2016)."""
  return jax.nn.gelu(x, approximate=False)


class MLP(nnx.Module):
  """Two linear layers with an exact GELU between, or another activation."""

  def __init__(
    self,
    dim: int,
    hidden: int,
    outputs: int | None = None,
    *,
    activation: Callable[[Array], Array] = gelu,
    kernel_init: Any = _INIT,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    self.activation = activation
    self.up = nnx.Linear(dim, hidden, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
    self.down = nnx.Linear(hidden, outputs or dim, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    """`x [..., dim]` to `[..., outputs]`, or `[..., dim]`."""
    y = self.down(self.activation(self.up(flattened(x))))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def flattened(x: Array) -> Array:
  """`[..., D]` as one long list of places, `[M, D]`.

  Gradients of a linear layer's kernel are then plain products; over several axes a CPU transposes copies for them.
  """
  return x.reshape(-1, x.shape[-1])


class Block(nnx.Module):
  """Attention, then an MLP, each after a norm of its input and beside a shortcut."""

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    hidden: int | None = None,
    biases: str = "qkv",
    epsilon: float = 1e-6,
    activation: Callable[[Array], Array] = gelu,
    kernel_init: Any = _INIT,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    """Builds the block.

    Args:
      dim: channels.
      heads: of the attention.
      hidden: channels within the MLP; four times `dim` by default.
      biases: those of the attention.
      epsilon: of the norms.
      activation: within the MLP.
      kernel_init: of all linear layers; their biases start at 0.
      dtype: of the computation (the parameters', where there is none); norms and softmax are in float32.
      rngs: the stream `params`.
    """
    self.attention_norm = LayerNorm(dim, epsilon, rngs=rngs)
    self.attention = Attention(dim, heads, biases=biases, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
    self.mlp_norm = LayerNorm(dim, epsilon, rngs=rngs)
    self.mlp = MLP(dim, hidden or 4 * dim, activation=activation, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    """`x [B, N, D]` to the same shape."""
    x = x + self.attention(self.attention_norm(x))
    return x + self.mlp(self.mlp_norm(x))


def attend(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  *,
  dropout: Dropout | None = None,
  rngs: nnx.Rngs | None = None,
) -> Array:
  """Scaled dot-product attention.

  Scores are summed and normalised in float32. In half precision a GPU that can fuses all of it, and keeps no scores;
  not so with a mask, or where weights are dropped.

  Args:
    query: `[B, N, H, C]`.
    key: `[B, M, H, C]`.
    value: `[B, M, H, C]`.
    mask: bool, broadcast to `[B, H, N, M]`: which keys a query sees, at least one of them; None where it sees all.
    dropout: of the weights.
    rngs: the stream `dropout`; None where nothing is drawn.

  Returns:
    `[B, N, H, C]` of the same dtype: softmax(query key' / sqrt(C)) value, in each of H heads.
  """
  if rngs is None or dropout is None or dropout.rate == 0:
    implementation: Any = "cudnn" if mask is None and _fuses(query) else "xla"
    return jax.nn.dot_product_attention(query, key, value, None, mask, implementation=implementation)
  scores = jnp.einsum("bnhc,bmhc->bhnm", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
  weights = dropout(jax.nn.softmax(scores), rngs).astype(value.dtype)
  return jnp.einsum("bhnm,bmhc->bnhc", weights, value)


def _fuses(query: Array) -> bool:
  if query.dtype not in (jnp.bfloat16, jnp.float16) or query.shape[-1] % 8 or query.shape[-1] > _WIDEST_FUSED_HEAD:
    return False
  if jax.default_backend() != "gpu":
    return False
  # "8.0" and above; other makers' names of their devices are no numbers.
  major = str(getattr(jax.local_devices()[0], "compute_capability", "")).split(".")[0]
  return major.isdecimal() and int(major) >= 8
