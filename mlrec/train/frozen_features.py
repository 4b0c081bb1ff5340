"""Vectors of frozen encoders: computed once for all videos of a set, kept on disk, read by every head."""

from collections.abc import Callable
from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
import time
from typing import Any

from absl import logging
from flax import nnx
import jax
from jax import Array
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from mlrec.models import convert
from mlrec.models.items.video.tower import FrozenEncoder
from mlrec.models.items.video.tower import normalise
from mlrec.models.items.video.tower import RANDOM
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.train.prefetch import ahead
from mlrec.train.sharding import make_mesh
from mlrec.train.sharding import put
from mlrec.train.sharding import replicated

# Clips in a file: what a killed run loses at most.
_PART = 256
# Changes with whatever changes vectors without changing their recipe.
_FORMAT = 2


def recipe_of(item: Mapping[str, Any]) -> FrozenEncoder:
  """What makes the vectors of a tower of the mode `frozen`, by the options of `config.model.item`.

  Raises:
    ValueError: a name or an option is unknown, or the mode is another.
  """
  options = dict(item)

  def build():
    return models.create(options.pop("name"), 1, 1, kind=ITEM_TOWER, rngs=nnx.Rngs(0), **options)

  recipe = nnx.eval_shape(build).frozen
  if recipe is None:
    raise ValueError("vectors are kept for towers of the mode 'frozen' alone")
  return recipe


def load_or_make(
  recipe: FrozenEncoder,
  videos: Any,
  item_ids: np.ndarray,
  *,
  folder: str = "",
  batch_size: int = 16,
  say: Callable[[str], None] = logging.info,
) -> tuple[np.ndarray, str]:
  """The vectors of a split's items, made where they are not there yet.

  Args:
    recipe: what makes them.
    videos: the `Frames` they are made of.
    item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.
    folder: where vectors are kept; empty for the default place.
    batch_size: clips encoded at a time, on all devices together.
    say: is told how far it is.

  Returns:
    `[num_items + 1, D]` float32 by dense id, those of the padding item and of items without a video being what the
    encoder makes of a clip of zeros; and a fingerprint of recipe and videos.
  """
  where, fingerprint = make(recipe, videos, folder=folder, batch_size=batch_size, say=say)
  vectors = np.load(where / "vectors.npy", mmap_mode="r")
  items = np.load(where / "items.npy")
  place = np.searchsorted(items, item_ids).clip(max=len(items) - 1)
  rows = np.where(items[place] == item_ids, place + 1, 0)
  rows[0] = 0
  return np.asarray(vectors[rows]), fingerprint


def make(
  recipe: FrozenEncoder,
  videos: Any,
  *,
  folder: str = "",
  batch_size: int = 16,
  say: Callable[[str], None] = logging.info,
) -> tuple[pathlib.Path, str]:
  """Encodes all videos that are not encoded yet.

  Several processes share the work through `folder`, which all of them must see. A run that was killed goes on after
  the last whole part. `say` is told how far it is.

  Returns:
    The folder of `vectors.npy [videos + 1, D]` float32 (first what a clip of zeros gives), `items.npy [videos]` int64
    ascending, and `recipe.json`; and the fingerprint that names it.
  """
  stated = _stated(recipe, videos)
  fingerprint = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:16]
  where = (pathlib.Path(folder).expanduser() if folder else _default_folder()) / fingerprint
  if not (where / "recipe.json").exists():
    where.mkdir(parents=True, exist_ok=True)
    _make_parts(recipe, videos, where, batch_size, say)
    _wait_for_all(fingerprint)
    if jax.process_index() == 0:
      _join_parts(videos, where, stated)
    _wait_for_all(f"{fingerprint} joined")
  return where, fingerprint


def _stated(recipe: FrozenEncoder, videos: Any) -> dict[str, Any]:
  weights = recipe.weights
  if weights != RANDOM:
    weights = hashlib.sha256(pathlib.Path(weights).expanduser().read_bytes()).hexdigest()
  return {
    **recipe._asdict(), "options": dict(recipe.options), "weights": weights, "videos": str(videos.fingerprint),
    "format": _FORMAT,
  }  # fmt: skip


