from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlrec import models
from mlrec.config import ConfigError
from mlrec.config import default_config
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.layers.variables import ENCODER
from mlrec.models.layers.variables import HEAD
from mlrec.models.layers.variables import put_in_group
from mlrec.train.optimizer import adamw
from mlrec.train.optimizer import clip_by_global_norm
from mlrec.train.optimizer import Group
from mlrec.train.optimizer import make_optimizer
from mlrec.train.optimizer import make_schedule


def _config(**values):
  config = default_config().optimizer
  with config.unlocked():
    config.update(values)
  return config


class _AdamW:
  """Decoupled AdamW after clipping, in float64."""

  def __init__(self, params, *, lr, weight_decay=0.1, clip=5.0, b1=0.9, b2=0.999, eps=1e-8):
    self.params = {key: np.float64(value) for key, value in params.items()}
    self.m = {key: np.zeros(value.shape) for key, value in params.items()}
    self.v = {key: np.zeros(value.shape) for key, value in params.items()}
    self.k, self.lr, self.decay, self.clip, self.b1, self.b2, self.eps = 0, lr, weight_decay, clip, b1, b2, eps

  def step(self, gradients):
    self.k += 1
    norm = np.sqrt(sum((np.float64(g) ** 2).sum() for g in gradients.values()))
    scale = min(1.0, self.clip / (norm + 1e-6)) if self.clip else 1.0
    for key, gradient in gradients.items():
      g = np.float64(gradient) * scale
      self.m[key] = self.b1 * self.m[key] + (1 - self.b1) * g
      self.v[key] = self.b2 * self.v[key] + (1 - self.b2) * g**2
      theta = self.params[key] * (1 - self.lr * self.decay)
      m, v = self.m[key] / (1 - self.b1**self.k), self.v[key] / (1 - self.b2**self.k)
      self.params[key] = theta - self.lr * m / (np.sqrt(v) + self.eps)
    return norm


@pytest.mark.parametrize(("scale", "clipped"), [(1.0, False), (20.0, True)])
def test_three_steps_on_the_golden_model(golden, padded_batch, scale, clipped):
  arrays = golden("id_model_loss_sasrec")
  model = models.create("sequential", num_items=40, dim=32, rngs=nnx.Rngs(0))
  load_torch(model, {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")})
  batch = padded_batch(arrays["sample_items_id"], np.log(arrays["pop_prob_list"]))
  graphdef, params = nnx.split(model)
  optimizer = make_optimizer(_config(lr=1e-3), num_steps=100)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state):
    gradients = jax.grad(lambda params: scale * nnx.merge(graphdef, params).loss(batch))(params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, gradients

  def named(tree):
    return to_torch(nnx.merge(graphdef, tree))

  stated = _AdamW(named(params), lr=1e-3)
  for n in range(3):
    params, state, gradients = step(params, state)
    gradients = named(gradients)
    if n == 0:
      for key, value in gradients.items():
        wanted = scale * arrays[f"grad/{key}"]
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max(), err_msg=key)
    norm = stated.step(gradients)
    assert (norm > 5) == clipped
    for key, value in named(params).items():
      wanted = stated.params[key]
      # A step is as exact as float32 bias corrections, 1 - 0.999^k, allow.
      np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-5 * 1e-3 * (n + 1), err_msg=key)
  # Every tensor decays: the padding row, norms and biases, and items that the batch does not hold.
  table = named(params)["id_encoder.weight"]
  unused = [0, *sorted(set(range(1, 41)) - set(arrays["sample_items_id"].ravel().tolist()))]
  assert len(unused) > 1
  np.testing.assert_allclose(table[unused], arrays["sd/id_encoder.weight"][unused] * (1 - 1e-4) ** 3, rtol=1e-6)


def _run(config, gradients, params, num_steps=10):
  optimizer = make_optimizer(config, num_steps)
  state = optimizer.init(params)
  for gradient in gradients:
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params


