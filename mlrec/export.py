"""Exports a trained workdir: `python -m mlrec.export --workdir=runs/a --to=DIR`.

DIR gets the items' vectors with their ids (safetensors and Parquet), an index of them (usearch; the extra `export`),
the user encoder as a program that JAX alone runs on CPU, GPU and TPU for any number of users, and a model card, which
shows how they are used. `export.json` has a digest of each file.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import pathlib

from absl import flags

from mlrec import command_line
from mlrec import machine
from mlrec import run_flags
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.run_flags import RunFlags

_RUN = RunFlags.define()
_TO = flags.DEFINE_string("to", None, "The folder to write; an earlier export there is replaced.")
_INDEX = flags.DEFINE_bool("index", True, "Also the index, which needs usearch.")
_PROJECTOR = flags.DEFINE_string("projector", None, "A folder for TensorBoard's projector, to be written too.")
_PLATFORMS = flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "What the user encoder is compiled for.")


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --workdir=runs/a")
    _RUN.require()
    if not _TO.value:
      raise ConfigError("--to=DIR is required: the folder to write")
    machine.share_arenas()
    command_line.clean_up_on_sigterm()
    # JAX, Flax and Orbax come in here: mistakes in flags are told at once.
    target = pathlib.Path(_TO.value).expanduser()
    return run_flags.reporting(lambda: _run(target), named=target)
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _run(target: pathlib.Path) -> None:
  from mlrec.inference import artifact

  unknown = sorted(set(_PLATFORMS.value) - set(artifact.PLATFORMS))
  if unknown or not _PLATFORMS.value:
    raise ConfigError(f"--platforms={','.join(_PLATFORMS.value)}: expected some of {', '.join(artifact.PLATFORMS)}")
  recommender = _RUN.load()
  catalogue = _RUN.catalogue(recommender)
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
  command_line.run(main)
