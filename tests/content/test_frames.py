"""Frames by item id out of prepared data."""

import concurrent.futures
import pickle
import shutil

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mlrec.config import default_config
from mlrec.content.videos import Frames
from mlrec.data import DataError
from support import clips
from support import demos
import tfds_microlens
from tfds_microlens import demo
from tfds_microlens import digests
from tfds_microlens import prepared
from tfds_microlens import reading
from tfds_microlens import video_frames

_ITEMS = [3, 4, 20, 500, 7000]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """`microlens/100k-videos-5x48` and `-4x16` of five videos."""
  folder = tmp_path_factory.mktemp("videos")
  held = folder / "manual" / "MicroLens-100k_videos"
  held.mkdir(parents=True)
  for place, item in enumerate(_ITEMS):
    clips.write_clip(held / f"{item}.mp4", clips.pictures(20 + place))
  (folder / "manual" / "MicroLens-100k_pairs.tsv").write_text("1\t3 4 20\n")
  for settings in ("5x48", "4x16"):
    tfds_microlens.prepare(f"100k-videos-{settings}", data_dir=folder, manual_dir=folder / "manual")
  return folder


@pytest.fixture(scope="module")
def frames(data_dir):
  return Frames("microlens/100k-videos-5x48", data_dir)


@pytest.fixture(scope="module")
def stored(data_dir):
  """`{item: [5, 48, 48, 3]}` by way of TFDS."""
  source = tfds.data_source("microlens/100k-videos-5x48", split="train", data_dir=data_dir)
  return {int(row["item"]): row["frames"] for row in source}


def test_it_knows_its_items_and_settings(frames):
  assert frames.items.tolist() == _ITEMS
  assert frames.items.dtype == np.int64
  assert (len(frames), frames.num_frames, frames.size) == (5, 5, 48)
  assert 20 in frames
  assert 21 not in frames
  assert 7001 not in frames


def test_frames_come_in_the_order_of_the_ids(frames, stored):
  ids = np.array([500, 3, 7000, 3], np.int32)
  read = frames.read(ids)
  assert read.dtype == np.uint8
  assert np.array_equal(read, np.stack([stored[int(item)] for item in ids]))
  assert frames.read([]).shape == (0, 5, 48, 48, 3)


@pytest.mark.parametrize(("number", "chosen"), [(5, [0, 1, 2, 3, 4]), (4, [0, 1, 3, 4]), (3, [1, 2, 3]), (1, [2])])
def test_fewer_frames_are_those_that_the_video_would_give(frames, stored, number, chosen):
  assert np.array_equal(frames.read([20], frames=number)[0], stored[20][chosen])
  middle = video_frames.choose_frames(100, 5).tolist()
  assert [middle[place] for place in chosen] == video_frames.choose_frames(100, number).tolist()


def test_fewer_frames_out_of_an_even_number_are_in_the_middle(data_dir):
  even = Frames("microlens/100k-videos-4x16", data_dir)
  everything = even.read([4])[0]
  assert np.array_equal(even.read([4], frames=2)[0], everything[1:3])
  assert np.array_equal(even.read([4], frames=1)[0], everything[1:2])


def test_smaller_frames_are_scaled(frames, stored):
  read = frames.read([4, 20], frames=1, size=20)
  expected = Image.fromarray(stored[20][2]).resize((20, 20), Image.Resampling.BILINEAR)
  assert read.shape == (2, 1, 20, 20, 3)
  assert np.array_equal(read[1, 0], np.asarray(expected))


def test_an_unknown_item_is_named(frames):
  with pytest.raises(DataError, match=r"5x48: item 480 is none of the [0-9]+ items that have a video"):
    frames.read([3, 480])
  with pytest.raises(DataError, match=r"item 9000 \(and 1 more\)"):
    frames.read([9000, 0])


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    ({"frames": 6}, "frames=6: expected 1 to 5"),
    ({"frames": 0}, "frames=0: expected 1 to 5"),
    ({"size": 49}, "size=49: expected 1 to 48"),
  ],
)
def test_more_than_is_stored_is_refused(frames, asked, message):
  with pytest.raises(DataError, match=message):
    frames.read([3], **asked)


def test_a_wrong_source_answers_with_the_closest(data_dir):
  with pytest.raises(DataError, match=r"did you mean .*'microlens/50k-videos-5x224'"):
    Frames("microlens/50k-vidoes-5x224", data_dir)
  with pytest.raises(DataError, match="'microlens/100k-items': did you mean"):
    Frames("microlens/100k-items", data_dir)


def test_what_is_not_prepared_is_answered_with_the_command(tmp_path):
  with pytest.raises(DataError, match=f"run python -m tfds_microlens 50k-videos-8x96 --data_dir={tmp_path}"):
    Frames("microlens/50k-videos-8x96", tmp_path)


