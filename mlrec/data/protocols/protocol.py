"""What protocols share: the log they cut, and what is checked and told of the cuts."""

from collections.abc import Callable
from typing import NamedTuple
from typing import NoReturn

from absl import logging
import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.interactions import first_and_last
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import number_beside
from mlrec.data.interactions import Rows
from mlrec.data.names import Names
from mlrec.data.splits import Cuts
from mlrec.data.splits import EVALUATED
from mlrec.data.splits import Split
from mlrec.data.splits import TEST
from mlrec.registry import OptionError

# What stands between a protocol's name and what it needs to know.
NAME_ENDS = ":"
# Below it, what is left of the interactions is probably not what was meant.
SMALL_SHARE = 0.5
# A share of the users so small says little of a model.
_FEW = 0.01
# Some do watch a video again; a log that holds each line twice has all of them do so.
_MANY_AGAIN = 0.1


class Log(NamedTuple):
  """The histories that a protocol cuts.

  Attributes:
    source: where they are from, for messages.
    users: `[users]` int64, original ids.
    histories: the items of each user, oldest first; as long as `min_length` asks.
    times: `[histories.offsets[-1]]` int64, when each item was watched; None where the log does not say.
    user_names: of users whose ids in the log are texts.
    labels: `[histories.offsets[-1]]` int8, what the log has each item for (`mlrec.data.labelled`); None where it does
      not say.
  """

  source: str
  users: np.ndarray
  histories: Rows
  times: np.ndarray | None = None
  user_names: Names | None = None
  labels: np.ndarray | None = None


class Kept(NamedTuple):
  """What counts of a log, line by line, before a later line of a user takes the place of an earlier one.

  Attributes:
    source: where it is from, for messages.
    line_users: `[lines]` int64, the user of each line that counts.
    whole: `[lines]` integers, how many items each had before it was trimmed.
    lines: the items of each (original ids), oldest first.
    times: beside `lines.values`; None where the log does not say, or nobody asks.
    others: `[…]` int64, the users of lines that do not count.
    user_names: of users whose ids in the log are texts.
    item_names: likewise.
    labels: beside `lines.values`; None where the log does not say, or nobody asks.
  """

  source: str
  line_users: np.ndarray
  whole: np.ndarray
  lines: Rows
  times: np.ndarray | None
  others: np.ndarray
  user_names: Names | None
  item_names: Names | None
  labels: np.ndarray | None = None


# What puts lines under dense ids: `(lines, the places of those that are rows, in order; of those whose items exist)` to
# the ids that exist, ascending, and the rows; None stands for all places.
Numbering = Callable[[Rows, np.ndarray | None, np.ndarray | None], tuple[np.ndarray, Rows]]


