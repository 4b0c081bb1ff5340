"""Quantizers: residual k-means and RQ-VAE against plain statements of both, and what is said of codes."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlrec.models.quantizers import quantizer
from mlrec.models.quantizers import residual_kmeans
from mlrec.models.quantizers import rq_vae
from mlrec.models.registry import models
from mlrec.models.registry import QUANTIZER
from mlrec.registry import OptionError

_TINY = {
  "residual_kmeans": {"levels": 2, "size": 6},
  "rq_vae": {"levels": 2, "size": 6, "hidden": (8,), "latent": 4, "steps": 100, "batch_size": 64},
}


def _create(name, **options):
  return models.create(name, kind=QUANTIZER, section=_TINY[name] | options)


def _clusters(number=90, width=5, *, seed=0) -> np.ndarray:
  """Vectors around six centres, each of three parts."""
  rng = np.random.default_rng(seed)
  centres = 4 * rng.standard_normal((6, 1, width)) + rng.standard_normal((6, 3, width))
  of = rng.integers(18, size=number)
  return (centres.reshape(18, width)[of] + 0.1 * rng.standard_normal((number, width))).astype(np.float32)


def _plain_centres(x, size, rng):
  """k-means++ and Lloyd's steps to their end, a vector at a time."""
  chosen = [x[rng.integers(len(x))]]
  while len(chosen) < size:
    distances = [min(np.sum((v - c) ** 2) for c in chosen) for v in x]
    chosen.append(x[np.searchsorted(np.cumsum(distances), rng.random() * np.sum(distances), side="right")])
  centres, codes = np.array(chosen), None
  while True:
    found = [int(np.argmin([np.sum((v - c) ** 2) for c in centres])) for v in x]
    if found == codes:
      return centres, codes
    codes = found
    assert set(codes) == set(range(size)), "no centre is left without vectors here"
    centres = np.array([np.mean([v for v, code in zip(x, codes) if code == k], axis=0) for k in range(size)])


def test_residual_k_means_is_k_means_of_what_is_left_level_by_level():
  vectors = _clusters()
  found = _create("residual_kmeans", seed=3).fit(vectors)
  left = vectors.astype(np.float64)
  spread = np.sum((left - left.mean(0)) ** 2)
  for level in range(2):
    centres, codes = _plain_centres(left, 6, np.random.default_rng([3, level]))
    np.testing.assert_array_equal(found.codes[:, level], codes)
    left = left - centres[codes]
    assert found.errors[level] == pytest.approx(np.sum(left**2) / spread, rel=1e-4)
  assert found.errors[1] < found.errors[0] < 0.2


def test_another_seed_gives_other_codes():
  once, other = (_create("residual_kmeans", seed=seed).fit(_clusters()).codes for seed in (1, 2))
  assert (once != other).any()


def test_blocks_are_a_matter_of_memory_alone(monkeypatch):
  vectors = _clusters()
  whole = _create("residual_kmeans").fit(vectors).codes
  monkeypatch.setattr(residual_kmeans, "_BLOCK", 7)
  np.testing.assert_array_equal(_create("residual_kmeans").fit(vectors).codes, whole)


def test_fewer_distinct_vectors_than_centres_have_a_centre_each():
  vectors = np.repeat(_clusters(3), 4, axis=0)
  found = _create("residual_kmeans", size=8).fit(vectors)
  assert len(np.unique(found.codes[:, 0])) == 3
  assert found.codes.shape == (12, 2)
  assert found.errors[0] == pytest.approx(0, abs=1e-10)


def test_a_centre_without_vectors_goes_to_the_furthest_one(monkeypatch):
  # Both start at the left: all vectors are nearest to the first of them.
  vectors = np.array([[0.0], [0.1], [0.2], [9.0]], np.float32)
  monkeypatch.setattr(residual_kmeans, "_start", lambda x, size, rng: x[[0, 0]])
  centres = residual_kmeans.k_means(vectors, 2, rng=np.random.default_rng(0), steps=10)
  np.testing.assert_allclose(centres, [[0.1], [9.0]], rtol=1e-6)


@pytest.mark.parametrize("name", _TINY)
def test_the_same_vectors_and_seed_give_the_same_codes(name):
  vectors = _clusters()
  once, again = (_create(name, seed=1).fit(vectors) for _ in range(2))
  np.testing.assert_array_equal(once.codes, again.codes)
  np.testing.assert_array_equal(once.errors, again.errors)
  assert once.codes.dtype == np.int32
  assert once.codes.min() >= 0
  assert once.codes.max() < 6


def _plain_codes(z, books):
  """Codes, code vectors and residuals of one z, level by level."""
  codes, chosen, residuals = [], [], []
  for book in books:
    residuals.append(z)
    codes.append(int(np.argmin(np.sum((book - z) ** 2, axis=1))))
    chosen.append(book[codes[-1]])
    z = z - chosen[-1]
  return codes, np.array(chosen), np.array(residuals)


def _net(beta=0.25):
  model = rq_vae.Autoencoder(5, (7,), 3, rngs=nnx.Rngs(0))
  graphdef, params = nnx.split(model)
  return model, params, rq_vae._Net(graphdef, beta, optax.sgd(0.0))


def _books(levels=2, size=4, *, seed=1):
  return np.random.default_rng(seed).standard_normal((levels, size, 3)).astype(np.float32)