@pytest.mark.parametrize(
  "options",
  [
    {"clip_norm": 0.0},
    {"clip_norm": 0.5},
    {"weight_decay": 0.0},
    {"b1": 0.5, "b2": 0.9, "eps": 1e-3},
  ],
)
def test_settings_mean_what_they_say(options):
  rng = np.random.default_rng(0)
  params = {"a": rng.normal(size=(4, 3)).astype(np.float32), "b": rng.normal(size=5).astype(np.float32)}
  gradients = [{key: rng.normal(size=value.shape).astype(np.float32) for key, value in params.items()} for _ in "1234"]
  actual = _run(_config(lr=0.01, **options), jax.tree.map(jnp.asarray, gradients), params)
  renamed = {{"clip_norm": "clip"}.get(key, key): value for key, value in options.items()}
  stated = _AdamW(params, lr=0.01, **renamed)
  for gradient in gradients:
    stated.step(gradient)
  for key in params:
    np.testing.assert_allclose(actual[key], stated.params[key], rtol=1e-5, atol=1e-6)


def test_parameters_without_gradient_only_decay():
  params = {"a": jnp.array([1.0, -2.0])}
  moved = _run(_config(lr=0.1, weight_decay=0.5), [{"a": jnp.zeros(2)}] * 2, params)
  np.testing.assert_allclose(moved["a"], np.array([1.0, -2.0]) * (1 - 0.05) ** 2, rtol=1e-6)


@pytest.mark.parametrize(("size", "scale"), [(3.0, 1.0), (5.0, 5 / (5 + 1e-6)), (50.0, 5 / (50 + 1e-6)), (0.0, 1.0)])
def test_gradients_are_scaled_to_the_clipped_norm(size, scale):
  gradients = {"a": size * jnp.array([0.6, 0.0]), "b": size * jnp.array([[0.8]])}
  clip = clip_by_global_norm(5.0)
  clipped, _ = clip.update(gradients, clip.init(gradients))
  for key, value in gradients.items():
    np.testing.assert_allclose(clipped[key], np.float64(value) * scale, rtol=1e-6)


@pytest.mark.parametrize(
  ("options", "values"),
  [
    ({"schedule": "constant"}, {0: 0.2, 50: 0.2, 1000: 0.2}),
    ({"schedule": "linear"}, {0: 0.2, 25: 0.15, 50: 0.1, 100: 0.0, 150: 0.0}),
    ({"schedule": "linear", "final_lr_fraction": 0.5}, {0: 0.2, 50: 0.15, 100: 0.1, 150: 0.1}),
    ({"schedule": "cosine"}, {0: 0.2, 50: 0.1, 25: 0.1 * (1 + np.sqrt(0.5)), 100: 0.0, 150: 0.0}),
    ({"schedule": "cosine", "final_lr_fraction": 0.1}, {0: 0.2, 50: 0.11, 100: 0.02, 150: 0.02}),
    ({"schedule": "constant", "warmup_steps": 20}, {0: 0.0, 5: 0.05, 20: 0.2, 90: 0.2}),
    ({"schedule": "linear", "warmup_steps": 20}, {0: 0.0, 10: 0.1, 20: 0.2, 60: 0.1, 100: 0.0}),
    ({"schedule": "cosine", "warmup_steps": 20}, {10: 0.1, 20: 0.2, 60: 0.1, 100: 0.0}),
  ],
)
def test_learning_rate_by_step(options, values):
  schedule = make_schedule(_config(lr=0.2, **options), 100)
  for step, value in values.items():
    assert float(schedule(step)) == pytest.approx(value, abs=1e-7), step


def test_schedule_reaches_the_steps():
  params = {"a": jnp.array([1.0])}
  gradients = [{"a": jnp.array([1.0])}] * 4
  actual = _run(_config(lr=0.1, schedule="linear", weight_decay=0.0, clip_norm=0.0), gradients, params, num_steps=4)
  # Under a constant gradient each step moves by its learning rate.
  assert float(actual["a"][0]) == pytest.approx(1 - 0.1 * (1 + 0.75 + 0.5 + 0.25), abs=1e-5)


def test_an_unknown_schedule_is_named_with_the_nearest():
  with pytest.raises(ConfigError, match=r"config\.optimizer\.schedule 'cosin'.*'cosine'"):
    make_optimizer(_config(schedule="cosin"), 10)


@pytest.mark.parametrize("lr", [0.0, -0.1])
def test_a_learning_rate_is_positive(lr):
  with pytest.raises(ConfigError, match=r"config\.optimizer\.lr"):
    make_optimizer(_config(lr=lr), 10)