class Protocol:
  """A protocol, as `config.data.split` asks for it.

  A protocol derives from it, says what it is in its docstring, and gives `cuts`.

  Attributes:
    form: how it is written, for messages.
    evaluates: the splits that it has targets for.
    by_line: whether `trimmed` says which users are long enough, and a line of a user that a later one replaces counts
      for which items exist.
    timed: whether `cuts` asks when items were watched.
    labelled: whether it asks what the log has each item for; a log that says so is read whole.
    several: whether a user may have several targets.
    least: items that a user must have, at the least.
    text: what was asked for.
  """

  form: str = ""
  evaluates: tuple[str, ...] = EVALUATED
  by_line: bool = False
  timed: bool = False
  labelled: bool = False
  several: bool = False
  least: int = 2

  def __init__(self, text: str):
    """Takes in what follows the name.

    Raises:
      OptionError: it is not of the form.
    """
    self.text = text
    if text.partition(NAME_ENDS)[1]:
      self.refuse()

  def refuse(self, why: str = "") -> NoReturn:
    """Raises an OptionError that says what was expected."""
    raise OptionError("split", f"= {self.text!r}: expected {self.form}" + (f"; {why}" if why else ""))

  def refuse_untimed(self, source: str) -> NoReturn:
    """Raises a DataError: the log does not say when items were watched."""
    raise DataError(
      f"config.data.split = {self.text!r}: {source} has no timestamps; name a *_pairs.csv file "
      "(user,item,timestamp) or the form microlens/…-interactions as config.data.source"
    )

  def split(self, interactions: Interactions, *, max_length: int, min_length: int, train_windows: int = 1) -> Split:
    """Splits a log: users' whole histories are kept, and all items of them exist.

    Args:
      interactions: histories under original ids.
      max_length: the number of items a model reads.
      min_length: users with fewer items in the log are dropped, counted and reported.
      train_windows: windows of `max_length + 1` items that training sees of a user, from the newest back; 0 for all.

    Raises:
      DataError: an argument is too small, or the log does not serve: nobody is left to train on or to evaluate.
    """
    self.check(max_length, min_length, train_windows)
    settings = {"max_length": max_length, "min_length": min_length, "train_windows": train_windows}
    counts, lines = self.trimmed(interactions.lines, **settings)
    users, whole = interactions.line_users, interactions.lines.lengths
    kept = Kept(
      interactions.source, users[counts], whole[counts], lines, interactions.timestamps if self.timed else None,
      users[~counts], interactions.user_names, interactions.item_names,
      interactions.labels if self.labelled else None,
    )  # fmt: skip
    return self.split_kept(kept, _numbered, **settings)

  def split_kept(self, kept: Kept, number: Numbering, *, max_length: int, min_length: int, train_windows: int) -> Split:
    """The split of what counts of a log; as of `split`, whose arguments are in order.

    Args:
      kept: what `trimmed` has left of the log's lines.
      number: puts lines under dense ids.
      max_length: as of `split`, as are `min_length` and `train_windows`.

    Raises:
      DataError: as `split`.
    """
    source, lines, times = kept.source, kept.lines, kept.times
    users, rows = merged(kept.line_users)
    everybody = len(users) + number_beside(kept.others, users)
    if not self.by_line:
      long_enough = (lines.lengths if rows is None else lines.lengths_of(rows)) >= min_length
      if not long_enough.all():
        users, rows = users[long_enough], np.flatnonzero(long_enough) if rows is None else rows[long_enough]
    if not len(users):
      raise DataError(f"{source}: none of {everybody} users has {min_length} items")
    tell_of_skipped(source, everybody - len(users), everybody, min_length)
    distinct, histories = number(lines, rows, None if self.by_line else rows)
    times, labels = (
      one if one is None or rows is None else Rows(one, lines.offsets).take(rows).values for one in (times, kept.labels)
    )
    log = self.ordered(Log(source, users, histories, times, kept.user_names, labels))
    split = Split(
      users, log.histories, np.concatenate([[0], distinct]), max_length, self.cuts(log), everybody - len(users),
      user_names=kept.user_names, item_names=kept.item_names, protocol=self.text, train_windows=train_windows,
    )  # fmt: skip
    self.look_at(split, source, int((kept.whole if rows is None else kept.whole[rows]).sum(dtype=np.int64)))
    return split

  def trimmed(self, lines: Rows, *, max_length: int, min_length: int, train_windows: int) -> tuple[np.ndarray, Rows]:
    """What counts of the lines of a log, before a later line of a user takes the place of an earlier one.

    Returns:
      `[lines]` bool, the lines that count; and what they have.
    """
    del max_length, min_length, train_windows
    return np.ones(len(lines), bool), lines

  def look_at(self, split: Split, source: str, interactions: int) -> None:
    """Warns of what is probably not what was meant.

    Args:
      split: that was made.
      source: for messages.
      interactions: how many its users have in the log.

    Raises:
      DataError: nobody is left to train on or to evaluate.
    """
    del interactions
    _require_something(split, source)
    read, there = int(split.train_counts.sum()), int(split.cuts.train.sum())
    if read < SMALL_SHARE * there:
      logging.warning(
        "%s: training reads the last %d items of a user, %.0f %% of what is there to train on; "
        "config.data.train_windows = 0 has it read all, in windows of that length.",
        source, split.train_windows * split.max_length + 1, 100 * read / there,
      )  # fmt: skip
    warn_of_watched_again(split, source)

  def ordered(self, log: Log) -> Log:
    """The log with each user's items in the order in which they are cut."""
    return log

  def cuts(self, log: Log) -> Cuts:
    """Where the log's histories are cut.

    Raises:
      DataError: the log does not say what it takes.
    """
    raise NotImplementedError

  def check(self, max_length: int, min_length: int, train_windows: int) -> None:
    """Raises a DataError where an argument of `split` is too small."""
    for name, value, least in (("max_length", max_length, 1), ("train_windows", train_windows, 0)):
      if value < least:
        raise DataError(f"{name} must be at least {least}, not {value}")
    if min_length < self.least:
      raise DataError(f"min_length must be at least {self.least} with the split {self.text!r}, not {min_length}")


