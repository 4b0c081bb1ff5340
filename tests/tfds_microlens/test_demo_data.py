"""The synthetic MicroLens: the same everywhere, and with the structure that its docstring promises."""

import hashlib

import numpy as np
import pytest

from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from tfds_microlens import demo
from tfds_microlens import items


@pytest.fixture(scope="module")
def made():
  return demo.generate()


@pytest.fixture(scope="module")
def split(made):
  return leave_one_out(made.pairs)


def test_it_is_the_same_bytes_everywhere(made):
  numbers = [
    made.pairs.lines.values,
    made.pairs.lines.offsets,
    made.timestamps,
    made.attributes,
    made.likes,
    made.views,
  ]
  digest = hashlib.sha256(b"".join(part.astype("<i8").tobytes() for part in numbers) + "\n".join(made.titles).encode())
  assert digest.hexdigest()[:16] == "e4aaff2fde4f457b"


def test_another_seed_gives_other_data(made):
  assert demo.generate(seed=1).pairs.lines != made.pairs.lines


def test_histories_are_as_long_as_those_of_microlens(made):
  lengths = made.pairs.lines.lengths
  assert len(made.pairs.users) == 2000
  assert lengths.min() == 5
  assert np.median(lengths) in (6, 7)
  assert 0.02 < (lengths > 13).mean() < 0.1


def test_nobody_watches_a_video_twice_or_before_it_is_released(made):
  lines = made.pairs.lines
  days = (made.timestamps - made.timestamps.min()) // 86_400_000
  for row in range(len(lines)):
    assert len(set(lines[row].tolist())) == len(lines[row])
  assert (made.released[lines.values - 1] <= days + 1).all()


def test_times_never_go_back_within_a_history_after_the_first_day(made):
  day = made.timestamps // 86_400_000
  row = np.repeat(np.arange(len(made.pairs.lines)), made.pairs.lines.lengths)
  assert (np.diff(day)[np.diff(row) == 0] >= 0).all()


def test_cold_items_are_a_visible_share_of_test_targets(split):
  cold = split.train_counts[split.targets("test")] == 0
  assert 0.10 < cold.mean() < 0.25


def test_popularity_is_skewed(split):
  counts = np.sort(split.train_counts[1:])[::-1]
  assert counts[0] > 5 * np.median(counts)


def _hit_rate(split, scores):
  seen = split.seen("test")
  scores = scores.astype(float)
  scores[np.repeat(np.arange(len(seen)), seen.lengths), seen.values] = -np.inf
  scores[:, 0] = -np.inf
  targets = split.targets("test")
  ahead = scores >= scores[np.arange(len(targets)), targets][:, None]
  return ahead.sum(axis=1) <= 10


def test_order_and_content_tell_more_than_popularity(made, split):
  counts = split.train_counts
  follows = np.zeros((split.num_items + 1,) * 2)
  inner = np.repeat(np.arange(split.num_users), split.train.lengths)
  pairs = np.stack([split.train.values[:-1], split.train.values[1:]])[:, np.diff(inner) == 0]
  np.add.at(follows, tuple(pairs), 1)
  inputs = split.inputs("test")
  last = inputs.values[inputs.offsets[1:] - 1]
  shown = np.concatenate([np.full((1, 5), -1), made.attributes[split.item_ids[1:] - 1]])
  # Colour and motion go on one step, shape stays: read off the last video alone.
  sizes = [len(values) for values in demo.ATTRIBUTES.values()]
  wanted = (shown[last] + np.array([0, 1, 1, 0, 0])) % sizes
  content = sum(
    weight * (shown[None, :, k] == wanted[:, k, None]) for k, weight in enumerate((3.0, 3.5, 2.0, 0.7, 0.7))
  )
  popular = _hit_rate(split, np.tile(counts, (split.num_users, 1)))
  markov = _hit_rate(split, follows[last] + 1e-3 * counts)
  oracle = _hit_rate(split, content + 1e-3 * np.log1p(counts))
  cold = counts[split.targets("test")] == 0
  assert markov.mean() > 2 * popular.mean()
  assert oracle.mean() > 1.3 * markov.mean()
  assert oracle[cold].mean() > 0.2


def test_titles_mention_what_is_to_be_seen(made):
  shapes = demo.ATTRIBUTES["shape"]
  assert all(shapes[shape] in title for shape, title in zip(made.attributes[:, 0], made.titles))
  assert any("," in title for title in made.titles)
  assert any('"' in title for title in made.titles)


def test_files_are_those_of_a_release(made, tmp_path):
  paths = made.write(tmp_path)
  from_tsv, from_csv = read_pairs(paths["pairs_tsv"]), read_pairs(paths["pairs_csv"])
  assert from_tsv.lines == made.pairs.lines
  assert np.array_equal(from_csv.users, from_tsv.users)
  assert list(items.read_titles(paths["titles"], quoted=True).values()) == made.titles
  views = [views for _, views in items.read_likes_and_views(paths["likes"]).values()]
  assert views == made.views.tolist()


def test_too_small_a_request_is_refused():
  with pytest.raises(ValueError, match="120 items or more"):
    demo.generate(num_items=50)
