"""Training over covers and sound, alone and fused with IDs, from sources made in memory."""

from ml_collections import ConfigDict
import numpy as np
import pytest

from mlrec.content.base import Source
from mlrec.data import DataError
from mlrec.runs import experiment
from mlrec.train.stop import Interrupted
from support.tiny_runs import assert_same_run
from support.tiny_runs import ITEMS
from support.tiny_runs import losses
from support.tiny_runs import StopAt

_IMAGE = {
  "name": "image", "encoder": "vit_image_s", "mode": "scratch", "size": 16,
  "options": {"dim": 16, "depth": 1, "heads": 2, "size": 16, "patch": 8},
}  # fmt: skip
_AUDIO = {
  "name": "audio", "encoder": "ast_s", "mode": "scratch", "samples": 2400,
  "options": {"dim": 16, "depth": 1, "heads": 2},
}  # fmt: skip
_FROZEN = {"mode": "frozen", "weights": "random"}


class Covers(Source):
  """A colour an item."""

  noun = "cover"
  fingerprint = "covers"

  def __init__(self, items):
    self.items = np.asarray(items)

  def read(self, ids, *, size):
    colours = np.stack([np.random.default_rng(int(item)).integers(0, 256, 3) for item in ids])
    return np.broadcast_to(colours[:, None, None], (len(ids), size, size, 3)).astype(np.uint8)


class Tones(Source):
  """A pitch an item."""

  noun = "sound track"
  fingerprint = "tones"

  def __init__(self, items):
    self.items = np.asarray(items)

  def read(self, ids, *, samples, rate):
    pitches = 200 + 20 * np.asarray(ids)[:, None]
    return (8000 * np.sin(2 * np.pi * pitches * np.arange(samples) / rate)).astype(np.int16)


@pytest.fixture
def run(tiny_config, tmp_path):
  """Trains a tower: `run("name of its workdir", item)`; covers of ten items and sound of five are missing."""
  made = {"cover": Covers(range(11, ITEMS + 1)), "audio": Tones(range(1, ITEMS - 4))}

  def run(name, item, *, sources=made, stop=None, **overrides):
    settings = {"data.features_dir": str(tmp_path / "kept"), "optimizer.lr": 1e-2, "train.epochs": 3, **overrides}
    config = tiny_config(**settings)
    with config.unlocked():
      config.model.item = ConfigDict(item)
    return experiment.run(config, tmp_path / name, sources=sources, stop=stop, say=lambda text: None).to_json()

  return run


@pytest.mark.parametrize("item", [_IMAGE, _IMAGE | _FROZEN, _AUDIO | _FROZEN], ids=["image", "image_frozen", "audio"])
def test_a_tower_learns_and_items_without_content_are_told(item, run, tmp_path, caplog):
  result = run("run", item)
  found = list(losses(tmp_path / "run").values())
  assert np.mean(found[-4:]) < np.mean(found[:4]) - 0.02
  assert np.isfinite(result["test"]["hr@10"])
  told = "10 of 100 items have no cover" if item["name"] == "image" else "5 of 100 items have no audio"
  assert told in caplog.text


@pytest.mark.slow
def test_ids_covers_and_sound_are_fused_and_a_stopped_run_is_resumed(run, tmp_path):
  item = {
    "name": "fused", "fusion": "concat", "id_dropout": 0.2, "modality_dropout": 0.2,
    "towers": {"id": {"name": "id"}, "cover": _IMAGE, "sound": _AUDIO | _FROZEN},
  }  # fmt: skip
  run("whole", item)
  with pytest.raises(Interrupted):
    run("stopped", item, stop=StopAt(2))
  run("stopped", item)
  assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(("item", "what"), [(_IMAGE, "covers"), (_AUDIO, "sound tracks")], ids=["image", "audio"])
def test_content_of_none_of_the_items_is_refused(item, what, run):
  others = {"cover": Covers(range(1000, 1010)), "audio": Tones(range(1000, 1010))}
  with pytest.raises(DataError, match=rf"config\.data\.content.*none of its 10 {what} belongs to the 100 items"):
    run("run", item, sources=others)
