"""GRU4Rec (Hidasi et al., ICLR 2016), in the form of the MicroLens benchmark."""

import math

from einops import rearrange
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import uniform
from mlrec.models.layers.initializers import xavier_uniform
from mlrec.models.registry import models
from mlrec.models.registry import USER_ENCODER
from mlrec.models.users.user_encoder import UserEncoder
from mlrec.registry import at_least


@models.register("gru4rec", kind=USER_ENCODER)
class GRU4Rec(UserEncoder):
  """Gated recurrent layers without biases over the left-padded history, which they read from its first slot on."""

  # The padding vector acts on the state, so every user needs a whole left-padded row.
  reads_padding = True
  torch_names = (
    (r"^layers\.(\d+)\.input\.weight$", r"gru_layers.weight_ih_l\1"),
    (r"^layers\.(\d+)\.hidden\.weight$", r"gru_layers.weight_hh_l\1"),
  )

  def __init__(self, dim: int = 512, *, max_length: int = 10, blocks: int = 2, dropout: float = 0.1, rngs: nnx.Rngs):
    at_least(1, blocks=blocks)
    del max_length  # recurrence knows no longest history
    self.dropout = Dropout(dropout)
    self.layers = nnx.List([GRU(dim, first=layer == 0, rngs=rngs) for layer in range(blocks)])

  def __call__(self, x: Array, positions: Array, segments: Array, *, rngs: nnx.Rngs | None = None) -> Array:
    """`x [R, W, D]`, left-padded with the padding item's vector, to the states after each step, `[R, W, D]`."""
    del positions, segments
    x = self.dropout(x, rngs)
    for layer in self.layers:
      x = layer(x)
    return x


class GRU(nnx.Module):
  """One recurrent layer from a zero state; the reset gate multiplies the product W_hn h."""

  def __init__(self, dim: int, *, first: bool, rngs: nnx.Rngs):
    init = xavier_uniform if first else uniform(1 / math.sqrt(dim))
    # Gates are stacked in the order reset, update, new.
    self.input = nnx.Linear(dim, 3 * dim, use_bias=False, kernel_init=init, rngs=rngs)
    self.hidden = nnx.Linear(dim, 3 * dim, use_bias=False, kernel_init=init, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    """`x [R, W, D]` to `[R, W, D]`."""
    gates = rearrange(self.input(x), "r w gates -> w r gates")
    kernel = self.hidden.kernel[...].astype(gates.dtype)

    def step(state: Array, gates: Array) -> tuple[Array, Array]:
      reset, update, new = jnp.split(gates, 3, axis=-1)
      from_reset, from_update, from_new = jnp.split(state @ kernel, 3, axis=-1)
      new = jnp.tanh(new + jax.nn.sigmoid(reset + from_reset) * from_new)
      update = jax.nn.sigmoid(update + from_update)
      state = (1 - update) * new + update * state
      return state, state

    _, states = jax.lax.scan(step, jnp.zeros(x[:, 0].shape, gates.dtype), gates)
    return rearrange(states, "w r d -> r w d")
