"""Vectors of a frozen encoder for all items of a set, made once and kept for every head.

  python -m mlrec.features --videos=microlens/50k-videos-5x224 --encoder=slow_r50 --weights=FILE
  python -m mlrec.features --content=MicroLens-50k_titles.csv --encoder=minilm_l6 --weights=minilm

A run of the mode `frozen` makes what it needs by itself; this makes them ahead of it, or on another machine. Killed and
run again it goes on. The folder is named by a hash of weights, encoder, settings and content.
"""

import re
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
from ml_collections import ConfigDict

from mlrec.config import ConfigError
from mlrec.data import DataError

_VIDEOS = flags.DEFINE_string("videos", "", "The prepared videos, such as microlens/50k-videos-5x224.")
_CONTENT = flags.DEFINE_string(
  "content", "", "Titles, covers or audio: such as microlens/50k-items, or a *_titles.csv file."
)
_ENCODER = flags.DEFINE_string("encoder", None, "The encoder's name.")
_WEIGHTS = flags.DEFINE_string("weights", None, "The file of its weights; 'random' for a random start.")
_OPTIONS = flags.DEFINE_string("options", "", "Options of the encoder, such as depth=2,heads=(1,2).")
_FRAMES = flags.DEFINE_integer("frames", 0, "Of videos: frames a clip; 0 for the encoder's own.")
_SIZE = flags.DEFINE_integer("size", 0, "Of videos and covers: height and width; 0 for the encoder's own.")
_PIXELS = flags.DEFINE_enum("pixels", "spec", ["spec", "double", "reference"], "Of videos: how they are normalised.")
_SAMPLES = flags.DEFINE_integer("samples", 0, "Of audio: samples of each item; 0 for the encoder's own.")
_LENGTH = flags.DEFINE_integer("length", 0, "Of titles: their tokens; 0 for the encoder's own.")
_TOKENIZER = flags.DEFINE_string("tokenizer", "", "Of titles: its file or folder; empty for that beside the weights.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Items encoded at a time, on all devices together.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared data lies; empty for TFDS's own default.")
_FEATURES_DIR = flags.DEFINE_string("features_dir", "", "Where vectors are kept; empty for the user's cache folder.")
# By the kind of an encoder: the tower that runs it, and the flags that are its options.
_SETTINGS = {
  "video encoder": ("video", (_FRAMES, _SIZE, _PIXELS)),
  "image encoder": ("image", (_SIZE,)),
  "audio encoder": ("audio", (_SAMPLES,)),
  "text encoder": ("text", (_LENGTH, _TOKENIZER)),
}


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --encoder=slow_r50")
    for flag in (_ENCODER, _WEIGHTS):
      if not flag.value:
        raise ConfigError(f"--{flag.name} is required")
    return _run()
  except (ConfigError, DataError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _run() -> int:
  # JAX and the encoders come in here: mistakes in flags are told at once.
  from mlrec.models.registry import models
  from mlrec.train import contents
  from mlrec.train import frozen_features

  logging.set_verbosity(logging.WARNING)
  sources = {"videos": _VIDEOS.value, "content": _CONTENT.value, "data_dir": _DATA_DIR.value}
  try:
    kind = models.kind_of(str(_ENCODER.value))
    if kind not in _SETTINGS:
      raise ConfigError(f"--encoder={_ENCODER.value}: a {kind} encodes no content")
    tower, settings = _SETTINGS[kind]
    source = "videos" if tower == "video" else "content"
    if not sources[source]:
      raise ConfigError(f"--{source} is required: it is what a {kind} reads")
    item = {
      "name": tower, "mode": "frozen", "encoder": _ENCODER.value, "weights": _WEIGHTS.value, "dtype": _DTYPE.value,
      "options": parse_options(_OPTIONS.value), **{flag.name: flag.value for flag in settings},
    }  # fmt: skip
    recipe = frozen_features.recipe_of(item)
    opened = contents.open_source(ConfigDict({"data": sources}), recipe)
    where, _ = frozen_features.make(recipe, opened, folder=_FEATURES_DIR.value, batch_size=_BATCH_SIZE.value, say=print)
  except (OSError, TypeError, ValueError) as error:
    raise ConfigError(str(error)) from error
  print(where)
  return 0


def parse_options(text: str) -> dict[str, Any]:
  """`depth=2,dim=96,heads=(1,2)` as a dict; values are numbers where they look like numbers, and tuples in brackets.

  Raises:
    ConfigError: a part is no `name=value`.
  """
  options: dict[str, Any] = {}
  # At the commas that are not within brackets.
  for part in filter(None, re.split(r",(?![^(\[]*[)\]])", text)):
    name, equals, value = (piece.strip() for piece in part.partition("="))
    if not equals or not name:
      raise ConfigError(f"--options: {part!r} is no name=value")
    if value[:1] + value[-1:] in ("()", "[]"):
      options[name] = tuple(_number(one.strip()) for one in value[1:-1].split(",") if one.strip())
    else:
      options[name] = _number(value)
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
