"""A synthetic MicroLens: users whose tastes follow what is to be seen in the videos; the same bytes anywhere.

Items. Item i shows five attributes `x[i, k]` (`ATTRIBUTES`: shape, colour, motion, speed, background), drawn uniformly
and independently of all else, so that content says as much about a new item as about an old one. Its popularity is
`q[i] = 12 / rank(i)^0.5` in integers, rank a random permutation: a Zipf curve, flattened as in real logs where old hits
fade. Two items in five are there on day 0; the others come at an even pace until the last day (`released[i]`). So the
latest are watched by nobody until the last days: they are the cold items of the test split, about one target in six.

Users. User u watches `n[u]` videos: 5 plus a geometric number, and now and then a long tail. The last video falls in
the last 4 days of the log, each earlier one 3 to 7 days before the next (but not before day 0). Taste is a state: the
value of each attribute that the user wants next, `z[u, k]`. The t-th video is drawn from the released ones that u has
not watched, with

    P(i | z) ∝ q[i] · fresh[i, t] · Π_k boost[k]^(x[i, k] = z[u, k]),

where `fresh` is 4 in an item's first week and 1 after. `boost` says how much an attribute matters: colour and shape
most, speed and background little. Then taste drifts. With `x` the video just watched and `V[k]` the number of values,

    z[u, k] ← x[k] + step[k] (mod V[k])   with probability drift[k], led on from what was just seen,
    z[u, k] ← z[u, k]                     otherwise, faithful to the taste that u has.

Colour walks around its wheel nearly every time, motion often; shape, speed and background stay. So the order of a
history matters (a model of sequences beats popularity), each user has tastes of their own, and an item nobody has
watched before can be ranked by what it shows.

Titles name some of the attributes. Likes and views grow with popularity. Item ids are 1 to `num_items`, in random order
of popularity; users are numbered from 1.

Numbers come from the raw 64-bit output of PCG64 and integer arithmetic alone, which no NumPy release or platform
changes.
"""

import csv
import dataclasses
import math
import os
import pathlib

import numpy as np

from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows

NAME = "demo"
ATTRIBUTES = {
  "shape": ("circle", "square", "triangle", "star", "ring", "cross"),
  "colour": ("red", "orange", "yellow", "green", "blue", "violet"),
  "motion": ("rising", "drifting", "falling", "bouncing"),
  "speed": ("slow", "steady", "fast"),
  "background": ("plain", "striped", "dotted", "checked"),
}
_BOOST = (16, 24, 6, 2, 2)
# How taste goes on from the video just watched: the step on each attribute's wheel, its probability in percent.
_STEP = (0, 1, 1, 0, 0)
_DRIFT = (10, 95, 80, 10, 10)

_DAYS = 60
_ON_DAY_0 = 40  # percent of the items
_FRESH_DAYS = 7
_FRESH_BOOST = 4
_LAST_WATCH_DAYS = 4  # a user's last video falls in so many last days
_GAP_DAYS = (3, 7)
_MIN_LENGTH = 5
_MAX_LENGTH = 60
_FIRST_MS = 1_640_995_200_000  # day 0: 2022-01-01
_DAY_MS = 86_400_000
_ROOT_SCALE = 4096  # square roots in fixed point

_OPENINGS = ("Wait for it", "You have to see this", "So calming", "My day in one shape", "Who else watches this twice")


