"""What a trained workdir is to others: item vectors, an index, and a user encoder that needs JAX and NumPy alone."""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import importlib.metadata
import os
import pathlib
import shutil
import time
from typing import Any
from typing import NamedTuple

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from mlrec import config as config_lib
from mlrec import files
from mlrec.config import ConfigError
from mlrec.data.interactions import DataError
from mlrec.inference import model_card
from mlrec.inference.catalogue import Catalogue
from mlrec.inference.recommender import Recommender
from mlrec.inference.scorers import TrainedScorer

MANIFEST = "export.json"
VECTORS, TABLE, INDEX, ENCODER, CARD = (
  "item_vectors.safetensors", "item_vectors.parquet", "items.usearch", "user_encoder.jax", "MODEL_CARD.md",
)  # fmt: skip
PLATFORMS = ("cpu", "cuda", "tpu")
_FORMAT = 1
# Users whose states are what an index is asked, and the places compared.
_QUERIES, _PLACES = 1000, 10
# Inner products are no distances, and a state's neighbours are the longest vectors: a denser graph, searched wider.
_CONNECTIVITY, _EXPANSION = 32, 256


class IndexQuality(NamedTuple):
  """How an approximate index compares with exact search.

  Attributes:
    recall: the share of the ten nearest that it finds.
    milliseconds: the median for one query, on one thread.
    exact_milliseconds: that of a whole product by NumPy.
    queries: how many were asked.
  """

  recall: float
  milliseconds: float
  exact_milliseconds: float
  queries: int


class Exported(NamedTuple):
  """What was written.

  Attributes:
    folder: where.
    items: how many have a vector.
    width: of the vectors.
    quality: of the index; None without one.
  """

  folder: pathlib.Path
  items: int
  width: int
  quality: IndexQuality | None


def write(
  recommender: Recommender,
  target: pathlib.Path,
  *,
  catalogue: Catalogue | None = None,
  index: bool = True,
  platforms: tuple[str, ...] = PLATFORMS,
) -> Exported:
  """Writes the artifact, whole or not at all.

  Args:
    recommender: of a trained model whose scores are dot products.
    target: a folder that is not there, is empty, or holds an earlier export, which is replaced.
    catalogue: titles for the table.
    index: whether an index is made, which needs `usearch`.
    platforms: what the user encoder is compiled for.

  Raises:
    ConfigError: the model has no vectors, the folder is taken, or a package is missing.
    OSError: it cannot be written.
  """
  scorer = recommender.loaded.scorer
  if not isinstance(scorer, TrainedScorer) or scorer.vectors is None:
    name = recommender.loaded.config.model.name
    raise ConfigError(
      f"config.model.name = {name!r} has no vectors to export: it does not score items by dot products. Models that do "
      "are sequential ones, BERT4Rec, YouTube DNN, DSSM, VBPR and those of graphs; mlrec.recommend answers for all"
    )
  _check_free(target)
  # Through a link, and by a name where it is written as "." or "..".
  target = target.resolve()
  target.parent.mkdir(parents=True, exist_ok=True)
  unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
  files.remove(unfinished)
  unfinished.mkdir()
  try:
    quality = _fill(unfinished, recommender, scorer, catalogue or Catalogue(), index, platforms)
    _replace(unfinished, target)
  finally:
    files.remove(unfinished)
  return Exported(target, recommender.num_items, scorer.vectors.shape[1], quality)


def _check_free(target: pathlib.Path) -> None:
  if not os.path.lexists(target):
    return
  if not target.is_dir():
    raise ConfigError(f"--to={target} is a file: name a folder")
  others = {path.name for path in target.iterdir()}
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
    said = files.read_json(target / MANIFEST)
    if said["format"] == _FORMAT:
      others -= {MANIFEST, *said["files"]}
  if others:
    raise ConfigError(
      f"--to={target} holds something else than an export, such as {min(others)}: name a folder that is empty, or not "
      "there"
    )


def _replace(unfinished: pathlib.Path, target: pathlib.Path) -> None:
  if target.exists():
    before = target.with_name(f".{target.name}.{os.getpid()}.before")
    target.rename(before)
    unfinished.rename(target)
    shutil.rmtree(before)
  else:
    unfinished.rename(target)
  files.sync(target.parent)


def _fill(
  folder: pathlib.Path,
  recommender: Recommender,
  scorer: TrainedScorer,
  catalogue: Catalogue,
  index: bool,
  platforms: tuple[str, ...],
) -> IndexQuality | None:
  assert scorer.vectors is not None
  _write_vectors(folder / VECTORS, recommender, scorer.vectors)
  _write_table(folder / TABLE, recommender, scorer.vectors[1:], catalogue)
  encoder = _user_encoder(scorer, scorer.vectors.shape[1], platforms)
  _write(folder / ENCODER, encoder.serialize())
  quality = None
  if index:
    quality = _write_index(folder / INDEX, scorer.vectors, _states(recommender, scorer, encoder))
  said = _manifest(recommender, scorer, quality, platforms)
  files.write_text(folder / CARD, model_card.render(recommender, said))
  said["files"] = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
  files.write_json(folder / MANIFEST, said)
  return quality


