"""Packing short rows into dense ones: first-fit decreasing, counted by length instead of row by row."""

import numpy as np


def pack(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
  """Places pieces of the given lengths in rows of `width`, longest first.

  A row is filled with the longest piece that still fits, again and again. Pieces of one length are alike, so a filling
  found once serves every row that it can be repeated for, and the work grows with the distinct fillings only.

  Args:
    lengths: `[n]` int, each in 0..width; an empty piece takes no place.
    width: length of a row.

  Returns:
    `row [n]`, `start [n]` of each piece, and the number of rows. Which piece goes where depends on `lengths` alone.
  """
  counts = np.bincount(lengths, minlength=width + 1)
  left = counts.tolist()
  left[0] = 0
  # By length, the places handed out: (first row, rows, start) for runs of rows that are filled alike.
  runs: list[list[tuple[int, int, int]]] = [[] for _ in range(width + 1)]
  runs[0].append((0, 0, 0))
  num_rows = 0
  longest = width
  while True:
    while longest and not left[longest]:
      longest -= 1
    if not longest:
      break
    filling, free = [], width
    for length in range(longest, 0, -1):
      count = min(free // length, left[length])
      if count:
        filling.append((length, count))
        free -= count * length
    repeats = min(left[length] // count for length, count in filling)
    start = 0
    for length, count in filling:
      left[length] -= repeats * count
      for _ in range(count):
        runs[length].append((num_rows, repeats, start))
        start += length
    num_rows += repeats
  order = np.argsort(lengths, kind="stable")
  first, repeated, starts = np.array([run for of_length in runs for run in of_length], np.int64).T
  offset = np.cumsum(repeated) - repeated
  # Pieces of no length come first in the order; they are nowhere.
  rows, places = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
  rows[order[counts[0] :]] = np.repeat(first - offset, repeated) + np.arange(repeated.sum())
  places[order[counts[0] :]] = np.repeat(starts, repeated)
  return rows, places, num_rows