def _default_folder() -> pathlib.Path:
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(cache).expanduser() / "mlrec" / "features"


def _make_parts(recipe: FrozenEncoder, videos: Any, where: pathlib.Path, batch_size: int, say) -> None:
  starts = range(0, len(videos.items), _PART)
  missing = [start for start in starts if not _part(where, start).exists()]
  mine = missing[jax.process_index() :: jax.process_count()]
  mesh = make_mesh(jax.local_devices())
  batch_size = -(-batch_size // mesh.size) * mesh.size
  encode, state = encoder_of(recipe, mesh)
  if jax.process_index() == 0:
    # A clip of zeros after normalisation, not a black one.
    zeros = put(mesh, np.zeros((batch_size, recipe.frames, recipe.size, recipe.size, 3), np.uint8))
    _write(where / "padding.npy", np.asarray(encode(state, zeros, True))[:1])
  begin, done = time.monotonic(), 0

  def read(ids: np.ndarray) -> tuple[int, Any]:
    frames = videos.read(ids, frames=recipe.frames, size=recipe.size)
    filled = np.zeros((batch_size, *frames.shape[1:]), np.uint8)
    filled[: len(ids)] = frames
    return len(ids), put(mesh, filled)

  for start in mine:
    ids = np.asarray(videos.items[start : start + _PART])
    batches = [ids[at : at + batch_size] for at in range(0, len(ids), batch_size)]
    vectors = [np.asarray(encode(state, frames, False))[:count] for count, frames in ahead(read, batches)]
    _write(_part(where, start), np.concatenate(vectors))
    done += len(ids)
    rate = done / (time.monotonic() - begin)
    say(f"{recipe.encoder}: {start + len(ids):,} of {len(videos.items):,} clips encoded, {rate:,.1f} a second")


def encoder_of(recipe: FrozenEncoder, mesh: Mesh) -> tuple[Callable[[Any, Array, bool], Array], Any]:
  """A compiled function `(state, frames [B, F, S, S, 3] uint8, padding) -> [B, D]` float32, and its state.

  `padding` is whether zeros after normalisation stand in for the frames.
  """
  model = recipe.build(rngs=nnx.Rngs(0))
  if recipe.weights != RANDOM:
    convert.load_torch(model, pathlib.Path(recipe.weights).expanduser())
  graphdef, state = nnx.split(model)
  mean, std = model.spec.mean, model.spec.std

  def encode(state, frames, padding):
    clips = normalise(frames, mean, std, recipe.pixels)
    clips = jnp.where(padding, 0, clips).astype(recipe.dtype)
    return nnx.merge(graphdef, state, copy=True)(clips).astype(jnp.float32)

  state = jax.device_put(state, replicated(mesh))
  return jax.jit(encode, out_shardings=replicated(mesh)), state


def _join_parts(videos: Any, where: pathlib.Path, stated: dict[str, Any]) -> None:
  starts = range(0, len(videos.items), _PART)
  parts = [np.load(where / "padding.npy"), *(np.load(_part(where, start)) for start in starts)]
  _write(where / "vectors.npy", np.concatenate(parts))
  _write(where / "items.npy", np.asarray(videos.items, np.int64))
  # Written last: it says that the rest is whole.
  partial = where / "recipe.json.partial"
  partial.write_text(json.dumps(stated, indent=1, sort_keys=True))
  partial.rename(where / "recipe.json")
  for path in (where / "padding.npy", *(_part(where, start) for start in starts)):
    path.unlink()


def _part(where: pathlib.Path, start: int) -> pathlib.Path:
  return where / f"part-{start:09d}.npy"


def _write(path: pathlib.Path, array: np.ndarray) -> None:
  partial = path.with_suffix(f".{os.getpid()}.partial")
  with partial.open("wb") as file:
    np.save(file, array)
  partial.rename(path)


def _wait_for_all(what: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"features {what}")
