"""The same of RecTools' SASRecModel, in an environment of its own: `rectools_recommend.py --pairs PAIRS.tsv`.

Its width, blocks, heads and length are those of `configs/50k/sasrec_small.py`. It is trained for an epoch against items
drawn at random, which its speed afterwards does not depend on.
"""

import argparse
import json
import logging
import statistics
import time
import warnings

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
import torch


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--pairs", required=True)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--threads", type=int, default=2)
  arguments = parser.parse_args()
  warnings.filterwarnings("ignore")
  logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
  torch.set_num_threads(arguments.threads)
  frame = read(arguments.pairs)
  data = Dataset.construct(frame)
  model = SASRecModel(
    n_factors=64, n_blocks=2, n_heads=2, session_max_len=10, batch_size=1024, loss="sampled_softmax", n_negatives=1,
    epochs=1, verbose=0, recommend_torch_device="cpu", recommend_batch_size=1024,
  )  # fmt: skip
  model.fit(data)
  users = frame[Columns.User].unique()
  wall, cpu = [], []
  for _ in range(arguments.rounds):
    start, cpu_start = time.perf_counter(), time.process_time()
    model.recommend(users=users, dataset=data, k=10, filter_viewed=True)
    wall.append(len(users) / (time.perf_counter() - start))
    cpu.append(len(users) / (time.process_time() - cpu_start))
  print(json.dumps({"users_per_s": statistics.median(wall), "users_per_cpu_s": statistics.median(cpu)}))


def read(path: str) -> pd.DataFrame:
  """Interactions of a pairs file; a place in the history stands for the time."""
  with open(path, encoding="utf-8") as file:
    rows = [line.split("\t") for line in file]
  users = np.array([int(user) for user, _ in rows])
  items = [np.array(items.split(), np.int64) for _, items in rows]
  lengths = [len(row) for row in items]
  places = np.concatenate([np.arange(length) for length in lengths])
  return pd.DataFrame({
    Columns.User: np.repeat(users, lengths),
    Columns.Item: np.concatenate(items),
    Columns.Weight: 1.0,
    Columns.Datetime: pd.Timestamp("2024-01-01") + pd.to_timedelta(places, unit="s"),
  })  # fmt: skip


if __name__ == "__main__":
  main()
