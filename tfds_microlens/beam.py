"""Work of a data set spread by Apache Beam over the workers of any runner (extra `beam`).

What workers make lies on a disk that all of them see, in files that are whole or not there: a runner may do a job
twice, or begin one again. What is made is what one process would make.
"""

import argparse
from collections.abc import Callable
from collections.abc import Iterable
import contextlib
import io
import shlex
from typing import Any
from typing import NamedTuple

from tfds_microlens.errors import PrepareError


class Beam(NamedTuple):
  """Where pipelines run.

  Attributes:
    runner: as of `tfds.download.DownloadConfig.beam_runner`: a name, a `PipelineRunner`, or None for what the options
      say.
    options: Beam's `PipelineOptions`, or None.
  """

  runner: Any = None
  options: Any = None

  @classmethod
  def of_flags(cls, text: str) -> "Beam":
    """Of Beam's own flags, such as `--runner=FlinkRunner --flink_master=localhost:8081`.

    Raises:
      PrepareError: Beam is not installed, or knows no such flag.
    """
    known = _imported().options.pipeline_options.PipelineOptions
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, conflict_handler="resolve")
    for kind in known.__subclasses__():
      kind._add_argparse_args(parser)
    said = io.StringIO()
    try:
      given = shlex.split(text)
      with contextlib.redirect_stderr(said):
        _, unknown = parser.parse_known_args(given)
      problem = f"it does not know {unknown[0]}" if unknown else "" if given else "there is none"
    except (SystemExit, ValueError) as error:
      problem = (said.getvalue().strip() or str(error)).splitlines()[-1]
    if problem:
      example = "--runner=FlinkRunner --flink_master=HOST:8081"
      raise PrepareError(f"--beam={text}: expected flags of Apache Beam's, such as {example}; {problem}")
    return cls(options=known(given))

  def each(self, work: Callable[[Any], Any], jobs: Iterable[Any], what: str) -> None:
    """Does `work` to each of the `jobs`, in any order.

    Args:
      work: picklable; may be called twice with one job.
      jobs: picklable, too.
      what: is done, for the runner's pages.

    Raises:
      PrepareError: Beam is not installed, or has no such runner.
    """
    beam = _imported()
    try:
      made = beam.Pipeline(runner=self.runner, options=self.options)
    except ValueError as error:
      # It names what runners there are.
      raise PrepareError(f"Apache Beam: {error}") from error
    with made as pipeline:
      # What is not dealt out again stays with the worker that it was made in.
      _ = pipeline | f"jobs: {what}" >> beam.Create(list(jobs)) | beam.Reshuffle() | what >> beam.Map(_done, work)


def _done(job: Any, work: Callable[[Any], Any]) -> None:
  work(job)


def _imported() -> Any:
  try:
    import apache_beam
    import apache_beam.options.pipeline_options
  except ImportError as error:
    raise PrepareError(f'Apache Beam is not installed ({error}): pip install "mlrec[beam]"') from error
  return apache_beam
