"""Exports a trained workdir: `python -m mlrec.export --workdir=runs/a --to=DIR`.

DIR gets the items' vectors with their ids (safetensors and Parquet), an index of them (usearch; the extra `export`),
the user encoder as a program that JAX alone runs on CPU, GPU and TPU for any number of users, and a model card, which
shows how they are used. `export.json` has a digest of each file.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import pathlib

from absl import app
from absl import flags

from mlrec import command_line
from mlrec import machine
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError

_WORKDIR = flags.DEFINE_string("workdir", None, "The trained run: a workdir of python -m mlrec.main.")
_TO = flags.DEFINE_string("to", None, "The folder to write; an earlier export there is replaced.")
_INDEX = flags.DEFINE_bool("index", True, "Also the index, which needs usearch.")
_PROJECTOR = flags.DEFINE_string("projector", None, "A folder for TensorBoard's projector, to be written too.")
_PLATFORMS = flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "What the user encoder is compiled for.")
_NEW_ITEMS = flags.DEFINE_bool(
  "new_items", False, "Also items that the content has and training had not, by their content."
)
_TITLES = flags.DEFINE_string("titles", "", "Of a prepared data set, a folder of mlrec.ingest or a *_titles.csv file.")
_PLACES = {
  key: flags.DEFINE_string(key, "", f"Where the run's config.data.{key} lies now, if elsewhere than at its training.")
  for key in ("content", "videos", "features", "features_dir", "data_dir")
}


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --workdir=runs/a")
    for flag, what in ((_WORKDIR, "a run of python -m mlrec.main"), (_TO, "the folder to write")):
      if not flag.value:
        raise ConfigError(f"--{flag.name}=DIR is required: {what}")
    machine.share_arenas()
    command_line.clean_up_on_sigterm()
    # JAX, Flax and Orbax come in here: mistakes in flags are told at once.
    from mlrec.metrics import ScoresNotFinite
    from mlrec.train.checkpoint import CheckpointError

    terminal.log_plainly()
    try:
      _run(pathlib.Path(str(_TO.value)).expanduser())
    except (CheckpointError, ScoresNotFinite) as error:
      return command_line.report(str(error), command_line.FAILED)
    except OSError as error:
      return command_line.report(f"{error.filename or _TO.value}: {error.strerror or error}", command_line.FAILED)
    return 0
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _run(target: pathlib.Path) -> None:
  from mlrec.inference import artifact
  from mlrec.inference.catalogue import Catalogue
  from mlrec.inference.recommender import Recommender

  unknown = sorted(set(_PLATFORMS.value) - set(artifact.PLATFORMS))
  if unknown or not _PLATFORMS.value:
    raise ConfigError(f"--platforms={','.join(_PLATFORMS.value)}: expected some of {', '.join(artifact.PLATFORMS)}")
  places = {key: flag.value for key, flag in _PLACES.items()}
  recommender = Recommender.load(str(_WORKDIR.value), places=places, new_items=_NEW_ITEMS.value)
  catalogue = Catalogue.of(recommender.loaded.config.data, titles=_TITLES.value)
  done = artifact.write(
    recommender,
    target,
    catalogue=catalogue,
    index=_INDEX.value,
    platforms=tuple(_PLATFORMS.value),
  )
  terminal.say(f"{done.folder}: {done.items:,} vectors of {done.width}")
  if done.quality:
    terminal.say(
      f"index: recall@10 {done.quality.recall:.4f} of {done.quality.queries:,} users' states; "
      f"{done.quality.milliseconds:.3f} ms a query, {done.quality.exact_milliseconds:.3f} ms by exact search"
    )
  if _PROJECTOR.value:
    from mlrec.inference import projector

    folder = pathlib.Path(_PROJECTOR.value).expanduser()
    number = projector.write(recommender, folder, catalogue=catalogue)
    terminal.say(f"projector: {number:,} items; tensorboard --logdir={folder}")


if __name__ == "__main__":
  app.run(main)
