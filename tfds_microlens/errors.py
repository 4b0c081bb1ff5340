"""Errors that a user can act on, in one line or a few."""

from collections.abc import Iterator
import contextlib
import os
import pathlib

from mlrec import files
from mlrec.data.interactions import DataError

_ADVICE = " with data_dir (TFDS_DATA_DIR, --data_dir); a download that was interrupted is resumed."


class PrepareError(DataError):
  """Data that is not available or cannot be prepared: what was expected, what was found, and what to do."""


class UnavailableError(PrepareError):
  """A file that is available nowhere, as opposed to one that is wrong."""


class DamagedError(PrepareError):
  """A file of a prepared data set that is not what was written."""


@contextlib.contextmanager
def full_disk_reported(folder: str | os.PathLike[str], advice: str = _ADVICE) -> Iterator[None]:
  """Turns "no space left on device" into a PrepareError that names `folder`, and says what can be done."""
  try:
    yield
  except (OSError, RuntimeError) as error:
    # ArrayRecord's writer raises RuntimeError with the system's words in it.
    if not files.is_disk_full(error):
      raise
    raise PrepareError(f"{folder}: no space left on the disk. Free some, or name another disk{advice}") from error


@contextlib.contextmanager
def local_files_reported(path: pathlib.Path) -> Iterator[None]:
  """Turns what the file system refuses, other than for a full disk, into a PrepareError that names the path."""
  try:
    yield
  except OSError as error:
    if files.is_disk_full(error):
      raise
    raise PrepareError(f"{error.filename or path}: cannot be used: {error.strerror or error}") from error
