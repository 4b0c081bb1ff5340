"""What prepared TFDS data holds: interactions of `microlens/…-sequences`, titles and media of `microlens/…-items…`, and
frames of `microlens/…-videos-…`.
"""

from collections.abc import Callable
import functools
import os
import pathlib

import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.interactions import Interactions
from mlrec.data.sources import sources

_DEMO = "microlens/demo-"
_READ_AT_ONCE = 1 << 10
# Ids of the items that have a medium; `(item, its coded parts)` of each at the places asked for.
Records = tuple[np.ndarray, Callable[[list[int]], list[tuple[int, list[bytes]]]]]


@sources.register("microlens")
def read(name: str, data_dir: str = "") -> Interactions:
  """Reads `microlens/{50k,100k,1m,full,demo}-sequences`; the demo is made on first use.

  Raises:
    DataError: the name is unknown, or the data set has not been prepared.
  """
  # These bring in TFDS, which reading a pairs file does without.
  import tfds_microlens
  from tfds_microlens.sequences import read_interactions

  try:
    return read_interactions(_builder(name, data_dir, "sequences", f"config.data.source = {name!r}"))
  except tfds_microlens.PrepareError as error:
    raise DataError(str(error)) from error


def read_titles(name: str, data_dir: str = "") -> dict[int, str]:
  """The titles of `microlens/{50k,100k,1m,full,demo}-items…` by original id; the demo is made on first use.

  Raises:
    DataError: the name is unknown, or the data set has not been prepared.
  """
  opened = _Opened(name, _builder(name, data_dir, "items", f"config.data.content = {name!r}"))
  titles = {}
  for start in range(0, len(opened), _READ_AT_ONCE):
    for item, (title,) in opened.records("title", list(range(start, min(start + _READ_AT_ONCE, len(opened))))):
      titles[item] = title.decode(errors="replace")
  return titles


def read_title_file(path: str | os.PathLike) -> dict[int, str]:
  """The titles of a release's `*_title*.csv` by original id.

  A quote is a character as any other in the releases that do not quote titles, which the file's name tells.

  Raises:
    DataError: the file is missing or empty, or a line is malformed (its number is named).
  """
  from tfds_microlens import items
  from tfds_microlens.releases import RELEASES

  quoted = {release.titles: release.quoted_titles for release in RELEASES.values()}
  return items.read_titles(path, quoted=quoted.get(pathlib.Path(path).name, True))


def open_videos(name: str, data_dir: str = "") -> Records:
  """Opens the frames of `microlens/…-videos-<frames>x<size>[-i<interval>]`; the demo is made on first use.

  Returns:
    `(items [records] int64, ascending; a function from places among them to their records)`. The function may be
    called from several threads.

  Raises:
    DataError: the name is unknown, or the data set has not been prepared.
  """
  from tfds_microlens.media import ITEMS

  opened = _Opened(name, _builder(name, data_dir, "videos", repr(name)))
  items = opened.ids(ITEMS)
  opened.check(len(items))
  return items, functools.partial(opened.records, "frames")


def open_items(name: str, medium: str, data_dir: str = "") -> Records:
  """Opens a medium, `cover` or `audio`, of `microlens/…-items-…`; the demo is made on first use.

  Returns:
    As of `open_videos`, for the items that have it; of each there is one coded part.

  Raises:
    DataError: the name is unknown or does not say that there are such media, or the data set has not been prepared.
  """
  from tfds_microlens import item_media
  from tfds_microlens.media import ITEMS

  opened = _Opened(name, _builder(name, data_dir, "items", f"config.data.content = {name!r}", medium))
  everything, items = opened.ids(ITEMS), opened.ids(item_media.items_file(medium))
  opened.check(len(everything))
  places = np.searchsorted(everything, items)

  def records(wanted):
    return opened.records(medium, places[wanted].tolist())

  return items, records


def audio_seconds(name: str) -> int:
  """How many seconds of sound, at most, `microlens/…-items…-audio<seconds>s` has of an item."""
  import tfds_microlens

  return int(tfds_microlens.Builder.builder_configs[name.removeprefix("microlens/")].media.audio)


class _Opened:
  """The records of a prepared data set, by place."""

  def __init__(self, name: str, builder):
    from tensorflow_datasets.core import decode

    self._name, self._folder = name, pathlib.Path(builder.data_dir)
    if not builder.info.splits:
      config = name.removeprefix("microlens/")
      raise DataError(
        f"{name}: not prepared in {builder.data_dir_root}; run python -m tfds_microlens {config} "
        f"--data_dir={builder.data_dir_root}"
      )
    self._source = builder.as_data_source("train", deserialize_method=decode.DeserializeMethod.RAW_BYTES)

  def __len__(self) -> int:
    return len(self._source)

  def ids(self, file: str) -> np.ndarray:
    path = self._folder / file
    try:
      return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
      raise DataError(f"{path}: the ids of the records cannot be read ({error}); prepare {self._name} again") from error

  def check(self, count: int) -> None:
    if count != len(self._source):
      raise DataError(
        f"{self._folder}: expected {len(self._source)} ids, one a record, not {count}; prepare {self._name} again"
      )

  def records(self, feature: str, places: list[int]) -> list[tuple[int, list[bytes]]]:
    from tensorflow_datasets.proto import tf_example_pb2

    found = []
    for record in self._source.__getitems__(places):
      features = tf_example_pb2.Example.FromString(record).features.feature
      found.append((features["item"].int64_list.value[0], list(features[feature].bytes_list.value)))
    return found


def _builder(name: str, data_dir: str, kind: str, named_by: str, medium: str = ""):
  import tensorflow_datasets as tfds

  import tfds_microlens

  def fits(config) -> bool:
    return config is not None and config.kind == kind and (not medium or type(getattr(config.media, medium)) is int)

  configs = tfds_microlens.Builder.builder_configs
  config = configs.get(name.removeprefix("microlens/")) if name.startswith("microlens/") else None
  if not fits(config):
    from mlrec.registry import closest

    without = f" has no {medium} of its items" if medium and config is not None and config.kind == kind else ""
    known = [f"microlens/{config.name}" for config in configs.values() if fits(config)]
    raise DataError(f"{named_by}{without}: {closest(name, known)}")
  builder = tfds.builder(name, data_dir=data_dir or None)
  if name.startswith(_DEMO) and not builder.info.splits:
    try:
      builder.download_and_prepare()
    except tfds_microlens.PrepareError as error:
      raise DataError(str(error)) from error
  return builder
