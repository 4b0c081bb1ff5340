"""`python -m mlrec.recommend`."""

import dataclasses
import itertools
import os
import pathlib
import stat
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import mlrec
from mlrec.data import DataError
from mlrec.data import kept_split
from mlrec.data.names import Names
from mlrec.inference import batch_file
from mlrec.inference import page
from mlrec.inference.catalogue import Catalogue
from mlrec.runs.workdir import Workdir
from support.tiny_runs import environment


@pytest.fixture
def recommend(forked, tmp_path):
  def run(*arguments):
    return forked.run("mlrec.recommend", [*map(str, arguments)], cwd=tmp_path, env=environment())

  return run


def test_items_are_printed_best_first_with_what_they_are_near_to(recommend, finished, tmp_path):
  done = recommend(f"--workdir={finished}", "--user=7,9", "--k=3")
  assert done.returncode == 0, done.stderr
  recommender = mlrec.Recommender.load(finished)
  expected = recommender.recommend_users([7, 9], k=3).items
  lines = done.stdout.splitlines()
  assert [lines[0], lines[4]] == ["user 7:", "user 9:"]
  assert [[int(line.split()[1]) for line in part] for part in (lines[1:4], lines[5:8])] == expected
  for user, part, items in zip((7, 9), (lines[1:4], lines[5:8]), expected):
    why = recommender.why(recommender.history(user), items)
    near = [", ".join(str(other) for other, cosine in row if cosine > 0.05) for row in why]
    assert [line.partition("(near ")[2].rstrip(")") for line in part] == near
  assert "Traceback" not in done.stderr


def test_a_page_is_one_file_in_which_nothing_is_markup(recommend, finished, tmp_path):
  titles = tmp_path / "x_titles.csv"
  titles.write_text("item,title\r\n" + "".join(f"{item},<b>no & {item}</b>\r\n" for item in range(1, 101)))
  page = tmp_path / "page.html"
  done = recommend(f"--workdir={finished}", "--history=3,4,4000", f"--html={page}", f"--titles={titles}")
  assert done.returncode == 0, done.stderr
  text = page.read_text()
  assert "&lt;b&gt;no &amp; 3&lt;/b&gt;" in text
  assert "<b>no" not in text
  assert "<script" not in text
  assert "http" not in text
  assert "warning: 1 of 3 items of the histories are not known, and passed over." in done.stderr


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_of_users_becomes_a_table_of_items(suffix, recommend, finished, tmp_path):
  users = pa.table({"user": [7, 300, 1]})
  source, target = tmp_path / f"users.{suffix}", tmp_path / f"items.{suffix}"
  (pa.parquet.write_table if suffix == "parquet" else pa.csv.write_csv)(users, source)
  done = recommend(f"--workdir={finished}", f"--batch={source}", f"--to={target}", "--k=4")
  assert done.returncode == 0, done.stderr
  found = (pa.parquet.read_table if suffix == "parquet" else pa.csv.read_csv)(target).to_pydict()
  assert found["user"] == [7] * 4 + [300] * 4 + [1] * 4
  assert found["rank"] == [1, 2, 3, 4] * 3
  expected = mlrec.Recommender.load(finished).recommend_users([7, 300, 1], k=4)
  assert found["item"] == list(itertools.chain(*expected.items))
  assert found["score"] == pytest.approx(expected.scores.ravel().tolist())
  assert "12 items for 3 rows" in done.stdout


def test_histories_are_answered_whoever_they_are_of(recommend, finished, tmp_path):
  pa.parquet.write_table(pa.table({"history": [[3, 4], [5]]}), tmp_path / "h.parquet")
  (tmp_path / "h.csv").write_text("user,history\nsomebody,3 4\nanother,5\n")
  expected = mlrec.Recommender.load(finished).recommend([[3, 4], [5]], k=2).items
  for source in ("h.parquet", "h.csv"):
    target = tmp_path / f"{source}.out.parquet"
    assert recommend(f"--workdir={finished}", f"--batch={source}", f"--to={target}", "--k=2").returncode == 0
    found = pa.parquet.read_table(target).to_pydict()
    assert found["item"] == list(itertools.chain(*expected))
  assert found["user"] == ["somebody"] * 2 + ["another"] * 2


