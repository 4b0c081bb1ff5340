"""Tiny image and audio encoders for tests: how each is built, and what it is fed."""

import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch

# Tiny models take longer to compile than to run.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_TRANSFORMER = {"dim": 32, "depth": 2, "heads": 2, "hidden": 48}
_PATCHES = {"patch": 4, "size": 16}

# The options of the golden arrays' nets.
TINY = {
  "clip_vit_b_32": _TRANSFORMER | _PATCHES,
  "vit_mae_b": _TRANSFORMER | _PATCHES,
  "siglip_b_16": _TRANSFORMER | _PATCHES,
  "swin_t": {"dim": 8, "depths": (2, 2), "heads": (2, 4), "window": 4, "patch": 2},
  "resnet18": {"stem": 4, "depths": (1, 2, 1, 1)},
  "resnet50": {"stem": 4, "depths": (1, 2, 1, 1)},
  "vit_image_s": _TRANSFORMER | _PATCHES | {"positions": "learned"},
  "ast_b": _TRANSFORMER | {"frames": 40, "mels": 32},
}


def built(name: str, **options):
  """A small net of zeros; drawing the values of its parameters costs more than what is tested."""
  graphdef, state = _zeros(name, tuple(options.items()))
  return nnx.merge(graphdef, state, copy=True)


@functools.cache
def _zeros(name: str, options: tuple):
  return nnx.split(blank(lambda: models.create(name, rngs=nnx.Rngs(0), **TINY[name] | dict(options))))


def blank(build):
  """What `build` makes, of zeros."""
  graphdef, state = nnx.split(nnx.eval_shape(build))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


def drawn(name: str, **options):
  """A small net with all that it holds away from its start."""
  return filled(built(name, **options))


def filled(model):
  """`model`, in place, with all that it holds drawn."""
  rng = np.random.default_rng(1)
  arrays = to_torch(model)
  for key, value in arrays.items():
    values = rng.normal(0, max(1, np.prod(value.shape[1:])) ** -0.5, value.shape)
    if re.search(r"(norm\w*|bn\d|downsample\.1)\.(weight|bias|running_\w+)$", key):
      low, high = (0.6, 1.4) if key.endswith(("weight", "var")) else (-0.3, 0.3)
      values = rng.uniform(low, high, value.shape)
    arrays[key] = values.astype(np.float32)
  load_torch(model, arrays)
  return model


def without_memory(state):
  """A state of shapes as zeros that take no memory."""
  return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state)


def content(name: str, number: int = 2):
  """Images, or waveforms for an audio encoder."""
  if name.startswith("ast"):
    loud = np.random.default_rng(3).normal(0, 3000, (number, 4000))
    return jnp.asarray(loud.astype(np.int16))
  side = {"swin_t": 16, "resnet18": 32, "resnet50": 32}.get(name, 16)
  return jax.random.normal(jax.random.key(3), (number, side, side, 3))


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _compiled(graphdef, state, x):
  return nnx.merge(graphdef, state)(x)


def run(model, x):
  return np.asarray(_compiled(*nnx.split(model), jnp.asarray(x)))


def assert_near(actual, wanted, tolerance):
  """Within `tolerance` of the largest value that is wanted."""
  np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def published(path) -> dict[str, tuple[int, ...]]:
  """Names and shapes of a list in `tests/golden/keys`."""
  pairs = [re.search(r"(\S+) \(([\d, ]*)\)$", line).groups() for line in path.read_text().splitlines()]
  return {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in pairs}
