"""Encoders for tests: of zeros or of drawn values, how they are run, and tiny ones of images and of audio."""

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
  """A small net of images or audio, of zeros."""
  return zeros(name, **TINY[name] | options)


def drawn(name: str, **options):
  """A small net of images or audio with all that it holds away from its start."""
  return filled(built(name, **options))


def zeros(name: str, **options):
  """A net of zeros; drawing the values of its parameters costs more than what is tested."""
  return _of_zeros(*_shapes(name, tuple(options.items())))


@functools.cache
def _shapes(name: str, options: tuple):
  return nnx.split(nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **dict(options))))


def blank(build):
  """What `build` makes, of zeros."""
  return _of_zeros(*nnx.split(nnx.eval_shape(build)))


def normal(build, scale: float, seed: int = 0):
  """What `build` makes, all that it holds drawn; JAX would compile each shape's draw."""
  rng = np.random.default_rng(seed)
  graphdef, state = nnx.split(nnx.eval_shape(build))
  return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * scale, x.dtype), state))


def _of_zeros(graphdef, state):
  # Zeros made by JAX are compiled for each shape, and NumPy's own would be overwritten where they lie.
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), state))


@functools.cache
def full_size(name: str):
  """The published net, of zeros that take no memory. All tests share it: none may change it."""
  graphdef, state = _shapes(name, ())
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state))


def fresh(build):
  """What `build` makes, as it starts."""
  graphdef, _ = nnx.split(nnx.eval_shape(build))
  return nnx.merge(graphdef, jax.jit(lambda: nnx.state(build()), compiler_options=QUICK)())


def scaled(rng, key: str, shape):
  """Values by the number of inputs; norms near 1."""
  values = rng.normal(0, max(1, np.prod(shape[1:])) ** -0.5, shape)
  if re.search(r"(norm\w*|bn\d|downsample\.1)\.(weight|bias|running_\w+)$", key):
    low, high = (0.6, 1.4) if key.endswith(("weight", "var")) else (-0.3, 0.3)
    values = rng.uniform(low, high, shape)
  return values


def rectified(rng, key: str, shape):
  """Values for kernels before ReLUs; all vectors are norms', of which fresh ones may be 0 and silence their block."""
  if len(shape) > 1:
    return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
  return rng.uniform(*((-0.3, 0.3) if key.endswith(("bias", "mean")) else (0.5, 1.5)), shape)


def filled(model, draw=scaled):
  """`model`, in place, with all that it holds drawn."""
  rng = np.random.default_rng(1)
  load_torch(model, {key: draw(rng, key, shape).astype(np.float32) for key, shape in shapes(model).items()})
  return model


def under(arrays, prefix: str = "sd/"):
  """The entries below a prefix; golden files hold a net's parameters below `sd/`."""
  return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def golden(model, arrays, prefix: str = "sd/"):
  """`model`, in place, with the parameters of a golden file."""
  load_torch(model, under(arrays, prefix))
  return model


def content(name: str, number: int = 2):
  """Images, or waveforms for an audio encoder."""
  if name.startswith("ast"):
    loud = np.random.default_rng(3).normal(0, 3000, (number, 4000))
    return jnp.asarray(loud.astype(np.int16))
  side = {"swin_t": 16, "resnet18": 32, "resnet50": 32}.get(name, 16)
  return jax.random.normal(jax.random.key(3), (number, side, side, 3))


def clips(number: int, frames: int, height: int, width: int):
  return jnp.asarray(np.random.default_rng(3).normal(size=(number, frames, height, width, 3)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _compiled(graphdef, state, x):
  return nnx.merge(graphdef, state)(x)


def run(model, x):
  return np.asarray(_compiled(*nnx.split(model), jnp.asarray(x)))


def assert_near(actual, wanted, tolerance):
  """Within `tolerance` of the largest value that is wanted."""
  np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def shapes(model) -> dict[str, tuple[int, ...]]:
  """By PyTorch's names."""
  return {key: value.shape for key, value in to_torch(model).items()}


def published(path, prefix: str = "", without: str = r"num_batches_tracked$") -> dict[str, tuple[int, ...]]:
  """Names below a prefix, and shapes, of a list in `tests/golden/keys`; by default no counters of batches.

  A line `layers.{0..3}.norm.weight (8,)` stands for the names with 0, 1, 2 and 3.
  """
  pairs = [re.search(r"(\S+) \(([\d, ]*)\)$", line).groups() for line in path.read_text().splitlines()]
  pairs = [(name, shape) for names, shape in pairs for name in _spelled_out(names)]
  sizes = {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in under(dict(pairs), prefix).items()}
  return {key: shape for key, shape in sizes.items() if not re.search(without, key)}


def _spelled_out(names: str) -> list[str]:
  before, found, rest = names.partition("{")
  if not found:
    return [names]
  numbers, _, after = rest.partition("}")
  first, last = map(int, numbers.split(".."))
  return [f"{before}{n}{after}" for n in range(first, last + 1)]
