"""Data sets of `own`: of what `mlrec.ingest` has read, or of the histories that it has left."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import itertools
import pathlib
from typing import Any

from google.protobuf.message import DecodeError
import numpy as np
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.proto import tf_example_pb2

from mlrec.data.interactions import Rows
from mlrec.data.lines import Chunk
from mlrec.data.lines import LineSource
from mlrec.data.names import Names
from tfds_microlens import interaction_rows
from tfds_microlens import item_media
from tfds_microlens import items as items_lib
from tfds_microlens import media_sources
from tfds_microlens import sequences
from tfds_microlens import video_sources
from tfds_microlens.errors import PrepareError
from tfds_microlens.prepared import Prepared
from tfds_microlens.shards import Shards

# The folder of all data sets below `data_dir`.
FAMILY = "microlens"
# Beside the records, where ids in the log are texts: those of users and items by the integers that stand for them.
NAMES = "names.npz"
_USERS, _ITEMS = "user_names/", "item_names/"
_READ_AT_ONCE = 1 << 14
# A user, the items and their times, `[n]` int64 each, oldest first.
History = tuple[int, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
  """What data sets are made of.

  Attributes:
    histories: of each user once; may be gone through several times.
    num_users: how many there are.
    timed: whether times are milliseconds; else they are places.
    user_names, item_names: of ids that are texts.
    items: by ascending id; None where only the histories are there.
    originals: the id in the log of each of `items`.
    covers, audio, videos: a file an item; None where there are none.
  """

  histories: Iterable[History]
  num_users: int
  timed: bool
  user_names: Names | None = None
  item_names: Names | None = None
  items: items_lib.Items | None = None
  originals: list[str] = dataclasses.field(default_factory=list)
  covers: media_sources.Files | None = None
  audio: media_sources.Files | None = None
  videos: video_sources.Files | None = None


class OwnFiles:
  """In place of the files of a release (`SourceFiles`).

  Attributes:
    used: nothing was downloaded.
    root: where data sets will lie in the end, if not where they are made.
  """

  def __init__(self, material: Material, *, root: pathlib.Path | None = None):
    self._material, self.root = material, root
    self.used: dict[str, dict[str, int | str]] = {}

  def write_beside(self, folder: pathlib.Path) -> None:
    """Writes the names of ids that are texts into the folder of a data set."""
    arrays: dict[str, Any] = {}
    for prefix, names in ((_USERS, self._material.user_names), (_ITEMS, self._material.item_names)):
      arrays |= names.arrays(prefix) if names is not None else {}
    if arrays:
      np.savez(folder / NAMES, **arrays)

  def histories(self, metadata: Any, limited: Callable[[int], int]) -> dict[str, Any]:
    """The split of `own-histories`: how many examples, and the examples."""
    metadata["timestamps"] = sequences.TIMED if self._material.timed else sequences.PLACED
    examples = ({"user": user, "items": items, "timestamps": times} for user, items, times in self._material.histories)
    return {"train": (limited(self._material.num_users), examples)}

  def sequences(self, metadata: Any, limited: Callable[[int], int]) -> dict[str, Any]:
    """The splits of `own-sequences`: of each how many examples, and the examples.

    Raises:
      PrepareError: no user has enough items.
    """
    count = sum(len(items) >= sequences.MIN_LENGTH for _, items, _ in self._material.histories)
    if not count:
      raise PrepareError(
        f"own-sequences: no user has {sequences.MIN_LENGTH} items, one each to train, validate and test"
      )
    nobody: dict[str, list] = {sequences.PLACES: [], sequences.USERS: [], sequences.ITEMS: []}
    metadata.update(nobody, skipped_users=self._material.num_users - count)
    return {
      split: (limited(count), self._sequence_examples(hidden, split != "train"))
      for split, hidden in (("train", 2), ("validation", 2), ("test", 1))
    }

  def _sequence_examples(self, hidden: int, has_target: bool) -> Iterator[dict[str, Any]]:
    for user, items, _ in self._material.histories:
      if len(items) >= sequences.MIN_LENGTH:
        yield {"user": user, "items": items[:-hidden], "target": int(items[-hidden]) if has_target else 0}

  def interactions(self) -> "_Interactions":
    """All interactions in the order of users and their times."""
    return _Interactions(self._material)

  def items(self) -> tuple[items_lib.Items, list[str]]:
    return self._needed(self._material.items, "items"), []

  def item_columns(self) -> list[item_media.Column]:
    found = self._needed(self._material.items, "items")
    originals = dict(zip(found.ids.tolist(), self._material.originals, strict=True))
    return [item_media.Column("original_id", originals.__getitem__, 0)]

  def covers(self) -> media_sources.Files:
    return self._needed(self._material.covers, "covers")

  def audio(self) -> media_sources.Files:
    return self._needed(self._material.audio, "sound tracks")

  def videos(self) -> video_sources.Files:
    return self._needed(self._material.videos, "videos")

  def expected_items(self) -> list[int]:
    return self.items()[0].ids.tolist()

  def _needed(self, found: Any, what: str) -> Any:
    if found is None:
      raise PrepareError(
        f"there are no {what}: python -m mlrec.ingest makes data sets of them, with --items or --media"
      )
    return found


class _Interactions:
  """As `interaction_rows.InteractionRows`, of histories that are gone through again and again."""

  def __init__(self, material: Material):
    self._histories, self.timed = material.histories, material.timed
    self.count = sum(len(items) for _, items, _ in material.histories)

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return interaction_rows.examples(
      (np.full(len(items), user), items, times) for user, items, times in self._histories
    )


def of_prepared(builder: dataset_builder.DatasetBuilder) -> OwnFiles:
  """What can be made of the prepared `own-histories` of a builder.

  Raises:
    PrepareError: it is not prepared, or a file of it is damaged.
  """
  histories = _Records(builder)
  user_names, item_names = read_names(histories.prepared)
  return OwnFiles(
    Material(
      histories=histories, num_users=len(histories.records), timed=histories.timed, user_names=user_names,
      item_names=item_names,
    )
  )  # fmt: skip


def lines(builder: dataset_builder.DatasetBuilder) -> LineSource:
  """The lines of the prepared `own-histories` of a builder.

  Raises:
    PrepareError: it is not prepared, or a file of it is damaged, which may show only when it is read.
  """
  found = _Records(builder)

  def chunks(position: list[int], folder: pathlib.Path) -> Iterator[Chunk]:
    del folder
    start = position[0] if position else 0
    histories = found.after(start)
    while some := list(itertools.islice(histories, _READ_AT_ONCE)):
      start += len(some)
      users, items, times = zip(*some)
      rows = Rows.from_lists(items)
      yield Chunk([start], np.array(users, np.int64), rows, np.concatenate(times) if found.timed else None)

  return LineSource(
    str(found.prepared.place.root), *found.prepared.identity(), chunks, lambda: read_names(found.prepared), found.timed
  )  # fmt: skip


def read_names(prepared: Prepared) -> tuple[Names | None, Names | None]:
  """The texts that stand for users and for items in the log; None where they are integers.

  Raises:
    DamagedError: they cannot be read.
  """
  path = prepared.place.folder / NAMES
  if not path.exists():
    return None, None
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return Names.from_arrays(arrays, _USERS), Names.from_arrays(arrays, _ITEMS)
  except (OSError, ValueError, EOFError, KeyError) as error:
    raise prepared.place.damaged(NAMES, f"names of ids cannot be read ({error})") from error


class _Records:
  """The histories of a prepared `own-histories`, a chunk of records at a time."""

  def __init__(self, builder: dataset_builder.DatasetBuilder):
    self.prepared = Prepared(builder)
    self.records: Shards = self.prepared.records("train", whole=True)
    self.timed = dict(builder.info.metadata.items()).get("timestamps") == sequences.TIMED

  def __iter__(self) -> Iterator[History]:
    return self.after(0)

  def after(self, first: int) -> Iterator[History]:
    """Those from a place on."""
    for start in range(first, len(self.records), _READ_AT_ONCE):
      for record in self.records.read(range(start, min(start + _READ_AT_ONCE, len(self.records)))):
        try:
          feature = tf_example_pb2.Example.FromString(record).features.feature
          user = feature["user"].int64_list.value[0]
          items, times = (np.array(feature[key].int64_list.value, np.int64) for key in ("items", "timestamps"))
        except (DecodeError, IndexError) as error:
          place = self.prepared.place
          raise place.damaged("", f"a record holds no history ({error})") from error
        yield user, items, times
