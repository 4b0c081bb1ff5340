"""The builder by TFDS's own doors: options of `DownloadConfig`, `tfds build`, and several processes at once."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.scripts.cli import build
from tensorflow_datasets.scripts.cli import cli_utils

from mlrec.data import DataError
from mlrec.sources import load_interactions
from support import clips
import tfds_microlens
from tfds_microlens import demo
from tfds_microlens import locks
from tfds_microlens.errors import PrepareError
from tfds_microlens.media import ITEMS

pytestmark = pytest.mark.usefixtures("offline")
_PACKAGE = pathlib.Path(tfds_microlens.__file__).parent
_DUMMY = _PACKAGE / "dummy_data"


def _built(name, tmp_path, manual=_DUMMY, **options):
  builder = tfds_microlens.Builder(config=name, data_dir=tmp_path)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual, **options))
  return builder


@pytest.mark.parametrize("kind", ["interactions", "sequences", "items"])
def test_no_more_examples_are_made_than_are_asked_for(tmp_path, kind):
  everything = _built(f"100k-{kind}", tmp_path / "all")
  some = _built(f"100k-{kind}", tmp_path / "some", max_examples_per_split=3)
  for split in everything.info.splits:
    all_rows = [repr(row) for row in everything.as_data_source(split)]
    assert [repr(row) for row in some.as_data_source(split)] == all_rows[:3]
    assert len(all_rows) > 3
  more = _built(f"100k-{kind}", tmp_path / "more", max_examples_per_split=1000)
  assert len(more.as_data_source("train")) == len(everything.as_data_source("train"))


def test_no_more_videos_are_read_than_are_asked_for(tmp_path):
  videos = tmp_path / "manual" / "MicroLens-1M_videos"
  videos.mkdir(parents=True)
  for item in (3, 4, 5, 6):
    clips.write_clip(videos / f"{item}.mp4", clips.pictures(3))
  (videos / "3.mp4").write_bytes(b"")
  builder = _built("1m-videos-1x8", tmp_path, videos.parent, max_examples_per_split=2)
  assert [int(row["item"]) for row in builder.as_data_source("train")] == [4, 5]
  assert np.load(builder.data_path / ITEMS).tolist() == [4, 5]


def test_interactions_of_some_users_are_theirs_and_that_is_said(tmp_path, caplog):
  _built("100k-sequences", tmp_path / "all")
  _built("100k-sequences", tmp_path, max_examples_per_split=2)
  everything = load_interactions("microlens/100k-sequences", str(tmp_path / "all"))
  caplog.clear()
  some = load_interactions("microlens/100k-sequences", str(tmp_path))
  assert "microlens/100k-sequences holds 2 examples of each split at most" in caplog.text
  assert some.users.tolist() == everything.users[:2].tolist()
  for row in range(2):
    assert np.array_equal(some.histories[row], everything.histories[row])


def test_a_part_is_not_taken_for_the_whole(tmp_path, caplog):
  _built("100k-sequences", tmp_path, max_examples_per_split=2)
  _built("100k-sequences", tmp_path, max_examples_per_split=2)
  with pytest.raises(PrepareError, match=r"it was made with max_examples_per_split=2, and None is asked for"):
    _built("100k-sequences", tmp_path)
  builder = tfds_microlens.prepare("100k-sequences", data_dir=tmp_path, manual_dir=_DUMMY)
  assert "with max_examples_per_split=2\nIt is made again" in caplog.text
  assert builder.info.splits["test"].num_examples == 4


@pytest.mark.parametrize(("num_shards", "lengths"), [(1, [4]), (3, [2, 1, 1]), (4, [1, 1, 1, 1])])
def test_there_are_as_many_shards_as_are_asked_for(tmp_path, num_shards, lengths):
  builder = _built("100k-sequences", tmp_path, num_shards=num_shards)
  assert builder.info.splits["test"].shard_lengths == lengths
  whole = _built("100k-sequences", tmp_path / "whole")
  read, expected = tfds_microlens.read_interactions(builder), tfds_microlens.read_interactions(whole)
  assert read.lines == expected.lines
  assert np.array_equal(read.line_users, expected.line_users)


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ({"num_shards": 5}, "num_shards=5: expected at most 4, the examples of the split train"),
    ({"num_shards": 0}, r"DownloadConfig\(num_shards=0\): expected 1 or more"),
    ({"max_examples_per_split": 0}, r"DownloadConfig\(max_examples_per_split=0\): expected 1 or more"),
    ({"max_shard_size": 5}, r"DownloadConfig\(max_shard_size=5\) has no effect on microlens, so it is refused"),
    ({"verify_ssl": False}, r"DownloadConfig\(verify_ssl=False\) has no effect"),
    ({"extract_dir": "x"}, r"DownloadConfig\(extract_dir='x'\) has no effect"),
    ({"register_checksums": True}, r"DownloadConfig\(register_checksums=True\) has no effect"),
    ({"force_checksums_validation": True}, r"DownloadConfig\(force_checksums_validation=True\) has no effect"),
  ],
)
def test_options_without_an_effect_are_refused_by_name(tmp_path, option, message):
  with pytest.raises(PrepareError, match=message):
    _built("100k-sequences", tmp_path, **option)
  assert not list(tmp_path.rglob("*.array_record*"))


def test_what_tfds_says_of_sizes_is_known(tmp_path, capsys):
  builder = _built("100k-sequences", tmp_path)
  out = capsys.readouterr().out
  assert f"Preparing microlens/100k-sequences in {builder.data_dir}" in out
  assert "Unknown size" not in out
  again = tfds_microlens.Builder(config="100k-sequences", data_dir=tmp_path)
  size = (_DUMMY / "MicroLens-100k_pairs.tsv").stat().st_size
  assert int(again.info.download_size) == int(builder.info.download_size) == size
  assert int(again.info.dataset_size) == sum(split.num_bytes for split in builder.info.splits.values()) > 0
  assert "Unknown size" not in repr(again.info)


def test_what_is_there_is_overwritten_or_its_info_updated_where_that_is_asked_for(tmp_path):
  modes = tfds.download.GenerateMode
  with pytest.raises(PrepareError, match="not prepared in"):
    _built("100k-sequences", tmp_path, download_mode=modes.UPDATE_DATASET_INFO)
  builder = _built("100k-sequences", tmp_path)
  (shard,) = builder.data_path.glob("*-test.*")
  before = shard.stat().mtime
  _built("100k-sequences", tmp_path, download_mode=modes.UPDATE_DATASET_INFO)
  assert shard.stat().mtime == before
  assert len(load_interactions("microlens/100k-sequences", str(tmp_path)).users) == 4
  _built("100k-sequences", tmp_path, download_mode=modes.REUSE_CACHE_IF_EXISTS)
  assert len(load_interactions("microlens/100k-sequences", str(tmp_path)).users) == 4


def _build(*datasets, data_dir, config):
  """What `tfds build` does once it has started, for which TFDS needs TensorFlow."""
  build.Args(
    positional_datasets=list(datasets),
    paths=cli_utils.PathOptions(data_dir=tfds.core.Path(data_dir), manual_dir=tfds.core.Path(_DUMMY)),
    generation=cli_utils.GenerationOptions(config=config),
    debug=cli_utils.DebugOptions(max_examples_per_split=2),
  ).execute()
  return tfds_microlens.Builder(config=config, data_dir=data_dir)


@pytest.mark.parametrize(
  ("folder", "datasets"),
  [(_PACKAGE, []), (_PACKAGE.parent, ["tfds_microlens"]), (_PACKAGE.parent, ["tfds_microlens/"])],
)
def test_tfds_build_finds_the_builder(tmp_path, monkeypatch, folder, datasets):
  monkeypatch.chdir(folder)
  builder = _build(*datasets, data_dir=tmp_path, config="100k-sequences")
  assert builder.info.splits["test"].num_examples == 2


_BUILD = """
import sys
from tensorflow_datasets.scripts.cli import build
class_, options = build._get_builder_cls_and_kwargs("", has_imports=False)
assert options == {}
print(class_.name, sys.modules[class_.__module__].__file__)
builder = class_(config="demo-items", data_dir=sys.argv[1])
builder.download_and_prepare()
assert len([row["title"] for row in builder.as_data_source("train")]) == 400
assert "tensorflow" not in sys.modules
"""


def test_tfds_build_finds_the_builder_in_its_folder_and_tensorflow_is_never_imported(tmp_path):
  environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
  done = subprocess.run(
    [sys.executable, "-c", _BUILD, tmp_path], cwd=_PACKAGE, env=environment, capture_output=True, text=True, timeout=60
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.startswith(f"microlens {_PACKAGE / 'tfds_microlens_dataset_builder.py'}\n")


_PREPARE = """
import sys
import tfds_microlens
from tfds_microlens import tfds_microlens_dataset_builder as builder
whole = builder.SequenceLines
def halfway(*arguments):
  print("halfway", flush=True)
  sys.stdin.read()
  return whole(*arguments)
