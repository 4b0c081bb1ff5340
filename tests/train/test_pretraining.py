"""Pre-training on labels: its loss, what it sees, that it learns and resumes, and that its weights are taken."""

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest
from safetensors.numpy import load_file

from mlrec import config as config_lib
from mlrec import models
from mlrec.config import ConfigError
from mlrec.content.base import Source
from mlrec.data import DataError
from mlrec.data.item_labels import Labels
from mlrec.models import convert
from mlrec.models.items.classifier import Classifier
from mlrec.models.items.classifier import LabelBatch
from mlrec.registry import OptionError
from mlrec.runs import experiment
from mlrec.runs import pretraining
from mlrec.runs.pretraining import Labelled
from mlrec.train.pretraining import LabelBatches
from mlrec.train.stop import Interrupted
from support.tiny_runs import assert_same_arrays
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import ROOT
from support.tiny_runs import saved_arrays
from support.tiny_runs import StopAt

OPTIONS = {"dim": 8, "depth": 1, "heads": 2, "hidden": 16, "patch": 4}
ITEM = {"name": "video", "encoder": "videomae_b", "mode": "scratch", "frames": 2, "size": 8, "options": OPTIONS}
HUES, SIDES = ("red", "green", "blue"), ("left", "right")
ITEMS = 90