def test_a_table_of_ids_that_does_not_fit_is_refused(data_dir, tmp_path):
  copy = shutil.copytree(data_dir / "microlens" / "100k-videos-4x16", tmp_path / "microlens" / "100k-videos-4x16")
  (table,) = copy.rglob("items.npy")
  place = prepared.place_of(tfds.builder("microlens/100k-videos-4x16", data_dir=tmp_path))
  np.save(table, np.arange(4))
  with pytest.raises(DataError, match=r"items.npy: expected 168 bytes, found 160; prepare .* again"):
    Frames("microlens/100k-videos-4x16", tmp_path)
  # By a writer that was wrong.
  digests.write(place)
  with pytest.raises(DataError, match="expected 5 ids, one a record"):
    Frames("microlens/100k-videos-4x16", tmp_path)
  np.save(table, np.array([3, 4, 21, 500, 7000]))
  digests.write(place)
  with pytest.raises(DataError, match="the record of item 21 holds item 20"):
    Frames("microlens/100k-videos-4x16", tmp_path).read([21])
  table.unlink()
  with pytest.raises(DataError, match=r"items.npy: missing"):
    Frames("microlens/100k-videos-4x16", tmp_path)
  table.write_bytes(b"no table")
  digests.write(place)
  with pytest.raises(DataError, match=r"items.npy: the ids of the records cannot be read"):
    Frames("microlens/100k-videos-4x16", tmp_path)


def test_several_threads_may_read_at_once(frames, stored):
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for item, read in zip(_ITEMS * 4, pool.map(lambda item: frames.read([item])[0], _ITEMS * 4)):
      assert np.array_equal(read, stored[item])


def test_a_copy_for_another_process_opens_the_files_anew(frames, stored):
  copy = pickle.loads(pickle.dumps(frames))
  assert np.array_equal(copy.read([4])[0], stored[4])


def test_the_demo_is_made_on_first_use(tmp_path, monkeypatch):
  made = demos.first_items(demo.generate(num_users=20, num_items=120), 12)
  monkeypatch.setattr(demo, "generate", lambda: made)
  frames = Frames("microlens/demo-videos-2x16", tmp_path)
  assert frames.read(frames.items).shape == (12, 2, 16, 16, 3)


def test_the_fingerprint_is_that_of_what_is_stored(frames, data_dir):
  assert Frames("microlens/100k-videos-5x48", data_dir).fingerprint == frames.fingerprint
  assert Frames("microlens/100k-videos-4x16", data_dir).fingerprint != frames.fingerprint


@pytest.fixture
def damaged(data_dir, monkeypatch):
  """Has the records at two of the five places be such that they cannot be read."""
  opened = reading.open_videos

  def open_videos(*arguments):
    items, records = opened(*arguments)

    def read(places):
      if {1, 3} & set(places):
        raise DataError("Shard-00000: it is not what was written")
      return records(places)

    return items, read

  monkeypatch.setattr(reading, "open_videos", open_videos)


def test_a_damaged_record_ends_the_reading_unless_it_is_to_be_skipped(data_dir, damaged, stored, caplog):
  with pytest.raises(DataError, match="not what was written"):
    Frames("microlens/100k-videos-5x48", data_dir).read([4])
  skipping = Frames("microlens/100k-videos-5x48", data_dir, skip_damaged=True)
  assert skipping.items.tolist() == [3, 20, 7000]
  assert np.array_equal(skipping.read([7000, 3]), np.stack([stored[7000], stored[3]]))
  with pytest.raises(DataError, match="item 500 is none of the 3 items that have a video"):
    skipping.read([500])
  assert "item 4 is skipped: Shard-00000: it is not what was written" in caplog.text
  assert "item 500 is skipped" not in caplog.text
  assert "2 of 5 records cannot be read; their items count as having no video" in caplog.text


def test_a_copy_in_another_process_skips_the_same_without_reading_all_again(data_dir, damaged, caplog):
  skipping = Frames("microlens/100k-videos-5x48", data_dir, skip_damaged=True)
  fingerprint = skipping.fingerprint
  caplog.clear()
  copied = pickle.loads(pickle.dumps(skipping))
  assert copied.items.tolist() == [3, 20, 7000]
  assert copied.fingerprint == fingerprint
  assert not caplog.records
  assert pickle.loads(pickle.dumps(copied)).items.tolist() == [3, 20, 7000]


def test_the_config_says_whether_damaged_records_are_skipped(data_dir, damaged):
  config = default_config()
  config.data.videos, config.data.data_dir = "microlens/100k-videos-5x48", str(data_dir)
  assert len(Frames.from_config(config.data)) == 5
  config.data.skip_damaged = True
  assert len(Frames.from_config(config.data)) == 3
