"""Reads the data that a config names, and splits it as it says."""

from typing import Any

from mlrec.data import cold_start
from mlrec.data import protocols
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
  split = cold_start.force(split, share=data.cold_share, seed=data.cold_seed)
  return split.sampling(config.eval.users)
