"""Logs that are not read into memory: the split is the same, whatever it is made of."""

import gzip

import numpy as np
import pytest

from mlrec import ingest
from mlrec.data import DataError
from mlrec.data import Interactions
from mlrec.data import protocols
from mlrec.data import Rows
from mlrec.sources import load_split
import tfds_microlens
from tfds_microlens import demo

_SETTINGS = {"max_length": 6, "min_length": 5}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
  monkeypatch.setattr("mlrec.mapped.AT_ONCE", 500)
  monkeypatch.setattr("tfds_microlens.sequences._READ_AT_ONCE", 70)
  monkeypatch.setattr("tfds_microlens.own._READ_AT_ONCE", 70)
  monkeypatch.setattr("mlrec.data.lines._SORTED", 1000)
  monkeypatch.setattr("mlrec.data.lines._LINES_AT_ONCE", 70)
  monkeypatch.setattr("mlrec.data.interactions._CHUNK_BYTES", 3000)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("tfds")


def _check(source, data_dir, folder, protocol):
  asked = protocols.parse(protocol)
  wanted = load_split(source, str(data_dir), asked, in_memory=1 << 40, **_SETTINGS)
  found = load_split(source, str(data_dir), asked, in_memory=0, folder=str(folder), **_SETTINGS)
  assert wanted.mapped_from is None
  assert found.mapped_from is not None
  assert found == wanted
  assert found.fingerprint == wanted.fingerprint
  for kind in ("user", "item"):
    ours, theirs = (getattr(split, f"{kind}_names") for split in (found, wanted))
    assert (ours is None) == (theirs is None)
    assert ours is None or ours.texts(ours.ids) == theirs.texts(theirs.ids)


@pytest.mark.parametrize("protocol", ["leave_one_out", "users:0.7,0.2"])
@pytest.mark.parametrize("form", ["pairs_tsv", "pairs_csv"])
def test_a_pairs_file(form, protocol, tmp_path):
  path = demo.generate().write(tmp_path)[form]
  _check(str(path), "", tmp_path / "cache", protocol)


@pytest.mark.parametrize("source", ["microlens/demo-sequences", "microlens/demo-interactions"])
def test_prepared_data(source, data_dir, tmp_path):
  _check(source, data_dir, tmp_path, "leave_one_out")


def test_a_split_in_time(data_dir, tmp_path):
  _check("microlens/demo-interactions", data_dir, tmp_path, "time:0.8,0.1")


@pytest.mark.parametrize("num_users", [25, 100_000])
@pytest.mark.parametrize("form", ["sequences", "interactions"])
def test_prepared_data_of_users_with_several_lines_and_no_timestamps(form, num_users, tmp_path):
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 20, 300)
  log = Interactions(
    rng.integers(1, num_users + 1, 300), Rows.from_lengths(rng.integers(1, 90, lengths.sum()), lengths)
  )  # fmt: skip
  lines = (f"{user}\t{' '.join(map(str, log.lines[row]))}\n" for row, user in enumerate(log.line_users))
  path = tmp_path / "MicroLens-100k_pairs.tsv"
  path.write_text("".join(lines))
  tfds_microlens.prepare(f"100k-{form}", data_dir=tmp_path, manual_dir=tmp_path)
  _check(f"microlens/100k-{form}", tmp_path, tmp_path / "cache", "leave_one_out")
  _check(str(path), "", tmp_path / "cache", "leave_one_out")


@pytest.mark.parametrize("ids", ["{}", "user {} 🎬"])
@pytest.mark.parametrize("protocol", ["leave_one_out", "time:0.7,0.2"])
def test_what_was_ingested(ids, protocol, tmp_path):
  rng = np.random.default_rng(0)
  rows = [f"{ids.format(n % 90 + 1)},{rng.integers(1, 50)},{1_700_000_000 + n}\n" for n in range(900)]
  with gzip.open(tmp_path / "log.csv.gz", "wt") as file:
    file.write("user,item,time\n" + "".join(rows))
  ingest.ingest(str(tmp_path / "log.csv.gz"), to=str(tmp_path / "own"))
  _check(str(tmp_path / "own"), "", tmp_path / "cache", protocol)


def test_a_split_in_time_of_a_log_without_times_is_refused(tmp_path):
  path = demo.generate().write(tmp_path)["pairs_tsv"]
  with pytest.raises(DataError, match=r"pairs\.tsv has no timestamps"):
    load_split(str(path), "", protocols.parse("time:0.8,0.1"), in_memory=0, folder=str(tmp_path), **_SETTINGS)


def test_a_malformed_line_is_named_by_its_number_and_nothing_is_kept(tmp_path):
  path = demo.generate().write(tmp_path)["pairs_tsv"]
  lines = path.read_text().splitlines()
  lines[400] = "12\t4 x 5"
  path.write_text("\n".join(lines))
  for _ in range(2):  # the second time from where it stopped
    with pytest.raises(DataError, match=r"pairs\.tsv:401: expected a user"):
      load_split(
        str(path), "", protocols.parse("leave_one_out"), in_memory=0, folder=str(tmp_path / "cache"), **_SETTINGS
      )  # fmt: skip
  assert not list(tmp_path.glob("cache/*/*.safetensors"))


def test_a_file_that_has_changed_is_read_again(tmp_path):
  path = demo.generate().write(tmp_path)["pairs_tsv"]
  _check(str(path), "", tmp_path / "cache", "leave_one_out")
  path.write_text("".join(path.read_text().splitlines(keepends=True)[:500]))
  _check(str(path), "", tmp_path / "cache", "leave_one_out")


def test_a_file_that_is_not_there_is_named():
  with pytest.raises(DataError, match=r"none_pairs\.tsv: no such file"):
    load_split("none_pairs.tsv", "", protocols.parse("none"), in_memory=1, **_SETTINGS)
