"""What the prepared data holds, release by release, read back without TensorFlow."""

import pathlib
import pickle

from array_record.python.array_record_data_source import ArrayRecordDataSource
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mlrec.data import DataError
from mlrec.data import read_pairs
import tfds_microlens
from tfds_microlens import demo
from tfds_microlens import fetch
from tfds_microlens import records

DUMMY = pathlib.Path(tfds_microlens.__file__).with_name("dummy_data")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


def _write(folder, **files):
  folder.mkdir(parents=True, exist_ok=True)
  for stem, text in files.items():
    name = {"tsv": "pairs.tsv", "csv": "pairs.csv", "titles": "title_en.csv", "likes": "likes_and_views.txt"}[stem]
    (folder / f"MicroLens-100k_{name}").write_bytes(text.encode())
  return folder


def test_sequences_are_split_leave_one_out_in_file_order(data_dir):
  builder = tfds_microlens.prepare("100k-sequences", data_dir=data_dir, manual_dir=DUMMY)
  rows = {split: list(builder.as_data_source(split)) for split in builder.info.splits}
  assert set(rows) == {"train", "validation", "test"}
  # User 5 has two items and is skipped; user 3 is named again, and the later line counts in the place of the first.
  histories = {3: [9, 7, 5, 2, 30, 1, 4], 11: [2, 9, 4, 30, 5, 8], 8: [4, 1, 7, 2], 2: [5, 2, 30, 9, 4, 7, 8, 1, 3]}
  for split, hidden in (("train", 2), ("validation", 2), ("test", 1)):
    assert [int(row["user"]) for row in rows[split]] == list(histories)
    for row, history in zip(rows[split], histories.values()):
      assert row["items"].dtype == np.int64
      assert row["items"].tolist() == history[:-hidden]
      assert row["target"] == (0 if split == "train" else history[-hidden])
  assert builder.info.metadata["skipped_users"] == {"fewer than 3 items": 1}


def test_interactions_keep_the_order_and_the_times_of_the_csv(data_dir):
  builder = tfds_microlens.prepare("100k-interactions", data_dir=data_dir, manual_dir=DUMMY)
  rows = [[row["user"], row["item"], row["timestamp"]] for row in builder.as_data_source("train")]
  lines = (DUMMY / "MicroLens-100k_pairs.csv").read_text().splitlines()[1:]
  assert rows == [list(map(int, line.split(","))) for line in lines]
  assert builder.info.metadata["timestamps"] == "milliseconds"


def test_interactions_without_times_give_the_place_in_the_sequence(tmp_path, offline):
  manual = _write(tmp_path / "manual", tsv="4\t10 20 30\r\n2\t20 10\r\n")
  builder = tfds_microlens.prepare("100k-interactions", data_dir=tmp_path, manual_dir=manual)
  rows = [(row["user"], row["item"], row["timestamp"]) for row in builder.as_data_source("train")]
  assert rows == [(4, 10, 0), (4, 20, 1), (4, 30, 2), (2, 20, 0), (2, 10, 1)]
  assert builder.info.metadata["timestamps"] == "place in the sequence"


def test_items_are_those_of_titles_and_pairs(data_dir):
  builder = tfds_microlens.prepare("100k-items", data_dir=data_dir, manual_dir=DUMMY)
  rows = list(builder.as_data_source("train"))
  assert [row["item"] for row in rows] == [1, 2, 3, 4, 5, 7, 8, 9, 12, 30]
  by_id = {int(row["item"]): row for row in rows}
  assert by_id[2]["title"].decode() == "Two cats, one box"
  assert by_id[4]["title"].decode() == 'He said "go"'
  assert by_id[3]["title"] == b""
  assert by_id[30]["title"] == b""
  assert (by_id[2]["likes"], by_id[2]["views"]) == (26, 340)
  assert (by_id[5]["likes"], by_id[5]["views"]) == (-1, -1)
  # All lines count: those of short and of repeated users too.
  assert by_id[1]["count"] == 5
  assert by_id[12]["count"] == 0


