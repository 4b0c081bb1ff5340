"""Folders of the form of the multimodal CTR challenge, small enough to train on in a test."""

import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

USERS, ITEMS, LENGTH, WIDTH = 60, 40, 8, 6
# Items of one group of tags follow each other.
_GROUPS = 4


def item_columns(seed: int = 0) -> dict[str, list[Any]]:
  """Item r is in row r, the padding first; those of a group have a tag and about a vector in common."""
  rng = np.random.default_rng(seed)
  groups = np.arange(ITEMS + 1) % _GROUPS
  centres = rng.normal(size=(_GROUPS, WIDTH))
  vectors = (centres[groups] + 0.1 * rng.normal(size=(ITEMS + 1, WIDTH))).astype(np.float32)
  vectors[0] = 0
  tags = [[0, 0, 0]] + [[0, int(rng.integers(1, 30)), 31 + int(group)] for group in groups[1:]]
  return {"item_id": list(range(ITEMS + 1)), "item_tags": tags, "item_emb_d128": vectors.tolist()}


def impression_columns(number: int, *, seed: int, labels: bool = True) -> dict[str, list[Any]]:
  """Users click, mostly, on items of the group of the last one that they watched."""
  rng = np.random.default_rng(seed)
  columns: dict[str, list[Any]] = {
    name: [] for name in ("user_id", "item_seq", "item_id", "likes_level", "views_level")
  }
  if labels:
    columns["label"] = []
  for _ in range(number):
    history = rng.choice(np.arange(1, ITEMS + 1), rng.integers(1, LENGTH + 1), replace=False).tolist()
    item = int(rng.integers(1, ITEMS + 1))
    columns["user_id"].append(1000 + 7 * int(rng.integers(USERS)))
    columns["item_seq"].append([0] * (LENGTH - len(history)) + history)
    columns["item_id"].append(item)
    columns["likes_level"].append(1 + item % 10)
    columns["views_level"].append(1 + item % 7)
    if labels:
      alike = item % _GROUPS == history[-1] % _GROUPS
      columns["label"].append(int(rng.random() < (0.9 if alike else 0.1)))
  return columns


def write(path: pathlib.Path, columns: dict[str, list[Any]], **kinds: Any) -> None:
  """Writes a Parquet file; `kinds` are the types of columns that are not what Arrow finds."""
  table = pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})
  pa.parquet.write_table(table, path, row_group_size=64)


def write_folder(folder: pathlib.Path, *, train: int = 600, valid: int = 200, test_labels: bool = True) -> pathlib.Path:
  """A whole folder; returns it."""
  folder.mkdir(parents=True, exist_ok=True)
  vectors = pa.list_(pa.float32(), WIDTH)
  write(folder / "item_info.parquet", item_columns(), item_emb_d128=vectors, item_tags=pa.list_(pa.int64(), 3))
  for seed, (name, number) in enumerate({"train": train, "valid": valid, "test": valid}.items()):
    labels = test_labels or name != "test"
    columns = impression_columns(number, seed=seed, labels=labels)
    if not labels:
      columns = {"ID": list(range(number)), **columns}
    write(folder / f"{name}.parquet", columns)
  return folder
