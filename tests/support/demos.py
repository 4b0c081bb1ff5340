"""Small demos: the synthetic MicroLens, cut down."""

import dataclasses

import numpy as np

from mlrec.data import Interactions
from mlrec.data import Rows
from tfds_microlens.demo import Demo


def first_items(made: Demo, count: int) -> Demo:
  """The first items of a demo, as though there were no others."""
  rows = np.repeat(np.arange(len(made.pairs.lines)), made.pairs.lines.lengths)
  kept = made.pairs.lines.values <= made.items[count - 1]
  lengths = np.bincount(rows[kept], minlength=len(made.pairs.lines))
  users = made.pairs.line_users[lengths > 0]
  lines = Rows.from_lengths(made.pairs.lines.values[kept], lengths[lengths > 0])
  cut = {name: getattr(made, name)[:count] for name in ("items", "titles", "attributes", "released", "likes", "views")}
  return dataclasses.replace(made, pairs=Interactions(users, lines), timestamps=made.timestamps[kept], **cut)