builder.SequenceLines = halfway
tfds_microlens.prepare(sys.argv[1], data_dir=sys.argv[2], manual_dir=sys.argv[3])
"""


def _preparing(name, tmp_path):
  return subprocess.Popen(
    [sys.executable, "-c", _PREPARE, name, str(tmp_path), str(_DUMMY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  )


def test_of_two_that_prepare_the_same_the_second_is_told_of_the_first_and_follows_its_death(tmp_path):
  with _preparing("100k-sequences", tmp_path) as first:
    while first.stdout.readline() != b"halfway\n":
      pass
    for prepare in (_built, lambda name, folder: tfds_microlens.prepare(name, data_dir=folder, manual_dir=_DUMMY)):
      with pytest.raises(PrepareError, match=rf"100k-sequences is being prepared by process {first.pid} on \S+: wait"):
        prepare("100k-sequences", tmp_path)
    assert len(_built("100k-items", tmp_path).as_data_source("train")) == 10, "others are not held up"
    first.kill()
  folder = tmp_path / "microlens" / "100k-sequences"
  assert [path.name for path in folder.iterdir()] != ["1.0.0"], "it has left something"
  builder = tfds_microlens.prepare("100k-sequences", data_dir=tmp_path, manual_dir=_DUMMY)
  assert [path.name for path in folder.iterdir()] == ["1.0.0"]
  assert len(tfds_microlens.read_interactions(builder).users) == 4
  assert not list((tmp_path / "microlens").glob("*.lock"))


def test_a_data_dir_elsewhere_than_on_this_machine_is_refused():
  for open_it in (tfds_microlens.Builder, lambda config, data_dir: tfds_microlens.prepare(config, data_dir=data_dir)):
    with pytest.raises(PrepareError, match=r"data_dir=gs://bucket/data: expected a local folder"):
      open_it(config="100k-sequences", data_dir="gs://bucket/data")


def test_the_demo_that_another_process_is_making_is_waited_for(tmp_path, made_small, monkeypatch, caplog):
  monkeypatch.setattr(demo, "generate", lambda: made_small)
  lock = tmp_path / "microlens" / ".demo-sequences.lock"
  lock.parent.mkdir()
  other = locks.held(lock, "it is being prepared")
  other.__enter__()
  prepared = iter([tmp_path / "elsewhere"])

  def finish(record):
    """Once it is waited for, the other one has made it."""
    if "waiting for it" in record.getMessage() and (folder := next(prepared, None)):
      tfds_microlens.prepare("demo-sequences", data_dir=folder)
      shutil.copytree(folder / "microlens" / "demo-sequences", lock.parent / "demo-sequences")
      other.__exit__(None, None, None)
    return True

  caplog.handler.addFilter(finish)
  assert load_interactions("microlens/demo-sequences", str(tmp_path)).num_interactions > 0
  assert next(prepared, None) is None


def test_data_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
  builder = _built("100k-sequences", tmp_path)

  def refused(path):
    raise OSError(30, "Read-only file system", str(path))

  monkeypatch.setattr(locks.files, "try_lock", refused)
  assert len(tfds.data_source("microlens/100k-sequences", split="test", data_dir=tmp_path)) == 4
  tfds_microlens.prepare("100k-sequences", data_dir=tmp_path)
  with pytest.raises(DataError, match="cannot be used: Read-only file system"):
    _built("100k-items", tmp_path)
  assert builder.is_prepared()