class Clips(Source):
  """Noise, whose hue and bright side are those of its item's labels."""

  key = "videos"
  noun = "video"
  fingerprint = "hues and sides"

  def __init__(self, items):
    self.items = np.asarray(items, np.int64)

  def read(self, ids, *, frames, size):
    out = np.zeros((len(ids), frames, size, size, 3), np.uint8)
    for place, item in enumerate(np.asarray(ids).tolist()):
      out[place] = np.random.default_rng(item).integers(0, 60, out.shape[1:])
      out[place, :, :, :, item % 3] += 120
      half = slice(size // 2) if item % 2 else slice(size // 2, size)
      out[place, :, :, half] += 70
    return out


def labelled(items=range(1, ITEMS + 1)) -> Labelled:
  values = {"hue": [HUES[item % 3] for item in items], "side": [SIDES[item % 2] for item in items]}
  return Labelled(Labels.of(items, values), Clips(items))


def tiny(item=ITEM, **overrides):
  config = config_lib.default_config()
  config.model.item = ConfigDict(item)
  settings = {
    "model.dim": 8, "data.cold_share": 0.2, "optimizer.lr": 1e-2, "train.batch_size": 24, "train.epochs": 8,
    "train.patience": 0, "train.steps_per_dispatch": 2, "log.every_steps": 1, "log.tensorboard": False, **overrides,
  }  # fmt: skip
  config.update_from_flattened_dict(settings)
  return config_lib.validate(config)


def pretrain(workdir, *, data=None, stop=None, said=None, **options):
  say = (said if said is not None else []).append
  return pretraining.run(tiny(**options), data or labelled(), workdir, stop=stop, say=say)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A finished run: its workdir, what it found, what it said."""
  workdir, said = tmp_path_factory.mktemp("pretraining") / "run", []
  return workdir, pretrain(workdir, said=said), said


def test_the_loss_is_the_mean_over_labels_of_the_cross_entropy_of_items_that_have_them():
  model = Classifier(ITEM, 8, [3, 2], rngs=nnx.Rngs(0))
  items, codes = np.array([1, 2, 3, 0], np.int32), np.array([[0, 1], [2, -1], [1, 0], [1, 1]], np.int32)
  content = {"frames": jnp.asarray(Clips([1, 2, 3]).read([1, 2, 3, 3], frames=2, size=8))}
  batch = LabelBatch(items, codes, content)
  hue, side = (
    np.asarray(jax.nn.log_softmax(scores), np.float64) for scores in model.scores(jnp.asarray(items), content)
  )
  wanted = (-(hue[0, 0] + hue[1, 2] + hue[2, 1]) / 3 - (side[0, 1] + side[2, 0]) / 2) / 2
  assert float(model.loss(batch)) == pytest.approx(wanted, rel=1e-5)
  right, there = model.right(batch)
  assert there.tolist() == [3, 2]
  assert right.tolist() == [
    int((hue.argmax(-1)[:3] == codes[:3, 0]).sum()), int((side.argmax(-1) == codes[:, 1])[[0, 2]].sum())
  ]  # fmt: skip


def test_an_epoch_has_each_item_once_in_an_order_of_its_own():
  batches = LabelBatches(np.array([2, 3, 5, 7, 8], np.int32), np.arange(16).reshape(8, 2), 2, seed=3)
  assert batches.steps_per_epoch == 3
  epochs = [batches.stack(3 * epoch, 3, 4) for epoch in (0, 1)]
  for epoch in epochs:
    assert sorted(epoch.items[:3].ravel().tolist()) == [0, 2, 3, 5, 7, 8]
    assert not epoch.items[3].any()
    real = epoch.items > 0
    np.testing.assert_array_equal(epoch.codes[real], np.arange(16).reshape(8, 2)[epoch.items[real] - 1])
  assert not np.array_equal(epochs[0].items, epochs[1].items)
  np.testing.assert_array_equal(batches.stack(4, 1, 1).items[0], epochs[1].items[1])


def test_it_learns_labels_of_items_that_it_never_sees(done):
  workdir, found, said = done
  assert (found.trained, found.held_out) == (72, 18)
  assert found.accuracy["accuracy hue"] > 0.8
  assert found.accuracy["accuracy"] == pytest.approx(
    (found.accuracy["accuracy hue"] + found.accuracy["accuracy side"]) / 2
  )
  assert "72 labelled items to train on, 18 held out; labels: hue (3 classes), side (2 classes)" in said
  stated = read_json(workdir / "pretraining.json")
  assert stated["accuracy"] == found.accuracy
  assert stated["accuracy of a guess"] == {"hue": pytest.approx(1 / 3), "side": 0.5}
  valid = [line for line in metric_lines(workdir) if line["split"] == "valid"]
  assert max(line["accuracy"] for line in valid) == found.accuracy["accuracy"]
  assert next(line for line in valid if line["accuracy"] == found.accuracy["accuracy"])["step"] == found.best_step


def test_its_file_is_the_encoder_of_the_best_step_under_pytorch_names(done):
  workdir, found, _ = done
  written = load_file(workdir / "encoder.safetensors")
  encoder = models.create("videomae_b", rngs=nnx.Rngs(5), **OPTIONS)
  convert.load_torch(encoder, workdir / "encoder.safetensors")
  assert_same_arrays(convert.to_torch(encoder), written)
  best = saved_arrays(workdir, found.best_step)
  np.testing.assert_array_equal(
    written["embeddings.patch_embeddings.projection.bias"], best["model/params.items.encoder.embedding.bias.value"]
  )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_a_recommender_starts_from_it(mode, done, tiny_config, tmp_path):
  weights = str(done[0] / "encoder.safetensors")
  config = tiny_config(
    item={**ITEM, "mode": mode, "weights": weights},
    **{"data.features_dir": str(tmp_path / "vectors"), "train.epochs": 1},
  )
  result = experiment.run(config, tmp_path / "run", sources={"frames": Clips(range(1, 101))}, say=lambda text: None)
  assert result.best_epoch == 1


def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(done, tmp_path):
  workdir, _, _ = done
  stop = StopAt(5)
  with pytest.raises(Interrupted, match="the state is saved"):
    pretrain(tmp_path, stop=stop)
  assert not (tmp_path / "encoder.safetensors").exists()
  pretrain(tmp_path, stop=stop)
  assert_same_arrays(saved_arrays(tmp_path), saved_arrays(workdir))
  assert metric_lines(tmp_path) == metric_lines(workdir)
  assert (tmp_path / "encoder.safetensors").read_bytes() == (workdir / "encoder.safetensors").read_bytes()
  with pytest.raises(ConfigError, match="its run read other labels or content"):
    pretrain(tmp_path, data=labelled(range(2, ITEMS + 2)))


def test_without_items_held_out_the_last_parameters_count(tmp_path):
  said: list[str] = []
  found = pretrain(tmp_path, said=said, **{"data.cold_share": 0.0, "train.epochs": 1})
  assert (found.accuracy, found.held_out, found.best_step) == ({}, 0, 4)
  assert not any(line.startswith("held out:") for line in said)


@pytest.mark.parametrize(
  ("item", "message"),
  [
    ({"name": "id"}, r"config\.model\.item\.name = 'id' runs no encoder of content"),
    ({**ITEM, "mode": "frozen", "weights": "random"}, r"config\.model\.item\.mode = 'frozen' trains nothing"),
    ({**ITEM, "encoder": "videomea_b"}, r"config\.model\.item\.encoder = 'videomea_b': .*did you mean 'videomae_b'"),
  ],
)
def test_a_tower_with_nothing_to_train_is_refused(item, message, tmp_path):
  with pytest.raises(ConfigError, match=message):
    pretrain(tmp_path / "run", item=item)
  assert not (tmp_path / "run").exists()


def test_labels_of_other_items_than_the_content_has_are_refused(tmp_path):
  data = Labelled(labelled().labels, Clips([1000, 1001]))
  with pytest.raises(DataError, match=r"none of the 90 labelled items is among the 2 that have a video"):
    pretrain(tmp_path, data=data)


def test_the_classifier_names_its_option():
  with pytest.raises(OptionError, match=r"item\.name = 'id'"):
    Classifier({"name": "id"}, 8, [2], rngs=nnx.Rngs(0))


def test_the_recipe_of_the_demo_has_other_clips_than_the_demo():
  from tfds_microlens import demo
  from tfds_microlens import demo_videos

  file = str(ROOT / "configs" / "pretrain_demo.py")
  found = pretraining.load(file, "")
  assert found.labels.items.min() > demo.generate().items.max()
  assert {name: set(classes) for name, classes in found.labels.classes.items()} == {
    name: set(classes) for name, classes in demo.ATTRIBUTES.items()
  }
  items = found.labels.items[[3, 7]]
  frames = found.source.read(items, frames=5, size=64)
  # Each clip shows what its labels say.
  for item, shown in zip(items.tolist(), frames):
    place = int(item - found.labels.items[0])
    named = [list(classes)[code] for classes, code in zip(found.labels.classes.values(), found.labels.codes[place])]
    codes = np.array([classes.index(name) for classes, name in zip(demo.ATTRIBUTES.values(), named)])
    middle = demo_videos.draw(codes, item)[demo_videos.NUM_FRAMES // 2]
    assert np.abs(shown[2].astype(float) - middle.reshape(64, 2, 64, 2, 3).mean((1, 3))).mean() < 3
  config = config_lib.validate(config_lib.from_file(file, "get_config", ""))
  assert config.data.cold_share == 0.2


def test_the_command(tmp_path, forked):
  from support.tiny_runs import environment

  (tmp_path / "mine.py").write_text(
    "from mlrec.config import default_config\ndef get_config():\n  return default_config()\n"
  )
  for flags, message in (
    (["--config=mine.py"], "error: --workdir=DIR is required"),
    (["--config=mine.py", "--workdir=a"], "mine.py has no get_labelled(): --labels=FILE.csv is required, or a config"),
    (["--config=mine.py", "--workdir=a", "--labels=none.csv"], "error: none.csv: there is no such file"),
  ):
    refused = forked.run("mlrec.pretrain", flags, cwd=tmp_path, env=environment())
    assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr[-2000:]
    assert message in refused.stderr
  assert not (tmp_path / "a").exists()
