"""The data source `microlens/…-sequences`: interactions from prepared TFDS data."""

from mlrec.data.interactions import DataError
from mlrec.data.interactions import Interactions
from mlrec.data.sources import sources

_DEMO = "microlens/demo-sequences"


@sources.register("microlens")
def read(name: str, data_dir: str = "") -> Interactions:
  """Reads `microlens/{50k,100k,1m,full,demo}-sequences`; the demo is made on first use.

  Raises:
    DataError: the name is unknown, or the data set has not been prepared.
  """
  # These bring in TFDS, which reading a pairs file does without.
  import tensorflow_datasets as tfds

  import tfds_microlens
  from tfds_microlens.sequences import read_interactions

  valid = [f"microlens/{config}" for config in tfds_microlens.Builder.builder_configs if config.endswith("-sequences")]
  if name not in valid:
    from mlrec.registry import closest

    raise DataError(f"config.data.source = {name!r}: {closest(name, valid)}")
  builder = tfds.builder(name, data_dir=data_dir or None)
  if name == _DEMO and not builder.info.splits:
    builder.download_and_prepare()
  try:
    return read_interactions(builder)
  except tfds_microlens.PrepareError as error:
    raise DataError(str(error)) from error
