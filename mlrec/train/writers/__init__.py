"""Where metrics go beside `metrics.jsonl`: a service or a format is one file of this package.

A writer is registered under the key of `config.log` that asks for it, as a function that opens it.
"""

from collections.abc import Mapping
import pathlib
from typing import Any
from typing import NamedTuple
from typing import Protocol

from mlrec.config import ConfigError
from mlrec.registry import Registry

writers = Registry("metric writer", ["mlrec.train.writers"])


class Run(NamedTuple):
  """The run whose metrics are written.

  Attributes:
    folder: its workdir.
    step: that it begins at; above 0 where it is resumed, and below where what it wrote before is written again.
    config: of the run, as JSON.
  """

  folder: pathlib.Path
  step: int
  config: Mapping[str, Any]


class Writer(Protocol):
  """An open writer."""

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Takes metrics of a split after a step, once each; steps do not fall."""

  def close(self) -> None:
    """Has all of it written."""


def opened(run: Run, log: Mapping[str, Any]) -> list[Writer]:
  """The writers that `config.log` asks for: those whose key is true, or names where they write to.

  Raises:
    ConfigError: one cannot be opened, such as for a package that is missing.
  """
  found = []
  for name in writers.names():
    if log.get(name):
      try:
        found.append(writers.get(name)(run, log[name]))
      except ConfigError:
        raise
      except ImportError as error:
        raise ConfigError(f"config.log.{name} needs a package: pip install {error.name}") from error
      except Exception as error:  # services raise anything
        raise ConfigError(f"config.log.{name} = {log[name]!r}: {type(error).__name__}: {error}") from error
  return found