def test_the_loss_of_an_rq_vae_is_the_papers():
  model, params, net = _net(beta=0.3)
  x, books = _clusters(9), _books()
  z = np.asarray(model.encode(x), np.float64)
  losses = []
  for row, latent in zip(x, z):
    codes, chosen, residuals = _plain_codes(latent, books.astype(np.float64))
    rebuilt = np.asarray(model.decode(jnp.asarray(chosen.sum(0)[None], jnp.float32)))[0]
    losses.append(np.sum((row - rebuilt) ** 2) + 1.3 * np.sum((residuals - chosen) ** 2))
    np.testing.assert_array_equal(rq_vae.quantized(jnp.asarray(latent[None], jnp.float32), books)[0][0], codes)
  loss, _ = jax.jit(net._loss)(params, jnp.asarray(books), x)
  assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_gradients_pass_the_quantization_by():
  """That of z is the decoder's at the sum of code vectors and the commitment's; code vectors follow residuals alone."""
  model, params, net = _net(beta=0.25)
  x, books = jnp.asarray(_clusters(9)), jnp.asarray(_books())
  codes, chosen, residuals = rq_vae.quantized(model.encode(x), books)

  def rebuilt(total):
    return jnp.square(x - model.decode(total)).sum(1).mean()

  wanted = jax.grad(rebuilt)(chosen.sum(0)) + 2 * 0.25 * (residuals - chosen).sum(0) / len(x)
  _, to_params = jax.vjp(lambda p: nnx.merge(net.graphdef, p).encode(x), params)
  of_params, of_books = jax.jit(jax.grad(net._loss, argnums=(0, 1), has_aux=True))(params, books, x)[0]
  kernel = lambda state: state["to_latent"]["kernel"][...]  # noqa: E731
  np.testing.assert_allclose(kernel(of_params), kernel(to_params(wanted)[0]), rtol=1e-4, atol=1e-6)
  expected = np.zeros(books.shape)
  for level in range(2):
    np.add.at(expected[level], np.asarray(codes[:, level]), 2 * np.asarray(chosen - residuals)[level] / len(x))
  np.testing.assert_allclose(of_books, expected, rtol=1e-4, atol=1e-6)


def test_code_vectors_that_nothing_chose_become_residuals():
  model, params, net = _net()
  x = jnp.asarray(_clusters(40))
  books = _books()
  books[0, 2:] = 1e3  # far from everything
  books[1, 0] = -1e3
  state = rq_vae._State(params, jnp.asarray(books), net.optimizer.init((params, jnp.asarray(books))))
  items = np.arange(40).reshape(1, 40)
  residuals = np.asarray(rq_vae.quantized(model.encode(x), jnp.asarray(books))[2])
  state, _, moved = net.train(state, x, items, 7)
  found = np.asarray(state.books)
  assert int(moved) >= 3
  for level, number in ((0, 2), (0, 3), (1, 0)):
    assert np.abs(residuals[level] - found[level, number]).sum(1).min() < 1e-5
  np.testing.assert_array_equal(found[0, :2], books[0, :2])


@pytest.mark.slow
def test_training_an_rq_vae_leaves_less_than_its_start():
  vectors = _clusters(200)
  lines = []
  short, long = (_create("rq_vae", size=12, steps=steps, lr=3e-3).fit(vectors, lines.append) for steps in (100, 600))
  assert long.errors[-1] < 0.7 * short.errors[-1]
  assert long.errors[1] < long.errors[0]
  assert lines[0].startswith("step 100: loss ")


def test_items_of_one_tuple_are_numbered_in_their_order():
  codes = np.array([[1, 2], [0, 0], [1, 2], [1, 1], [1, 2], [0, 0]], np.int32)
  found = quantizer.told_apart(codes)
  np.testing.assert_array_equal(found[:, :2], codes)
  assert found[:, 2].tolist() == [0, 0, 1, 0, 2, 1]
  many = quantizer.told_apart(np.random.default_rng(0).integers(0, 3, (500, 2)))
  assert len(np.unique(many, axis=0)) == 500
  # Numbers leave no gap: they are as few as can be.
  for pair in np.unique(many[:, :2], axis=0):
    numbers = many[(many[:, :2] == pair).all(1), 2]
    assert numbers.tolist() == list(range(len(numbers)))


def test_quality_says_how_many_codes_serve_and_how_many_items_share():
  found = quantizer.quality(np.array([[0, 0], [0, 1], [1, 5], [1, 5], [2, 5], [3, 5], [3, 5], [3, 5]]))
  assert found.used.tolist() == [4, 3]
  shares = np.array([2, 2, 1, 3]) / 8
  assert found.perplexity[0] == pytest.approx(np.prod(shares**-shares))
  assert found.shared == pytest.approx(5 / 8)
  assert found.most_alike == 3


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("residual_kmeans", {"levels": 0}, r"^levels = 0 must be at least 1"),
    ("residual_kmeans", {"size": 1}, r"^size = 1 must be at least 2"),
    ("residual_kmeans", {"step": 3}, r"^step = 3: 'residual_kmeans' has no such option; did you mean 'steps'"),
    ("rq_vae", {"hidden": (8, 0)}, r"^hidden = \(8, 0\) must be widths of at least 1"),
    ("rq_vae", {"latent": 0}, r"^latent = 0 must be at least 1"),
    ("rq_vae", {"beta": -1.0}, r"^beta = -1\.0 must be at least 0"),
  ],
)
def test_options_out_of_range_are_refused(name, options, message):
  with pytest.raises(OptionError, match=message):
    _create(name, **options)
