"""Vectors of a frozen encoder for all items of a set, made once and kept for every head.

  python -m mlrec.features --videos=microlens/50k-videos-5x224 --encoder=slow_r50 --weights=FILE
  python -m mlrec.features --content=MicroLens-50k_titles.csv --encoder=minilm_l6 --weights=minilm

A run of the mode `frozen` makes what it needs by itself; this makes them ahead of it, or on another machine. Killed and
run again it resumes. The folder is named by a hash of weights, encoder, settings and content.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import pathlib
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from mlrec import command_line
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.registry import closest
from mlrec.registry import OptionError

_VIDEOS = flags.DEFINE_string("videos", "", "The prepared videos, such as microlens/50k-videos-5x224.")
_CONTENT = flags.DEFINE_string(
  "content", "", "Titles, covers or audio: such as microlens/50k-items, or a *_titles.csv file."
)
_ENCODER = flags.DEFINE_string("encoder", None, "The encoder's name; python -m mlrec.main --list prints all.")
_WEIGHTS = flags.DEFINE_string("weights", None, "The file of its weights; 'random' for a random start.")
_OPTIONS = flags.DEFINE_string("options", "", "Options of the encoder, such as depth=2,heads=(1,2).")
_FRAMES = flags.DEFINE_integer("frames", 0, "Of videos: frames a clip; 0 for the encoder's own.")
_SIZE = flags.DEFINE_integer("size", 0, "Of videos and covers: height and width; 0 for the encoder's own.")
_PIXELS = flags.DEFINE_enum(
  "pixels",
  "spec",
  ["spec", "double", "reference"],
  "Of videos: how they are normalised, by the encoder's statistics or as MicroLens's code did.",
)
_SAMPLES = flags.DEFINE_integer("samples", 0, "Of audio: samples of each item; 0 for the encoder's own.")
_LENGTH = flags.DEFINE_integer("length", 0, "Of titles: their tokens; 0 for the encoder's own.")
_TOKENIZER = flags.DEFINE_string("tokenizer", "", "Of titles: its file or folder; empty for that beside the weights.")
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "What the encoder computes in; vectors are float32."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Items encoded at a time, on all devices together.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared data lies; empty for TFDS's own default.")
_FEATURES_DIR = flags.DEFINE_string("features_dir", "", "Where vectors are kept; empty for the user's cache folder.")
# Options of the towers that run encoders; which of them a tower has, its constructor says.
_SETTINGS = (_FRAMES, _SIZE, _PIXELS, _SAMPLES, _LENGTH, _TOKENIZER)


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --encoder=slow_r50")
    for flag in (_ENCODER, _WEIGHTS):
      if not flag.value:
        raise ConfigError(f"--{flag.name} is required")
    # JAX and the encoders come in here: mistakes in flags are told at once.
    from mlrec.train.stop import Interrupted

    terminal.log_plainly()
    try:
      terminal.say(str(_make()))
    except Interrupted as stopped:
      terminal.say(str(stopped))
    return 0
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _make() -> pathlib.Path:
  """Makes the vectors; returns their folder."""
  from mlrec.content import modalities
  from mlrec.content import open_source
  from mlrec.train import frozen_vectors
  from mlrec.train.stop import StopSignal

  try:
    recipe = frozen_vectors.recipe_of(_item())
    sources = {"videos": _VIDEOS.value, "content": _CONTENT.value, "data_dir": _DATA_DIR.value}
    key = modalities.get(recipe.content).key
    if not sources[key]:
      raise ConfigError(f"--{key} is required: it is what a {recipe.kind} reads")
    source = open_source(recipe.content, ConfigDict(sources), recipe.opening())
    with StopSignal() as stop:
      where, _ = frozen_vectors.make(
        recipe, source, folder=_FEATURES_DIR.value, batch_size=_BATCH_SIZE.value, say=terminal.say, interrupt=stop.check
      )
  except (OSError, OptionError) as error:
    raise ConfigError(str(error)) from error
  return where


def _item() -> dict[str, Any]:
  """The options of the tower that runs the encoder, as `config.model.item` would have them."""
  from mlrec.models.items.encoded import tower_of
  from mlrec.models.registry import models

  encoder = str(_ENCODER.value)
  if encoder not in models.names():
    raise ConfigError(f"--encoder={encoder}: there is no such model; {closest(encoder, models.names())}")
  kind = models.kind_of(encoder)
  tower = tower_of(kind)
  if tower is None:
    raise ConfigError(f"--encoder={encoder}: a {kind} encodes no content")
  options = set(models.options(tower))
  settings = {flag.name: flag.value for flag in _SETTINGS if flag.name in options}
  for flag in _SETTINGS:
    if flag.present and flag.name not in options:
      known = ", ".join(f"--{name}" for name in sorted(settings))
      raise ConfigError(f"--{flag.name} is no setting of a {kind}, which has {known}")
  return {
    "name": tower, "mode": "frozen", "encoder": encoder, "weights": _WEIGHTS.value, "dtype": _DTYPE.value,
    "options": command_line.parse_options(_OPTIONS.value), **settings,
  }  # fmt: skip


if __name__ == "__main__":
  command_line.run(main)
