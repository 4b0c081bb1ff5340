"""What the commands that use a trained workdir share: the flags that name it, and how its failures are told."""

from collections.abc import Callable
import pathlib
from typing import Any
from typing import NamedTuple
from typing import TYPE_CHECKING

from absl import flags

from mlrec import command_line
from mlrec import terminal
from mlrec.config import ConfigError

if TYPE_CHECKING:
  from mlrec.inference.catalogue import Catalogue
  from mlrec.inference.recommender import Recommender

# The flags are those of the command that asks for them.
flags.disclaim_key_flags()

_PLACES = ("content", "videos", "features", "features_dir", "codes", "data_dir")


class RunFlags(NamedTuple):
  """The flags that name a trained run, and where what it reads lies now."""

  workdir: flags.FlagHolder
  new_items: flags.FlagHolder
  titles: flags.FlagHolder
  places: dict[str, flags.FlagHolder]

  @classmethod
  def define(cls) -> "RunFlags":
    """Defines the flags, as those of the module that calls this."""
    return cls(
      flags.DEFINE_string("workdir", None, "The trained run: a workdir of python -m mlrec.main."),
      flags.DEFINE_bool("new_items", False, "Also items that the content has and training had not, by their content."),
      flags.DEFINE_string("titles", "", "Of a prepared data set, a folder of mlrec.ingest or a *_titles.csv file."),
      {
        key: flags.DEFINE_string(
          key, "", f"Where the run's config.data.{key} lies now, if elsewhere than at its training."
        )
        for key in _PLACES
      },
    )

  def require(self) -> None:
    """Raises a ConfigError unless a workdir is named."""
    if not self.workdir.value:
      raise ConfigError("--workdir=DIR is required: a run of python -m mlrec.main")

  def load(self) -> "Recommender":
    """The recommender that they name; JAX, Flax and Orbax come in here.

    Raises:
      ConfigError, DataError, CheckpointError: as of `Recommender.load`.
    """
    from mlrec.inference.recommender import Recommender

    places = {key: flag.value for key, flag in self.places.items()}
    return Recommender.load(str(self.workdir.value), places=places, new_items=self.new_items.value)

  def catalogue(self, recommender: "Recommender") -> "Catalogue":
    """Titles and pictures of its items.

    Raises:
      DataError: there are no titles where they are said to be.
    """
    from mlrec.inference.catalogue import Catalogue

    return Catalogue.of(recommender.loaded.config.data, titles=self.titles.value)


def reporting(work: Callable[[], Any], *, named: str | pathlib.Path = "") -> int:
  """Does the work; returns the exit status, with what a run or the system refuses told in a line.

  Args:
    work: what to do.
    named: what an error of the system is about that names no file.

  Raises:
    ConfigError, DataError: as they come.
  """
  from mlrec.metrics import ScoresNotFinite
  from mlrec.train.checkpoint import CheckpointError

  terminal.log_plainly()
  try:
    work()
  except (CheckpointError, ScoresNotFinite) as error:
    return command_line.report(error, command_line.FAILED)
  except OSError as error:
    return command_line.report(f"{error.filename or named}: {error.strerror or error}", command_line.FAILED)
  return 0
