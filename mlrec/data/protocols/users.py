"""Unseen users: some train, others are predicted for by their histories alone."""

import hashlib

import numpy as np

from mlrec.data.names import Names
from mlrec.data.protocols import protocols
from mlrec.data.protocols.protocol import Log
from mlrec.data.protocols.protocol import NAME_ENDS
from mlrec.data.protocols.protocol import Protocol
from mlrec.data.protocols.protocol import shares
from mlrec.data.splits import Cuts
from mlrec.data.splits import TEST
from mlrec.data.splits import VALID


@protocols.register("users")
class UnseenUsers(Protocol):
  """`users:0.8,0.1`: of the users 80 % train, 10 % validate and the other 10 % test.

  Which is which is a hash of the user's original id (or name), so that a user stays on the same side as the log grows,
  and the shares hold but for chance. Training sees the whole rows of its users and nothing of the others; of those the
  last item is the target, and all items before it are the history (Liang et al., WWW 2018, split users so).
  """

  form = "users:TRAIN,VALID, two shares with a sum below 1 such as users:0.8,0.1"

  def __init__(self, text: str):
    self.text = text
    found = shares(text.partition(NAME_ENDS)[2])
    if found is None:
      self.refuse()
    self._train, self._valid = found

  def cuts(self, log: Log) -> Cuts:
    """Whole rows for training, or their last items for prediction."""
    lot = lots(log.users, log.user_names)
    trains, tests = lot < self._train, lot >= self._train + self._valid
    last = log.histories.lengths - 1
    targets = {VALID: np.where(trains | tests, -1, last), TEST: np.where(tests, last, -1)}
    return Cuts(np.where(trains, log.histories.lengths, 0), targets)


def lots(users: np.ndarray, names: Names | None = None) -> np.ndarray:
  """`[users]` float64 in [0, 1): what a hash draws for each original id, or for its name where ids have names."""
  if names is not None:
    digests = (hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8) for name in names.texts(users))
    x = np.array([int.from_bytes(digest.digest(), "little") for digest in digests], np.uint64)
  else:
    # SplitMix64 (Steele et al., OOPSLA 2014), of which integers wrap around.
    x = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
      x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
  return (x >> np.uint64(11)) * 2.0**-53
