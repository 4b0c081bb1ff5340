"""Logs in MMRec's format, and what its evaluation makes of lists of recommendations, stated plainly."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib

import numpy as np

from support import tiny_runs

# (user, item, time, label), ids from 0.
Line = tuple[int, int, int, int]


def lines(rows: Sequence[Sequence[int]] | None = None, *, seed: int = 0) -> list[Line]:
  """Histories of item ids from 1, of which each user's last items are targets, two or more of users who have many.

  Users are mixed, as are times; some items are in no training.
  """
  rng = np.random.default_rng(seed)
  out: list[Line] = []
  for user, row in enumerate(tiny_runs.histories() if rows is None else rows):
    number = max(len(row) // 5, 1)
    labels = [0] * (len(row) - 2 * number) + [1] * number + [2] * number
    start = int(rng.integers(1_600_000_000, 1_700_000_000))
    out += [(user, item - 1, start + n, label) for n, (item, label) in enumerate(zip(row, labels))]
  return [out[place] for place in rng.permutation(len(out))]


def write(path: pathlib.Path, log: Sequence[Line], *, rating: bool = True) -> pathlib.Path:
  """A `*.inter` file."""
  head = ["userID", "itemID", *(["rating"] if rating else []), "timestamp", "x_label"]
  body = (f"{user}\t{item}\t" + ("5.0\t" if rating else "") + f"{time}\t{label}" for user, item, time, label in log)
  path.write_text("\n".join(["\t".join(head), *body, ""]))
  return path


def of_label(log: Sequence[Line], label: int) -> dict[int, list[int]]:
  """The items of each user with a label, by time."""
  out: dict[int, list[int]] = {}
  for user, item, _, found in sorted(log, key=lambda line: line[2]):
    if found == label:
      out.setdefault(user, []).append(item)
  return out


def mmrec_metrics(
  lists: Mapping[int, Sequence[int]], positives: Mapping[int, Sequence[int]], places: Sequence[int] = (10, 20)
) -> dict[str, float]:
  """What MMRec's evaluation says of lists of items, best first, its steps one after another.

  Hits by place are accumulated; recall divides them by the number of positives, NDCG divides the accumulated discounts
  of hits by those of a list that begins with all positives. Both are means over the users who have positives.
  """
  most = max(places)
  recalls, ndcgs = [], []
  discounts = 1 / np.log2(np.arange(1, most + 1) + 1)
  for user, wanted in positives.items():
    hit = np.isin(np.asarray(lists[user][:most]), wanted)
    recalls.append(np.cumsum(hit) / len(wanted))
    ideal = np.cumsum(np.where(np.arange(most) < len(wanted), discounts, 0))
    ndcgs.append(np.cumsum(np.where(hit, discounts, 0)) / ideal)
  return {
    f"{name}@{k}": float(np.mean([one[k - 1] for one in found]))
    for name, found in (("recall", recalls), ("ndcg", ndcgs))
    for k in places
  }
