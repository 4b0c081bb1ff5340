"""Parts of transformers that encoders of content and of users share; `Block` is the one of vision transformers, whose
norms come first (Dosovitskiy et al., ICLR 2021).
"""

from collections.abc import Callable
from typing import Any

from einops import rearrange
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.platforms import by_platform
from mlrec.models.layers.products import Linear
from mlrec.models.layers.products import product
from mlrec.registry import OptionError

_INIT = truncated_normal(0.02)
# The widest head that cuDNN's fused attention takes on all GPUs that have it.
_WIDEST_FUSED_HEAD = 128


class LayerNorm(nnx.LayerNorm):
  """Normalises the channels of each position (Ba et al., 2016) in float32, `[..., C]` to the same shape and dtype."""

  def __init__(self, features: int, epsilon: float, *, use_bias: bool = True, rngs: nnx.Rngs):
    # The variance as a difference of two means would lose what a large mean leaves of it.
    super().__init__(
      features, epsilon=epsilon, use_bias=use_bias, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
    )

  def __call__(self, x: Array) -> Array:  # type: ignore[override]
    return super().__call__(x).astype(x.dtype)


class Attention(nnx.Module):
  """Each position mixes the values of all that it sees, in several heads (Vaswani et al., 2017, section 3.2.2)."""

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    biases: str = "qkv",
    out_bias: bool = True,
    dropout: float = 0.0,
    kernel_init: Any = _INIT,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    """Builds the layer.

    Args:
      dim: channels.
      heads: their number.
      biases: which of the projections to queries (q), keys (k) and values (v) have one.
      out_bias: whether the projection of the result has one.
      dropout: of the weights that values are mixed by, where `rngs` are given in the call.
      kernel_init: of all four projections.
      dtype: of the computation; where there is none, that of inputs and parameters together.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` is no multiple of `heads`.
    """
    if heads < 1 or dim % heads:
      raise OptionError("dim", f"= {dim} must be a multiple of heads = {heads}")

    def linear(bias: bool) -> Linear:
      return Linear(dim, dim, use_bias=bias, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

    self.heads = heads
    self.query, self.key, self.value = (linear(name in biases) for name in "qkv")
    self.out = linear(out_bias)
    self.dropout = Dropout(dropout)

  def __call__(self, x: Array, mask: Array | None = None, rngs: nnx.Rngs | None = None) -> Array:
    """`x [B, N, D]` to the same shape; `mask` is that of `attend`."""
    return self.joined(attend(*self.projected(x), mask, dropout=self.dropout, rngs=rngs))

  def projected(self, x: Array) -> tuple[Array, Array, Array]:
    """Queries, keys and values `[..., N, H, D / H]` of `x [..., N, D]`.

    They are one product, which a small model feels: there the number of operations is what costs.
    """
    layers = self.query, self.key, self.value
    kernel = jnp.concatenate([layer.kernel[...] for layer in layers], axis=1)
    dtype = self.query.dtype or jnp.promote_types(x.dtype, kernel.dtype)
    out = product(flattened(x).astype(dtype), kernel.astype(dtype))
    if any(layer.bias is not None for layer in layers):
      none = jnp.zeros(len(kernel), kernel.dtype)
      bias = jnp.concatenate([none if layer.bias is None else layer.bias[...] for layer in layers])
      out = out + bias.astype(dtype)
    query, key, value = (
      rearrange(part.reshape(x.shape), "... (h c) -> ... h c", h=self.heads) for part in jnp.split(out, 3, axis=1)
    )
    return query, key, value

  def joined(self, mixed: Array) -> Array:
    """The result `[..., N, D]` of what each head mixed, `[..., N, H, D / H]`."""
    mixed = rearrange(mixed, "... h c -> ... (h c)")
    return self.out(flattened(mixed)).reshape(mixed.shape)


def gelu(x: Array) -> Array:
  """x times the share of a normal distribution below it, exactly (Hendrycks and Gimpel, 2016)."""
  return jax.nn.gelu(x, approximate=False)


def tanh_gelu(x: Array) -> Array:
  """The same by a hyperbolic tangent, near it."""
  return jax.nn.gelu(x, approximate=True)


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
    self.up = Linear(dim, hidden, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
    self.down = Linear(hidden, outputs or dim, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

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
  bias: Array | None = None,
  cap: float | None = None,
  dropout: Dropout | None = None,
  rngs: nnx.Rngs | None = None,
) -> Array:
  """Scaled dot-product attention, in each of H heads: softmax(query key' / sqrt(C)) value.

  Scores are summed and normalised in float32. In half precision a CUDA GPU runs all of it at once and keeps no scores,
  unless a mask, a bias, a cap or dropout changes them.

  Args:
    query: `[..., N, H, C]`.
    key: `[..., M, H, C]`.
    value: `[..., M, H, C]`.
    mask: bool, broadcast to `[..., H, N, M]`: which keys a query sees; None where it sees all. One that sees none gets
      the mean of all values.
    bias: float32, broadcast likewise: what is added to the scores.
    cap: the scores s become cap tanh(s / cap), before the bias, so that none leaves (-cap, cap).
    dropout: of the weights.
    rngs: the stream `dropout`; None where nothing is drawn.

  Returns:
    `[..., N, H, C]` of the same dtype.
  """
  drops = dropout is not None and dropout.rate > 0 and rngs is not None
  if mask is None and bias is None and cap is None and not drops and _may_be_fused(query, key, value):
    return by_platform(query, key, value, cuda=_fused, default=_mixed)
  return _mixed(query, key, value, mask, bias, cap, dropout, rngs)


def _mixed(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  bias: Array | None = None,
  cap: float | None = None,
  dropout: Dropout | None = None,
  rngs: nnx.Rngs | None = None,
) -> Array:
  scores = jnp.einsum("...nhc,...mhc->...hnm", query, key, preferred_element_type=jnp.float32)
  scores = scores * query.shape[-1] ** -0.5
  if cap is not None:
    scores = cap * jnp.tanh(scores / cap)
  if bias is not None:
    scores = scores + bias
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores)
  if dropout is not None:
    weights = dropout(weights, rngs)
  return jnp.einsum("...hnm,...mhc->...nhc", weights.astype(value.dtype), value)


def _fused(query: Array, key: Array, value: Array) -> Array:
  return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _may_be_fused(query: Array, key: Array, value: Array) -> bool:
  """Whether cuDNN's attention takes such arrays, should the program be lowered for CUDA."""
  if query.ndim != 4 or query.dtype not in (jnp.bfloat16, jnp.float16) or query.shape[-1] > _WIDEST_FUSED_HEAD:
    return False
  try:
    # JAX refuses what cuDNN does not take, and everything where there is no cuDNN.
    jax.eval_shape(_fused, query, key, value)
  except RuntimeError:
    return False
  return not _has_old_gpu()


def _has_old_gpu() -> bool:
  """Whether this process has a CUDA GPU from before cuDNN's fused attention (compute capability 8.0)."""
  try:
    devices = jax.local_devices(backend="cuda")
  except RuntimeError:
    return False
  return any(int(device.compute_capability.split(".")[0]) < 8 for device in devices)
