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
  left = np.bincount(lengths, minlength=width + 1)
  empty, left[0] = int(left[0]), 0
  # By length, the places handed out: (row, start) pairs in the order of the pieces.
  rows_of: list[list[np.ndarray]] = [[] for _ in range(width + 1)]
  starts_of: list[list[np.ndarray]] = [[] for _ in range(width + 1)]
  num_rows = 0
  while left.any():
    filling, free = [], width
    for length in range(width, 0, -1):
      count = min(free // length, int(left[length]))
      if count:
        filling.append((length, count))
        free -= count * length
    repeats = min(int(left[length]) // count for length, count in filling)
    start = 0
    for length, count in filling:
      left[length] -= repeats * count
      for _ in range(count):
        rows_of[length].append(np.arange(num_rows, num_rows + repeats))
        starts_of[length].append(np.full(repeats, start))
        start += length
    num_rows += repeats
  rows_of[0].append(np.zeros(empty, np.int64))
  starts_of[0].append(np.zeros(empty, np.int64))
  order = np.argsort(lengths, kind="stable")
  rows, starts = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
  rows[order] = _joined(rows_of)
  starts[order] = _joined(starts_of)
  return rows, starts, num_rows


def _joined(by_length: list[list[np.ndarray]]) -> np.ndarray:
  parts = [part for parts in by_length for part in parts]
  return np.concatenate(parts) if parts else np.empty(0, np.int64)
