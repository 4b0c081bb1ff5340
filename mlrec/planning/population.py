"""The split that a plan is of: the data's own, or, where that is not there, made-up histories of stated sizes."""

from collections.abc import Callable
import dataclasses
import re
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.data import synthetic
from mlrec.data.interactions import Rows
from mlrec.data.protocols.leave_one_out import LeaveOneOut
from mlrec.data.protocols.protocol import Log
from mlrec.data.splits import LEAVE_ONE_OUT
from mlrec.data.splits import Split
from mlrec.sources.configured import configured_split

# Users, items and mean length of the published releases (arXiv 2309.15379, Table 1).
RELEASES = {
  "50k": (50_000, 19_220, 7.19),
  "100k": (100_000, 19_738, 7.19),
  "1m": (1_000_000, 91_402, 9.10),
  "full": (34_492_051, 1_142_528, 29.2),
}
# The mean of MicroLens-50k, and the least that a user of a release has.
_MEAN, _LEAST = 7.19, 5
# Users that are made up: a batch's sizes depend on how histories and items are drawn, not on how many users there are.
_USERS, _BATCHES = 50_000, 4


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
      split = configured_split(config)
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
    "of MicroLens's shape"
  )
  return made_up(config, items=items, users=users, mean_length=mean_length)


def made_up(config: ConfigDict, *, items: int, users: int, mean_length: float = _MEAN) -> SampledSplit:
  """Histories of stated sizes, split by leave-one-out; of many users, as many as batches are planned from.

  Raises:
    ConfigError: a size is not possible.
  """
  data = config.data
  sampled = min(users, max(_USERS, _BATCHES * config.train.batch_size))
  shape = synthetic.Shape(sampled, items, round(mean_length * sampled), max(_LEAST, data.min_length))
  try:
    drawn = Rows.concatenate([rows for _, rows in synthetic.blocks(shape)])
  except DataError as error:
    raise ConfigError(f"--items={items} --users={users} --mean_length={mean_length:g}: {error}") from error
  protocol = LeaveOneOut(LEAVE_ONE_OUT)
  _, kept = protocol.trimmed(
    drawn, max_length=data.max_length, min_length=protocol.least, train_windows=data.train_windows
  )
  known, rows = np.arange(1, len(kept) + 1), Rows(kept.values.astype(np.int32), kept.offsets)
  return SampledSplit(
    known, rows, np.arange(items + 1), data.max_length, protocol.cuts(Log("made-up histories", known, rows)),
    protocol=LEAVE_ONE_OUT, train_windows=data.train_windows, stated_users=users,
  )  # fmt: skip


def _release(source: Any) -> tuple[int, int, float] | None:
  found = re.match(r"microlens/(\w+)-", str(source))
  return RELEASES.get(found[1]) if found else None
