"""Covers and sound tracks by item id out of prepared data."""

import concurrent.futures
import pickle

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mlrec.content.audio import Audio
from mlrec.content.covers import Covers
from mlrec.content.titles import open_titles
from mlrec.data import DataError
from support import demos
from support import sounds
import tfds_microlens
from tfds_microlens import demo

_NAME = "microlens/100k-items-cover48-audio1s"
_WITH_COVER, _WITH_SOUND = [3, 20, 500, 7000], [4, 20, 7000]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """`_NAME` of five items, not all of which have both."""
  folder = tmp_path_factory.mktemp("items")
  manual = folder / "manual"
  (manual / "MicroLens-100k_covers").mkdir(parents=True)
  (manual / "MicroLens-100k_audio").mkdir()
  rng = np.random.default_rng(0)
  for item in _WITH_COVER:
    pixels = Image.fromarray(rng.integers(0, 256, (6, 9, 3)).astype(np.uint8))
    pixels.resize((90, 60)).save(manual / "MicroLens-100k_covers" / f"{item}.jpg", quality=95)
  for place, item in enumerate(_WITH_SOUND):
    sounds.write_wav(manual / "MicroLens-100k_audio" / f"{item}.wav", sounds.tone(0.4 + 0.5 * place))
  files = {
    "MicroLens-100k_pairs.tsv": "1\t3 4 20\n2\t500 7000\n", "MicroLens-100k_title_en.csv": "3,three\n20,twenty\n",
    "MicroLens-100k_likes_and_views.txt": "3\t1\t2\n", "tags_to_summary.csv": "3,Food\n",
    "MicroLens-100k_comment_en.txt": "1\t3\tfirst\n",
  }  # fmt: skip
  for name, text in files.items():
    (manual / name).write_text(text)
  tfds_microlens.prepare(_NAME, data_dir=folder, manual_dir=manual)
  return folder


@pytest.fixture(scope="module")
def covers(data_dir):
  return Covers(_NAME, data_dir)


@pytest.fixture(scope="module")
def tracks(data_dir):
  return Audio(_NAME, data_dir)


@pytest.fixture(scope="module")
def stored(data_dir):
  """`{item: (cover, sound)}`, by way of TFDS."""
  source = tfds.data_source(_NAME, split="train", data_dir=data_dir)
  return {int(row["item"]): (row["cover"], row["audio"]) for row in source}


def test_they_know_the_items_that_have_them(covers, tracks):
  assert covers.items.tolist() == _WITH_COVER
  assert tracks.items.tolist() == _WITH_SOUND
  assert (covers.size, tracks.rate, tracks.samples) == (48, 16_000, 16_000)
  assert 20 in covers
  assert 4 not in covers


def test_covers_come_in_the_order_of_the_ids(covers, stored):
  read = covers.read(np.array([500, 3, 500], np.int32))
  assert read.dtype == np.uint8
  assert np.array_equal(read, np.stack([stored[item][0] for item in (500, 3, 500)]))
  assert covers.read([]).shape == (0, 48, 48, 3)


def test_each_pixel_of_a_smaller_cover_is_the_mean_of_its_area(covers):
  whole, half = covers.read([20]), covers.read([20], size=24)
  means = whole.reshape(1, 24, 2, 24, 2, 3).mean((2, 4))
  np.testing.assert_allclose(half, means, atol=1)


@pytest.mark.parametrize("size", [0, 49, 224])
def test_larger_covers_than_are_stored_are_refused(covers, size):
  with pytest.raises(DataError, match=f"size={size}: expected 1 to 48.*100k-items-cover"):
    covers.read([3], size=size)


def test_sound_is_cut_and_padded_with_zeros(tracks, stored, caplog):
  short, whole = (stored[item][1] for item in (4, 7000))
  assert (len(short), len(whole)) == (6_400, 16_000)
  read = tracks.read([7000, 4])
  assert read.dtype == np.int16
  assert np.array_equal(read[0], whole)
  assert np.array_equal(read[1], np.pad(short, (0, 9_600)))
  assert np.array_equal(tracks.read([7000, 4], samples=5_001, rate=16_000), read[:, :5_001])
  assert not caplog.text
  longer = tracks.read([7000], samples=20_000)
  assert np.array_equal(longer[0], np.pad(whole, (0, 4_000)))
  assert "1.00 s of sound of an item at most, and 1.25 s are read: the rest is silence" in caplog.text


def test_another_rate_is_refused(tracks):
  with pytest.raises(DataError, match="rate=44100: expected 16000"):
    tracks.read([4], rate=44_100)
  with pytest.raises(DataError, match="samples=0: expected 1 or more"):
    tracks.read([4], samples=0)


def test_an_item_without_one_is_named(covers, tracks):
  with pytest.raises(DataError, match=r"item 4 is none of the [0-9]+ items that have a cover"):
    covers.read([3, 4])
  with pytest.raises(DataError, match=r"item 500 is none of the [0-9]+ items that have a sound track"):
    tracks.read([500])


def test_names_without_such_media_are_answered_with_those_that_have_them(data_dir):
  with pytest.raises(DataError, match=r"has no audio of its items: .*microlens/100k-items-cover224-audio10s"):
    Audio("microlens/100k-items-cover48", data_dir)
  with pytest.raises(DataError, match="has no cover of its items"):
    Covers("microlens/100k-items-coverpath", data_dir)
  with pytest.raises(DataError, match=r"config\.data\.content: 'microlens/100k-item': did you mean"):
    Covers("microlens/100k-item", data_dir)
  with pytest.raises(DataError, match=f"run python -m tfds_microlens 50k-items-cover9 --data_dir={data_dir}"):
    Covers("microlens/50k-items-cover9", data_dir)


def test_titles_are_read_of_such_data_too(data_dir):
  assert open_titles(_NAME, data_dir).read([20, 3]) == ["twenty", "three"]


def test_several_threads_may_read_at_once(covers, tracks):
  for source in (covers, tracks):
    whole = source.read(source.items)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      for place, read in enumerate(pool.map(lambda item, source=source: source.read([item])[0], source.items)):
        assert np.array_equal(read, whole[place])


def test_a_copy_for_another_process_opens_the_files_anew(covers, tracks):
  for source in (covers, tracks):
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.read([20]), source.read([20]))
    assert copy.fingerprint == source.fingerprint
  assert covers.fingerprint != tracks.fingerprint


def test_the_demo_is_made_on_first_use(tmp_path, monkeypatch):
  made = demos.first_items(demo.generate(num_users=20, num_items=120), 12)
  monkeypatch.setattr(demo, "generate", lambda: made)
  covers = Covers("microlens/demo-items-cover8", tmp_path)
  assert covers.read(covers.items).shape == (12, 8, 8, 3)
