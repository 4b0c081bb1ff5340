"""Vectors of frozen encoders: computed once for all items of a source, kept on disk, read by every head."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import pathlib
import time
from typing import Any
import zlib

from absl import logging
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from mlrec import files
from mlrec import machine
from mlrec.content import vectors as vector_files
from mlrec.content.base import Source
from mlrec.content.vectors import DamagedError
from mlrec.content.vectors import Vectors
from mlrec.data.pipeline import ahead
from mlrec.machine import usable_cores
from mlrec.models import convert
from mlrec.models.items.recipe import RANDOM
from mlrec.models.items.recipe import Recipe
from mlrec.models.registry import choose
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.train.sharding import make_mesh
from mlrec.train.sharding import put
from mlrec.train.sharding import replicated

# Items in a file: what a killed run loses at most.
_PART = 256
_SECONDS_BETWEEN_LINES = 10
# Changes with whatever changes vectors without changing their recipe.
_FORMAT = 3
# The part of the padding item alone.
_PADDING = "padding"


def recipe_of(item: Mapping[str, Any]) -> Recipe:
  """What makes the vectors of a tower of the mode `frozen`, by the options of `config.model.item`.

  Raises:
    OptionError: a name or an option is unknown, or the mode is another.
  """
  name, options = choose(item, ITEM_TOWER)

  def build() -> nnx.Module:
    return models.create(name, 1, 1, kind=ITEM_TOWER, rngs=nnx.Rngs(0), section=options)

  tower: Any = nnx.eval_shape(build)
  recipe = getattr(tower, "frozen", None)
  if recipe is None:
    raise ValueError("vectors are kept for towers of the mode 'frozen' alone")
  return recipe


def load_or_make(
  recipe: Recipe,
  source: Source,
  item_ids: np.ndarray,
  *,
  folder: str = "",
  batch_size: int = 16,
  say: Callable[[str], None] = logging.info,
  interrupt: Callable[[], None] = lambda: None,
) -> Vectors:
  """The vectors of a split's items, made where they are missing or damaged.

  Args:
    recipe: what makes them.
    source: what the content is read from.
    item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.
    folder: where vectors are kept; empty for the default place.
    batch_size: items encoded at a time, on all devices together.
    say: prints a line of progress.
    interrupt: called between batches; raises to stop.

  Returns:
    Vectors by dense id, those of the padding item and of items without the content being what the encoder makes of the
    padding item; the items without; and a fingerprint of recipe and source.

  Raises:
    DataError: the source has none of the items, or the encoder made NaN or infinity of one (it is named).
  """
  where, fingerprint = make(recipe, source, folder=folder, batch_size=batch_size, say=say, interrupt=interrupt)
  return vector_files.read(where, item_ids)._replace(fingerprint=fingerprint)


def make(
  recipe: Recipe,
  source: Source,
  *,
  folder: str = "",
  batch_size: int = 16,
  say: Callable[[str], None] = logging.info,
  interrupt: Callable[[], None] = lambda: None,
) -> tuple[pathlib.Path, str]:
  """Encodes all items of a source that are not encoded yet.

  Several processes share the work through `folder`, which all of them must see. A run that was killed resumes after the
  last whole part; parts and whole folders are checked against their digests, and made again where they are damaged.

  Args:
    recipe: as for `load_or_make`, as are the others.
    source: what is encoded.
    folder: where vectors are kept.
    batch_size: items encoded at a time.
    say: prints a line of progress.
    interrupt: called between batches; raises to stop.

  Returns:
    The folder of `vectors.npy [items + 1, D]` float32 (first the padding item's), `items.npy [items]` int64
    ascending, and `recipe.json`; and the fingerprint that names it.
  """
  stated = _stated(recipe, source)
  fingerprint = _fingerprint(stated)
  where = (pathlib.Path(folder).expanduser() if folder else machine.cache_folder("features")) / fingerprint
  if not _is_whole(where, say):
    where.mkdir(parents=True, exist_ok=True)
    parts = _Parts(where, len(source.items), say)
    _make_parts(recipe, source, parts, batch_size, say, interrupt)
    machine.wait_for_all(f"vectors {fingerprint}")
    if jax.process_index() == 0:
      vector_files.write_folder(where, parts.joined(), np.asarray(source.items, np.int64), stated)
      parts.remove()
    machine.wait_for_all(f"vectors {fingerprint} joined")
  return where, fingerprint


def _fingerprint(stated: Mapping[str, Any]) -> str:
  return files.sha256_of_json(stated)[:16]


def _stated(recipe: Recipe, source: Source) -> dict[str, Any]:
  weights = recipe.weights
  if weights != RANDOM:
    weights = files.sha256(pathlib.Path(weights).expanduser())
  stated = recipe.stated() | {"weights": weights, "format": _FORMAT}
  return stated | {"content": recipe.content, "source": str(source.fingerprint)}


def _is_whole(where: pathlib.Path, say: Callable[[str], None]) -> bool:
  """Whether the folder is finished and what was written; a damaged one is cleared."""
  if not (where / vector_files.RECIPE).exists():
    return False
  try:
    stated = vector_files.check_folder(where)
    if _fingerprint(stated) != where.name:
      raise DamagedError(f"{where}: {vector_files.RECIPE} states another recipe than the folder's name")
    return True
  except DamagedError as error:
    say(f"the kept vectors are damaged and are made again ({error})")
    if jax.process_index() == 0:
      # What names the digests goes first: without it the folder is not taken for whole.
      for name in (vector_files.RECIPE, vector_files.VECTORS, vector_files.ITEMS):
        files.remove(where / name)
    return False


class _Parts:
  """What is encoded so far: a file for each `_PART` items, whose name ends in the checksum of its array."""

  def __init__(self, where: pathlib.Path, num_items: int, say: Callable[[str], None]):
    self._where, self._num_items, self._say = where, num_items, say
    self.names = [_PADDING, *(f"{start:09d}" for start in range(0, num_items, _PART))]

  def missing(self) -> list[str]:
    """The names of parts that are not kept, or damaged, which is said."""
    return [name for name in self.names if self._load(name) is None]

  def write(self, name: str, array: np.ndarray) -> None:
    path = self._where / f"part-{name}-{_checksum(array)}.npy"
    with files.replacing(path) as temporary, temporary.open("wb") as file:
      np.save(file, array)

  def joined(self) -> np.ndarray:
    """All vectors `[items + 1, D]`, the padding item's first."""
    arrays = [self._load(name) for name in self.names]
    assert all(array is not None for array in arrays), "every part was made, or there was an error"
    return np.concatenate(arrays)  # type: ignore[arg-type]

  def remove(self) -> None:
    for path in self._where.glob("part-*.npy"):
      files.remove(path)

  def _load(self, name: str) -> np.ndarray | None:
    rows = 1 if name == _PADDING else min(_PART, self._num_items - int(name))
    for path in self._where.glob(f"part-{name}-*.npy"):
      try:
        array = np.load(path, allow_pickle=False)
        if array.ndim == 2 and len(array) == rows and path.name == f"part-{name}-{_checksum(array)}.npy":
          return array
        reason = "its checksum differs"
      except (OSError, ValueError, EOFError) as error:
        reason = str(error)
      self._say(f"{path} is damaged and is made again ({reason})")
      files.remove(path)
    return None


def _checksum(array: np.ndarray) -> str:
  return f"{zlib.crc32(np.ascontiguousarray(array).tobytes()):08x}"


def _make_parts(
  recipe: Recipe,
  source: Source,
  parts: _Parts,
  batch_size: int,
  say: Callable[[str], None],
  interrupt: Callable[[], None],
) -> None:
  mine = parts.missing()[jax.process_index() :: jax.process_count()]
  if not mine:
    return
  mesh = make_mesh(jax.local_devices())
  batch_size = -(-batch_size // mesh.size) * mesh.size
  encode, state = encoder_of(recipe, mesh)
  begin = told = time.monotonic()
  done = 0

  def encoded(ids: np.ndarray) -> np.ndarray:
    vectors = []
    make = _Batches(source, recipe.reading(), ids, batch_size)
    for array in ahead(make, -(-len(ids) // batch_size), lambda batch: put(mesh, batch), threads=usable_cores()):
      interrupt()
      vectors.append(np.asarray(encode(state, array, False)))
    return np.concatenate(vectors)[: len(ids)]

  for name in mine:
    if name == _PADDING:
      need = recipe.need()
      zeros = put(mesh, np.zeros((batch_size, *need.shape), need.dtype))
      parts.write(name, np.asarray(encode(state, zeros, True))[:1])
      continue
    start = int(name)
    ids = np.asarray(source.items[start : start + _PART])
    parts.write(name, encoded(ids))
    done += len(ids)
    now = time.monotonic()
    if name == mine[-1] or now - told > _SECONDS_BETWEEN_LINES:
      told, rate = now, done / (now - begin)
      say(f"{recipe.encoder}: {start + len(ids):,} of {len(source.items):,} items encoded, {rate:,.1f} a second")


@dataclasses.dataclass(frozen=True)
class _Batches:
  """The content of items in batches `[size, ...]` by their number, zeros after the last item."""

  source: Source
  reading: dict[str, Any]
  ids: np.ndarray
  size: int

  def __call__(self, number: int) -> np.ndarray:
    read = self.source.read(self.ids[number * self.size : (number + 1) * self.size], **self.reading)
    filled = np.zeros((self.size, *read.shape[1:]), read.dtype)
    filled[: len(read)] = read
    return filled


def encoder_of(recipe: Recipe, mesh: Mesh) -> tuple[Callable[[Any, Array, bool], Array], Any]:
  """A compiled function `(state, content [B, ...], padding) -> [B, D]` float32, and its state.

  `padding` is whether all B items are the padding item.
  """
  model = recipe.build(rngs=nnx.Rngs(0))
  if recipe.weights != RANDOM:
    convert.load_torch(model, pathlib.Path(recipe.weights).expanduser())
  graphdef, state = nnx.split(model)
  spec = model.spec

  def encode(state: Any, array: Array, padding: Array) -> Array:
    inputs = recipe.inputs(array, jnp.full(len(array), padding), spec)
    return nnx.merge(graphdef, state, copy=True)(inputs).astype(jnp.float32)

  state = jax.device_put(state, replicated(mesh))
  return jax.jit(encode, out_shardings=replicated(mesh)), state
