"""RQ-VAE (arXiv 2305.05065, section 3.1): an autoencoder whose bottleneck is a sum of code vectors, one a level."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np
import optax

from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.perceptron import Perceptron
from mlrec.models.quantizers.quantizer import Quantized
from mlrec.models.quantizers.quantizer import Quantizer
from mlrec.models.quantizers.residual_kmeans import k_means
from mlrec.models.quantizers.residual_kmeans import nearest
from mlrec.models.registry import models
from mlrec.models.registry import QUANTIZER
from mlrec.registry import at_least

# Steps of one program, after which code vectors that none of them used are moved.
_WINDOW = 100
# Items by which code vectors start, and Lloyd's steps of each level.
_START_ITEMS, _START_STEPS = 16384, 10
# Items encoded at a time once the net is trained.
_BLOCK = 8192
_LINES = 10


@models.register("rq_vae", kind=QUANTIZER)
class RQVAE(Quantizer):
  """The quantizer of TIGER: z = E(x), codes that sum up to z level by level, x' = D(the sum).

  With r_0 = z, c_l the nearest code vector e of level l to r_l and r_(l+1) = r_l - e, the loss of an item is
  |x - x'|^2 + the sum over l of |sg[r_l] - e|^2 + beta |r_l - sg[e]|^2, where sg lets no gradient through; that of the
  reconstruction passes the quantization by as though it were the identity.

  As in the paper code vectors start by k-means of the first items' residuals, so that not all items choose a few. A
  code vector that no item of a hundred steps chose becomes the residual of an item drawn at random. Vectors are centred
  and scaled to a mean squared norm of 1 first. Adam takes the place of the paper's Adagrad, whose rate of 0.4 was for
  its own data.
  """

  def __init__(
    self,
    *,
    levels: int = 3,
    size: int = 256,
    seed: int = 0,
    hidden: Sequence[int] = (512, 256, 128),
    latent: int = 32,
    beta: float = 0.25,
    steps: int = 3000,
    batch_size: int = 1024,
    lr: float = 1e-3,
  ):
    """Checks the options.

    Args:
      levels: codes of a vector.
      size: code vectors of each level.
      seed: of parameters, batches and code vectors.
      hidden: widths of the encoder's ReLU layers; the decoder has them in the other order.
      latent: width of z and of code vectors.
      beta: how much z is drawn to its code vectors, against how much they are drawn to it.
      steps: of training, rounded up to whole hundreds.
      batch_size: items of a step.
      lr: Adam's learning rate.

    Raises:
      OptionError: an option is out of range.
    """
    super().__init__(levels, size, seed)
    at_least(1, latent=latent, steps=steps, batch_size=batch_size)
    at_least(0, beta=beta, lr=lr)
    # Its widths are checked where the layers are planned.
    nnx.eval_shape(lambda: Autoencoder(1, hidden, latent, rngs=nnx.Rngs(0)))
    self.hidden, self.latent, self.beta = tuple(hidden), latent, beta
    self.steps, self.batch_size, self.lr = steps, batch_size, lr

  def fit(self, vectors: np.ndarray, say: Callable[[str], None] = lambda line: None) -> Quantized:
    """As of `Quantizer`."""
    centred = np.asarray(vectors, np.float32) - vectors.mean(0, dtype=np.float64).astype(np.float32)
    scale = np.sqrt(np.square(centred).sum(1).mean())
    centred /= max(scale, np.finfo(np.float32).tiny)
    rng = np.random.default_rng(self.seed)
    model = Autoencoder(centred.shape[1], self.hidden, self.latent, rngs=nnx.Rngs(self.seed))
    graphdef, params = nnx.split(model)
    net = _Net(graphdef, self.beta, optax.adam(self.lr))
    first = centred[np.sort(rng.permutation(len(centred))[:_START_ITEMS])]
    books = self._start(np.asarray(net.encoded(params, first)), rng)
    state = _State(params, books, net.optimizer.init((params, books)))
    windows = -(-self.steps // _WINDOW)
    on_device = jnp.asarray(centred)
    for window in range(windows):
      items = rng.integers(len(centred), size=(_WINDOW, self.batch_size))
      state, loss, unused = net.train(state, on_device, items, rng.integers(2**32))
      if (window + 1) % max(windows // _LINES, 1) == 0 or window + 1 == windows:
        say(f"step {(window + 1) * _WINDOW:,}: loss {float(loss):.4f}, {int(unused):,} code vectors moved")
    return self._coded(net, state, centred)

  def _start(self, latents: np.ndarray, rng: np.random.Generator) -> Array:
    """Code vectors `[levels, size, latent]`, by k-means of what is left of some items' `latents [M, latent]`."""
    books = np.empty((self.levels, self.size, self.latent), np.float32)
    residuals = np.array(latents)
    for level in range(self.levels):
      centres = k_means(residuals, self.size, rng=rng, steps=_START_STEPS)
      # Where items are too few for all, the others start near those.
      copies = centres[np.arange(self.size) % len(centres)]
      books[level] = copies + 1e-3 * rng.standard_normal(copies.shape) * (np.arange(self.size) >= len(centres))[:, None]
      residuals -= centres[nearest(residuals, centres)[0]]
    return jnp.asarray(books)

  def _coded(self, net: "_Net", state: "_State", vectors: np.ndarray) -> Quantized:
    codes, left = [], [0.0] * self.levels
    for first in range(0, len(vectors), _BLOCK):
      block = vectors[first : first + _BLOCK]
      found, rebuilt = net.coded(state.params, state.books, block)
      codes.append(np.asarray(found))
      for level in range(self.levels):
        left[level] += np.square(block - np.asarray(rebuilt[level]), dtype=np.float64).sum()
    whole = max(np.square(vectors, dtype=np.float64).sum(), np.finfo(np.float64).tiny)
    return Quantized(np.concatenate(codes), np.array(left) / whole)


