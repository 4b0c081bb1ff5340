"""Which failures are those of what a run was asked to do, so that other runs may be done all the same."""

import jax

from mlrec import files
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.metrics import ScoresNotFinite
from mlrec.registry import OptionError
from mlrec.train.checkpoint import CheckpointError
from mlrec.train.session import TrainingDiverged

_OF_THE_RUN = (ConfigError, DataError, OptionError, ScoresNotFinite, CheckpointError, TrainingDiverged)


def reason(error: Exception) -> str | None:
  """Why a run failed by its own config; None for what it did not do, such as a full disk or a mistake in code."""
  if files.is_disk_full(error):
    return None
  if isinstance(error, FileNotFoundError) and error.filename:
    return f"there is no file {error.filename}"
  if isinstance(error, _OF_THE_RUN):
    return str(error)
  if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
    return f"out of memory: {str(error).splitlines()[0]}"
  return None
