"""Data sets made by Apache Beam are those that one process makes, to the byte; and parts are parts of the whole."""

import hashlib
import os
import pathlib
import re
import subprocess
import sys

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mlrec.data import interactions
import tfds_microlens
from tfds_microlens import __main__ as command
from tfds_microlens import records
from tfds_microlens.errors import PrepareError
from tfds_microlens.interaction_rows import InteractionRows
from tfds_microlens.sequence_lines import SequenceLines

pytestmark = pytest.mark.usefixtures("offline")
# Users with several lines, some of which are too short, among others.
_LINES = [(1, 4), (2, 5), (1, 2), (3, 1), (1, 6), (4, 3), (2, 3), (5, 9), (3, 4), (6, 2), (7, 3), (3, 5), (8, 8)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, pathlib.Path]:
  folder = tmp_path_factory.mktemp("pairs")
  lines = [(user, [10 * place + n + 1 for n in range(length)]) for place, (user, length) in enumerate(_LINES)]
  tsv, csv = folder / "a_pairs.tsv", folder / "b_pairs.csv"
  tsv.write_text("".join(f"{user}\t{' '.join(map(str, items))}\n" for user, items in lines))
  rows = [f"{user},{item},{1000 + item}\n" for user, items in lines for item in items]
  csv.write_text("user,item,timestamp\n" + "".join(rows))
  return {"tsv": tsv, "csv": csv}


@pytest.fixture
def read_in_small_pieces(monkeypatch):
  real = interactions.chunks_of_lines
  monkeypatch.setattr(
    interactions, "chunks_of_lines", lambda path, size, start=interactions.BEGINNING: real(path, 40, start)
  )


def _plain(examples) -> list[dict]:
  return [{key: value.tolist() if key == "items" else value for key, value in one.items()} for one in examples]


@pytest.mark.parametrize("form", ["tsv", "csv"])
def test_any_part_of_the_interactions_is_made_by_itself(files, form, read_in_small_pieces):
  rows = InteractionRows.of(files[form])
  assert len(rows.starts) > 5
  whole = _plain(rows)
  assert len(whole) == rows.count == sum(length for _, length in _LINES)

  @given(st.integers(0, rows.count), st.integers(0, rows.count))
  @settings(max_examples=60, deadline=None)
  def check(start, stop):
    assert _plain(rows.between(min(start, stop), max(start, stop))) == whole[min(start, stop) : max(start, stop)]

  check()


@pytest.mark.parametrize("number", [2, 5, 7])
def test_any_part_of_the_sequences_is_made_by_itself(files, number, read_in_small_pieces, tmp_path):
  """Of a user with several lines the last that counts stands in the place of the first that does."""
  lines = SequenceLines(files["tsv"], tmp_path)
  assert lines.users.tolist() == [1, 2, 4, 5, 3, 7, 8]
  rows = lines.rows(number, lines.repeats(number), 1, has_target=True)
  whole = _plain(rows)
  last = dict(_LINES)
  assert [(one["user"], len(one["items"]) + 1) for one in whole] == [
    (user, last[user]) for user in lines.users.tolist()[:number]
  ]
  for start in range(number + 1):
    for stop in range(start, number + 1):
      assert _plain(rows.between(start, stop)) == whole[start:stop]


def test_sequences_of_a_log_in_no_order_are_made_in_one(files, tmp_path):
  rows = [
    SequenceLines(files[form], tmp_path).rows(7, {"repeated_users": [], "repeated_items": []}, 1, has_target=True)
    for form in ("tsv", "csv")
  ]
  assert [isinstance(one, records.Parts) for one in rows] == [True, False]


@pytest.fixture(scope="module")
def manual(files, tmp_path_factory) -> pathlib.Path:
  """What the release of a million is made of, here of a few lines, with covers."""
  folder = tmp_path_factory.mktemp("manual")
  (folder / "MicroLens-1M_pairs.tsv").write_bytes(files["tsv"].read_bytes())
  (folder / "MicroLens-1M_pairs.csv").write_bytes(files["csv"].read_bytes())
  (folder / "MicroLens-1M_title.csv").write_text("1,one\n2,two\n")
  covers = folder / "MicroLens-1M_covers"
  covers.mkdir()
  for item in range(1, 8):
    Image.new("RGB", (30, 40), (30 * item, 90, 200)).save(covers / f"{item}.png")
  (covers / "7.png").write_bytes(b"no picture")
  return folder


