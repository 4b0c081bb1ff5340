"""Every file of a prepared data set, damaged in every way: found before it is read as data, and told in a line."""

import contextlib
import dataclasses
import pathlib
import shutil

from array_record.python import array_record_module
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mlrec.content.audio import Audio
from mlrec.content.covers import Covers
from mlrec.content.titles import open_titles
from mlrec.content.videos import Frames
from mlrec.data import DataError
from mlrec.sources import load_interactions
from support import clips
from support import sounds
import tfds_microlens
from tfds_microlens import digests
from tfds_microlens import prepared
from tfds_microlens import records
from tfds_microlens import shards
from tfds_microlens import video_frames

_ITEMS = (2, 9, 10)


def _all_of(source):
  return source.read(source.items)


# What reads each data set, whole.
_READERS = {
  "1m-sequences": (
    lambda name, root: load_interactions(name, str(root)),
    lambda name, root: tfds_microlens.read_interactions(tfds.builder(name, data_dir=root)),
  ),
  "1m-items-cover8-audio1s": (
    lambda name, root: open_titles(name, root),
    lambda name, root: _all_of(Covers(name, root)),
    lambda name, root: _all_of(Audio(name, root)),
  ),
  "1m-videos-2x16": (lambda name, root: _all_of(Frames(name, root)),),
}


@dataclasses.dataclass(frozen=True)
class _Set:
  """A prepared data set, and another of the same config."""

  name: str
  root: pathlib.Path
  folder: pathlib.Path
  other: pathlib.Path

  def names(self) -> list[str]:
    return sorted(path.name for path in self.folder.iterdir())

  def read(self, readers=None) -> list:
    return [read(f"microlens/{self.name}", self.root) for read in readers or _READERS[self.name]]

  @contextlib.contextmanager
  def damaged(self, name: str, damage):
    """The path of a file, damaged; as it was afterwards."""
    path = self.folder / name
    content = path.read_bytes()
    try:
      damage(self, path, content)
      yield path
    finally:
      if path.is_dir():
        path.rmdir()
      path.write_bytes(content)


def _manual(folder: pathlib.Path, shade: int) -> pathlib.Path:
  for kind in ("covers", "audio", "videos"):
    (folder / f"MicroLens-1M_{kind}").mkdir(parents=True)
  (folder / "MicroLens-1M_pairs.tsv").write_text(f"1\t2 9 10\n2\t10 2 9\n3\t9 {shade} 2\n")
  (folder / "MicroLens-1M_title.csv").write_text(f"2,two\n9,nine {shade}\n")
  for item in _ITEMS:
    Image.new("RGB", (20, 20), (shade, item, 0)).save(folder / "MicroLens-1M_covers" / f"{item}.png")
    sounds.write_wav(folder / "MicroLens-1M_audio" / f"{item}.wav", sounds.tone(0.1, hz=100 * shade))
    clips.write_clip(folder / "MicroLens-1M_videos" / f"{item}.mp4", clips.pictures(2 + shade))
  return folder


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
  found = [tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("other")]
  for shade, root in enumerate(found, 3):
    manual = _manual(root / "manual", shade)
    for name in _READERS:
      tfds_microlens.prepare(name, data_dir=root, manual_dir=manual)
  return found


@pytest.fixture(params=_READERS)
def prepared_set(request, roots):
  folder, other = (next((root / "microlens" / request.param).iterdir()) for root in roots)
  return _Set(request.param, roots[0], folder, other)


def _flip(at: float):
  def damage(_, path, content):
    place = int(at * (len(content) - 1))
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])

  return damage


def _as_folder(_, path, content):
  path.unlink()
  path.mkdir()


def _of_another_set(found, path, content):
  path.write_bytes((found.other / path.name).read_bytes())


