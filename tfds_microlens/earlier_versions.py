"""Data that was prepared in an earlier version of its config, whose records are those of today's.

mlrec reads it as it lies. When today's version is prepared, its files are taken over (linked, so that they take no more
space) and nothing is made again.
"""

import os
import pathlib
import shutil
from typing import TypeVar

from absl import logging
from tensorflow_datasets.core import dataset_builder
import tensorflow_datasets.public_api as tfds

from tfds_microlens import digests
from tfds_microlens import prepared
from tfds_microlens.errors import DamagedError

AnyBuilder = TypeVar("AnyBuilder", bound=dataset_builder.DatasetBuilder)
# Tables of ids and reports; other files beside the shards are of the version.
_TAKEN = (".npy", ".tsv")


def found(builder: AnyBuilder) -> AnyBuilder | None:
  """The builder of the version before that of `builder`, if it was prepared in the same data_dir."""
  for version in builder.supported_versions:
    if version < builder.version:
      before = type(builder)(config=builder.builder_config.name, data_dir=builder.data_dir_root, version=version)
      if before.data_path.exists():
        return before
  return None


def take_over(before: dataset_builder.DatasetBuilder, builder: dataset_builder.DatasetBuilder) -> bool:
  """Gives a data set that is being made the records, tables, splits and metadata of an earlier version.

  Args:
    before: the builder of the earlier version.
    builder: that of the data set, whose `data_path` is an empty folder.

  Returns:
    Whether that was possible: it is not if a file is damaged, which is logged, or if not everything was prepared.
  """
  place = prepared.place_of(before)
  try:
    digests.Digests(place).check_all()
  except DamagedError as error:
    logging.warning("%s\nNothing of it is taken over.", error)
    return False
  metadata = dict(before.info.metadata.items())
  if prepared.MOST_EXAMPLES in metadata:
    return False
  print(f"Taking over the records of {place.folder}; without that folder they would be made anew", flush=True)
  for path in sorted(place.folder.iterdir()):
    if digests.is_shard(path.name) or path.suffix in _TAKEN:
      _link(path, pathlib.Path(builder.data_path) / path.name)
  builder.info.metadata.update(metadata)
  splits = [
    split.replace(filename_template=split.filename_template.replace(data_dir=builder.data_path))
    for split in before.info.splits.values()
  ]
  builder.info.set_splits(tfds.core.SplitDict(splits))
  return True


def _link(path: pathlib.Path, target: pathlib.Path) -> None:
  try:
    os.link(path, target)
  except OSError:  # of a file system without links
    shutil.copyfile(path, target)
