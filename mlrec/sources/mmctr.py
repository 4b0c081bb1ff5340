"""MicroLens-1M as impressions: the files of the multimodal CTR challenge of WWW 2025 (EReL@MIR), `MicroLens_1M_MMCTR`.

The form is that of the challenge (https://erel-mir.github.io/challenge/mmctr-track2, data at
https://recsys.westlake.edu.cn/MicroLens_1M_MMCTR) as its published baseline reads it
(https://github.com/reczoo/WWW2025_MMCTR_Challenge: `config/DIN_microlens_mmctr_tuner_config_01.yaml` and
`src/mmctr_dataloader.py`). A folder, there `MicroLens_1M_x1`, holds

* `train.parquet`, `valid.parquet` and `test.parquet`, an impression a row: `user_id` and `item_id` (integers),
  `item_seq` (a list of item ids, oldest first, filled up with 0), `likes_level` and `views_level` (0 to 10, of the
  item) and `label` (1 for a click, 0 for none; `test.parquet` may lack it, and an `ID` there is passed over);
* `item_info.parquet`, an item a row: `item_id` (0 is the padding), `item_tags` (a list of integers, 0 for none) and
  `item_emb_d128` (a list of 128 floats, of the item's title and cover); `likes_level` and `views_level` may be there.

Levels are taken for what is known of an item, in histories as when it is shown.
"""

from collections.abc import Mapping
import pathlib
from typing import NamedTuple

from absl import logging
import numpy as np

from mlrec.data.impression_files import INTEGER
from mlrec.data.impression_files import INTEGERS
from mlrec.data.impression_files import ITEM_FILE
from mlrec.data.impression_files import ITEM_ID
from mlrec.data.impression_files import items as item_table
from mlrec.data.impression_files import LABEL
from mlrec.data.impression_files import LEVELS
from mlrec.data.impression_files import Table
from mlrec.data.impression_files import TAGS
from mlrec.data.impression_files import TEST_FILE
from mlrec.data.impression_files import TRAIN_FILE
from mlrec.data.impression_files import VALID_FILE
from mlrec.data.impressions import Examples
from mlrec.data.impressions import Impressions
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.data.splits import Cuts
from mlrec.data.splits import Split
from mlrec.data.splits import TEST
from mlrec.data.splits import TRAIN
from mlrec.data.splits import VALID

_USER, _HISTORY, _LABEL = "user_id", "item_seq", "label"
_FILES = {TRAIN: TRAIN_FILE, VALID: VALID_FILE, TEST: TEST_FILE}


def read(folder: str, *, max_length: int) -> Split:
  """The impressions of a folder, as a split whose users' rows are the histories of their last training impressions.

  Files are read some rows at a time; of histories the newest `max_length` items are held, 4 bytes each.

  Args:
    folder: of the files that the module's docstring says.
    max_length: items of a history that a model reads.

  Raises:
    DataError: a file or a column is missing, unknown or of another kind; or a value is not possible: the file, the row
      (from 0), the column and the value are named.
  """
  path = pathlib.Path(folder).expanduser()
  items = _items(path / ITEM_FILE)
  read = {name: _read(path / file, items, max_length, name) for name, file in _FILES.items()}
  fields = dict(items.fields)
  for level in LEVELS:
    fields[level] = _level(path, level, items, read)
  users = np.unique(np.concatenate([one.users for one in read.values()]))
  examples = {
    name: Examples(
      one.histories, np.arange(len(one.users), dtype=np.int32), one.histories.lengths.astype(np.int32), one.targets,
      one.labels, np.searchsorted(users, one.users).astype(np.int32),
    )
    for name, one in read.items()
  }  # fmt: skip
  rows = _last(examples[TRAIN], len(users))
  nobody = np.full(len(users), -1, np.int32)
  return Split(
    users, rows, items.ids, max_length, Cuts(rows.lengths.astype(np.int32), {VALID: nobody, TEST: nobody}),
    item_fields=fields, impressions=Impressions(examples),
  )  # fmt: skip


class _Items(NamedTuple):
  """`[N + 1]` ascending original ids, 0 first, and what is known of each."""

  ids: np.ndarray
  fields: Mapping[str, np.ndarray]

  def dense(self, ids: np.ndarray) -> np.ndarray:
    """Dense ids (int32), -1 for those that are not there."""
    places = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
    return np.where(self.ids[places] == ids, places, -1).astype(np.int32)


class _Read(NamedTuple):
  """Impressions of a file: original user ids, dense item ids, and levels `[n]` by name."""

  users: np.ndarray
  histories: Rows
  targets: np.ndarray
  labels: np.ndarray | None
  levels: Mapping[str, np.ndarray]