_DAMAGES = {
  "cut in half": lambda _, path, content: path.write_bytes(content[: len(content) // 2]),
  "a byte short": lambda _, path, content: path.write_bytes(content[:-1]),
  "a byte longer": lambda _, path, content: path.write_bytes(content + b"\n"),
  "emptied": lambda _, path, content: path.write_bytes(b""),
  "zeros": lambda _, path, content: path.write_bytes(bytes(len(content))),
  "deleted": lambda _, path, content: path.unlink(),
  "first bit": _flip(0),
  "a bit in the middle": _flip(0.5),
  "a bit near the end": _flip(0.98),
  "a folder": _as_folder,
  "of another data set": _of_another_set,
}


def _is_read(found: _Set, name: str) -> bool:
  """Whether a file is read: interactions are in the split `test`. Of other shards sizes alone are compared."""
  return not digests.is_shard(name) or found.name != "1m-sequences" or "-test." in name


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damage_to_any_file_is_told_in_a_line_that_names_it(prepared_set, damage):
  for name in prepared_set.names():
    whole = (prepared_set.folder / name).read_bytes()
    if damage == "of another data set" and (prepared_set.other / name).read_bytes() == whole:
      continue  # features and empty reports
    if name == digests.FILE and damage in ("a byte short", "a byte longer"):
      continue  # white space
    with prepared_set.damaged(name, _DAMAGES[damage]) as path:
      if not _is_read(prepared_set, name) and path.is_file() and path.stat().st_size == len(whole):
        continue
      for reader in _READERS[prepared_set.name]:
        with pytest.raises(DataError) as caught:
          prepared_set.read([reader])
        message = str(caught.value)
        assert "\n" not in message
        if name != digests.FILE or damage != "of another data set":  # it and the other files deny each other
          assert f"{path}: " in message, (name, message)
        assert f"prepare microlens/{prepared_set.name} again: python -m tfds_microlens {prepared_set.name} " in message
        assert f"--data_dir={prepared_set.root}" in message
  assert len(prepared_set.read()) == len(_READERS[prepared_set.name]), "all is whole again"


def test_the_folder_of_another_data_set_is_not_read(roots, tmp_path):
  for name, other in (("1m-items-cover8", "1m-items-cover8-audio1s"), ("100k-videos-2x16", "1m-videos-2x16")):
    shutil.copytree(roots[0] / "microlens" / other, tmp_path / "microlens" / name)
    read = open_titles if "items" in name else Frames
    with pytest.raises(DataError, match=rf"digests\.json: it is of another data set, microlens/{other}:2\.0\.0"):
      read(f"microlens/{name}", tmp_path)


def test_a_data_set_that_tfds_opened_by_its_files_alone_is_read_and_checked_too(roots, tmp_path):
  shutil.copytree(roots[0] / "microlens" / "1m-sequences", tmp_path / "microlens" / "1m-sequences")
  builder = tfds.builder("microlens/1m-sequences:1.0.0", data_dir=tmp_path)
  assert tfds_microlens.read_interactions(builder).users.tolist() == [1, 2, 3]
  (builder.data_path / "metadata.json").write_text("{}")
  with pytest.raises(DataError, match=rf"metadata\.json: .*--data_dir={tmp_path}$"):
    tfds_microlens.read_interactions(builder)


def test_a_data_set_without_digests_was_not_finished(roots, tmp_path):
  folder = shutil.copytree(roots[0] / "microlens" / "1m-sequences", tmp_path / "microlens" / "1m-sequences")
  (next(folder.iterdir()) / digests.FILE).unlink()
  with pytest.raises(DataError, match=r"digests\.json: missing: it was not finished, or an older version wrote it"):
    load_interactions("microlens/1m-sequences", str(tmp_path))


class _Unchecked:
  """Digests that are not compared: what is left is what ArrayRecord itself finds."""

  def check(self, shard, *, whole):
    pass


def test_a_bit_between_the_ends_of_a_shard_is_an_error_or_changes_nothing(roots):
  builder = tfds.builder("microlens/1m-items-cover8-audio1s", data_dir=roots[0])
  place = prepared.place_of(builder)

  def read():
    records = shards.Shards(place, _Unchecked(), builder.info, "train")
    return records.read(range(len(records)))

  (path,) = place.folder.glob("*.array_record*")
  whole, content = read(), path.read_bytes()
  errors = 0
  try:
    for at in [*range(0, 4_000, 40), *range(4_000, len(content), 1_500)]:
      path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
      try:
        found = read()
      except DataError as error:
        errors += str(error).startswith(f"{path}: ")
      else:
        assert found == whole
  finally:
    path.write_bytes(content)
  assert errors > 20


def test_digests_of_large_shards_are_compared_at_their_ends_and_whole_where_all_is_read(tmp_path):
  place = digests.Place("microlens/x", tmp_path, tmp_path / "microlens" / "x" / "1.0.0")
  place.folder.mkdir(parents=True)
  shard = place.folder / "x.array_record-00000-of-00001"
  content = np.random.default_rng(0).bytes(3 << 20)
  shard.write_bytes(content)
  digests.write(place)
  for at, found_at_the_ends in ((0, True), (len(content) - 1, True), (len(content) // 2, False)):
    shard.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    found = digests.Digests(place)
    with pytest.raises(DataError, match="its digest differs"):
      found.check_all()
    with pytest.raises(DataError) if found_at_the_ends else contextlib.nullcontext():
      found.check(shard.name, whole=False)
  shard.write_bytes(content)
  digests.Digests(place).check_all()
  with pytest.raises(DataError, match="it has no digest of y"):
    digests.Digests(place).check("y.array_record-00000-of-00001", whole=False)


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    ("[]", "it is not what was written"),
    ("{}", "it is not what was written"),
    ('{"files": {}, "files": {}}', "occurs twice"),
    ("[" * 100_000, "nested too deeply"),
    ("\xff", "it is not what was written"),
  ],
)
def test_digests_of_another_form_are_refused(roots, content, reason):
  folder = next((roots[0] / "microlens" / "1m-sequences").iterdir())
  found = _Set("1m-sequences", roots[0], folder, folder)
  with (
    found.damaged(digests.FILE, lambda _, path, __: path.write_text(content, encoding="latin-1")),
    pytest.raises(DataError, match=reason),
  ):
    found.read()


def test_preparing_again_mends_what_is_damaged_and_keeps_what_is_whole(roots, tmp_path, caplog):
  root = shutil.copytree(roots[0], tmp_path / "root", ignore=shutil.ignore_patterns("*items*", "*videos-*"))
  name, manual = "1m-sequences", root / "manual"
  (folder,) = (root / "microlens" / name).iterdir()
  whole = load_interactions(f"microlens/{name}", str(root))

  def stamps():
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

  before = stamps()
  tfds_microlens.prepare(name, data_dir=root, manual_dir=manual)
  assert stamps() == before
  assert "again" not in caplog.text
  (train,) = folder.glob("*-train.*")  # read by nobody, and compared all the same
  content = train.read_bytes()
  for damage in (
    lambda: train.write_bytes(content[:100] + b"x" + content[101:]), (folder / "dataset_info.json").unlink,
    lambda: (folder / "dataset_info.json").write_text("{"), (folder / digests.FILE).unlink,
    lambda: shutil.rmtree(folder) or folder.write_text("a file"),
  ):  # fmt: skip
    caplog.clear()
    damage()
    tfds_microlens.prepare(name, data_dir=root, manual_dir=manual)
    assert "It is made again" in caplog.text
    assert load_interactions(f"microlens/{name}", str(root)).lines == whole.lines
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_is_damaged_is_kept_until_it_has_been_made_again(roots, tmp_path, monkeypatch):
  monkeypatch.setenv("MICROLENS_MIRROR", "http://127.0.0.1:9/")
  shutil.copytree(roots[0] / "microlens" / "1m-sequences", tmp_path / "microlens" / "1m-sequences")
  (folder,) = (tmp_path / "microlens" / "1m-sequences").iterdir()
  (folder / digests.FILE).unlink()
  left = sorted(folder.iterdir())
  with pytest.raises(DataError, match="cannot be downloaded"):
    tfds_microlens.prepare("1m-sequences", data_dir=tmp_path)
  assert sorted(folder.iterdir()) == left
  assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_tfds_itself_is_told_of_damage_too(roots, tmp_path):
  shutil.copytree(roots[0] / "microlens" / "1m-sequences", tmp_path / "microlens" / "1m-sequences")
  (info,) = (tmp_path / "microlens").rglob("dataset_info.json")
  content = info.read_text()
  for damage in (content[:50], content.replace("1.0.0", "9.9.9"), "", "[]"):
    info.write_text(damage)
    with pytest.raises(DataError, match=r"dataset_info\.json: .*python -m tfds_microlens 1m-sequences"):
      tfds.data_source("microlens/1m-sequences", split="train", data_dir=tmp_path)


def test_a_record_that_does_not_decode_is_named(roots, tmp_path):
  """Of a data set that is what was written, by a writer that was wrong."""
  name = "microlens/1m-videos-2x16"
  shutil.copytree(roots[0] / "microlens" / "1m-videos-2x16", tmp_path / "microlens" / "1m-videos-2x16")
  place = prepared.place_of(tfds.builder(name, data_dir=tmp_path))
  good = records.serialize({"item": 2, "frames": [_jpeg(16), _jpeg(16)], "num_frames": 2})
  for wrong, message in (
    (records.serialize({"item": 9, "frames": [b"no JPEG", b""], "num_frames": 2}), "the video of item 9 cannot be"),
    (records.serialize({"item": 9, "frames": [_jpeg(16)], "num_frames": 2}), "the video of item 9 cannot be decoded"),
    (records.serialize({"item": 7, "frames": [_jpeg(16)], "num_frames": 2}), "the record of item 9 holds item 7"),
    (records.serialize({"frames": [_jpeg(16)]}), "a record holds no item"),
    (b"no record at all", "a record holds no item"),
  ):
    _write_shard(place, [good, wrong, good])
    frames = Frames(name, tmp_path)
    assert frames.read([2]).shape == (1, 2, 16, 16, 3)
    with pytest.raises(DataError, match=message) as caught:
      frames.read([9])
    assert "\n" not in str(caught.value)
  _write_shard(place, [records.serialize({"item": 2, "frames": [b"no JPEG"], "num_frames": 1}), good, good])
  with pytest.raises(DataError, match=r"config\.data\.videos: .* of item 2 cannot be decoded"):
    Frames(name, tmp_path)


def _jpeg(side: int) -> bytes:
  return video_frames.encode_jpeg(np.zeros((side, side, 3), np.uint8))


def _write_shard(place, written) -> None:
  (path,) = place.folder.glob("*.array_record*")
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
  for record in written:
    writer.write(record)
  writer.close()
  digests.write(place)