def _digests(folder: pathlib.Path) -> dict[str, str]:
  return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def _made(name, data_dir, manual, **options) -> dict[str, str]:
  builder = tfds_microlens.Builder(config=name, data_dir=data_dir)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual, **options))
  return _digests(pathlib.Path(builder.data_dir))


@pytest.mark.parametrize("name", ["1m-interactions", "1m-sequences", "1m-items-cover16"])
def test_what_a_pipeline_makes_is_what_one_process_makes(name, manual, tmp_path):
  pytest.importorskip("apache_beam")
  whole = _made(name, tmp_path / "one", manual, num_shards=3)
  assert _made(name, tmp_path / "beam", manual, num_shards=3, beam_runner="DirectRunner") == whole


@pytest.mark.slow
def test_workers_of_their_own_make_the_same_by_the_command(manual, tmp_path):
  pytest.importorskip("apache_beam")
  flags = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"
  whole = _made("1m-sequences", tmp_path / "one", manual)
  done = subprocess.run(
    [
      sys.executable, "-m", "tfds_microlens", "1m-sequences", f"--data_dir={tmp_path / 'beam'}",
      f"--manual_dir={manual}", f"--beam={flags}",
    ],
    capture_output=True, text=True, timeout=180, env={**os.environ, "PYTHONPATH": os.getcwd()},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  (folder,) = (tmp_path / "beam" / "microlens" / "1m-sequences").iterdir()
  assert _digests(folder) == whole


def test_a_job_that_a_runner_does_twice_or_gives_up_leaves_nothing_beside_the_shards(files, tmp_path, monkeypatch):
  """Jobs are done twice, and one is broken off before."""

  class Runner:
    def each(self, work, jobs, what):
      with monkeypatch.context() as broken:
        broken.setattr(records, "serialize", lambda example: 1 / 0)
        with pytest.raises(ZeroDivisionError):
          work(jobs[1])
      for job in [*jobs, *reversed(jobs)]:
        work(job)

  def written(folder, beam):
    folder.mkdir()
    template = tfds.core.ShardedFileTemplate(
      data_dir=folder, dataset_name="microlens", split="train", filetype_suffix="array_record"
    )
    info = records.write_split(
      "train", rows.count, rows, template=template, file_format=tfds.core.FileFormat.ARRAY_RECORD, num_shards=4,
      beam=beam,
    )  # fmt: skip
    return _digests(folder), info.num_bytes, info.shard_lengths

  rows = InteractionRows.of(files["tsv"])
  assert written(tmp_path / "beam", Runner()) == written(tmp_path / "one", None)


def test_without_beam_it_is_said_what_to_install(manual, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(PrepareError, match=re.escape('pip install "mlrec[beam]"')):
    _made("1m-sequences", tmp_path, manual, beam_runner="DirectRunner")
  assert command.main(["1m-sequences", f"--data_dir={tmp_path}", "--beam=--runner=DirectRunner"]) == 1
  assert 'pip install "mlrec[beam]"' in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flags", "problem"),
  [
    ("", "expected flags of Apache Beam's"),
    ("runner=DirectRunner", "it does not know runner=DirectRunner"),
    ("--runner=DirectRunner --flink_mster=x", "it does not know --flink_mster=x"),
    ("--direct_num_workers=many", "argument --direct_num_workers: invalid int value: 'many'"),
    ("--runner='Direct", "No closing quotation"),
    ("--runner=DirectRuner", "Unexpected pipeline runner: DirectRuner"),
  ],
)
def test_flags_that_beam_does_not_know_are_refused(flags, problem, manual, tmp_path, capsys):
  pytest.importorskip("apache_beam")
  assert command.main(["1m-sequences", f"--data_dir={tmp_path}", f"--manual_dir={manual}", f"--beam={flags}"]) == 1
  assert problem in capsys.readouterr().err
  assert not list(tmp_path.rglob("*.array_record*"))
