"""Interactions of prepared TFDS data: `microlens/…-sequences`, and with timestamps `microlens/…-interactions`."""

from collections.abc import Iterator
import contextlib
import dataclasses

from mlrec.data.interactions import DataError
from mlrec.data.lines import LineSource
from mlrec.sources import sources


@sources.register("microlens")
def lines(name: str, data_dir: str = "") -> LineSource:
  """Opens `microlens/{50k,100k,1m,full,demo}-{sequences,interactions}`; the demo is made on first use.

  Raises:
    DataError: the name is unknown, or the data set has not been prepared.
  """
  # It brings in TFDS, which reading a pairs file does without.
  from tfds_microlens import reading

  with _named():
    found = reading.open_lines(name, data_dir)
  return dataclasses.replace(found, whole=_named()(found.read))


@contextlib.contextmanager
def _named() -> Iterator[None]:
  """Has errors say which key of the config names the data."""
  try:
    yield
  except DataError as error:
    raise DataError(f"config.data.source = {error}") from error