@dataclasses.dataclass(frozen=True, eq=False)
class Demo:
  """The synthetic data.

  Attributes:
    pairs: who watched what, oldest first.
    timestamps: `[interactions]` int64, ms, beside `pairs.lines.values`.
    items: `[num_items]` int64, every item's id, ascending.
    titles: a title for each of `items`.
    attributes: `[num_items, 5]` int64, an index into each of `ATTRIBUTES`.
    released: `[num_items]` int64, the day from which an item can be watched.
    likes: `[num_items]` int64.
    views: `[num_items]` int64.
  """

  pairs: Interactions
  timestamps: np.ndarray
  items: np.ndarray
  titles: list[str]
  attributes: np.ndarray
  released: np.ndarray
  likes: np.ndarray
  views: np.ndarray

  def write(self, folder: str | os.PathLike[str]) -> dict[str, pathlib.Path]:
    """Writes the files of a MicroLens release into `folder`: `pairs_tsv`, `pairs_csv`, `titles` and `likes`."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
      "pairs_tsv": folder / "MicroLens-demo_pairs.tsv",
      "pairs_csv": folder / "MicroLens-demo_pairs.csv",
      "titles": folder / "MicroLens-demo_titles.csv",
      "likes": folder / "MicroLens-demo_likes_and_views.txt",
    }
    users, lines = self.pairs.line_users, self.pairs.lines
    with paths["pairs_tsv"].open("w", newline="") as file:
      for row, user in enumerate(users):
        file.write(f"{user}\t{' '.join(map(str, lines[row]))}\r\n")
    with paths["pairs_csv"].open("w", newline="") as file:
      file.write("user,item,timestamp\n")
      for interaction in zip(np.repeat(users, lines.lengths), lines.values, self.timestamps):
        file.write("{},{},{}\n".format(*interaction))
    with paths["titles"].open("w", newline="", encoding="utf-8") as file:
      writer = csv.writer(file)
      writer.writerow(("item", "title"))
      writer.writerows(zip(self.items, self.titles))
    with paths["likes"].open("w", newline="") as file:
      for figures in zip(self.items, self.likes, self.views):
        file.write("{}\t{}\t{}\n".format(*figures))
    return paths


def generate(num_users: int = 2000, num_items: int = 400, seed: int = 0) -> Demo:
  """Makes the data of the module's model; the same arguments give the same bytes everywhere.

  Raises:
    ValueError: fewer users than one, or too few items for the longest history.
  """
  if num_users < 1 or num_items < 2 * _MAX_LENGTH:
    raise ValueError(f"expected a user and {2 * _MAX_LENGTH} items or more, not {num_users} and {num_items}")
  draw = _Draw(seed)
  attributes = np.stack([draw.below(len(values), num_items) for values in ATTRIBUTES.values()], axis=1)
  popularity = _zipf_weights(num_items)[draw.permutation(num_items)]
  released = np.where(draw.below(100, num_items) < _ON_DAY_0, 0, draw.below(_DAYS, num_items))
  days = _watch_days(draw, num_users)
  watched = _watch(draw, attributes, popularity, released, days)

  real = days >= 0
  items = np.arange(1, num_items + 1)
  users = np.arange(1, num_users + 1)
  lines = Rows.from_lengths(items[watched[real]], real.sum(axis=1))
  timestamps = _FIRST_MS + days[real] * _DAY_MS + draw.below(_DAY_MS, int(real.sum()))
  # Times of one day are drawn in any order; a history is in the order of time.
  timestamps = timestamps[np.lexsort((timestamps, np.repeat(users, lines.lengths)))]
  counts = np.bincount(watched[real], minlength=num_items)
  views = counts * (200 + draw.below(100, num_items)) + draw.below(100, num_items)
  likes = views * (2 + draw.below(9, num_items)) // 100
  titles = _titles(draw, attributes)
  return Demo(Interactions(users, lines, NAME), timestamps, items, titles, attributes, released, likes, views)


def taste_weights(
  attributes: np.ndarray, popularity: np.ndarray, released: np.ndarray, taste: np.ndarray, day: np.ndarray
) -> np.ndarray:
  """The unnormalised `P(i | z)` of the module's model.

  Args:
    attributes: `[items, 5]`.
    popularity: `[items]`, q.
    released: `[items]`.
    taste: `[users, 5]`, z.
    day: `[users]`, the day of the watch.

  Returns:
    `[users, items]` int64; 0 for an item not yet released.
  """
  weights = np.where(released < day[:, None] - _FRESH_DAYS, 1, _FRESH_BOOST) * popularity
  for k, boost in enumerate(_BOOST):
    weights = weights * np.where(attributes[:, k] == taste[:, k, None], boost, 1)
  return weights * (released <= day[:, None])


class _Draw:
  """Integers from the raw output of a bit generator: streams that no NumPy release changes."""

  def __init__(self, seed: int):
    self._bits = np.random.PCG64(seed)

  def below(self, bound: int | np.ndarray, size: int) -> np.ndarray:
    """`[size]` int64, uniform in 0 to `bound - 1`; `bound` (a scalar or `[size]`) is less than 2^31."""
    high = (self._bits.random_raw(size) >> np.uint64(33)).astype(np.int64)
    return (high * np.asarray(bound, np.int64)) >> 31

  def permutation(self, size: int) -> np.ndarray:
    return np.argsort(self._bits.random_raw(size), kind="stable")


def _zipf_weights(num_items: int) -> np.ndarray:
  """`[items]` int64, proportional to `1 / sqrt(rank)`, and 1 or more."""
  roots = np.array([math.isqrt(rank * _ROOT_SCALE**2) for rank in range(1, num_items + 1)])
  return np.maximum(12 * _ROOT_SCALE // roots, 1)


def _watch_days(draw: _Draw, num_users: int) -> np.ndarray:
  """`[users, longest]` int64: the day of each video, oldest first, -1 where a shorter history has none."""
  length = np.full(num_users, _MIN_LENGTH)
  going = np.ones(num_users, bool)
  for _ in range(_MAX_LENGTH - _MIN_LENGTH):
    going &= draw.below(100, num_users) < 58
    length += going
  tail = draw.below(100, num_users) < 3
  length = np.where(tail, np.minimum(length + 8 + draw.below(40, num_users), _MAX_LENGTH), length)
  day = _DAYS - 1 - draw.below(_LAST_WATCH_DAYS, num_users)
  days = np.full((num_users, length.max()), -1)
  for back in range(length.max()):
    place = length - 1 - back
    rows = np.flatnonzero(place >= 0)
    days[rows, place[rows]] = np.maximum(day[rows], 0)
    day = day - _GAP_DAYS[0] - draw.below(_GAP_DAYS[1] - _GAP_DAYS[0] + 1, num_users)
  return days


def _watch(
  draw: _Draw, attributes: np.ndarray, popularity: np.ndarray, released: np.ndarray, days: np.ndarray
) -> np.ndarray:
  """`[users, longest]` indices of the watched items, by the module's model."""
  num_users, longest = days.shape
  sizes = np.array([len(values) for values in ATTRIBUTES.values()])
  taste = np.stack([draw.below(size, num_users) for size in sizes], axis=1)
  watched = np.zeros((num_users, longest), np.int64)
  fresh = np.ones((num_users, len(attributes)), bool)
  for t in range(longest):
    rows = np.flatnonzero(days[:, t] >= 0)
    weights = taste_weights(attributes, popularity, released, taste[rows], days[rows, t]) * fresh[rows]
    total = np.cumsum(weights, axis=1)
    picked = np.sum(total <= draw.below(total[:, -1], len(rows))[:, None], axis=1)
    watched[rows, t] = picked
    fresh[rows, picked] = False
    drifts = np.stack([draw.below(100, len(rows)) < percent for percent in _DRIFT], axis=1)
    taste[rows] = np.where(drifts, (attributes[picked] + np.array(_STEP)) % sizes, taste[rows])
  return watched


def _titles(draw: _Draw, attributes: np.ndarray) -> list[str]:
  """A title for each item; each attribute but the shape is mentioned or not, at random."""
  opening = draw.below(2 * len(_OPENINGS), len(attributes))
  mentioned = np.stack([draw.below(100, len(attributes)) < percent for percent in (100, 70, 50, 40, 40)], axis=1)
  titles = []
  for row, shown in enumerate(mentioned):
    shape, colour, motion, speed, background = (
      values[attributes[row, k]] if shown[k] else "" for k, values in enumerate(ATTRIBUTES.values())
    )
    title = " ".join(filter(None, (speed, motion, colour, shape)))
    title = f"an {title}" if title[0] in "aeiou" else f"a {title}"
    if background:
      title += f" on a {background} wall"
    if opening[row] < len(_OPENINGS):
      title = f"{_OPENINGS[opening[row]]}, {title}"
    titles.append(f"{title} # {shape} # {colour}" if colour else f'{title} "{shape}"')
  return titles
