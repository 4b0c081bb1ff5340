"""`python -m mlrec.export`, and what others do with what it writes."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file

import mlrec
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.inference import artifact
from support.tiny_runs import environment
from support.tiny_runs import ITEMS

pytest.importorskip("usearch")
pytest.importorskip("flatbuffers")

# A process that only runs the exported encoder has nothing of what made it.
_ALONE = """
import importlib.abc, sys

MAKERS = {
  "mlrec", "tfds_microlens", "flax", "optax", "orbax", "safetensors", "pyarrow", "absl", "ml_collections", "einops",
  "grain", "tensorflow_datasets", "usearch", "tensorstore", "etils", "treescope",
}


class Without(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in MAKERS:
      raise ImportError(f"{name} is not installed here")


sys.meta_path.insert(0, Without())
"""


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
  target = tmp_path_factory.mktemp("exported") / "model"
  artifact.write(mlrec.Recommender.load(finished), target)
  return target


def test_a_process_of_jax_and_numpy_alone_gets_the_same_items_by_the_card_s_own_words(exported, finished):
  recommender = mlrec.Recommender.load(finished)
  card = (exported / "MODEL_CARD.md").read_text()
  (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
  histories = [recommender.history(user) for user in (1, 20, 300)] + [[5]]
  ask = f"print(json.dumps([recommend(history) for history in {histories}]))"
  done = subprocess.run(
    [sys.executable, "-c", _ALONE + code + ask], cwd=exported, env=environment(), capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout) == recommender.recommend(histories).items


def test_vectors_have_their_ids_in_both_forms(exported, finished):
  recommender = mlrec.Recommender.load(finished)
  arrays = load_file(exported / "item_vectors.safetensors")
  np.testing.assert_array_equal(arrays["vectors"][1:], recommender.item_vectors)
  assert arrays["ids"].tolist() == [0, *recommender.item_ids]
  table = pyarrow.parquet.read_table(exported / "item_vectors.parquet")
  assert table["item"].to_pylist() == recommender.item_ids
  np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), recommender.item_vectors)


def test_the_index_finds_what_exact_search_finds(exported):
  from usearch.index import Index

  vectors = load_file(exported / "item_vectors.safetensors")["vectors"]
  index = Index.restore(exported / "items.usearch")
  assert len(index) == ITEMS
  query = vectors[5] + vectors[17]
  found = index.search(query, 10)
  assert set(found.keys.tolist()) == set((np.argsort(-(vectors[1:] @ query))[:10] + 1).tolist())
  said = json.loads((exported / "export.json").read_text())["index"]
  assert said["recall"] > 0.99
  assert said["queries"] == 310
  assert said["milliseconds"] > 0


def test_the_user_encoder_is_of_any_number_of_users_on_three_platforms(exported):
  import jax

  encoder = jax.export.deserialize(bytearray((exported / "user_encoder.jax").read_bytes()))
  assert encoder.platforms == ("cpu", "cuda", "tpu")
  vectors = load_file(exported / "item_vectors.safetensors")["vectors"]
  rows = np.zeros((7, 10), np.int32)
  rows[:, 6:] = np.arange(1, 29).reshape(7, 4)
  seven, two = (np.asarray(encoder.call(vectors, rows[:number])) for number in (7, 2))
  assert seven.shape == (7, vectors.shape[1])
  np.testing.assert_allclose(seven[:2], two, rtol=1e-5, atol=1e-6)


def test_an_export_is_checked_by_its_digests(exported, tmp_path):
  copy = shutil.copytree(exported, tmp_path / "copy")
  assert artifact.check(copy)["items"] == ITEMS
  whole = (copy / "user_encoder.jax").read_bytes()
  (copy / "user_encoder.jax").write_bytes(whole[:-1])
  with pytest.raises(DataError, match=r"user_encoder\.jax is not what was written"):
    artifact.check(copy)
  (copy / "export.json").unlink()
  with pytest.raises(DataError, match="it is no whole export"):
    artifact.check(copy)


def test_the_card_says_what_it_is_of(exported, finished):
  card = (exported / "MODEL_CARD.md").read_text()
  result = json.loads((finished / "result.json").read_text())
  assert result["config_hash"] in card
  assert f"{result['test']['hr@10']:.4f}" in card
  assert '"blocks": 1' in card
  assert "## Limits" in card


@pytest.mark.slow
def test_the_command_writes_all_of_it_and_replaces_an_earlier_one(forked, finished, tmp_path):
  for _ in range(2):
    done = forked.run(
      "mlrec.export", [f"--workdir={finished}", "--to=out", "--platforms=cpu"], cwd=tmp_path, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert "100 vectors of 8" in done.stdout
    assert "index: recall@10 1.0000 of 310 users' states" in done.stdout
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
  assert artifact.check(tmp_path / "out")["platforms"] == ["cpu"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--workdir={w}"], "--to=DIR is required"),
    (["--workdir={w}", "--to=taken"], "--to=taken holds something else than an export"),
    (["--workdir={w}", "--to=taken/file"], "--to=taken/file is a file"),
    (["--workdir={w}", "--to=out", "--platforms=gpu"], "--platforms=gpu: expected some of cpu, cuda, tpu"),
    (["--workdir=nothing", "--to=out"], "there is no such folder"),
  ],
)
def test_what_cannot_be_is_told_and_nothing_is_left(arguments, message, forked, finished, tmp_path):
  (tmp_path / "taken").mkdir()
  (tmp_path / "taken" / "file").write_text("mine")
  done = forked.run("mlrec.export", [one.format(w=finished) for one in arguments], cwd=tmp_path, env=environment())
  assert done.returncode == 2
  assert message in done.stderr
  assert "Traceback" not in done.stderr
  assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["taken", "taken/file"]


def test_a_failure_half_way_leaves_what_was_there(exported, finished, tmp_path, monkeypatch):
  recommender = mlrec.Recommender.load(finished)
  artifact.write(recommender, tmp_path / "out", index=False, platforms=("cpu",))
  before = (tmp_path / "out" / "export.json").read_text()

  def fail(*arguments):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(artifact.model_card, "render", fail)
  with pytest.raises(OSError, match="No space left"):
    artifact.write(recommender, tmp_path / "out", index=False, platforms=("cpu",))
  assert (tmp_path / "out" / "export.json").read_text() == before
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_models_without_vectors_say_so_and_those_of_users_stand_in_for_strangers(tmp_path, run_tiny):
  run_tiny(tmp_path / "knn", model={"name": "item_knn"})
  with pytest.raises(ConfigError, match="'item_knn' has no vectors to export"):
    artifact.write(mlrec.Recommender.load(tmp_path / "knn"), tmp_path / "out")
  run_tiny(tmp_path / "graph", model={"name": "lightgcn", "dim": 8, "layers": 1}, **{"train.epochs": 1})
  recommender = mlrec.Recommender.load(tmp_path / "graph")
  artifact.write(recommender, tmp_path / "out", index=False, platforms=("cpu",))
  import jax

  encode = jax.export.deserialize(bytearray((tmp_path / "out" / "user_encoder.jax").read_bytes())).call
  vectors = load_file(tmp_path / "out" / "item_vectors.safetensors")["vectors"]
  state = np.asarray(encode(vectors, np.array([[0] * 7 + [3, 4, 5]], np.int32)))[0]
  np.testing.assert_allclose(state, vectors[3:6].mean(0), rtol=1e-5)
  assert "takes the mean of the history's items" in (tmp_path / "out" / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_the_projector_has_a_point_a_watched_item_with_its_title(finished, tmp_path):
  from mlrec.content.titles import Titles
  from mlrec.inference import projector
  from mlrec.inference.catalogue import Catalogue

  recommender = mlrec.Recommender.load(finished)
  titles = Titles("x", {item: f"of\t{item}\n🎬" for item in range(1, 51)})
  assert projector.write(recommender, tmp_path / "p", catalogue=Catalogue(titles), most=60) == 60
  (metadata,) = (tmp_path / "p").rglob("metadata.tsv")
  lines = metadata.read_text().splitlines()
  assert lines[0] == "item\ttitle\twatched in training"
  assert len(lines) == 61
  counts = recommender.loaded.split.train_counts
  first = lines[1].split("\t")
  assert first == [first[0], f"of {first[0]} 🎬", str(counts[int(first[0])])]
  kept = [int(line.split("\t")[0]) for line in lines[1:]]
  assert counts[kept].min() >= np.sort(counts[1:])[-60]
  (tensors,) = (tmp_path / "p").rglob("tensors.tsv")
  point = np.array(tensors.read_text().splitlines()[0].split("\t"), np.float32)
  np.testing.assert_allclose(point, recommender.encode_items([kept[0]])[0], rtol=1e-5)
  assert list((tmp_path / "p").rglob("projector_config.pbtxt"))


def test_other_files_are_no_export_whatever_is_named_so(finished, tmp_path):
  recommender = mlrec.Recommender.load(finished)
  folder = tmp_path / "f"
  folder.mkdir()
  (folder / "thesis.txt").write_text("precious")
  for manifest in ('{"mine": 1}', "[]", '{"format": 1, "files": {}}'):
    (folder / "export.json").write_text(manifest)
    with pytest.raises(ConfigError, match="holds something else than an export, such as"):
      artifact.write(recommender, folder, index=False, platforms=("cpu",))
  assert (folder / "thesis.txt").read_text() == "precious"


def test_an_export_through_a_link_is_written_where_it_leads(finished, tmp_path, monkeypatch):
  recommender = mlrec.Recommender.load(finished)
  (tmp_path / "real").mkdir()
  (tmp_path / "link").symlink_to("real")
  artifact.write(recommender, tmp_path / "link", index=False, platforms=("cpu",))
  assert (tmp_path / "link").is_symlink()
  assert artifact.check(tmp_path / "real")
  monkeypatch.chdir(tmp_path / "real")
  artifact.write(recommender, pathlib.Path("."), index=False, platforms=("cpu",))
  assert artifact.check(tmp_path / "real")
  assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_ids_that_are_texts_go_in_and_out_of_the_card_s_code(finished, tmp_path, monkeypatch):
  from mlrec.data import kept_split
  from mlrec.data.names import Names
  from mlrec.runs.workdir import Workdir

  workdir = Workdir(pathlib.Path(shutil.copytree(finished, tmp_path / "run")))
  split = kept_split.read(workdir.files.data, workdir.files.ids)
  names = Names.of(split.item_ids[1:], [f"clip {item} 🎬" for item in split.item_ids[1:]])
  kept_split.write(dataclasses.replace(split, item_names=names), workdir.files.data)
  recommender = mlrec.Recommender.load(workdir.path)
  artifact.write(recommender, tmp_path / "out", index=False, platforms=("cpu",))
  (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "MODEL_CARD.md").read_text(), re.DOTALL)
  monkeypatch.chdir(tmp_path / "out")
  scope: dict = {}
  exec(code, scope)
  history = ["clip 4 🎬", "of nobody", "clip 9 🎬"]
  assert scope["recommend"](history) == recommender.recommend([history]).items[0]