def test_gradients_given_by_rows_count_as_whole_ones():
  rng = np.random.default_rng(0)
  params = {"table": rng.normal(size=(9, 3)).astype(np.float32), "other": rng.normal(size=4).astype(np.float32)}
  optimizer = make_optimizer(_config(lr=0.01, clip_norm=0.5), 10)
  whole, by_rows = (jax.tree.map(jnp.asarray, params) for _ in range(2))
  whole_state, by_rows_state = optimizer.init(whole), optimizer.init(by_rows)
  # Row 0 is filler: it may be named again, with a gradient of 0.
  for rows in ([0, 4, 2, 0, 0], [0, 8, 4, 1, 0], [0, 3, 5, 6, 7]):
    values = rng.normal(size=(5, 3)).astype(np.float32) * np.array(rows)[:, None].clip(max=1)
    other = jnp.asarray(rng.normal(size=4).astype(np.float32))
    dense = jnp.zeros((9, 3)).at[jnp.array(rows)].add(values)
    updates, whole_state = optimizer.update({"table": dense, "other": other}, whole_state, whole)
    whole = optax.apply_updates(whole, updates)
    updates, by_rows_state = optimizer.update(
      {"table": jnp.asarray(values), "other": other}, by_rows_state, by_rows, rows={"table": jnp.array(rows)}
    )
    by_rows = optax.apply_updates(by_rows, updates)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), whole, by_rows)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), whole_state, by_rows_state)


def test_adamw_is_that_of_optax():
  rng = np.random.default_rng(1)
  params = {"a": jnp.asarray(rng.normal(size=(4, 3)).astype(np.float32))}
  gradients = [{"a": jnp.asarray(rng.normal(size=(4, 3)).astype(np.float32))} for _ in range(4)]
  schedule = optax.linear_schedule(0.1, 0.01, 5)

  def moved(optimizer):
    state, after = optimizer.init(params), params
    for gradient in gradients:
      updates, state = optimizer.update(gradient, state, after)
      after = optax.apply_updates(after, updates)
    return after["a"]

  np.testing.assert_allclose(
    moved(adamw(schedule, 0.8, 0.95, eps=1e-6, groups={HEAD: Group(1.0, 0.3)})),
    moved(optax.adamw(schedule, 0.8, 0.95, eps=1e-6, weight_decay=0.3)),
    rtol=1e-6,
  )


def test_an_encoder_has_its_own_learning_rate_and_decay():
  tower = nnx.Dict(encoder=nnx.Dict(a=nnx.Param(jnp.ones(3))), projection=nnx.Dict(b=nnx.Param(jnp.ones(2))))
  put_in_group(tower, ENCODER)
  params = nnx.state(nnx.Dict(items=tower, users=nnx.Dict(c=nnx.Param(jnp.ones(4)))), nnx.Param)

  def moved(config, gradients, params):
    return nnx.to_pure_dict(_run(config, gradients, params))

  gradients = [jax.tree.map(jnp.zeros_like, params)] * 2
  config = _config(lr=0.1, weight_decay=0.5, encoder_lr=0.01, encoder_weight_decay=0.2)
  found = moved(config, gradients, params)
  np.testing.assert_allclose(found["users"]["c"], (1 - 0.1 * 0.5) ** 2, rtol=1e-6)
  np.testing.assert_allclose(found["items"]["encoder"]["a"], (1 - 0.01 * 0.2) ** 2, rtol=1e-6)
  np.testing.assert_allclose(found["items"]["projection"]["b"], (1 - 0.01 * 0.2) ** 2, rtol=1e-6)
  found = moved(config, [jax.tree.map(jnp.ones_like, params)], jax.tree.map(jnp.zeros_like, params))
  np.testing.assert_allclose(found["users"]["c"] / found["items"]["encoder"]["a"][0], 10, rtol=1e-5)
  # Without a rate of its own an encoder has the head's.
  found = moved(_config(lr=0.1), [jax.tree.map(jnp.ones_like, params)], jax.tree.map(jnp.zeros_like, params))
  np.testing.assert_allclose(found["users"]["c"][0], found["items"]["encoder"]["a"][0], rtol=1e-6)
