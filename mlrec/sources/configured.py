"""Reads the data that a config names, and splits it as it says."""

from typing import Any

from mlrec.data import cold_start
from mlrec.data import protocols
from mlrec.data.interactions import DataError
from mlrec.data.splits import Split
from mlrec.sources import load_split


def configured_split(config: Any) -> Split:
  """The split of `config.data`, evaluated on as many users as `config.eval` says.

  Raises:
    DataError: the data cannot be read, or cannot be split so.
  """
  data = config.data
  split = load_split(
    data.source, data.data_dir, protocols.parse(data.split), max_length=data.max_length, min_length=data.min_length,
    train_windows=data.train_windows, in_memory=data.in_memory_mib << 20, folder=data.splits_dir,
  )  # fmt: skip
  if split.impressions is not None:
    for key, value in (("data.cold_share", data.cold_share), ("eval.users", config.eval.users)):
      if value:
        raise DataError(f"config.{key} = {value}: {data.source} holds impressions, all of which count; give 0")
    return split
  split = cold_start.force(split, share=data.cold_share, seed=data.cold_seed)
  return split.sampling(config.eval.users)
