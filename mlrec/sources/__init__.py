"""Where interactions come from: a pairs file, a folder of `mlrec.ingest` or a prepared TFDS data set."""

import os

from mlrec.data import ingested
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import read_pairs
from mlrec.registry import Registry

# A source reads `(name, data_dir)`; which one is decided by what precedes the name's first "/".
sources = Registry("data source", ["mlrec.sources"])

_FILE_SUFFIXES = (".tsv", ".csv")


def load_interactions(source: str, data_dir: str = "") -> Interactions:
  """Reads the interactions that `source` names.

  Args:
    source: the path of a `*_pairs.tsv` or `*_pairs.csv` file, that of a folder which `mlrec.ingest` has made, or a name
      such as `microlens/50k-sequences`.
    data_dir: where prepared data sets lie; empty for the default place.

  Raises:
    DataError: the data cannot be read, or the name is unknown.
  """
  if ingested.is_ingested(source):
    return sources.get("microlens")(source, data_dir)
  if source.endswith(_FILE_SUFFIXES):
    return read_pairs(os.path.expanduser(source))
  family, slash, _ = source.partition("/")
  if not slash or family not in sources.names():
    raise DataError(
      f"config.data.source = {source!r}: expected the path of a *_pairs.tsv or *_pairs.csv file, of a folder that "
      "python -m mlrec.ingest has made and finished, or a name that starts with "
      f"{' or '.join(f'{name}/' for name in sources.names())}"
    )
  return sources.get(family)(source, data_dir)
