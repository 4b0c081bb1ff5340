"""Which failures are those of what a run was asked to do, so that other runs may go on."""

import jax

from mlrec.train import loop


def reason(error: Exception) -> str | None:
  """Why a run failed by its own config; None for what it did not do, such as a full disk or a mistake in code."""
  if loop.is_disk_full(error):
    return None
  if isinstance(error, FileNotFoundError) and error.filename:
    return f"there is no file {error.filename}"
  if isinstance(error, loop.TrainingDiverged | ValueError):
    # The second is what constructors and evaluation say of options and of scores that are not finite.
    return str(error)
  if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
    return f"out of memory: {str(error).splitlines()[0]}"
  return None
