"""What prepared TFDS data holds: interactions of `microlens/…-sequences`, titles of `microlens/…-items`, and frames of
`microlens/…-videos-…`.
"""

from collections.abc import Callable
import os
import pathlib

import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.interactions import Interactions
from mlrec.data.sources import sources

_DEMO = "microlens/demo-"
_READ_AT_ONCE = 1 << 12
# Ids of the records; `(item, JPEG frames)` of each record at the places asked for.
VideoRecords = tuple[np.ndarray, Callable[[list[int]], list[tuple[int, list[bytes]]]]]


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
  """The titles of `microlens/{50k,100k,1m,full,demo}-items` by original id; the demo is made on first use.

  Raises:
    DataError: the name is unknown, or the data set has not been prepared.
  """
  from tensorflow_datasets.core import decode
  from tensorflow_datasets.proto import tf_example_pb2

  builder = _prepared(name, data_dir, "items", f"config.data.content = {name!r}")
  source = builder.as_data_source("train", deserialize_method=decode.DeserializeMethod.RAW_BYTES)
  titles = {}
  for start in range(0, len(source), _READ_AT_ONCE):
    for record in source.__getitems__(range(start, min(start + _READ_AT_ONCE, len(source)))):
      feature = tf_example_pb2.Example.FromString(record).features.feature
      titles[feature["item"].int64_list.value[0]] = feature["title"].bytes_list.value[0].decode(errors="replace")
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


def open_videos(name: str, data_dir: str = "") -> VideoRecords:
  """Opens `microlens/…-videos-<frames>x<size>[-i<interval>]`; the demo is made on first use.

  Returns:
    `(items [records] int64, ascending; a function from places among them to their records)`. The function may be
    called from several threads.

  Raises:
    DataError: the name is unknown, or the data set has not been prepared.
  """
  from tensorflow_datasets.core import decode
  from tensorflow_datasets.proto import tf_example_pb2

  from tfds_microlens.videos import ITEMS

  builder = _prepared(name, data_dir, "videos", repr(name))
  source = builder.as_data_source("train", deserialize_method=decode.DeserializeMethod.RAW_BYTES)
  path = pathlib.Path(builder.data_dir, ITEMS)
  try:
    items = np.load(path, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise DataError(f"{path}: the ids of the records cannot be read ({error}); prepare {name} again") from error
  if items.shape != (len(source),):
    raise DataError(f"{path}: expected {len(source)} ids, one a record, not {items.shape}; prepare {name} again")

  def records(places):
    found = []
    for record in source.__getitems__(places):
      feature = tf_example_pb2.Example.FromString(record).features.feature
      found.append((feature["item"].int64_list.value[0], list(feature["frames"].bytes_list.value)))
    return found

  return items, records


def _prepared(name: str, data_dir: str, kind: str, named_by: str):
  builder = _builder(name, data_dir, kind, named_by)
  if not builder.info.splits:
    config = name.removeprefix("microlens/")
    raise DataError(
      f"{name}: not prepared in {builder.data_dir_root}; run python -m tfds_microlens {config} "
      f"--data_dir={builder.data_dir_root}"
    )
  return builder


def _builder(name: str, data_dir: str, kind: str, named_by: str):
  import tensorflow_datasets as tfds

  import tfds_microlens

  configs = tfds_microlens.Builder.builder_configs
  config = configs.get(name.removeprefix("microlens/")) if name.startswith("microlens/") else None
  if config is None or config.kind != kind:
    from mlrec.registry import closest

    raise DataError(
      f"{named_by}: {closest(name, [f'microlens/{config.name}' for config in configs.values() if config.kind == kind])}"
    )
  builder = tfds.builder(name, data_dir=data_dir or None)
  if name.startswith(_DEMO) and not builder.info.splits:
    try:
      builder.download_and_prepare()
    except tfds_microlens.PrepareError as error:
      raise DataError(str(error)) from error
  return builder
