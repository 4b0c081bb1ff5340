"""Prepared data sets read record by record, without decoding.

Interactions of `microlens/…-sequences` and `…-interactions`, titles and media of `microlens/…-items…`, and frames of
`microlens/…-videos-…`.
"""

from collections.abc import Callable
import dataclasses
import functools
import os
import pathlib

from google.protobuf.message import DecodeError
import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from mlrec.data import ingested
from mlrec.data.interactions import DataError
from mlrec.data.lines import LineSource
from mlrec.registry import closest
from tfds_microlens import earlier_versions
from tfds_microlens import item_media
from tfds_microlens import items as items_lib
from tfds_microlens import own
from tfds_microlens.configs import HISTORIES
from tfds_microlens.configs import MicroLensConfig
from tfds_microlens.media import ITEMS
from tfds_microlens.prepared import Prepared
from tfds_microlens.releases import OWN
from tfds_microlens.releases import RELEASES
from tfds_microlens.sequences import lines as sequence_lines
from tfds_microlens.sequences import timed_lines
from tfds_microlens.tfds_microlens_dataset_builder import Builder

_DEMO = "microlens/demo-"
_READ_AT_ONCE = 1 << 10
# Ids of the items that have a medium; `(item, its coded parts)` of each at the places asked for.
Records = tuple[np.ndarray, Callable[[list[int]], list[tuple[int, list[bytes]]]]]


def open_lines(name: str, data_dir: str = "") -> LineSource:
  """Opens the lines of `microlens/{50k,100k,1m,full,demo}-{sequences,interactions}`; the demo is made on first use.

  Args:
    name: of the data set, or the path of a folder that `mlrec.ingest` has made.
    data_dir: where prepared data sets lie; empty for the default place.

  Raises:
    DataError: the name is unknown, the data set has not been prepared, or a file of it is damaged, which may show only
      when it is read.
  """
  if name.endswith("-interactions"):
    return timed_lines(_builder(name, data_dir, "interactions"))
  if ingested.is_ingested(name) or name == f"microlens/{OWN}-{HISTORIES}":
    return own.lines(_builder(name, data_dir, HISTORIES))
  builder = _builder(name, data_dir, "sequences")
  found = sequence_lines(builder)
  if builder.builder_config.release == OWN:
    return dataclasses.replace(found, names=lambda: own.read_names(Prepared(builder)))
  return found


def read_titles(name: str, data_dir: str = "") -> dict[int, str]:
  """The titles of `microlens/{50k,100k,1m,full,demo}-items…` by original id; the demo is made on first use.

  Raises:
    DataError: as `open_lines`.
  """
  opened = _Opened(_builder(name, data_dir, "items"), whole=True)
  titles = {}
  for start in range(0, len(opened), _READ_AT_ONCE):
    for item, (title,) in opened.records("title", list(range(start, min(start + _READ_AT_ONCE, len(opened))))):
      titles[item] = title.decode(errors="replace")
  return titles


def read_title_file(path: str | os.PathLike[str]) -> dict[int, str]:
  """The titles of a release's `*_title*.csv` by original id.

  A quote is a character like any other in releases that do not quote titles; the file's name says which.

  Raises:
    DataError: the file is missing or empty, or a line is malformed (its number is named).
  """
  quoted = {release.titles: release.quoted_titles for release in RELEASES.values()}
  return items_lib.read_titles(path, quoted=quoted.get(pathlib.Path(path).name, True))


def open_videos(name: str, data_dir: str = "") -> Records:
  """Opens the frames of `microlens/…-videos-<frames>x<size>[-i<interval>]`; the demo is made on first use.

  Returns:
    `(items [records] int64, ascending; a function from places among them to their records)`. The function may be
    called from several threads.

  Raises:
    DataError: as `open_lines`.
  """
  opened = _Opened(_builder(name, data_dir, "videos"))
  items = opened.prepared.ids(ITEMS)
  opened.check(ITEMS, items)
  return items, functools.partial(opened.records, "frames")


