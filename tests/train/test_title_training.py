"""Training through a text encoder, from titles of a file."""

import csv
import logging
import pathlib

from flax import nnx
from ml_collections import ConfigDict
import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file

from mlrec import models
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.runs import experiment
from support.tiny_runs import environment
from support.tiny_runs import ITEMS
from support.tiny_runs import losses
from support.tiny_runs import ROOT

_WORDS = ("red", "blue", "green", "cat", "dog", "fish", "sleeps", "jumps", "eats", "##s")
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SIZES = {"dim": 16, "depth": 2, "heads": 2, "hidden": 32, "vocabulary": 20, "positions": 8}
# Items without a title, and one whose title says nothing.
_WITHOUT, _EMPTY = (7, 8), 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Titles, a tokenizer, and weights of a random start beside it."""
  folder = tmp_path_factory.mktemp("titles")
  (folder / "vocab.txt").write_text("\n".join(_SPECIALS + _WORDS) + "\n")
  with (folder / "tiny_titles.csv").open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(["item", "title"])
    for item in range(1, ITEMS + 1):
      if item not in _WITHOUT:
        words = f"{_WORDS[item % 3]} {_WORDS[3 + item % 3]}, {_WORDS[6 + item % 2]}"
        writer.writerow([item, " " if item == _EMPTY else words])
  model = models.create("bert_tiny", rngs=nnx.Rngs(5), **_SIZES)
  save_file(to_torch(model), folder / "model.safetensors")
  return folder


@pytest.fixture
def run(tiny_config, folder):
  """Trains a tower over titles: `run(workdir, {"mode": "frozen"})`."""

  def run(workdir, item, *, towers=None, **overrides):
    settings = {"data.content": str(folder / "tiny_titles.csv"), "data.features_dir": str(folder / "kept"), **overrides}
    config = tiny_config(**settings)
    title = {"name": "text", "encoder": "bert_tiny", "length": 8, "options": _SIZES, **item}
    with config.unlocked():
      item = title if towers is None else towers | {"towers": {**towers["towers"], "title": title}}
      config.model.item = ConfigDict(item)
    return experiment.run(config, workdir, say=lambda text: None).to_json()

  return run


@pytest.mark.parametrize("mode", ["frozen", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("top", "full"))])
def test_each_mode_learns_and_items_without_a_title_are_told(mode, run, folder, tmp_path, caplog):
  item = {"mode": mode, "weights": str(folder / "model.safetensors")}
  if mode == "top":
    item["train_from"] = "encoder.layer.1"
  with caplog.at_level(logging.WARNING):
    run(tmp_path / "run", item, **{"train.epochs": 4, "optimizer.lr": 1e-2})
  found = list(losses(tmp_path / "run").values())
  assert np.mean(found[-4:]) < np.mean(found[:4]) - 0.02
  told = [record.getMessage() for record in caplog.records if "no title" in record.getMessage()]
  assert told == [f"3 of {ITEMS} items have no title (item 7 first)."]


def test_kept_vectors_are_those_of_the_encoder(forked, folder, tmp_path):
  """What `python -m mlrec.features` keeps is what the tower computes; titles of no tokens are as the padding."""
  done = forked.run(
    "mlrec.features",
    [
      f"--content={folder / 'tiny_titles.csv'}", "--encoder=bert_tiny",
      f"--weights={folder / 'model.safetensors'}", "--length=8", f"--features_dir={tmp_path}",
      "--options=" + ",".join(f"{name}={value}" for name, value in _SIZES.items()),
    ],
    cwd=ROOT, env=environment(),
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  where = pathlib.Path(done.stdout.splitlines()[-1])
  items, vectors = np.load(where / "items.npy"), np.load(where / "vectors.npy")
  assert set(range(1, ITEMS + 1)) - set(items.tolist()) == {*_WITHOUT, _EMPTY}
  model = models.create("bert_tiny", rngs=nnx.Rngs(0), **_SIZES)
  load_torch(model, folder / "model.safetensors")
  # Item 1: "blue dog, jumps"; the comma is no token of the vocabulary.
  words = [_SPECIALS.index("[CLS]"), 6, 9, 1, 12, _SPECIALS.index("[SEP]")]
  title = np.array([[words, [1] * len(words)]], np.int32)
  np.testing.assert_allclose(vectors[1 + items.tolist().index(1)], model(title)[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(vectors[0], model(np.zeros((1, 2, 8), np.int32))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_titles_are_fused_with_ids_and_a_missing_one_is_an_absence(run, folder, tmp_path):
  towers = {"name": "fused", "towers": {"id": {"name": "id"}}, "fusion": "attention", "heads": 2, "id_dropout": 0.3}
  title = {"mode": "frozen", "weights": str(folder / "model.safetensors"), "hidden": 12, "dropout": 0.1}
  result = run(tmp_path / "run", title, towers=towers)
  assert np.isfinite(result["test"]["hr@10"])


@pytest.mark.parametrize("mode", ["scratch", "frozen"])
def test_titles_of_none_of_the_items_are_refused(mode, run, folder, tmp_path):
  (tmp_path / "other_titles.csv").write_text("1000,red cat\r\n2000,blue dog\r\n")
  source = str(tmp_path / "other_titles.csv")
  weights = {"weights": str(folder / "model.safetensors")} if mode == "frozen" else {}
  with pytest.raises(
    DataError, match=r"config\.data\.content = '.*other_titles.csv': none of its 2 titles belongs to the 100"
  ):
    run(tmp_path / "run", {"mode": mode, "tokenizer": str(folder)} | weights, **{"data.content": source})


def test_an_encoder_that_makes_nan_of_a_title_is_refused_by_its_item(run, folder, tmp_path):
  weights = {name: array.copy() for name, array in load_file(folder / "model.safetensors").items()}
  (name,) = (name for name in weights if "word_embeddings" in name)
  weights[name][len(_SPECIALS) + _WORDS.index("green")] = np.nan
  save_file(weights, tmp_path / "model.safetensors")
  # Titles of the items 2, 5, ... are of the green ones.
  with pytest.raises(DataError, match=r"the vector of item 2 holds NaN or infinity in float32 \(3\d such vectors\)"):
    run(tmp_path / "run", {"mode": "frozen", "tokenizer": str(folder), "weights": str(tmp_path / "model.safetensors")})


@pytest.mark.parametrize(
  ("item", "settings", "message"),
  [
    ({"mode": "scratch"}, {}, r"config\.model\.item\.tokenizer is empty"),
    ({"mode": "scratch", "tokenizer": "."}, {"data.content": ""}, r"config\.data\.content is empty"),
    ({"mode": "scratch", "options": _SIZES | {"vocabulary": 9}}, {}, r"has 15 tokens.*'bert_tiny' knows 9"),
    ({"mode": "full"}, {}, r"config\.model\.item\.weights is empty, and the mode 'full' needs it"),
    ({"mode": "scratch", "length": 2}, {}, r"config\.model\.item\.length = 2: expected at least 3"),
  ],
)
def test_what_does_not_fit_together_is_refused(item, settings, message, run, folder, tmp_path):
  if "options" in item or "length" in item:
    item = item | {"tokenizer": str(folder)}
  with pytest.raises((ConfigError, DataError), match=message):
    run(tmp_path / "run", item, **settings)