def merged(line_users: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
  """The users, in the order of their first lines, and the place of the last line of each: None for just the lines."""
  in_order = np.sort(line_users)
  if (in_order[1:] != in_order[:-1]).all():
    return line_users, None
  del in_order
  first, last = first_and_last(line_users)
  return line_users[first], last


def _numbered(lines: Rows, rows: np.ndarray | None, exist: np.ndarray | None) -> tuple[np.ndarray, Rows]:
  """A `Numbering` in memory."""
  histories = lines if rows is None else lines.take(rows)
  # A line that a later one of the same user replaces may still count for which items exist.
  distinct = np.unique(lines.values if exist is None else histories.values)
  return distinct, Rows((np.searchsorted(distinct, histories.values) + 1).astype(np.int32), histories.offsets)


def shares(text: str) -> list[float] | None:
  """The two shares in `0.8,0.1`, both above 0, and together below 1; None where it is anything else."""
  try:
    found = [float(part) for part in text.split(",")]
  except ValueError:
    return None
  return found if len(found) == 2 and min(found) > 0 and sum(found) < 1 - 1e-9 else None


def tell_of_skipped(source: str, skipped: int, users: int, min_length: int) -> None:
  """Warns of users who are too short."""
  if skipped:
    logging.warning(
      "%s: skipped %s of %s users, who have fewer than %d items.", source, f"{skipped:,}", f"{users:,}", min_length
    )


def warn_of_watched_again(split: Split, source: str) -> None:
  """Warns where many test targets cannot be found, as they are in the history that ranking leaves out."""
  if TEST not in split.cuts.targets:
    return
  again = number = 0
  for users in split.parts(TEST):
    seen, targets = split.seen(TEST, users), split.targets(TEST, users)
    found = (seen.values == np.repeat(targets, seen.lengths)).astype(np.int64)
    again += int((np.add.reduceat(found, seen.offsets[:-1]) > 0).sum())
    number += len(users)
  if again > _MANY_AGAIN * number:
    logging.warning(
      "%s: the test item of %d of %d users is one that they had watched before; ranking leaves out what was watched, "
      "so that it cannot be found: python -m mlrec.ingest --repeats=last has an item that a user has again count once.",
      source, again, number,
    )  # fmt: skip


def _require_something(split: Split, source: str) -> None:
  if not len(split.train_sequences):
    raise DataError(f"{source}: with config.data.split = {split.protocol!r} no user has two items to train on")
  for name in split.cuts.targets:
    number = len(split.evaluated(name))
    if not number:
      raise DataError(
        f"{source}: with config.data.split = {split.protocol!r} no user has both a {name} item and a history before it"
      )
    if number < _FEW * split.num_users:
      logging.warning(
        "%s: with config.data.split = %r only %d of %d users have a %s item and a history before it.",
        source, split.protocol, number, split.num_users, name,
      )  # fmt: skip