def open_items(name: str, medium: str, data_dir: str = "") -> Records:
  """Opens a medium, `cover` or `audio`, of `microlens/…-items-…`; the demo is made on first use.

  Returns:
    As of `open_videos`, for the items that have it; of each there is one coded part.

  Raises:
    DataError: as `open_lines`, or the data set does not hold such media.
  """
  opened = _Opened(_builder(name, data_dir, "items", medium))
  everything = opened.prepared.ids(ITEMS)
  opened.check(ITEMS, everything)
  table = item_media.items_file(medium)
  items = opened.prepared.ids(table)
  places = np.searchsorted(everything, items)
  if not np.array_equal(everything[places.clip(max=len(everything) - 1)], items):
    raise opened.prepared.place.damaged(table, f"it names items that {ITEMS} does not")

  def records(wanted: list[int]) -> list[tuple[int, list[bytes]]]:
    return opened.records(medium, places[wanted].tolist())

  return items, records


def audio_seconds(name: str) -> int:
  """How many seconds of sound, at most, `microlens/…-items…-audio<seconds>s` has of an item."""
  config = _named(name, "", "items")[0].removeprefix("microlens/")
  return int(Builder.builder_configs[config].media.audio)


class _Opened:
  """The records of the split `train` of a prepared data set, by place.

  Attributes:
    prepared: the data set.
  """

  def __init__(self, builder: Builder, *, whole: bool = False):
    self.prepared = Prepared(builder)
    self._records = self.prepared.records("train", whole=whole)

  def __len__(self) -> int:
    return len(self._records)

  def check(self, file: str, ids: np.ndarray) -> None:
    """Raises a DamagedError unless there is an id a record."""
    if len(ids) != len(self):
      raise self.prepared.place.damaged(file, f"expected {len(self)} ids, one a record, not {len(ids)}")

  def records(self, feature: str, places: list[int]) -> list[tuple[int, list[bytes]]]:
    found = []
    try:
      for record in self._records.read(places):
        features = tf_example_pb2.Example.FromString(record).features.feature
        found.append((features["item"].int64_list.value[0], list(features[feature].bytes_list.value)))
    except (DecodeError, IndexError) as error:
      place = self.prepared.place
      raise DataError(f"{place.folder}: a record holds no item ({error}); prepare it again: {place.command}") from error
    return found


def _named(name: str, data_dir: str, kind: str) -> tuple[str, str]:
  """The name of a data set and where it lies, also where a folder that `mlrec.ingest` has made stands for it."""
  if not ingested.is_ingested(name):
    return name, data_dir
  sets = ingested.read(name).sets
  if kind not in sets:
    raise DataError(f"{name!r} has no {kind}: python -m mlrec.ingest makes them, with --items=FILE or --media=DIR")
  return sets[kind], os.path.expanduser(name)


def _builder(name: str, data_dir: str, kind: str, medium: str = "") -> Builder:
  asked = name
  name, data_dir = _named(name, data_dir, kind)

  def fits(config: MicroLensConfig | None) -> bool:
    return config is not None and config.kind == kind and (not medium or type(getattr(config.media, medium)) is int)

  configs = Builder.builder_configs
  config = configs.get(name.removeprefix("microlens/")) if name.startswith("microlens/") else None
  if config is None or not fits(config):
    without = f" has no {medium} of its items" if medium and config is not None and config.kind == kind else ""
    if asked != name:
      raise DataError(f"{asked!r}{without}: none was found where it was made; python -m mlrec.ingest with --media=DIR")
    known = [f"microlens/{config.name}" for config in configs.values() if fits(config)]
    raise DataError(f"{name!r}{without}: {closest(name, known)}")
  builder = Builder(config=config.name, data_dir=data_dir or None)
  if not builder.data_path.exists():
    before = earlier_versions.found(builder)
    if before is not None:
      return before
    if name.startswith(_DEMO):
      builder.download_and_prepare()
  return builder
