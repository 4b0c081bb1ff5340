"""Vectors of frozen encoders: computed once for all items of a source, kept on disk, read by every head."""

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

from mlrec.data import feature_files
from mlrec.models import convert
from mlrec.models.items.encoded import RANDOM
from mlrec.models.items.encoded import Recipe
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.train.prefetch import ahead
from mlrec.train.sharding import make_mesh
from mlrec.train.sharding import put
from mlrec.train.sharding import replicated

# Items in a file: what a killed run loses at most.
_PART = 256
_SECONDS_BETWEEN_LINES = 10
# Changes with whatever changes vectors without changing their recipe.
_FORMAT = 3


def recipe_of(item: Mapping[str, Any]) -> Recipe:
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
  recipe: Recipe,
  source: Any,
  item_ids: np.ndarray,
  *,
  folder: str = "",
  batch_size: int = 16,
  say: Callable[[str], None] = logging.info,
) -> feature_files.Features:
  """The vectors of a split's items, made where they are not there yet.

  Args:
    recipe: what makes them.
    source: what the content is read from: `items`, ascending ids, `read(ids, …)` and `fingerprint`.
    item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.
    folder: where vectors are kept; empty for the default place.
    batch_size: items encoded at a time, on all devices together.
    say: is told how far it is.

  Returns:
    Vectors by dense id, those of the padding item and of items without the content being what the encoder makes of the
    padding item; the items without; and a fingerprint of recipe and source.

  Raises:
    DataError: the source has none of the items, or the encoder made NaN or infinity of one (it is named).
  """
  where, fingerprint = make(recipe, source, folder=folder, batch_size=batch_size, say=say)
  return feature_files.read_folder(where, item_ids)._replace(fingerprint=fingerprint)


def make(
  recipe: Recipe,
  source: Any,
  *,
  folder: str = "",
  batch_size: int = 16,
  say: Callable[[str], None] = logging.info,
) -> tuple[pathlib.Path, str]:
  """Encodes all items of a source that are not encoded yet.

  Several processes share the work through `folder`, which all of them must see. A run that was killed goes on after
  the last whole part. `say` is told how far it is.

  Returns:
    The folder of `vectors.npy [items + 1, D]` float32 (first the padding item's), `items.npy [items]` int64
    ascending, and `recipe.json`; and the fingerprint that names it.
  """
  stated = _stated(recipe, source)
  fingerprint = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:16]
  where = (pathlib.Path(folder).expanduser() if folder else _default_folder()) / fingerprint
  if not (where / "recipe.json").exists():
    where.mkdir(parents=True, exist_ok=True)
    _make_parts(recipe, source, where, batch_size, say)
    _wait_for_all(fingerprint)
    if jax.process_index() == 0:
      _join_parts(source, where, stated)
    _wait_for_all(f"{fingerprint} joined")
  return where, fingerprint


def _stated(recipe: Recipe, source: Any) -> dict[str, Any]:
  weights = recipe.weights
  if weights != RANDOM:
    weights = hashlib.sha256(pathlib.Path(weights).expanduser().read_bytes()).hexdigest()
  stated = recipe.stated() | {"weights": weights, "format": _FORMAT}
  return stated | {"content": recipe.content, "source": str(source.fingerprint)}


def _default_folder() -> pathlib.Path:
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(cache).expanduser() / "mlrec" / "features"


def _make_parts(recipe: Recipe, source: Any, where: pathlib.Path, batch_size: int, say) -> None:
  starts = range(0, len(source.items), _PART)
  missing = [start for start in starts if not _part(where, start).exists()]
  mine = missing[jax.process_index() :: jax.process_count()]
  mesh = make_mesh(jax.local_devices())
  batch_size = -(-batch_size // mesh.size) * mesh.size
  encode, state = encoder_of(recipe, mesh)
  if jax.process_index() == 0:
    need = recipe.need()
    zeros = put(mesh, np.zeros((batch_size, *need.shape), need.dtype))
    _write(where / "padding.npy", np.asarray(encode(state, zeros, True))[:1])
  begin, done = time.monotonic(), 0
  told = begin

  def read_batch(ids: np.ndarray) -> tuple[int, Any]:
    read = source.read(ids, **recipe.reading())
    filled = np.zeros((batch_size, *read.shape[1:]), read.dtype)
    filled[: len(ids)] = read
    return len(ids), put(mesh, filled)

  for start in mine:
    ids = np.asarray(source.items[start : start + _PART])
    batches = [ids[at : at + batch_size] for at in range(0, len(ids), batch_size)]
    vectors = [np.asarray(encode(state, array, False))[:count] for count, array in ahead(read_batch, batches)]
    _write(_part(where, start), np.concatenate(vectors))
    done += len(ids)
    now = time.monotonic()
    if start == mine[-1] or now - told > _SECONDS_BETWEEN_LINES:
      told, rate = now, done / (now - begin)
      say(f"{recipe.encoder}: {start + len(ids):,} of {len(source.items):,} items encoded, {rate:,.1f} a second")


def encoder_of(recipe: Recipe, mesh: Mesh) -> tuple[Callable[[Any, Array, bool], Array], Any]:
  """A compiled function `(state, content [B, ...], padding) -> [B, D]` float32, and its state.

  `padding` is whether all B items are the padding item.
  """
  model = recipe.build(rngs=nnx.Rngs(0))
  if recipe.weights != RANDOM:
    convert.load_torch(model, pathlib.Path(recipe.weights).expanduser())
  graphdef, state = nnx.split(model)
  spec = model.spec

  def encode(state, array, padding):
    inputs = recipe.inputs(array, jnp.full(len(array), padding), spec)
    return nnx.merge(graphdef, state, copy=True)(inputs).astype(jnp.float32)

  state = jax.device_put(state, replicated(mesh))
  return jax.jit(encode, out_shardings=replicated(mesh)), state


def _join_parts(source: Any, where: pathlib.Path, stated: dict[str, Any]) -> None:
  starts = range(0, len(source.items), _PART)
  parts = [np.load(where / "padding.npy"), *(np.load(_part(where, start)) for start in starts)]
  _write(where / "vectors.npy", np.concatenate(parts))
  _write(where / "items.npy", np.asarray(source.items, np.int64))
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
