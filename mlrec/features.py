"""Vectors of a frozen video encoder for all videos of a set, made once and kept for every head.

  python -m mlrec.features --videos=microlens/50k-videos-5x224 --encoder=slow_r50 --weights=FILE

A run of the mode `frozen` makes what it needs by itself; this makes them ahead of it, or on another machine. Killed and
run again it goes on. The folder is named by a hash of weights, encoder, frames and videos.
"""

import sys

from absl import app
from absl import flags
from absl import logging
from ml_collections import ConfigDict

from mlrec.config import ConfigError
from mlrec.data import DataError

_VIDEOS = flags.DEFINE_string("videos", None, "The prepared videos, such as microlens/50k-videos-5x224.")
_ENCODER = flags.DEFINE_string("encoder", None, "The video encoder's name.")
_WEIGHTS = flags.DEFINE_string("weights", None, "The file of its weights; 'random' for a random start.")
_OPTIONS = flags.DEFINE_string("options", "", "Options of the encoder, such as depth=2,dim=96.")
_FRAMES = flags.DEFINE_integer("frames", 0, "Frames a clip; 0 for the encoder's own.")
_SIZE = flags.DEFINE_integer("size", 0, "Height and width of frames; 0 for the encoder's own.")
_PIXELS = flags.DEFINE_enum("pixels", "spec", ["spec", "double", "reference"], "How pixels are normalised.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Clips encoded at a time, on all devices together.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared data lies; empty for TFDS's own default.")
_FEATURES_DIR = flags.DEFINE_string("features_dir", "", "Where vectors are kept; empty for the user's cache folder.")


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --encoder=slow_r50")
    for flag in (_VIDEOS, _ENCODER, _WEIGHTS):
      if not flag.value:
        raise ConfigError(f"--{flag.name} is required")
    return _run()
  except (ConfigError, DataError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _run() -> int:
  # JAX and the encoders come in here: mistakes in flags are told at once.
  from mlrec.train import contents
  from mlrec.train import frozen_features

  logging.set_verbosity(logging.WARNING)
  config = ConfigDict({"data": {"videos": _VIDEOS.value, "data_dir": _DATA_DIR.value}})
  item = {
    "name": "video", "mode": "frozen", "encoder": _ENCODER.value, "weights": _WEIGHTS.value, "frames": _FRAMES.value,
    "size": _SIZE.value, "pixels": _PIXELS.value, "dtype": _DTYPE.value, "options": parse_options(_OPTIONS.value),
  }  # fmt: skip
  try:
    recipe = frozen_features.recipe_of(item)
    where, _ = frozen_features.make(
      recipe, contents.open_videos(config), folder=_FEATURES_DIR.value, batch_size=_BATCH_SIZE.value, say=print
    )
  except (OSError, TypeError, ValueError) as error:
    raise ConfigError(str(error)) from error
  print(where)
  return 0


def parse_options(text: str) -> dict[str, int | float | str]:
  """`depth=2,dim=96` as a dict; values are numbers where they look like numbers.

  Raises:
    ConfigError: a part is no `name=value`.
  """
  options: dict[str, int | float | str] = {}
  for part in filter(None, text.split(",")):
    name, equals, value = part.partition("=")
    if not equals or not name:
      raise ConfigError(f"--options: {part!r} is no name=value")
    options[name.strip()] = _number(value.strip())
  return options


def _number(text: str) -> int | float | str:
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return text


if __name__ == "__main__":
  app.run(main)
