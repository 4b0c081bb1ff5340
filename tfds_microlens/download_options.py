"""What `tfds.download.DownloadConfig` may ask of the builder."""

import dataclasses
from typing import NamedTuple

import tensorflow_datasets.public_api as tfds

from tfds_microlens.beam import Beam
from tfds_microlens.errors import PrepareError

_EFFECTIVE = (
  "manual_dir", "download_mode", "max_examples_per_split", "num_shards", "beam_runner", "beam_options",
)  # fmt: skip
# Options that ask for what is so in any case.
_FULFILLED = {"try_download_gcs": False, "force_checksums_validation": False}


class Extent(NamedTuple):
  """How much of a data set is made, and in how many files.

  Attributes:
    most_examples: of each split, its first ones; None for all.
    num_shards: of each split; None for as many as its examples fill.
  """

  most_examples: int | None = None
  num_shards: int | None = None


def beam(config: tfds.download.DownloadConfig) -> Beam | None:
  """Where pipelines run that were asked for; None for none."""
  if config.beam_runner is None and config.beam_options is None:
    return None
  return Beam(config.beam_runner, config.beam_options)


def extent(config: tfds.download.DownloadConfig) -> Extent:
  """What the options ask for.

  Raises:
    PrepareError: an option has no effect here, or a number is not possible.
  """
  default = tfds.download.DownloadConfig()
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.name in _EFFECTIVE or value == getattr(default, field.name) or value == _FULFILLED.get(field.name, ...):
      continue
    raise PrepareError(
      f"DownloadConfig({field.name}={value!r}) has no effect on microlens, so it is refused: leave it out; "
      f"{', '.join(_EFFECTIVE)} have one"
    )
  found = Extent(config.max_examples_per_split, config.num_shards)
  for name, number in zip(("max_examples_per_split", "num_shards"), found):
    if number is not None and number < 1:
      raise PrepareError(f"DownloadConfig({name}={number}): expected 1 or more, or None")
  return found
