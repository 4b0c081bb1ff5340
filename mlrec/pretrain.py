"""Pre-trains an encoder on labels: `python -m mlrec.pretrain --config=FILE.py --workdir=DIR [--labels=LABELS.csv]`.

LABELS.csv has a line an item: its id, as the content has it, and a class of each label, empty for none.

  item,shape,colour
  17,circle,red
  23,star,

  python -m mlrec.pretrain --config=configs/pretrain_demo.py --workdir=runs/pretrain_demo

is the recipe of the demo, which brings labels and clips of its own. The encoder is that of `config.model.item`, in the
mode `scratch`, or `full` or `top` from weights that there are; `config.data` names its content, and its `cold_share` is
the share of the items that is held out, on which the best epoch is chosen. Of the rest of the config the optimiser,
`train`, `log`, `checkpoint` and the seed count. The same command resumes.

What it leaves: `encoder.safetensors`, which `config.model.item.weights` takes; and `pretraining.json`.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import pathlib

from absl import flags
from ml_collections import config_flags

from mlrec import command_line
from mlrec import config as config_lib
from mlrec import machine
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A Python file with get_config(); its keys are set by --config.KEY=VALUE."
)
_LABELS = flags.DEFINE_string(
  "labels", "", "The CSV file of the items' labels; empty for those of the config's get_labelled()."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; the same one resumes it.")


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --labels=LABELS.csv")
    if _CONFIG.value is None or _WORKDIR.value is None:
      raise ConfigError(f"--{'config=FILE.py' if _CONFIG.value is None else 'workdir=DIR'} is required")
    config = config_lib.validate(_CONFIG.value)
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = pathlib.Path(_WORKDIR.value).expanduser()
    machine.share_arenas()
    # JAX, Flax and Orbax come in here: mistakes in flags and config are told at once.
    from mlrec.runs import pretraining

    labelled = pretraining.load(file, _LABELS.value)
    return command_line.run_reporting(
      lambda: pretraining.run(config, labelled, workdir, say=terminal.say), workdir, terminal.say
    )
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


if __name__ == "__main__":
  command_line.run(main, command_line.flags_parser(_CONFIG))