def test_items_of_100k_have_tags_and_comments(data_dir):
  builder = tfds_microlens.prepare("100k-items", data_dir=data_dir, manual_dir=DUMMY)
  by_id = {int(row["item"]): row for row in builder.as_data_source("train")}
  tags = {item: [tag.decode() for tag in row["tags"]] for item, row in by_id.items()}
  comments = {item: [text.decode() for text in row["comments"]] for item, row in by_id.items()}
  assert {item: found for item, found in tags.items() if found} == {
    1: ["Food"], 2: ["Animals", "Funny"], 4: ["Sports, games"], 9: ["Music"],
  }  # fmt: skip
  assert {item: found for item, found in comments.items() if found} == {
    2: ["the one on the left 😂", "+1\tfrom me", "I had to"], 4: ['go,go "go"'], 9: ["Play it again"],
  }  # fmt: skip
  assert str(builder.version) == "1.1.0"
  assert set(builder.info.metadata["files"]) > {"tags_to_summary.csv", "MicroLens-100k_comment_en.txt"}
  assert "tags" not in tfds.builder("microlens/1m-items", data_dir=data_dir).info.features


def test_items_without_tags_and_comments(tmp_path, offline, caplog):
  manual = _write(tmp_path / "manual", tsv="4\t1 2 3\r\n", titles="1,one\n")
  builder = tfds_microlens.prepare("100k-items", data_dir=tmp_path, manual_dir=manual)
  assert [(len(row["tags"]), len(row["comments"])) for row in builder.as_data_source("train")] == [(0, 0)] * 3
  assert "comments are empty" in caplog.text


def test_items_without_likes_and_views(tmp_path, offline):
  manual = _write(tmp_path / "manual", tsv="4\t1 2 3\r\n", titles="1,one\n")
  builder = tfds_microlens.prepare("100k-items", data_dir=tmp_path, manual_dir=manual)
  assert [(row["likes"], row["views"]) for row in builder.as_data_source("train")] == [(-1, -1)] * 3


def test_titles_of_1m_are_taken_as_they_stand(data_dir):
  builder = tfds_microlens.prepare("1m-items", data_dir=data_dir, manual_dir=DUMMY)
  titles = {int(row["item"]): row["title"].decode() for row in builder.as_data_source("train")}
  assert titles[1] == '"half a quote, twice'
  assert titles[4] == '"quoted"'
  assert titles[7] == 'a,b,"c'
  assert titles[5] == ""


def test_sequences_from_the_csv_are_sorted_by_time(tmp_path, offline):
  csv = "user,item,timestamp\n9,1,30\n7,5,1\n9,2,10\n9,3,30\n7,6,2\n7,4,1\n"
  manual = _write(tmp_path / "manual", csv=csv)
  builder = tfds_microlens.prepare("100k-sequences", data_dir=tmp_path, manual_dir=manual)
  rows = [(row["user"], row["items"].tolist(), row["target"]) for row in builder.as_data_source("test")]
  assert rows == [(9, [2, 1], 3), (7, [5, 4], 6)]


@pytest.mark.parametrize(
  ("config", "files", "message"),
  [
    ("sequences", {"tsv": "1\t2 3 4\r\n2\t3 x 5\r\n"}, r"pairs.tsv:2: "),
    ("sequences", {"tsv": "1\t2 3\r\n"}, "no user has 3 items"),
    ("interactions", {"csv": "user,item,timestamp\n1,2,3\n1,0,4\n"}, r"pairs.csv:3: "),
    ("items", {"tsv": "1\t2 3 4\n", "titles": "1,one\ntwo\n"}, r"title_en.csv:2: expected item,title"),
    ("items", {"tsv": "1\t2 3 4\n", "titles": "1,one\n", "likes": "1\t2\n"}, r"likes_and_views.txt:1: expected"),
  ],
)
def test_a_malformed_line_is_named_and_nothing_is_left(tmp_path, offline, config, files, message):
  manual = _write(tmp_path / "manual", **files)
  with pytest.raises(DataError, match=message):
    tfds_microlens.prepare(f"100k-{config}", data_dir=tmp_path / "data", manual_dir=manual)
  assert not list(tmp_path.rglob("*.array_record*"))