class Autoencoder(nnx.Module):
  """The encoder and the decoder around the quantization."""

  def __init__(self, width: int, hidden: Sequence[int], latent: int, *, rngs: nnx.Rngs):
    """Of vectors `[B, width]`."""
    self.encoder = Perceptron(width, hidden, activation=jax.nn.relu, batch_norm=False, rngs=rngs)
    self.to_latent = nnx.Linear(self.encoder.width, latent, kernel_init=xavier_normal, rngs=rngs)
    self.decoder = Perceptron(latent, tuple(hidden)[::-1], activation=jax.nn.relu, batch_norm=False, rngs=rngs)
    self.to_vector = nnx.Linear(self.decoder.width, width, kernel_init=xavier_normal, rngs=rngs)

  def encode(self, x: Array) -> Array:
    """`[B, width]` to `[B, latent]`."""
    return self.to_latent(self.encoder(x, EVALUATION))

  def decode(self, z: Array) -> Array:
    """`[B, latent]` to `[B, width]`."""
    return self.to_vector(self.decoder(z, EVALUATION))


class _State(NamedTuple):
  """What training moves: the net, the code vectors `[levels, size, latent]`, and the optimiser's moments of both."""

  params: Any
  books: Array
  opt_state: Any


class _Net:
  """Compiled functions of an autoencoder's state."""

  def __init__(self, graphdef: Any, beta: float, optimizer: optax.GradientTransformation):
    self.graphdef, self.beta, self.optimizer = graphdef, beta, optimizer

  @functools.cached_property
  def encoded(self) -> Callable[..., Array]:
    """Compiles `(params, x [B, F]) -> z [B, latent]`."""
    return jax.jit(lambda params, x: nnx.merge(self.graphdef, params).encode(x))

  @functools.cached_property
  def coded(self) -> Callable[..., tuple[Array, Array]]:
    """Compiles `(params, books, x [B, F])` to codes `[B, levels]` and what each level rebuilds, `[levels, B, F]`."""

    def coded(params: Any, books: Array, x: Array) -> tuple[Array, Array]:
      model = nnx.merge(self.graphdef, params)
      codes, chosen, _ = quantized(model.encode(x), books)
      return codes, jax.vmap(model.decode)(jnp.cumsum(chosen, axis=0))

    return jax.jit(coded)

  @functools.cached_property
  def train(self) -> Callable[..., tuple[_State, Array, Array]]:
    """Compiles `(state, vectors [N, F], items [S, B], seed)`: S steps over batches of the vectors of items.

    It gives the state, which is donated, the mean loss, and how many code vectors were moved.
    """

    def step(vectors: Array, state: _State, items: Array) -> tuple[_State, tuple[Array, Array]]:
      gradient = jax.value_and_grad(self._loss, argnums=(0, 1), has_aux=True)
      (loss, codes), grads = gradient(state.params, state.books, vectors[items])
      updates, opt_state = self.optimizer.update(grads, state.opt_state)
      params, books = optax.apply_updates((state.params, state.books), updates)
      size = state.books.shape[1]
      counts = (codes.T[:, :, None] == jnp.arange(size)).sum(1)
      return _State(params, books, opt_state), (loss, counts)

    def train(state: _State, vectors: Array, items: Array, seed: Array) -> tuple[_State, Array, Array]:
      state, (losses, counts) = jax.lax.scan(functools.partial(step, vectors), state, items)
      unused = counts.sum(0) == 0
      # Of the last batch, residuals of items drawn for each code vector.
      _, _, residuals = quantized(nnx.merge(self.graphdef, state.params).encode(vectors[items[-1]]), state.books)
      drawn = jax.random.randint(jax.random.key(seed), unused.shape, 0, items.shape[1])
      others = jnp.take_along_axis(residuals, drawn[..., None], axis=1)
      return state._replace(books=jnp.where(unused[..., None], others, state.books)), losses.mean(), unused.sum()

    return jax.jit(train, donate_argnums=0)

  def _loss(self, params: Any, books: Array, x: Array) -> tuple[Array, Array]:
    model = nnx.merge(self.graphdef, params)
    z = model.encode(x)
    codes, chosen, residuals = quantized(z, books)
    total = z + jax.lax.stop_gradient(chosen.sum(0) - z)
    to_items = jnp.square(jax.lax.stop_gradient(residuals) - chosen).sum((0, 2))
    to_codes = jnp.square(residuals - jax.lax.stop_gradient(chosen)).sum((0, 2))
    rebuilt = jnp.square(x - model.decode(total)).sum(1)
    return (rebuilt + to_items + self.beta * to_codes).mean(), codes


def quantized(z: Array, books: Array) -> tuple[Array, Array, Array]:
  """The nearest code vector of each level to what is left of z after the levels before.

  Args:
    z: `[B, D]`.
    books: `[levels, size, D]`, the code vectors.

  Returns:
    Codes `[B, levels]` int32, of equally near ones the first; the code vectors, `[levels, B, D]`; and the residuals
    that they were chosen for, `[levels, B, D]`, whose gradient is that of z alone.
  """
  codes, chosen, residuals = [], [], []
  left = z
  for book in books:
    distances = jnp.square(book).sum(1) - 2 * left @ book.T
    code = jnp.argmin(distances, axis=1).astype(jnp.int32)
    codes.append(code)
    chosen.append(book[code])
    residuals.append(left)
    left = left - jax.lax.stop_gradient(book[code])
  return jnp.stack(codes, axis=1), jnp.stack(chosen), jnp.stack(residuals)
