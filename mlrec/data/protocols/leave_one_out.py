"""Leave-one-out: the last item of a user is the test target, the one before it the validation target.

The protocol of MicroLens (arXiv 2309.15379, section 4.1, and its released code): users with fewer than `min_length`
items are dropped, the last `max_length + 3` items of the others are kept, and items are numbered again in the order of
their original ids.
"""

from absl import logging
import numpy as np

from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows
from mlrec.data.protocols import protocols
from mlrec.data.protocols.protocol import Log
from mlrec.data.protocols.protocol import Protocol
from mlrec.data.protocols.protocol import SMALL_SHARE
from mlrec.data.protocols.protocol import warn_of_watched_again
from mlrec.data.splits import Cuts
from mlrec.data.splits import LEAVE_ONE_OUT
from mlrec.data.splits import Split
from mlrec.data.splits import TEST
from mlrec.data.splits import VALID


@protocols.register(LEAVE_ONE_OUT)
class LeaveOneOut(Protocol):
  """The last item of each user is the test target, the one before it the validation target."""

  form = LEAVE_ONE_OUT
  by_line = True
  least = 3  # an item each to train, validate and test

  def trimmed(self, lines: Rows, *, max_length: int, min_length: int, train_windows: int) -> tuple[np.ndarray, Rows]:
    """The lines that are long enough, and their last items."""
    long_enough = lines.lengths >= min_length
    kept = lines.take(long_enough)
    return long_enough, kept.last(_most(max_length, train_windows)) if train_windows else kept

  def cuts(self, log: Log) -> Cuts:
    """The last item but one, and the last."""
    # There are as many as users, who may be many.
    lengths = log.histories.lengths.astype(np.int32)
    return Cuts(lengths - 2, {VALID: lengths - 2, TEST: lengths - 1})

  def look_at(self, split: Split, source: str, interactions: int) -> None:
    """Tells of interactions that are left out, and of items that are watched again."""
    kept = int(split.rows.offsets[-1])
    if kept < SMALL_SHARE * interactions:
      logging.warning(
        "%s: data.max_length=%d keeps the last %d items of a user, %.0f %% of all interactions; a larger one keeps "
        "more, and config.data.train_windows = 0 all, to train on in windows of that length.",
        source, split.max_length, _most(split.max_length, split.train_windows), 100 * kept / interactions,
      )  # fmt: skip
    warn_of_watched_again(split, source)


def _most(max_length: int, train_windows: int) -> int:
  """The items that are kept of a user: those that training reads, and the two targets."""
  return train_windows * max_length + 3


def leave_one_out(
  interactions: Interactions, *, max_length: int = 10, min_length: int = 5, train_windows: int = 1
) -> Split:
  """Splits interactions as the MicroLens benchmark does.

  Args:
    interactions: histories under original ids.
    max_length: the number of items a model reads; the last `max_length + 3` items of a user are kept.
    min_length: users with fewer items are dropped, counted and reported.
    train_windows: how many windows of `max_length + 1` items training sees of a user, from the newest back, 0 for all;
      as many more items are kept, and excluded from the user's ranking.

  Raises:
    DataError: `max_length` or `min_length` is too small, or no user is left.
  """
  return LeaveOneOut(LEAVE_ONE_OUT).split(
    interactions, max_length=max_length, min_length=min_length, train_windows=train_windows
  )