def test_the_published_50k_is_not_replaced_by_another_file(tmp_path, offline):
  (tmp_path / "MicroLens-50k_pairs.tsv").write_bytes(b"1\t2 3 4\r\n")
  with pytest.raises(fetch.PrepareError, match=r"MicroLens-50k_pairs.tsv: this is not the published file"):
    tfds_microlens.prepare("50k-sequences", data_dir=tmp_path / "data", manual_dir=tmp_path)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise RuntimeError("write() failed: No space left on device")

  monkeypatch.setattr(records, "write_split", full)
  with pytest.raises(fetch.PrepareError, match="no space left on the disk"):
    tfds_microlens.prepare("demo-items", data_dir=tmp_path)


def test_data_source_prepares_array_records_with_and_without_a_data_dir(tmp_path, monkeypatch):
  source = tfds.data_source("microlens/demo-sequences", split="train", data_dir=tmp_path)
  assert len(source) == 2000
  part = tfds.data_source("microlens/demo-sequences", split="train[:10%]", data_dir=tmp_path)
  assert len(part) == 200
  assert np.array_equal(part[3]["items"], source[3]["items"])
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "default"))
  assert len(tfds.data_source("microlens/demo-items", split="train")) == 400
  assert list((tmp_path / "default").rglob("*.array_record*"))


def test_the_demo_is_what_its_generator_makes(made, tmp_path, monkeypatch):
  monkeypatch.setattr(demo, "generate", lambda: made)
  builder = tfds_microlens.prepare("microlens/demo-interactions", data_dir=tmp_path)
  rows = list(builder.as_data_source("train"))
  assert np.array_equal([row["item"] for row in rows], made.pairs.lines.values)
  assert np.array_equal([row["timestamp"] for row in rows], made.timestamps)
  items = list(tfds_microlens.prepare("demo-items", data_dir=tmp_path).as_data_source("train"))
  assert [row["title"].decode() for row in items] == made.titles
  assert np.array_equal([row["views"] for row in items], made.views)


def test_several_shards_hold_what_one_does(made, tmp_path, monkeypatch):
  monkeypatch.setattr(demo, "generate", lambda: made)
  builder = tfds_microlens.Builder(config="demo-sequences", data_dir=tmp_path)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
  assert builder.info.splits["test"].shard_lengths == [7, 7, 6]
  written = tfds_microlens.read_interactions(builder)
  assert written.lines == read_pairs(made.write(tmp_path / "files")["pairs_tsv"]).lines


def test_a_shard_holds_no_more_rows_than_it_may(tmp_path):
  template = tfds.core.ShardedFileTemplate(
    dataset_name="x", data_dir=tmp_path, split="train", filetype_suffix="array_record"
  )
  written = [f"{number}".encode() for number in range(20)]
  split = records.write_split(
    "train", 20, iter(written), template=template, file_format=tfds.core.FileFormat.ARRAY_RECORD, shard_rows=6
  )
  assert split.shard_lengths == [6, 6, 6, 2]
  assert list(ArrayRecordDataSource(sorted(map(str, tmp_path.iterdir())))) == written


def test_a_builder_survives_pickling(data_dir):
  builder = pickle.loads(pickle.dumps(tfds_microlens.prepare("100k-sequences", data_dir=data_dir, manual_dir=DUMMY)))
  assert len(builder.as_data_source("train")) == 4


def test_every_release_and_kind_has_a_documented_config():
  kinds = ("interactions", "sequences", "items", "items-cover224-audio10s", "videos-5x224")
  names = {f"{r}-{k}" for r in ("50k", "100k", "1m", "full", "demo") for k in kinds}
  assert set(tfds_microlens.Builder.builder_configs) == names
  builder = tfds.builder("microlens/50k-sequences")
  assert "2309.15379" in builder.info.citation
  assert "leave-one-out" in builder.info.description
  assert all(config.description for config in builder.builder_configs.values())
  versions = {name: str(tfds.builder(f"microlens/{name}").version) for name in names}
  assert [name for name, version in versions.items() if version == "1.1.0"] == ["100k-items"]
  assert {name for name, version in versions.items() if version == "2.0.0"} == {
    name for name in names if "cover" in name or "videos" in name
  }
  for name, config in builder.builder_configs.items():
    assert not config.version or next(iter(config.release_notes)) == versions[name] == config.version
