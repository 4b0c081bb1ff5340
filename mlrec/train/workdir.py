"""A run's folder: whose it is, and what of it is finished."""

import errno
import json
import pathlib
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.train.writers import write_json

CONFIG, RESULT, EVALUATION = "config.json", "result.json", "evaluation.json"


def default(config_file: str, argument: str, config: ConfigDict) -> pathlib.Path:
  """A readable folder for a config file and what its argument, data and model are.

  The same command names the same folder, so that running it again goes on.
  """
  model = config.model.to_dict()
  source = config.data.source
  data = pathlib.Path(source).stem if source.endswith((".tsv", ".csv")) else source.replace("/", "-")
  stem = pathlib.Path(config_file).stem
  name = model.get("user", {}).get("name", "") or model["name"]
  dim = f"d{model['dim']}" if "dim" in model else ""
  parts = [stem, argument, data, "" if name == stem else name, dim, f"seed{config.seed}"]
  return pathlib.Path("runs") / "_".join(part for part in parts if part)


def check(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Nothing, if the folder is new or holds a run of this config.

  Raises:
    ConfigError: it holds a run of another config; each difference is named.
  """
  for folder in (workdir, *workdir.parents):
    if folder.exists() and not folder.is_dir():
      raise ConfigError(f"--workdir={workdir} cannot be made: {folder} is a file")
  saved = _read(workdir / CONFIG)
  if saved is None:
    if (workdir / "checkpoints").exists():
      raise ConfigError(f"{workdir} holds checkpoints but no {CONFIG}: name another --workdir")
    return
  if bool(saved["seeds"]) != bool(config.seeds):
    kinds = ("several seeds", "one seed") if saved["seeds"] else ("one seed", "several seeds")
    raise ConfigError(
      f"{workdir} holds a run of {kinds[0]} and config.seeds asks for {kinds[1]}: name another --workdir"
    )
  different = config_lib.differences(saved, config_lib.to_json(config))
  if different:
    lines = "\n  ".join(different)
    raise ConfigError(f"{workdir} holds a run of another config:\n  {lines}\nName another --workdir, or delete it.")


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Makes the folder, and writes the config it belongs to from now on.

  Raises:
    ConfigError: the folder cannot be made.
  """
  if jax.process_index() == 0:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      # A run that goes on is no longer finished.
      (workdir / RESULT).unlink(missing_ok=True)
      write_json(workdir / CONFIG, config_lib.to_json(config))
    except OSError as error:
      if error.errno == errno.ENOSPC:
        raise
      raise ConfigError(f"--workdir={workdir} cannot be written: {error.strerror}") from error
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"claim {workdir}")


def result(workdir: pathlib.Path, config: ConfigDict) -> dict[str, Any] | None:
  """The result of the finished run in this folder; None where it is not finished, or is now meant to go on longer."""
  saved = _read(workdir / CONFIG)
  if saved is None:
    return None
  limits = (config.train.epochs, config.train.patience)
  return _read(workdir / RESULT) if limits == (saved["train"]["epochs"], saved["train"]["patience"]) else None


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return None
  except OSError as error:
    raise ConfigError(f"{path} cannot be read: {error.strerror}; name another --workdir") from error
  except ValueError as error:
    raise ConfigError(f"{path} is no valid JSON ({error}); delete the folder or name another --workdir") from error
