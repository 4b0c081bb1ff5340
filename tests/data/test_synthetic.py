"""Logs of any size that are drawn."""

import itertools

import numpy as np
import pytest

from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data import synthetic
from mlrec.data.synthetic import Shape


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(synthetic, "_BLOCK", 100)


SHAPE = Shape(users=450, items=900, interactions=5400)


def test_a_file_is_what_was_drawn(tmp_path):
  path = tmp_path / "a_pairs.tsv"
  users, interactions = synthetic.write(SHAPE, path)
  read = read_pairs(path)
  drawn = list(synthetic.blocks(SHAPE))
  assert read.line_users.tolist() == [user for some, _ in drawn for user in some.tolist()] == list(range(1, 451))
  assert read.lines.values.tolist() == [item for _, rows in drawn for item in rows.values.tolist()]
  assert (users, interactions) == (450, len(read.lines.values))


def test_sizes_are_those_asked_for():
  rows = [rows for _, rows in synthetic.blocks(Shape(users=5000, items=20_000, interactions=150_000))]
  lengths = np.concatenate([part.lengths for part in rows])
  items = np.concatenate([part.values for part in rows])
  assert lengths.sum() == pytest.approx(150_000, rel=0.05)
  assert lengths.max() > 3 * lengths.mean()
  assert (items.min() >= 1) & (items.max() <= 20_000)
  counts = np.sort(np.bincount(items))[::-1]
  # The most watched tenth has more than half, and most items are watched at all.
  assert counts[:2000].sum() > counts.sum() / 2
  assert (counts > 0).sum() > 0.7 * 20_000


def test_a_user_has_no_item_twice_and_enough_of_them():
  for _, rows in synthetic.blocks(Shape(users=300, items=40, interactions=2400, least=3)):
    assert all(len(set(rows[n].tolist())) == len(rows[n]) for n in range(len(rows)))
    assert rows.lengths.min() >= 1


def test_it_is_a_function_of_sizes_and_seed(tmp_path):
  def text(shape):
    synthetic.write(shape, tmp_path / "x_pairs.tsv")
    return (tmp_path / "x_pairs.tsv").read_text()

  assert text(SHAPE) == text(SHAPE)
  assert text(SHAPE) != text(SHAPE._replace(seed=1))
  # Users before the last block are the same in a larger log of as much for each.
  larger = text(SHAPE._replace(users=900, interactions=10_800))
  assert larger.startswith(text(SHAPE._replace(users=400, interactions=4800)))


def test_what_comes_next_can_be_told_better_than_by_popularity(tmp_path):
  synthetic.write(SHAPE._replace(users=3000, interactions=60_000), tmp_path / "x_pairs.tsv")
  train = leave_one_out(read_pairs(tmp_path / "x_pairs.tsv")).train
  pairs = list(zip(train.values[:-1].tolist(), train.values[1:].tolist()))
  repeated = len(pairs) - len(set(pairs))
  rng = np.random.default_rng(0)
  mixed = rng.permutation(train.values).tolist()
  assert repeated > 1.5 * (len(pairs) - len(set(itertools.pairwise(mixed))))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--users=10", "--items=100", "--interactions=80", "--seed=-1"), "the seed must be at least 0, not -1"),
    (("--users=0", "--items=10", "--interactions=50"), "0: expected 1 to 2,147,483,647 as the number of users"),
    (("--users=10", "--items=4", "--interactions=50"), "4: expected 6 to 2,147,483,647 as the number of items"),
    (("--users=10", "--items=100", "--interactions=40"), "4.0 of each; expected at least 5"),
    (("--users=10", "--items=100", "--interactions=5000"), "at most half of the 100 items"),
    (("--users=10", "--items=100", "--interactions=80", "--to=x.csv"), "--to=x.csv: expected"),
    (("--users=10", "--items=100", "--interactions=80", "--to=none/x.tsv"), "x.tsv: it cannot be written (No such"),
  ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(arguments, message, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert synthetic.main(["--to=x_pairs.tsv", *arguments]) == 2
  said = capsys.readouterr().err
  assert message in said
  assert said.count("\n") == 1
  assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_wrote(tmp_path, capsys):
  sizes = ("--users=1_00", "--items=100", "--interactions=8_00")
  assert synthetic.main([*sizes, f"--to={tmp_path / 'x_pairs.tsv'}"]) == 0
  assert "100 users" in capsys.readouterr().out
