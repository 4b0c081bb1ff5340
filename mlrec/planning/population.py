"""The split that a plan is of: the data's own, or, where that is not there, made-up histories of stated sizes."""

from collections.abc import Callable
import dataclasses
import re
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.data.interactions import Rows
from mlrec.data.splits import Cuts
from mlrec.data.splits import LEAVE_ONE_OUT
from mlrec.data.splits import Split
from mlrec.data.splits import TEST
from mlrec.data.splits import VALID
from mlrec.sources.split import load_split

# Users, items and mean length of the published releases (arXiv 2309.15379, Table 1).
RELEASES = {
  "50k": (50_000, 19_220, 7.19),
  "100k": (100_000, 19_738, 7.19),
  "1m": (1_000_000, 91_402, 9.10),
  "full": (34_492_051, 1_142_528, 29.2),
}
# Of MicroLens-50k's histories: the least length, the mean, and the two numbers of a Lomax curve through its shares of
# users with more than 5, more than 6 and more than 13 items (.593, .378 and .050; the curve has .593, .378 and .046).
_LEAST, _MEAN, _SCALE, _POWER = 5, 7.19, 5.8, 3.285
_LONGEST = 218
# Of its items' training counts: median over mean .61 and most over mean 20; a lognormal of this width has .67 and 24.
_POPULARITY_WIDTH = 0.9
# Users that are made up: a batch's sizes depend on how histories and items are drawn, not on how many users there are.
_USERS, _BATCHES = 50_000, 4
_SEED = 0


@dataclasses.dataclass(frozen=True, eq=False)
class SampledSplit(Split):
  """A split of which some users' histories exist.

  Attributes:
    stated_users: how many there would be.
  """

  stated_users: int = 0

  @property
  def num_users(self) -> int:
    return self.stated_users


def population(
  config: ConfigDict, *, items: int = 0, users: int = 0, mean_length: float = 0.0, say: Callable[[str], None] = print
) -> Split:
  """The split that a plan is of.

  Args:
    config: validated.
    items: that there would be; 0 for those of the data.
    users: likewise.
    mean_length: of histories that are made up; 0 for that of the release, or of MicroLens-50k.
    say: told what is made up.

  Raises:
    ConfigError: sizes are neither given nor known.
    DataError: the data is there, and wrong.
  """
  release = _release(config.data.source)
  if not (items and users):
    try:
      split = load_split(config.data)
    except DataError as error:
      if release is None:
        raise ConfigError(
          f"config.data.source = {config.data.source!r} cannot be read ({error}); a plan without the data needs both "
          "--items and --users"
        ) from error
    else:
      if not items and not users:
        return split
      items, users = items or split.num_items, users or split.num_users
  known_users, known_items, known_mean = release or (0, 0, _MEAN)
  items, users, mean_length = items or known_items, users or known_users, mean_length or known_mean
  say(
    f"the data is not read: {users:,} users, {items:,} items, made-up histories of {mean_length:g} items in the mean, "
    "shaped like MicroLens-50k's"
  )
  return made_up(config, items=items, users=users, mean_length=mean_length)


def made_up(config: ConfigDict, *, items: int, users: int, mean_length: float = _MEAN) -> SampledSplit:
  """Histories of stated sizes, split by leave-one-out; of many users, as many as batches are planned from.

  Raises:
    ConfigError: a size is not possible.
  """
  if items < 2 or users < 1 or mean_length < _LEAST:
    raise ConfigError(
      f"--items={items} --users={users} --mean_length={mean_length:g}: expected at least 2 items, 1 user and a mean of "
      f"{_LEAST}"
    )
  data = config.data
  random = np.random.default_rng(_SEED)
  sampled = min(users, max(_USERS, _BATCHES * config.train.batch_size))
  # Lomax: the share of users with k more than the least is (1 + k / scale) ** -power; the scale stretches the mean.
  scale = _SCALE * max(mean_length - _LEAST, 0.1) / (_MEAN - _LEAST)
  beyond = np.floor(scale * (random.random(sampled) ** (-1 / _POWER) - 1)).astype(np.int64)
  most = (data.train_windows or _LONGEST) * data.max_length + 3
  lengths = (np.maximum(_LEAST, data.min_length) + beyond).clip(max=min(_LONGEST, most))
  weights = np.cumsum(random.lognormal(sigma=_POPULARITY_WIDTH, size=items))
  drawn = np.searchsorted(weights, random.random(int(lengths.sum())) * weights[-1], side="right")
  rows = Rows.from_lengths((drawn.clip(max=items - 1) + 1).astype(np.int32), lengths)
  return SampledSplit(
    np.arange(1, sampled + 1), rows, np.arange(items + 1), data.max_length,
    Cuts(lengths - 2, {VALID: lengths - 2, TEST: lengths - 1}), protocol=LEAVE_ONE_OUT,
    train_windows=data.train_windows, stated_users=users,
  )  # fmt: skip


def _release(source: Any) -> tuple[int, int, float] | None:
  found = re.match(r"microlens/(\w+)-", str(source))
  return RELEASES.get(found[1]) if found else None