def _write_vectors(path: pathlib.Path, recommender: Recommender, vectors: np.ndarray) -> None:
  arrays = {"vectors": vectors, "ids": recommender.items.values}
  if recommender.items.names is not None:
    arrays |= recommender.items.names.arrays("names/")
  files.write_safetensors(path, arrays)


def _write_table(path: pathlib.Path, recommender: Recommender, vectors: np.ndarray, catalogue: Catalogue) -> None:
  import pyarrow as pa
  import pyarrow.parquet

  columns: dict[str, Any] = {"item": pa.array(recommender.item_ids)}
  if catalogue.has_titles:
    columns["title"] = pa.array([catalogue.title(int(item)) for item in recommender.items.values[1:]])
  columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
  with files.replacing(path) as temporary:
    pyarrow.parquet.write_table(pa.table(columns), temporary)


def _user_encoder(scorer: TrainedScorer, width: int, platforms: tuple[str, ...]) -> export.Exported:
  """The encoder for any number of items `n` and of users `b`; its parameters are constants of the program."""
  items, users = export.symbolic_shape("n, b")
  shapes = (
    jax.ShapeDtypeStruct((items, width), jnp.float32),
    jax.ShapeDtypeStruct((users, scorer.max_length), jnp.int32),
  )
  return export.export(jax.jit(scorer.user_encoder()), platforms=platforms)(*shapes)


def _states(recommender: Recommender, scorer: TrainedScorer, encoder: export.Exported) -> np.ndarray:
  """States of some users of the run, evenly spread."""
  rows = recommender.loaded.split.rows
  chosen = np.unique(np.linspace(0, len(rows) - 1, min(_QUERIES, len(rows))).astype(int))
  histories = rows.take(chosen).last(scorer.max_length).padded(scorer.max_length).astype(np.int32)
  return np.asarray(encoder.call(scorer.vectors, histories))


def _write_index(path: pathlib.Path, vectors: np.ndarray, queries: np.ndarray) -> IndexQuality:
  """An index by inner product, whose keys are places among the vectors, from 1."""
  try:
    from usearch.index import Index
  except ImportError as error:
    raise ConfigError('an index needs usearch: pip install "mlrec[export]", or give --index=false') from error
  made = Index(
    ndim=vectors.shape[1],
    metric="ip",
    dtype="f32",
    connectivity=_CONNECTIVITY,
    expansion_add=_EXPANSION,
    expansion_search=_EXPANSION,
  )
  made.add(np.arange(1, len(vectors), dtype=np.uint64), np.ascontiguousarray(vectors[1:]))
  with files.replacing(path) as temporary:
    made.save(temporary)
  exact = np.stack([_nearest(vectors, query) for query in queries])
  found = [made.search(query, _PLACES).keys for query in queries]
  recall = np.mean([len(np.intersect1d(one, other)) / len(other) for one, other in zip(found, exact)])
  return IndexQuality(
    float(recall),
    _median_milliseconds(lambda query: made.search(query, _PLACES, threads=1), queries),
    _median_milliseconds(lambda query: _nearest(vectors, query), queries),
    len(queries),
  )


def _nearest(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
  scores = vectors[1:] @ query
  most = min(_PLACES, len(scores))
  return np.argpartition(-scores, most - 1)[:most] + 1


def _median_milliseconds(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> float:
  times = []
  for query in queries:
    start = time.perf_counter()
    search(query)
    times.append(time.perf_counter() - start)
  return float(np.median(times)) * 1e3


def _manifest(
  recommender: Recommender, scorer: TrainedScorer, quality: IndexQuality | None, platforms: tuple[str, ...]
) -> dict[str, Any]:
  assert scorer.vectors is not None
  loaded = recommender.loaded
  result = loaded.workdir.read_result() if loaded.workdir.result.exists() else None
  return {
    "format": _FORMAT,
    "items": recommender.num_items,
    "new_items": loaded.split.num_new,
    "width": scorer.vectors.shape[1],
    "max_length": scorer.max_length,
    "ids": "texts" if recommender.items.are_texts else "integers",
    "platforms": list(platforms),
    "config": config_lib.to_json(loaded.config),
    "config_hash": result.config_hash if result else None,
    "data": loaded.split.fingerprint,
    "metrics": dict(result.metrics) if result else {},
    "index": quality._asdict() if quality else None,
    "versions": {name: importlib.metadata.version(name) for name in ("jax", "numpy")},
  }


def _write(path: pathlib.Path, content: bytes | bytearray) -> None:
  with files.replacing(path) as temporary:
    temporary.write_bytes(content)


def check(folder: pathlib.Path) -> Mapping[str, Any]:
  """The manifest of an export, whose files are compared with their digests.

  Raises:
    DataError: it is none, or a file of it is not what was written.
  """
  try:
    said = files.read_json(folder / MANIFEST)
    if said["format"] != _FORMAT:
      raise ValueError(f"it is of format {said['format']}, and this version reads {_FORMAT}")
    for name, digest in said["files"].items():
      if files.sha256(folder / name) != digest:
        raise ValueError(f"{name} is not what was written (its digest differs)")
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise DataError(f"{folder}: it is no whole export: {error}") from error
  return said
