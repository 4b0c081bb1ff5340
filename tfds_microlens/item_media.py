"""Covers and sound tracks of an `items` data set: where they come from, and the feature that each becomes."""

from collections.abc import Callable
from collections.abc import Iterable
import os
import pathlib
from typing import NamedTuple

from absl import logging
import numpy as np

from tfds_microlens import audio
from tfds_microlens import covers
from tfds_microlens import media
from tfds_microlens import media_sources
from tfds_microlens.beam import Beam
from tfds_microlens.configs import PATH
from tfds_microlens.errors import PrepareError

NAMES = (covers.Covers.name, audio.Audio.name)


class Column(NamedTuple):
  """A feature of every item.

  Attributes:
    feature: its name.
    of: its value for an item; an empty one if there is nothing.
    without: how many items have nothing.
  """

  feature: str
  of: Callable[[int], bytes | str]
  without: int


def report(name: str) -> str:
  """The file, beside the records, that lists what a medium lacks and what is odd about it."""
  return f"{name}_report.tsv"


def items_file(name: str) -> str:
  """The file, beside the records, of the ids of the items that have a medium: `[n]` int64, ascending."""
  return f"{name}_items.npy"


def cover_source(name: str, places: Iterable[pathlib.Path]) -> media_sources.FileSource:
  """The folder `name`, or the archive `name`.zip, in the first of `places` that has one.

  Raises:
    PrepareError: there is none, or the archive is none.
  """
  places = list(places)
  for place in places:
    if (place / name).is_dir():
      return media_sources.Folder(place / name, covers.SUFFIXES, "covers")
    if (place / f"{name}.zip").is_file():
      return media_sources.Zip(place / f"{name}.zip", covers.SUFFIXES, "covers")
  raise PrepareError(
    f"{name}: no such folder; expected <item>{'|'.join(covers.SUFFIXES)} files in {places[0] / name}, or the archive "
    f"{places[0] / name}.zip (or one of them in {places[-1]}).\nThe README of tfds_microlens says more."
  )


def audio_source(name: str, videos: str, places: Iterable[pathlib.Path]) -> media_sources.Folder:
  """The folder `name` in the first of `places` that has it; else that of the videos, whose sound tracks are taken.

  Raises:
    PrepareError: there is neither.
  """
  places = list(places)
  for folder in (name, videos):
    for place in places:
      if (place / folder).is_dir():
        return media_sources.Folder(place / folder, audio.SUFFIXES, "sound tracks")
  raise PrepareError(
    f"{name}: no such folder; expected <item>{'|'.join(audio.SUFFIXES)} files in {places[0] / name}, or videos in "
    f"{places[0] / videos} (or one of them in {places[-1]}).\nThe README of tfds_microlens says more."
  )


def column(
  medium: media.Medium,
  ids: np.ndarray,
  *,
  cache_dir: pathlib.Path,
  folder: str | os.PathLike[str],
  report_at: pathlib.Path,
  beam: Beam | None = None,
) -> Column:
  """Prepares a medium of the items `ids`, and writes its tables into `folder`.

  Args:
    medium: what is made.
    ids: `[items]` int64, ascending.
    cache_dir: a folder for this data set and this medium alone.
    folder: where the tables go.
    report_at: where `folder` will be in the end, for messages.
    beam: as of `media.prepare`.

  Raises:
    PrepareError: no file at all could be used, or PyAV or Pillow is not installed.
  """
  prepared = media.prepare(medium, cache_dir=cache_dir, expected=ids.tolist(), only_expected=True, beam=beam)
  has = set(prepared.items.tolist())
  np.save(pathlib.Path(folder) / items_file(medium.name), prepared.items)
  prepared.write_report(pathlib.Path(folder) / report(medium.name))
  if prepared.problems or prepared.notes:
    logging.warning(
      "%s: %d of %d items have one of the %s that can be used; %d of these are odd: %s says which and why%s.",
      medium.source, len(has), len(ids), medium.files, len(prepared.notes),
      pathlib.Path(report_at) / report(medium.name), prepared.first_unusable,
    )  # fmt: skip
  return Column(medium.name, lambda item: prepared.record(item) if item in has else b"", len(ids) - len(has))


def path_column(name: str, source: media_sources.Source, ids: np.ndarray) -> Column:
  """Where the files of the items `ids` lie; nothing is read."""
  has = set(source.items)
  without = len(ids) - len(has.intersection(ids.tolist()))
  if without:
    logging.warning("%s: %d of %d items have no file there.", source, without, len(ids))
  return Column(f"{name}_{PATH}", lambda item: os.path.abspath(source.name(item)) if item in has else "", without)
