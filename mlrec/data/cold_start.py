"""Forced cold start: items that training is not shown, though users go on to watch them.

MicroLens's paper (arXiv 2309.15379) holds that models of content still work for items without interactions, where
models of IDs cannot, and its released code has no experiment of it: which items are cold is this package's protocol.
"""

import dataclasses

from absl import logging
import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.splits import LEAVE_ONE_OUT
from mlrec.data.splits import Split

# Of a user who stays, as the benchmark's shortest histories have it: five items, of which two are targets.
LEAST = 3


def force(split: Split, *, share: float, seed: int) -> Split:
  """The split with a share of its items taken out of all training rows, and so out of popularity and training counts.

  Users whose training row is left with fewer than `LEAST` items are dropped, and counted among the skipped; but
  those of whom training sees little in any case, such as users who are only evaluated, stay if it loses none. Targets
  stay, cold ones too, and so do the items that exist and their dense ids. So do the histories that are read before a
  prediction, at validation and test: a user has watched a cold item, and only training does not know of it. A model of
  content can make use of it there; to a model of IDs it is a random vector. As it was watched, it is also excluded from
  the user's ranking. The cold items of a smaller share are among those of a larger one of the same seed.

  Args:
    split: as the benchmark makes it.
    share: of the items that exist, at least 0 and below 1, rounded to a whole number of items; 0 for the split itself.
    seed: chooses the items; the same ones on every platform.

  Raises:
    DataError: the share is out of range, or no user is left.
  """
  if not 0 <= share < 1:
    raise DataError(f"cold_share must be at least 0 and below 1, not {share}")
  cold = np.sort(cold_items(split.num_items, share=share, seed=seed))
  if not len(cold):
    return split
  left = dataclasses.replace(split, cold=cold).train.lengths
  stays = left >= LEAST
  if split.protocol != LEAVE_ONE_OUT:
    stays |= left == split.train.lengths
  if not stays.any():
    raise DataError(
      f"config.data.cold_share = {share}: none of {split.num_users} users is left with {LEAST} items to train on"
    )
  dropped = int((~stays).sum())
  logging.warning(
    "config.data.cold_share = %s takes %d of %d items out of training; %d of %d users, who are left with fewer than %d "
    "items to train on, are dropped.",
    share, len(cold), split.num_items, dropped, len(stays), LEAST,
  )  # fmt: skip
  return dataclasses.replace(
    split, cold=cold, users=split.users[stays], rows=split.rows.take(stays), cuts=split.cuts.take(stays),
    num_skipped=split.num_skipped + dropped,
  )  # fmt: skip


def cold_items(num_items: int, *, share: float, seed: int) -> np.ndarray:
  """`[round(share * num_items)]` int64: dense ids of the items chosen, in the order of their choice."""
  # The raw output of a bit generator is what no NumPy release changes.
  order = np.argsort(np.random.PCG64(seed).random_raw(num_items), kind="stable")
  return order[: round(share * num_items)] + 1