def _answered(recommender, table: pa.Table, folder: pathlib.Path) -> dict:
  source, target = folder / "in.parquet", folder / "out.parquet"
  pa.parquet.write_table(table, source)
  batch_file.recommend(recommender, source, target, k=2)
  return pa.parquet.read_table(target).to_pydict()


def test_ids_and_histories_are_read_however_arrow_keeps_them(finished, tmp_path):
  recommender = mlrec.Recommender.load(finished)
  expected = list(itertools.chain(*recommender.recommend_users([7, 300], k=2).items))
  texts = pa.array(["7", "300"])
  users = [texts, pa.array([7, 300], pa.uint16()), texts.dictionary_encode()]
  for column in [*users, texts.cast(pa.large_string()), texts.cast(pa.string_view())]:
    found = _answered(recommender, pa.table({"user": column}), tmp_path)
    assert found["item"] == expected, column.type
    assert [*map(str, found["user"])] == ["7", "7", "300", "300"]
  expected = list(itertools.chain(*recommender.recommend([[3, 4], [5, 6]], k=2).items))
  rows, texts = [[3, 4], [5, 6]], pa.array(["3 4", "5,6"])
  lists = [pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.int64(), 2)]
  columns = [pa.array(rows, kind) for kind in lists]
  columns += [
    pa.array([["3", "4"], ["5", "6"]], kind) for kind in (pa.list_(pa.large_string()), pa.list_(pa.string_view()))
  ]
  columns += [pa.array([["3", "4"], ["5", "6"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))]
  for column in [*columns, texts.dictionary_encode(), texts.cast(pa.string_view())]:
    assert _answered(recommender, pa.table({"history": column}), tmp_path)["item"] == expected, column.type


def test_what_is_no_id_is_told_by_column_and_type(finished, tmp_path):
  recommender = mlrec.Recommender.load(finished)
  for column, message in (
    ({"user": [7.0, None]}, "the column 'user' holds double, and ids are expected: integers or texts"),
    ({"history": [[True]]}, "the column 'history', in its lists, holds bool, and ids are expected"),
    ({"history": [0.5]}, "the column 'history' holds double, and ids are expected"),
  ):
    with pytest.raises(DataError, match=message):
      _answered(recommender, pa.table(column), tmp_path)


def test_a_history_of_a_million_items_is_read_and_a_longer_row_told(finished, tmp_path, monkeypatch):
  recommender = mlrec.Recommender.load(finished)
  source, target = tmp_path / "h.csv", tmp_path / "out.parquet"
  source.write_text("history\n" + "3 4 " * 500_000 + "\n5\n")
  assert batch_file.recommend(recommender, source, target, k=2) == (2, 4)
  newest = [3, 4] * (recommender.loaded.scorer.max_length // 2)
  expected = list(itertools.chain(*recommender.recommend([newest, [5]], k=2).items))
  assert pa.parquet.read_table(target)["item"].to_pylist() == expected
  monkeypatch.setattr(batch_file, "_BLOCK_BYTES", 1 << 19)
  with pytest.raises(DataError, match=r"h\.csv: a row has more than 0\.5 MiB; in a \.parquet file, as a list, it may"):
    batch_file.recommend(recommender, source, target, k=2)


def test_what_a_result_would_replace_must_be_a_file(finished, tmp_path):
  recommender = mlrec.Recommender.load(finished)
  (tmp_path / "u.csv").write_text("user\n7\n")
  os.mkfifo(tmp_path / "pipe.csv")
  (tmp_path / "link.csv").symlink_to("pipe.csv")
  for name in ("pipe.csv", "link.csv"):
    with pytest.raises(DataError, match=f"{name}: expected the name of a file, and it is something else"):
      batch_file.recommend(recommender, tmp_path / "u.csv", tmp_path / name)
  assert (tmp_path / "pipe.csv").is_fifo()
  assert (tmp_path / "link.csv").is_symlink()


def _pipe(folder: pathlib.Path) -> str:
  os.mkfifo(folder / "pipe.csv")
  return "--batch=pipe.csv"


def _table(text: str):
  def write(folder: pathlib.Path) -> str:
    (folder / "t.csv").write_text(text)
    return "--batch=t.csv"

  return write


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--user=1"], "--workdir=DIR is required"),
    (["--workdir={w}"], "expected one of --user, --history and --batch, not none of them"),
    (["--workdir={w}", "--user=1", "--history=2"], "not --user and --history"),
    (["--workdir={w}", "--batch=x.csv"], "--batch=FILE and --to=FILE go together"),
    (["--workdir={w}", "--batch=x.csv", "--to=y.csv"], "x.csv: no such file"),
    (["--workdir={w}", "--batch=x.txt", "--to=y.csv"], "x.txt: expected a file that ends in .parquet or .csv"),
    (["--workdir={w}", _pipe, "--to=y.csv"], "pipe.csv: it cannot be read"),
    (["--workdir={w}", _table("usr\n1\n"), "--to=y.csv"], "expected a column 'user' or 'history', and its columns are"),
    (["--workdir={w}", _table("user,user\n1,2\n"), "--to=y.csv"], "expected one column 'user'"),
    (["--workdir={w}", _table("user\n1\n"), "--to=t.csv"], "would take the place of the table that is read"),
    (["--workdir={w}", "--history=1", "--html=/dev/null"], "--html=/dev/null is a pipe or a device: name a file"),
    (["--workdir={w}", "--history=1", "--html=no/page.html"], "--html=no/page.html: there is no folder no; make it"),
    (["--workdir={w}", _pipe, "--to=pipe.csv"], "--to=pipe.csv is a pipe or a device: name a file, such as"),
    (["--workdir={w}", "--batch=x.csv", "--to=no/y.csv"], "--to=no/y.csv: there is no folder no; make it first"),
    (["--workdir={w}", "--history=1", "--only=@/dev/null"], "the list of items cannot be read"),
    (["--workdir={w}", _table("user\n"), "--to=y.csv"], "it has no rows"),
    (
      ["--workdir={w}", _table("user\n999\n"), "--to=y.csv"],
      "its only row cannot be answered (row 0, from 0: there is no user '999'",
    ),
    (["--workdir={w}", "--user=999"], "there is no user '999'; some that exist: 308, 309, 310"),
    (["--workdir={w}", "--history=a b,☃"], "has no item that the run knows: there is no item 'a b'"),
    (["--workdir={w}", "--history=1", "--only=@nothing"], "nothing: the list of items cannot be read"),
    (["--workdir={w}", "--history=1", "--titles=no.csv"], "no.csv"),
    (["--workdir={w}/checkpoints", "--history=1"], "holds no run"),
    (["--workdir={w}", "--history=1", "stray"], "unexpected argument 'stray'"),
  ],
)
def test_what_cannot_be_is_told_in_a_line(arguments, message, recommend, finished, tmp_path):
  made = [one(tmp_path) if callable(one) else one.format(w=finished) for one in arguments]
  done = recommend(*made)
  assert done.returncode == 2
  (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert message in line
  assert "Traceback" not in done.stderr
  assert not (tmp_path / "y.csv").exists()
  assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_items_of_a_file_are_a_filter(recommend, finished, tmp_path):
  (tmp_path / "only.txt").write_text("5\n\n 6 \n")
  done = recommend(f"--workdir={finished}", "--history=1", "--only=@only.txt", "--exclude=6", "--why=false")
  assert done.returncode == 0, done.stderr
  assert [line.split()[1] for line in done.stdout.splitlines()] == ["5"]


def test_a_workdir_that_may_not_be_written_is_used_all_the_same(recommend, copied):
  for path in (copied, copied / "checkpoints"):
    path.chmod(stat.S_IRUSR | stat.S_IXUSR)
  try:
    done = recommend(f"--workdir={copied}", "--user=1")
  finally:
    for path in (copied, copied / "checkpoints"):
      path.chmod(0o755)
  assert done.returncode == 0, done.stderr


def test_rows_that_cannot_be_answered_are_left_out_and_told(recommend, finished, tmp_path):
  (tmp_path / "u.csv").write_text("user\n7\nghost\n1\n\n")
  (tmp_path / "h.csv").write_text('user,history\na,"3,4"\nb,\nc,4000\nd,5 3\n')
  for source, whom, told in (
    ("u.csv", ["7", "1"], "1 of 3 rows cannot be answered and are left out (row 1, from 0: there is no user 'ghost'"),
    ("h.csv", ["a", "d"], "2 of 4 rows cannot be answered and are left out (row 1, from 0: its history is empty)"),
  ):
    done = recommend(f"--workdir={finished}", f"--batch={source}", "--to=out.parquet", "--k=2")
    assert done.returncode == 0, done.stderr
    assert told in done.stderr
    found = pa.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["user"] == [user for user in whom for _ in range(2)]
    assert "4 items for 2 rows" in done.stdout


def test_ids_with_line_ends_are_printed_in_their_line_and_written_as_they_are(copied, recommend, tmp_path):
  _with_texts(copied, lambda item: f"a\n{item}\t\x1b[31m")
  done = recommend(f"--workdir={copied}", "--user=7", "--k=2", "--seen")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == 2
  assert all(line.split()[1].startswith("a\\n") and "\\t\\x1b[31m" in line for line in lines)
  (tmp_path / "h.csv").write_text('history\n"a\n7\t\x1b[31m,"\n')
  assert recommend(f"--workdir={copied}", "--batch=h.csv", "--to=out.csv", "--k=2").returncode == 0
  assert (
    pa.csv.read_csv(tmp_path / "out.csv", parse_options=pa.csv.ParseOptions(newlines_in_values=True))["item"]
    .to_pylist()[0]
    .startswith("a\n")
  )


def _with_texts(copied, text):
  """The run, its items under the texts that `text` has for their ids."""
  workdir = Workdir(copied)
  split = kept_split.read(workdir.files.data, workdir.files.ids)
  names = Names.of(split.item_ids[1:], [text(item) for item in split.item_ids[1:]])
  kept_split.write(dataclasses.replace(split, item_names=names), workdir.files.data)
  return mlrec.Recommender.load(copied)


def test_a_cell_is_one_id_with_spaces_where_there_is_such_an_item(copied, tmp_path, caplog):
  recommender = _with_texts(copied, lambda item: f"clip {item}" if item < 50 else f"c{item}")
  source, target = tmp_path / "h.csv", tmp_path / "out.csv"
  source.write_text('history\nclip 4\nc60 c61\nc60 9\nno such\n"clip 4,clip 5"\n')
  assert batch_file.recommend(recommender, source, target, k=2) == (4, 8)
  found = pa.csv.read_csv(target).to_pydict()
  expected = recommender.recommend([["clip 4"], ["c60", "c61"], ["c60"], ["clip 4", "clip 5"]], k=2)
  assert found["item"] == list(itertools.chain(*expected.items))
  assert found["row"] == [row for row in (0, 1, 2, 4) for _ in range(2)]
  assert "left out (row 3, from 0: its history 'no such' is split at spaces, as the whole is no id" in caplog.text


@pytest.mark.parametrize(("cosine", "is_near"), [(0.04, False), (-0.9, False), (0.06, True)])
def test_only_what_is_near_is_shown_as_near(cosine, is_near, finished, monkeypatch):
  recommender = mlrec.Recommender.load(finished)
  monkeypatch.setattr(recommender, "why", lambda history, items: [[(3, cosine)] for _ in items])
  part = page.Shown("somebody", [3], [(5, 1.0)], page.near(recommender, [3], [5]))
  assert ("; near 3 (" in page.render(recommender, Catalogue(), [part])) == is_near


def test_an_empty_list_of_items_leaves_nothing(recommend, finished, tmp_path):
  (tmp_path / "none.txt").touch()
  done = recommend(f"--workdir={finished}", "--history=1", "--only=@none.txt")
  assert done.returncode == 2
  assert "the filters leave no item to recommend" in done.stderr


@pytest.mark.slow
def test_a_batch_that_is_ended_leaves_nothing_half_written(finished, tmp_path):
  import signal

  from support.tiny_runs import started
  from support.tiny_runs import wait_for

  (tmp_path / "u.csv").write_text("user\n" + "7\n" * 3_000_000)
  command = [
    sys.executable, "-m", "mlrec.recommend", f"--workdir={finished}", f"--batch={tmp_path / 'u.csv'}",
    f"--to={tmp_path / 'out.csv'}",
  ]  # fmt: skip
  with started(command) as process:
    wait_for(lambda: any(path.name.startswith(".out") for path in tmp_path.iterdir()))
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
  assert process.returncode == 143
  assert "nothing is left half written" in told
  assert [path.name for path in tmp_path.iterdir()] == ["u.csv"]