def _items(path: pathlib.Path) -> _Items:
  table = item_table(path)
  found = table.read((ITEM_ID, TAGS, *(level for level in LEVELS if level in table.names)))
  ids, tags = found.pop(ITEM_ID), found.pop(TAGS)
  _at_least(table, ITEM_ID, ids, 0, np.arange(len(ids)))
  _at_least(table, TAGS, tags.values, 0, np.repeat(np.arange(len(ids)), tags.lengths))
  order = np.argsort(ids, kind="stable")
  twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
  if len(twice):
    table.refuse(int(order[twice[0] + 1]), ITEM_ID, f"{ids[order][twice[0]]} is in an earlier row too")
  order = order[ids[order] > 0]
  if not len(order):
    raise DataError(f"{path}: it has no item but the padding, 0")
  kept = np.concatenate([[0], order])
  fields = {TAGS: tags.take(kept).padded(max(int(tags.lengths.max()), 1)).astype(np.int32)}
  for level, values in found.items():
    _at_least(table, level, values, 0, np.arange(len(ids)))
    fields[level] = values[kept].astype(np.int32)
  for values in fields.values():
    values[0] = 0
  return _Items(np.concatenate([[0], ids[order]]), fields)


def _read(path: pathlib.Path, items: _Items, max_length: int, name: str) -> _Read:
  """The impressions of a file; those for `test` alone may lack, and so may their labels."""
  if name == TEST and not path.exists():
    logging.warning("%s: there is no such file: nothing is tested.", path)
    none = np.empty(0, np.int64)
    return _Read(none, Rows.from_lists([], np.int32), none.astype(np.int32), None, {})
  required = {_USER: INTEGER, _HISTORY: INTEGERS, ITEM_ID: INTEGER, **dict.fromkeys(LEVELS, INTEGER)}
  label = {_LABEL: LABEL}
  optional = {"ID": INTEGER, **label} if name == TEST else {}
  table = Table(path, required if name == TEST else required | label, optional)
  names = (*required, *(label if _LABEL in table.names else ()))
  parts: dict[str, list] = {column: [] for column in names}
  first = 0
  for batch in table.batches(names):
    rows = np.arange(first, first + len(batch[_USER]))
    parts[_USER].append(batch[_USER])
    parts[ITEM_ID].append(_known(table, ITEM_ID, batch[ITEM_ID], items, rows))
    history = batch[_HISTORY].where(batch[_HISTORY].values != 0)
    values = _known(table, _HISTORY, history.values, items, np.repeat(rows, history.lengths))
    parts[_HISTORY].append(Rows(values, history.offsets).last(max_length))
    for level in LEVELS:
      _at_least(table, level, batch[level], 0, rows)
      parts[level].append(batch[level].astype(np.int32))
    if _LABEL in parts:
      parts[_LABEL].append(batch[_LABEL].astype(np.uint8))
    first += len(rows)
  if not first:
    raise DataError(f"{path}: it has no rows")
  whole = {column: np.concatenate(found) for column, found in parts.items() if column != _HISTORY}
  histories = Rows.concatenate(parts[_HISTORY])
  if _LABEL not in whole:
    logging.warning("%s: it has no column 'label': its %d impressions are not judged.", path, first)
  return _Read(
    whole[_USER], histories, whole[ITEM_ID], whole.get(_LABEL), {level: whole[level] for level in LEVELS}
  )  # fmt: skip


def _known(table: Table, column: str, ids: np.ndarray, items: _Items, rows: np.ndarray) -> np.ndarray:
  """Dense ids of a column's items, which are in `rows` of the file, a row each."""
  dense = items.dense(ids)
  if len(wrong := np.flatnonzero(dense <= 0)):
    known = f"the {len(items.ids) - 1:,} items of {ITEM_FILE}, {items.ids[1]} to {items.ids[-1]}"
    table.refuse(int(rows[wrong[0]]), column, f"item {ids[wrong[0]]} is not among {known}")
  return dense


def _at_least(table: Table, column: str, values: np.ndarray, least: int, rows: np.ndarray) -> None:
  if len(wrong := np.flatnonzero((values < least) | (values > np.iinfo(np.int32).max))):
    table.refuse(int(rows[wrong[0]]), column, f"{values[wrong[0]]} must be at least {least}, and an int32")


def _level(path: pathlib.Path, level: str, items: _Items, read: Mapping[str, _Read]) -> np.ndarray:
  """`[N + 1]` int32: the level of each item, what its table says or else its first impression; 0 of those without."""
  found = items.fields.get(level, np.zeros(len(items.ids), np.int32)).copy()
  other = number = 0
  for one in read.values():
    if not len(one.targets):
      continue
    shown, first = np.unique(one.targets, return_index=True)
    found[shown] = np.where(found[shown] == 0, one.levels[level][first], found[shown])
    other += int((one.levels[level] != found[one.targets]).sum())
    number += len(one.targets)
  if other:
    logging.warning(
      "%s: %d of %d impressions state another %s than is known of their item, which counts.", path, other, number, level
    )
  return found


def _last(train: Examples, num_users: int) -> Rows:
  """The history of each user's last training impression; none for users without."""
  last = np.full(num_users, -1, np.int64)
  np.maximum.at(last, train.users, np.arange(len(train)))
  rows = train.rows.take(last.clip(min=0))
  return rows.where(np.repeat(last >= 0, rows.lengths))
