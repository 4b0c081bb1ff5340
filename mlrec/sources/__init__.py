"""Where interactions come from: a pairs file, a folder of `mlrec.ingest` or a prepared TFDS data set."""

from collections.abc import Callable
import os
import pathlib

from mlrec import machine
from mlrec.data import impression_files
from mlrec.data import ingested
from mlrec.data import labelled
from mlrec.data import lines
from mlrec.data import split_cache
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Interactions
from mlrec.data.lines import LineSource
from mlrec.data.protocols import Protocol
from mlrec.data.splits import LEAVE_ONE_OUT
from mlrec.data.splits import Split
from mlrec.registry import near_file
from mlrec.registry import Registry

# A source opens `(name, data_dir)` as a `LineSource`; which one is decided by what precedes the name's first "/".
sources = Registry("data source", ["mlrec.sources"])


def load_interactions(source: str, data_dir: str = "") -> Interactions:
  """Reads the interactions that `source` names.

  Args:
    source: the path of a `*_pairs.tsv`, `*_pairs.csv` or `*.inter` file, that of a folder which `mlrec.ingest` has
      made, or a name such as `microlens/50k-sequences`.
    data_dir: where prepared data sets lie; empty for the default place.

  Raises:
    DataError: the data cannot be read, or the name is unknown.
  """
  return _lines(source, data_dir).read()


def load_split(
  source: str,
  data_dir: str,
  protocol: Protocol,
  *,
  max_length: int,
  min_length: int,
  train_windows: int = 1,
  in_memory: int,
  folder: str = "",
) -> Split:
  """The split of the interactions that `source` names: made in memory, or, of a large log, mapped.

  Args:
    source: as of `load_interactions`; or the path of a folder of impressions (`mlrec.sources.mmctr`), of which nothing
      else but `max_length` counts.
    data_dir: likewise.
    protocol: how it is split.
    max_length: as of `Protocol.split`, as are `min_length` and `train_windows`.
    in_memory: bytes that a log has at the most, on the disk, whose split is made in memory.
    folder: where splits of larger ones are kept (`mlrec.data.split_cache`); empty for the user's cache folder.

  Raises:
    DataError: the data cannot be read, the name is unknown, or the log does not serve.
  """
  if impression_files.is_folder(source):
    # It brings in Arrow.
    from mlrec.sources import mmctr

    if protocol.text != LEAVE_ONE_OUT:
      raise DataError(
        f"config.data.split = {protocol.text!r}: {source} holds impressions, which are split already; leave it out"
      )
    return mmctr.read(source, max_length=max_length)
  settings = {"max_length": max_length, "min_length": min_length, "train_windows": train_windows}
  log = _lines(source, data_dir)
  if log.nbytes > in_memory:
    return split_cache.split(log, protocol, _folder(folder), **settings)
  return protocol.split(log.read(), **settings)


def _lines(source: str, data_dir: str) -> LineSource:
  if _is_file(source):
    path = os.path.expanduser(source)
    if not os.path.isfile(path):
      missing = not os.path.exists(path)
      raise DataError(f"{path}: no such file{near_file(pathlib.Path(path))}" if missing else f"{path}: not a file")
    return lines.of_labelled(path) if path.endswith(labelled.SUFFIX) else lines.of_pairs(path)
  return _prepared(source)(source, data_dir)


def _is_file(source: str) -> bool:
  return source.endswith(lines.SUFFIXES) and not ingested.is_ingested(source)


def _folder(named: str) -> pathlib.Path:
  """Where splits are kept."""
  try:
    return pathlib.Path(named).expanduser() if named else machine.cache_folder("splits")
  except RuntimeError as error:
    raise DataError(f"config.data.splits_dir = {named!r}: there is no such home folder") from error


def _prepared(source: str) -> Callable[[str, str], LineSource]:
  if ingested.is_ingested(source):
    return sources.get("microlens")
  for inside in impression_files.folders_in(source):
    raise DataError(f"config.data.source = {source!r}: it holds no data itself; did you mean {inside!r}?")
  family, slash, _ = source.partition("/")
  if not slash or family not in sources.names():
    raise DataError(
      f"config.data.source = {source!r}: expected the path of a *_pairs.tsv, *_pairs.csv or *.inter file, of a "
      "folder that python -m mlrec.ingest has made and finished, or of impressions (with a train.parquet in it), or a "
      "name that starts with "
      f"{' or '.join(f'{name}/' for name in sources.names())}"
    )
  return sources.get(family)
