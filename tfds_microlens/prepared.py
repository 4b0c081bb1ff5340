"""A prepared data set, opened for reading: whole as far as its digests tell, and its splits by place."""

import pathlib
from typing import Any

from absl import logging
import numpy as np
from tensorflow_datasets.core import dataset_builder

from tfds_microlens.digests import Digests
from tfds_microlens.digests import Place
from tfds_microlens.errors import PrepareError
from tfds_microlens.shards import Shards

# In the metadata of a data set that does not hold everything.
MOST_EXAMPLES = "max_examples_per_split"


class Prepared:
  """The data of a builder.

  Attributes:
    place: where it lies.
  """

  def __init__(self, builder: dataset_builder.DatasetBuilder):
    """Compares the files other than shards with their digests; warns where the data set is only the beginning of one.

    Raises:
      PrepareError: it is not prepared, or a file is damaged.
    """
    self.place = place_of(builder)
    check_prepared(self.place)
    self._digests, self._info = Digests(self.place), builder.info
    if not builder.info.splits:
      raise not_prepared(self.place)
    most = dict(builder.info.metadata.items()).get(MOST_EXAMPLES)
    if most is not None:
      logging.warning("%s holds %d examples of each split at most, as was asked for.", self.place.name, most)

  def identity(self) -> tuple[dict[str, Any], int]:
    """What tells the data from any other's, as JSON; and what it has on the disk, in bytes."""
    files = {path.name: path.stat() for path in sorted(self.place.folder.iterdir())}
    said = {name: [found.st_size, found.st_mtime_ns] for name, found in files.items()}
    return {"path": str(self.place.folder.resolve()), "files": said}, sum(found.st_size for found in files.values())

  def records(self, split: str, *, whole: bool) -> Shards:
    """The records of a split; `whole` as of `Shards`.

    Raises:
      DamagedError: there is no such split.
    """
    return Shards(self.place, self._digests, self._info, split, whole=whole)

  def ids(self, file: str) -> np.ndarray:
    """A table of ids beside the records, `[n]` int64.

    Raises:
      DamagedError: there is no such table.
    """
    try:
      found = np.load(self.place.folder / file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
      raise self.place.damaged(file, f"the ids of the records cannot be read ({error})") from error
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype != np.int64:
      raise self.place.damaged(file, "expected a row of 64-bit integers, the ids of the records")
    return found


def place_of(builder: dataset_builder.DatasetBuilder) -> Place:
  """Where the data of a builder lies, or will."""
  config, folder = builder.builder_config_name or builder.info.config_name, pathlib.Path(builder.data_dir)
  # A builder that TFDS opened by its files alone takes their folder for the root.
  in_its_place = folder.parts[-3:-1] == (builder.name, config)
  return Place(
    f"{builder.name}/{config}", folder.parents[2] if in_its_place else pathlib.Path(builder.data_dir_root), folder
  )


def check_prepared(place: Place) -> None:
  """Raises a PrepareError, with the command to run, if nothing is there."""
  if not place.folder.exists():
    raise not_prepared(place)


def not_prepared(place: Place) -> PrepareError:
  """The error for a data set that is not there."""
  return PrepareError(f"{place.name}: not prepared in {place.root}; run {place.command}")
