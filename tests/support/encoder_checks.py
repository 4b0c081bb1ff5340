"""What the tests of all encoders check in the same way."""

import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.layers.context import Context
from support import tiny_encoders as tiny


def assert_comes_back(model, others=()):
  """What is loaded is what is then held; `others` in a file are not used."""
  rng = np.random.default_rng(2)
  arrays = {key: rng.normal(size=shape).astype(np.float32) for key, shape in tiny.shapes(model).items()}
  load_torch(model, arrays | dict(others))
  assert_holds(model, arrays)


def assert_holds(model, arrays):
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key, value in back.items():
    np.testing.assert_array_equal(value, arrays[key], err_msg=key)


def assert_misfits_are_named(model, key: str, unused: str, shape=None):
  """Without `key`, with an entry `unused`, and with `key` of another shape, by default of 77 columns."""
  arrays = to_torch(model)
  expected = arrays[key].shape
  shape = shape or (*expected[:-1], 77)
  with pytest.raises(ValueError, match=f"missing.*{re.escape(repr(key))}"):
    load_torch(model, {other: value for other, value in arrays.items() if other != key})
  with pytest.raises(ValueError, match=f"unused.*{re.escape(repr(unused))}"):
    load_torch(model, arrays | {unused: np.zeros(3)})
  with pytest.raises(ValueError, match=rf"{re.escape(f'{key!r} has shape {shape}')}.*{re.escape(str(expected))}"):
    load_torch(model, arrays | {key: np.zeros(shape)})


def numbers(parameters) -> int:
  """How many numbers parameters of these shapes hold."""
  return sum(int(np.prod(shape)) for shape in parameters.values())


def stage_starts(stages, keys) -> dict[str, int]:
  """Where each stage starts among `keys`: all have one stage, they come in the order of stages, and none is empty."""
  found = [[stage for stage in stages if f"{key}.".startswith(f"{stage}.")] for key in keys]
  assert all(len(stages_of_key) == 1 for stages_of_key in found)
  found = [stage for (stage,) in found]
  order = [stages.index(stage) for stage in found]
  assert order == sorted(order)
  assert set(order) == set(range(len(stages)))
  return {stage: found.index(stage) for stage in stages}


def assert_near_in_half_precision(make, x, tolerance: float = 0.05):
  """What `make(dtype=...)` gives, to the largest value; parameters and output stay float32."""
  exact, model = tiny.run(make(), x), make(dtype=jnp.bfloat16)
  half = tiny.run(model, x)
  assert exact.dtype == half.dtype == np.float32
  assert (exact != half).any()
  tiny.assert_near(half, exact, tolerance)
  assert all(value.dtype == np.float32 for value in to_torch(model).values())


def weighted(outputs):
  return jnp.sum(outputs * np.random.default_rng(5).normal(size=outputs.shape))


def distance(outputs):
  return jnp.mean(jnp.square(outputs - np.random.default_rng(5).normal(size=outputs.shape)))


def training(model, x, first_trained: int = 0, *, context=lambda: Context(train=True), loss=weighted):
  """A compiled function of parameters and the rest of `model`, to the loss, gradients, and the rest after it."""
  graphdef = nnx.graphdef(model)

  @functools.partial(jax.jit, compiler_options=tiny.QUICK)
  def step(params, rest, x):
    def scalar(params):
      model = nnx.merge(graphdef, params, rest, copy=True)
      outputs = model(x, context(), first_trained=first_trained)
      assert (outputs.dtype, outputs.shape) == (jnp.float32, (len(x), model.spec.features))
      return loss(outputs), nnx.split(model, nnx.Param, ...)[2]

    (value, rest), gradients = jax.value_and_grad(scalar, has_aux=True)(params)
    return value, gradients, rest

  return functools.partial(step, x=x)


def gradients(model, x, first_trained: int = 0, **options):
  """Gradients of all parameters, and what else `model` holds after the step, under PyTorch's names."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  _, found, rest = training(model, x, first_trained, **options)(params, rest)
  return to_torch(nnx.merge(graphdef, found, rest))


def assert_gradients_stop(model, x, first_trained: int, *, least: float = 0.0, unreached: str = r"^$", **options):
  """Only stages from the first trained one have gradients, of more than `least` but in names with `unreached`."""
  assert_stopped(model, gradients(model, x, first_trained, **options), first_trained, least, unreached)


def assert_stopped(model, found, first_trained: int, least: float = 0.0, unreached: str = r"^$"):
  """Of gradients and statistics: those of frozen stages are 0, or what they were, and no others are."""
  before = to_torch(model)
  frozen = tuple(f"{stage}." for stage in model.stages[:first_trained])
  for key, value in found.items():
    assert np.isfinite(value).all(), key
    still = f"{key}.".startswith(frozen)
    if "running" in key:
      assert np.array_equal(value, before[key]) == still, key
    elif still:
      assert not value.any(), key
    else:
      assert (np.abs(value).max() <= least) == bool(re.search(unreached, key)), key


def assert_descends(model, x, first_trained: int, rate: float | None):
  """As `assert_gradients_stop`; where there is a `rate`, such a step along the gradients lowers the loss."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  step = training(model, x, first_trained, loss=distance)
  loss, found, statistics = step(params, rest)
  assert_stopped(model, to_torch(nnx.merge(graphdef, found, statistics)), first_trained)
  if rate is not None:
    moved = jax.tree.map(lambda value, gradient: value - rate * gradient, params, found)
    assert step(moved, rest)[0] < loss
