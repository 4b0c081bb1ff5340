"""Runs a study: a workdir a run, the report brought up to date after each."""

from collections.abc import Callable
import pathlib

from ml_collections import ConfigDict

from mlrec.config import ConfigError
from mlrec.files import write_text
from mlrec.registry import OptionError
from mlrec.runs.report import plot as plots
from mlrec.runs.report import render
from mlrec.runs.study import definition
from mlrec.runs.study import plot as study_plot
from mlrec.runs.study import results as results_lib
from mlrec.runs.study.definition import Study
from mlrec.runs.study.results import Results

_FORMS = ("md", "csv", "svg", "png")


def run(
  study: Study,
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  report_only: bool = False,
  draw: bool = True,
  say: Callable[[str], None] = print,
) -> None:
  """Runs what of a study is not finished, and writes its report.

  Args:
    study: checked.
    config: validated; what its runs override.
    workdir: of the study, which has a folder for each run, named by the run.
    report_only: whether to write the report of what is there, and run nothing.
    draw: whether to draw it, too.
    say: prints a line.

  Raises:
    ConfigError: a run's config is wrong, the vectors cannot be made, nothing came to a result, or the report cannot be
      written.
    DataError: the vectors' content cannot be read.
    Interrupted: the process was asked to stop; the study can be resumed.
  """
  if draw:
    plots.require()
  configs = {one.folder: definition.config_of(config, one) for one in study.runs}
  if not report_only:
    if study.vectors and not config.data.features:
      folder = _make_vectors(study, config, say)
      for one in configs.values():
        one.data.features = one.data.features or folder
    failures: dict[str, str] = {}
    for number, one in enumerate(study.runs, start=1):
      say(f"run {number} of {len(study.runs)}: {one.name}")
      reason = _run(configs[one.folder], workdir / one.folder, say)
      if reason:
        failures[one.folder] = reason
        say(f"failed: {reason}")
      results_lib.write_failures(workdir, failures)
      # Kept up to date: a study may take days.
      _write(results_lib.read(study, config, workdir), workdir, draw=False)
  results = results_lib.read(study, config, workdir)
  done = sum(point.row is not None for point in results.points)
  if not done:
    first = results.points[0]
    raise ConfigError(
      f"none of {len(study.runs)} runs of the study has a result in {workdir}; the first, {first.run.name}: "
      f"{first.reason}"
    )
  _write(results, workdir, draw=draw)
  if study.report:
    _report(results, workdir, say)
  say(f"{done} of {len(study.runs)} runs in {workdir / study.name}.{_FORMS[0]}")


def _run(config: ConfigDict, folder: pathlib.Path, say: Callable[[str], None]) -> str:
  """Runs one; returns why it failed, empty where it did not."""
  import jax

  from mlrec.runs import experiment
  from mlrec.runs import failures

  try:
    experiment.run(config, folder, say=say)
    return ""
  except Exception as error:
    reason = failures.reason(error)
    if reason is None:
      raise
    return reason
  finally:
    # The programs of one run are of no use to the next, but through the compilation cache.
    jax.clear_caches()


def _make_vectors(study: Study, config: ConfigDict, say: Callable[[str], None]) -> str:
  """Makes the vectors that all runs read, where they are missing; returns their folder."""
  from mlrec.content import open_source
  from mlrec.train import frozen_vectors
  from mlrec.train.stop import StopSignal

  try:
    recipe = frozen_vectors.recipe_of(study.vectors)
    source = open_source(recipe.content, config.data, recipe.opening())
    with StopSignal() as stop:
      where, _ = frozen_vectors.make(
        recipe, source, folder=config.data.features_dir, say=say, interrupt=stop.check
      )  # fmt: skip
  except (OSError, OptionError) as error:
    raise ConfigError(f"the study's vectors cannot be made: {error}") from error
  return str(where)


def _report(results: Results, workdir: pathlib.Path, say: Callable[[str], None]) -> None:
  """Writes the report of the runs that are finished."""
  arguments = [f"{point.run.series}={workdir / point.run.folder}" for point in results.points if point.row]
  render.make(
    arguments, metric="ndcg@10", out=workdir, draw=False, html=True, note=lambda line: say(f"note: {line}")
  )  # fmt: skip
  say(f"the runs side by side, and their paired tests, in {workdir / 'report.html'}")


def _write(results: Results, workdir: pathlib.Path, *, draw: bool) -> None:
  markdown, table, *pictures = (workdir / f"{results.study.name}.{form}" for form in _FORMS)
  try:
    write_text(markdown, results_lib.markdown(results))
    write_text(table, results_lib.as_csv(results))
    if draw:
      study_plot.draw(results, pictures)
  except OSError as error:
    raise ConfigError(f"--workdir={workdir} cannot be written: {error.strerror}") from error
