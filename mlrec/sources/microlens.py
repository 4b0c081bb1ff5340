"""Interactions of prepared TFDS data: `microlens/…-sequences`, and with timestamps `microlens/…-interactions`."""

from mlrec.data.interactions import DataError
from mlrec.data.interactions import Interactions
from mlrec.data.lines import LineSource
from mlrec.sources import sources


@sources.register("microlens")
class MicroLens:
  """`microlens/{50k,100k,1m,full,demo}-{sequences,interactions}`; the demo is made on first use.

  TFDS, which reading a pairs file does without, is imported when something is read.
  """

  @staticmethod
  def read(name: str, data_dir: str = "") -> Interactions:
    """The interactions.

    Raises:
      DataError: the name is unknown, or the data set has not been prepared.
    """
    from tfds_microlens import reading

    try:
      read_form = reading.read_timed if name.endswith("-interactions") else reading.read_sequences
      return read_form(name, data_dir)
    except DataError as error:
      raise DataError(f"config.data.source = {error}") from error

  @staticmethod
  def lines(name: str, data_dir: str = "") -> LineSource:
    """The same a chunk of lines at a time.

    Raises:
      DataError: as `read`.
    """
    from tfds_microlens import reading

    try:
      return reading.open_lines(name, data_dir)
    except DataError as error:
      raise DataError(f"config.data.source = {error}") from error
