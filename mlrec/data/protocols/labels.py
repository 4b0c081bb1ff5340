"""The split that a log carries, as the data sets of MMRec do (`mlrec.data.labelled`)."""

import numpy as np

from mlrec.data import labelled
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.data.protocols import protocols
from mlrec.data.protocols.protocol import Log
from mlrec.data.protocols.protocol import Protocol
from mlrec.data.splits import Cuts
from mlrec.data.splits import TEST
from mlrec.data.splits import VALID


@protocols.register("labels")
class Labels(Protocol):
  """The log says of each interaction whether it trains, validates or tests.

  As MMRec evaluates (Zhou, arXiv 2302.03497, and its released code): a user has as many targets as the log has for it,
  and all of them are ranked among all items but those of the user's training, at the test too, where the validation
  items are candidates like any others. Users without an item to train on are not evaluated. What a model reads before
  it predicts is, at validation and at the test, the user's training items, by time.

  An item that the user also has to train on stays a target, and cannot be found. Items that no line names do not exist.
  """

  form = "labels"
  labelled = True
  several = True
  least = 1

  def ordered(self, log: Log) -> Log:
    """What trains comes first, then what validates, then what tests, each by time."""
    if log.labels is None:
      raise DataError(
        f"config.data.split = {self.text!r}: {log.source} does not say what each interaction is for; name a "
        f"*{labelled.SUFFIX} file in MMRec's format (userID, itemID, x_label) as config.data.source"
      )
    users = np.repeat(np.arange(len(log.histories)), log.histories.lengths)
    order = np.lexsort((log.labels, users))
    times = None if log.times is None else log.times[order]
    histories = Rows(log.histories.values[order], log.histories.offsets)
    return log._replace(histories=histories, times=times, labels=log.labels[order])

  def cuts(self, log: Log) -> Cuts:
    """By the labels."""
    labels = log.labels
    assert labels is not None, "`ordered` has refused a log without labels"
    users = np.repeat(np.arange(len(log.histories)), log.histories.lengths)
    _require_distinct_targets(log, users)
    train, valid, test = (
      np.bincount(users[labels == label], minlength=len(log.histories))
      for label in (labelled.TRAINS, labelled.VALIDATES, labelled.TESTS)
    )

    def targets(start: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      predicted = (train > 0) & (number > 0)
      return np.where(predicted, start, -1), np.where(predicted, number, 0)

    validated, tested = targets(train, valid), targets(train + valid, test)
    return Cuts(
      train, {VALID: validated[0], TEST: tested[0]}, numbers={VALID: validated[1], TEST: tested[1]}
    )  # fmt: skip


def _require_distinct_targets(log: Log, users: np.ndarray) -> None:
  """Raises a DataError where a user is to be predicted the same item for twice."""
  assert log.labels is not None
  predicted = np.flatnonzero(log.labels != labelled.TRAINS)
  rows = np.stack([users[predicted], log.labels[predicted], log.histories.values[predicted]])
  distinct, numbers = np.unique(rows, axis=1, return_counts=True)
  if (numbers > 1).any():
    user, label, _ = distinct[:, np.argmax(numbers > 1)].tolist()
    named = log.users[user] if log.user_names is None else log.user_names.texts(log.users[[user]])[0]
    raise DataError(
      f"{log.source}: user {named} has an item twice with x_label {label}: expected each pair of user and item once"
    )
