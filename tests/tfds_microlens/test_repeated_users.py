"""The prepared sequences give back the interactions of the pairs file, users with several lines included."""

import numpy as np
import pytest

from mlrec.data import Interactions
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data import Rows
from mlrec.sources import load_interactions
import tfds_microlens
from tfds_microlens import fetch
from tfds_microlens import sequences


def _lines(seed, num_lines, num_users):
  rng = np.random.default_rng(seed)
  users = rng.integers(1, num_users + 1, num_lines)
  lengths = rng.integers(1, 20, num_lines)
  return Interactions(users, Rows.from_lengths(rng.integers(1, 90, lengths.sum()), lengths))


def _prepared(interactions, folder):
  rows = enumerate(interactions.line_users)
  text = "".join(f"{user}\t{' '.join(map(str, interactions.lines[row]))}\r\n" for row, user in rows)
  folder.mkdir()
  path = folder / "MicroLens-100k_pairs.tsv"
  path.write_text(text, newline="")
  return path, tfds_microlens.prepare("100k-sequences", data_dir=folder, manual_dir=folder)


@pytest.mark.parametrize("num_users", [25, 100_000])
def test_splits_of_the_file_and_of_the_prepared_data_are_equal(tmp_path, num_users):
  path, builder = _prepared(_lines(0, 120, num_users), tmp_path / "data")
  from_file, from_tfds = read_pairs(path), tfds_microlens.read_interactions(builder)
  for max_length in (1, 4, 10, 50):
    for min_length in (3, 5, 12):
      options = {"max_length": max_length, "min_length": min_length}
      assert leave_one_out(from_file, **options) == leave_one_out(from_tfds, **options)


def test_every_line_long_enough_comes_back_in_its_place(tmp_path):
  path, builder = _prepared(_lines(1, 80, 15), tmp_path / "data")
  back = tfds_microlens.read_interactions(builder)
  read = read_pairs(path)
  counts = read.lines.lengths >= sequences.MIN_LENGTH
  assert np.array_equal(back.line_users, read.line_users[counts])
  assert back.lines == read.lines.take(counts)


def test_interactions_that_are_prepared_without_timestamps_are_the_lines_of_the_file(tmp_path, offline):
  path, _ = _prepared(_lines(2, 80, 15), tmp_path / "data")
  tfds_microlens.prepare("100k-interactions", data_dir=path.parent, manual_dir=path.parent)
  read, back = read_pairs(path), load_interactions("microlens/100k-interactions", str(path.parent))
  assert back.timestamps is None
  assert np.array_equal(back.line_users, read.line_users)
  assert back.lines == read.lines


def test_a_later_line_that_is_too_short_to_split_does_not_count(tmp_path):
  lines = Interactions(np.array([7, 7, 8]), Rows.from_lists([[1, 2, 3, 4, 5], [6, 7], [1, 2, 3, 9, 8]]))
  path, builder = _prepared(lines, tmp_path / "data")
  rows = list(builder.as_data_source("test"))
  assert [(row["user"], row["items"].tolist(), row["target"]) for row in rows] == [
    (7, [1, 2, 3, 4], 5),
    (8, [1, 2, 3, 9], 8),
  ]
  assert leave_one_out(read_pairs(path)) == leave_one_out(tfds_microlens.read_interactions(builder))


def test_what_the_splits_hold_is_the_merged_view(tmp_path):
  _, builder = _prepared(_lines(2, 60, 20), tmp_path / "data")
  merged = tfds_microlens.read_interactions(builder)
  rows = list(builder.as_data_source("test"))
  assert [row["user"] for row in rows] == merged.users.tolist()
  for row, history in zip(rows, (merged.histories[place] for place in range(len(rows)))):
    assert [*row["items"], row["target"]] == history.tolist()


def test_other_data_sets_are_refused_by_name(tmp_path):
  with pytest.raises(fetch.PrepareError, match="demo-items"):
    tfds_microlens.read_interactions(tfds_microlens.prepare("demo-items", data_dir=tmp_path))


def test_data_not_yet_prepared_is_refused_with_the_command_to_run(tmp_path):
  builder = tfds_microlens.Builder(config="50k-sequences", data_dir=tmp_path)
  with pytest.raises(
    fetch.PrepareError,
    match=r"microlens/50k-sequences: not prepared in .*; run python -m tfds_microlens 50k-sequences --data_dir=",
  ):
    tfds_microlens.read_interactions(builder)
