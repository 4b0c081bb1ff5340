"""From a table in memory to a recommender, in one call."""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import os
import pathlib
import tempfile
from typing import Any

from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec import files
from mlrec.config import ConfigError
from mlrec.data import ingested
from mlrec.data.interactions import DataError
from mlrec.inference.recommender import Recommender
from mlrec.runs import experiment

# What can be said of a table, for messages.
_OPTIONS = ("user", "item", "time", "rating", "min_rating", "core", "repeats")
_EXAMPLE = "mlrec.fit(frame, config='configs/id_sasrec.py', overrides={'train.epochs': 5})"


def fit(
  frame: Any,
  config: str | ConfigDict = "configs/id_sasrec.py",
  *,
  workdir: str | os.PathLike[str] | None = None,
  user: str = "",
  item: str = "",
  time: str = "",
  rating: str = "",
  min_rating: float | None = None,
  core: str | int = "",
  repeats: str = "keep",
  overrides: Mapping[str, Any] = {},
  say: Callable[[str], None] = lambda line: None,
) -> Recommender:
  """Trains on a table of interactions, and returns the best parameters in use.

  The same call on the same table resumes what was begun in `workdir`, and is quick where it is finished there.

  Args:
    frame: a row an interaction: a table of Arrow, pandas or Polars, or whatever else has `__arrow_c_stream__`, or a
      mapping of column names to sequences. Ids are integers or texts.
    config: a config file, a shipped one by its name, or a config.
    workdir: where the run is kept; a new temporary folder if not said.
    user: its column; empty for one of a usual name.
    item: likewise.
    time: likewise; without times the order of rows counts.
    rating: likewise; not read unless `min_rating` says so.
    min_rating: rows that are rated lower are left out.
    core: as of `mlrec.ingest.ingest`.
    repeats: likewise.
    overrides: values by key of the config, such as `{"train.epochs": 5}`.
    say: is called with each line of what the run says.

  Raises:
    DataError: the table cannot be used.
    ConfigError: the config cannot be, or `workdir` holds another run.
  """
  made = _config(config)
  folder = pathlib.Path(workdir or tempfile.mkdtemp(prefix="mlrec_")).expanduser()
  try:
    files.check_name(folder)
  except OSError as error:
    raise ConfigError(f"workdir={os.fspath(folder)!r}: {error.strerror}") from error
  columns = {"user": user, "item": item, "time": time, "rating": rating, "core": str(core), "repeats": repeats}
  source = _ingest(frame, folder, columns, min_rating, say)
  made = config_lib.with_values(made, {"data.source": str(source), **overrides})
  experiment.run(made, folder, say=say)
  return Recommender.load(folder)


def _config(config: str | ConfigDict) -> ConfigDict:
  if isinstance(config, ConfigDict):
    return config_lib.validate(config)
  file, colon, argument = config.partition(":")
  path = config_lib.found(file)
  if not pathlib.Path(path).is_file():
    raise ConfigError(f"config = {config!r}: {config_lib.missing(file)}; an example is {_EXAMPLE}")
  return config_lib.validate(config_lib.from_file(f"{path}{colon}{argument}", "get_config", "it is no config"))


def _ingest(
  frame: Any, folder: pathlib.Path, columns: Mapping[str, str], min_rating: float | None, say: Callable[[str], None]
) -> pathlib.Path:
  """The folder of the prepared data set of a table, within the workdir and named by its content and the options."""
  import pyarrow.parquet

  from tfds_microlens.ingest import job
  from tfds_microlens.ingest.settings import Settings
  from tfds_microlens.ingest.wording import Wording

  table = _arrow(frame)
  was_there = folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  log = folder / "table.parquet"
  try:
    with files.replacing(log) as temporary:
      pyarrow.parquet.write_table(table, temporary)
    options = files.sha256_of_json([dict(columns), min_rating])
    target = folder / f"table_{files.sha256(log)[:12]}_{options[:6]}"
    if not ingested.is_ingested(target):
      words = Wording({name: f"{name}=" for name in _OPTIONS}, repr, "the table")
      settings = Settings(interactions=str(log), min_rating=min_rating, words=words, **columns)  # type: ignore[arg-type]
      job.run(settings, target, say)
  finally:
    log.unlink(missing_ok=True)
    if not was_there:
      with contextlib.suppress(OSError):  # where there is something in it by now
        folder.rmdir()
  return target


def _arrow(frame: Any) -> Any:
  import pyarrow as pa

  try:
    if isinstance(frame, pa.Table):
      return frame
    if isinstance(frame, pa.RecordBatch):
      return pa.Table.from_batches([frame])
    if isinstance(frame, Mapping):
      return pa.table({str(name): pa.array(column) for name, column in frame.items()})
    if hasattr(frame, "__arrow_c_stream__"):
      return pa.table(frame)
    if type(frame).__module__.partition(".")[0] == "pandas":
      return pa.Table.from_pandas(frame, preserve_index=False)
  except (pa.ArrowException, ValueError, TypeError) as error:
    raise DataError(f"the table cannot be read: {str(error).splitlines()[0]}") from error
  raise DataError(f"expected a table of Arrow, pandas or Polars, or a mapping of columns, not {type(frame).__name__}")
