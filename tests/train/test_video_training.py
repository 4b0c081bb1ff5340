"""Training through a video encoder, on clips made in memory."""

import runpy

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlrec.config import ConfigError
from mlrec.config import validate
from mlrec.content.base import Need
from mlrec.content.base import Source
from mlrec.content.base import SourceContent
from mlrec.data import DataError
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.convolution import Conv3D
from mlrec.models.layers.dropout import Dropout
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.runs import experiment
from mlrec.train.stop import Interrupted
from support.tiny_runs import assert_same_run
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import ROOT
from support.tiny_runs import saved_arrays
from support.tiny_runs import StopAt

_SIZE = 8


@models.register("two_stages_for_tests", kind=VIDEO_ENCODER)
class TwoStages(VideoEncoder):
  """A convolution with BatchNorm and dropout in each of two stages."""

  stages = ("low", "high")
  spec = Spec(2, 1, _SIZE, **KINETICS, features=6, weights="", licence="", top="high")

  def __init__(self, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.low = Stage(3, 4, dtype, rngs=rngs)
    self.high = Stage(4, 6, dtype, rngs=rngs)

  def stage(self, index, x, context):
    x = (self.low, self.high)[index](x, context)
    return x.mean((1, 2, 3)) if index == 1 else x


class Stage(nnx.Module):
  def __init__(self, inputs, outputs, dtype, *, rngs):
    self.conv = Conv3D(inputs, outputs, (1, 3, 3), stride=(1, 2, 2), dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(outputs)
    self.dropout = Dropout(0.1)

  def __call__(self, x, context):
    return self.dropout(nnx.relu(self.norm(self.conv(x), context)), context.rngs)


class Clips(Source):
  """Random clips in which an item has a colour of its own, in place of a prepared data set."""

  key = "videos"
  noun = "video"
  fingerprint = "clips"

  def __init__(self, items):
    self.items = np.asarray(items, np.int64)
    self.reads = 0

  def read(self, ids, *, frames=None, size=None):
    self.reads += 1
    out = np.zeros((len(ids), frames, size, size, 3), np.uint8)
    for place, item in enumerate(ids):
      rng = np.random.default_rng(int(item))
      out[place] = rng.integers(0, 256, 3) + rng.integers(-20, 20, out.shape[1:])
    return out


@pytest.fixture
def clips():
  return Clips(range(1, 101))


@pytest.fixture
def run_video(run_tiny, clips, tmp_path):
  """Runs a tiny experiment whose items are clips: `run_video(workdir, **{"item.mode": "top"})`."""

  def run(workdir, *, stop=None, say=lambda text: None, **overrides):
    item = {"name": "video", "encoder": "two_stages_for_tests", "mode": "scratch"}
    settings = {"data.features_dir": str(tmp_path / "features"), "train.steps_per_dispatch": 1, "eval.item_batch": 32}
    for key, value in overrides.items():
      if key.startswith("item."):
        item[key.removeprefix("item.")] = value
      else:
        settings[key] = value
    return run_tiny(workdir, item=item, sources={"frames": clips}, stop=stop, say=say, **settings)

  return run


def _losses(workdir):
  return [line["loss"] for line in metric_lines(workdir) if line["split"] == "train"]


@pytest.mark.parametrize("mode", [pytest.param("scratch", marks=pytest.mark.slow), "full", "top", "frozen"])
def test_every_mode_learns(run_video, tmp_path, mode):
  weights = {} if mode == "scratch" else {"item.weights": "random"}
  run_video(tmp_path / "run", **{"item.mode": mode, "train.epochs": 2, "optimizer.lr": 2e-2}, **weights)
  losses = _losses(tmp_path / "run")
  assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.05


def _moved(before, after):
  """The names of arrays that differ, of those whose names both have."""
  return {name for name, array in after.items() if name in before and not np.array_equal(array, before[name])}


@pytest.mark.parametrize(
  ("mode", "trained"),
  [("full", {"low", "high"}), ("top", {"high"}), pytest.param("frozen", set(), marks=pytest.mark.slow)],
)
def test_only_what_a_mode_trains_moves(run_video, tmp_path, mode, trained):
  run_video(
    tmp_path / "run", **{"item.mode": mode, "item.weights": "random", "item.cache": False, "checkpoint.every_steps": 2,
    "train.epochs": 1, "optimizer.weight_decay": 0.0},
  )  # fmt: skip
  early, late = (saved_arrays(tmp_path / "run", step) for step in (8, 10))
  encoder = {name for name in late if "items.encoder" in name}
  assert {name.split("encoder.")[1].split(".")[0] for name in encoder} == {"low", "high"}
  moved = _moved(early, late) & encoder
  assert {name.split("encoder.")[1].split(".")[0] for name in moved} == trained
  for stage in trained:
    ends = {name.split(f"encoder.{stage}.")[1].removesuffix(".value") for name in moved if f"encoder.{stage}." in name}
    assert {"conv.kernel", "norm.scale", "norm.bias", "norm.mean", "norm.var"} <= ends
  assert any("items.projection" in name for name in _moved(early, late))


@pytest.fixture
def weights(tmp_path):
  """A file of weights for the encoder, its statistics away from their start."""
  arrays = to_torch(TwoStages(rngs=nnx.Rngs(7)))
  rng = np.random.default_rng(0)
  arrays = {name: array + 0.1 * rng.random(array.shape, np.float32) for name, array in arrays.items()}
  save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tmp_path / "w.safetensors")
  return str(tmp_path / "w.safetensors")


def test_published_weights_are_where_training_starts(run_video, weights, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  named = {"item.mode": "top", "item.weights": "~/w.safetensors"}
  run_video(tmp_path / "run", **named, **{"train.epochs": 1, "optimizer.lr": 1e-12})
  saved = saved_arrays(tmp_path / "run", 10)
  wanted = TwoStages(rngs=nnx.Rngs(0))
  load_torch(wanted, weights)
  for stage in ("low", "high"):
    name = min((name for name in saved if f"encoder.{stage}.conv.kernel" in name), key=len)
    np.testing.assert_allclose(saved[name], getattr(wanted, stage).conv.kernel[...], rtol=1e-5)


@pytest.mark.slow
def test_cached_and_uncached_frozen_runs_are_the_same(run_video, weights, tmp_path):
  options = {"item.mode": "frozen", "item.weights": weights, "train.epochs": 2, "item.cache": True}
  cached = run_video(tmp_path / "cached", **options)
  uncached = run_video(tmp_path / "uncached", **{**options, "item.cache": False})
  np.testing.assert_allclose(_losses(tmp_path / "cached"), _losses(tmp_path / "uncached"), rtol=1e-4)
  for split in ("valid", "test"):
    assert cached[split] == pytest.approx(uncached[split], abs=1e-9, nan_ok=True)


@pytest.mark.slow
def test_frozen_vectors_are_made_once_for_all_heads(run_video, clips, tmp_path):
  options = {"item.mode": "frozen", "item.weights": "random", "train.epochs": 1}
  run_video(tmp_path / "one", **options)
  reads = clips.reads
  assert reads
  run_video(tmp_path / "two", **{**options, "user": {"name": "gru4rec", "blocks": 1}})
  assert clips.reads == reads
  run_video(tmp_path / "three", **{**options, "item.pixels": "double"})
  assert clips.reads > reads


@pytest.mark.slow
def test_a_run_stopped_in_the_middle_of_an_epoch_is_resumed_bit_for_bit(run_video, tmp_path):
  options = {"train.epochs": 2, "checkpoint.every_steps": 4, "train.steps_per_dispatch": 2}
  run_video(tmp_path / "whole", **options)
  with pytest.raises(Interrupted):
    run_video(tmp_path / "stopped", stop=StopAt(3), **options)
  run_video(tmp_path / "stopped", **options)
  assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_rematerialised_stages_give_the_same_losses(run_video, tmp_path):
  for name, remat in (("kept", False), ("again", True)):
    run_video(tmp_path / name, **{"item.remat": remat, "train.epochs": 1})
  np.testing.assert_allclose(_losses(tmp_path / "kept"), _losses(tmp_path / "again"), rtol=1e-4)


@pytest.mark.slow
def test_statistics_and_dropout_run_through_the_parts(run_video, tmp_path):
  options = {"item.mode": "top", "item.weights": "random", "train.epochs": 1, "item.accumulate": 3}
  run_video(tmp_path / "run", **options, **{"checkpoint.every_steps": 2})
  early, late = (saved_arrays(tmp_path / "run", step) for step in (8, 10))
  moved = {name.split("encoder.")[1].split(".")[0] for name in _moved(early, late) if "norm.mean" in name}
  assert moved == {"high"}
  assert np.isfinite(_losses(tmp_path / "run")).all()


@pytest.mark.slow
def test_frozen_stages_run_as_in_training_where_asked(run_video, tmp_path):
  options = {"item.mode": "frozen", "item.weights": "random", "item.cache": False, "item.frozen_in_training": True}
  run_video(tmp_path / "run", **options, **{"checkpoint.every_steps": 2, "train.epochs": 1})
  early, late = (saved_arrays(tmp_path / "run", step) for step in (8, 10))
  moved = {name for name in _moved(early, late) if "items.encoder" in name}
  assert moved
  assert all(name.removesuffix(".value").endswith(("norm.mean", "norm.var")) for name in moved)


@pytest.mark.slow
def test_the_encoder_may_compute_in_bfloat16(run_video, tmp_path):
  result = run_video(tmp_path / "run", **{"item.dtype": "bfloat16", "train.epochs": 1})
  assert np.isfinite(_losses(tmp_path / "run")).all()
  assert result["test"]["hr@10"] >= 0


def test_items_without_a_video_are_counted_and_black(run_video, clips, tmp_path, caplog):
  clips.items = clips.items[:90]
  run_video(tmp_path / "run", **{"train.epochs": 1})
  assert "10 of 100 items have no frames (item 91 first)" in caplog.text


def test_videos_of_other_items_are_refused(run_video, clips, tmp_path):
  clips.items = np.arange(1000, 1010)
  with pytest.raises(DataError, match="none of its 10 videos"):
    run_video(tmp_path / "run")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"item.mode": "froze"}, "'froze'.*'frozen'"),
    (
      {"item.encoder": "slow_r5"},
      r"config\.model\.item\.encoder = 'slow_r5': there is no such video encoder; did you mean 'slow_r50'",
    ),
    ({"item.mode": "full"}, r"config\.model\.item\.weights is empty, and the mode 'full' needs it"),
    ({"item.weights": "there.pth"}, "takes no weights"),
    ({"item.mode": "top", "item.weights": "random", "item.train_from": "hihg"}, "'hihg'.*'high'"),
    ({"item.mode": "full", "item.weights": "/no/such.safetensors"}, r"weights = '/no/such.safetensors'"),
    ({"item.pixels": "singel"}, "'singel'"),
    ({"item.accumulate": 0}, r"config\.model\.item\.accumulate = 0"),
    (
      {"item.mode": "frozen", "item.weights": "random", "item.frozen_in_training": True},
      r"config\.model\.item\.frozen_in_training = True .* cache = False",
    ),
  ],
)
def test_a_tower_that_cannot_be_built_is_refused_by_name(run_video, tmp_path, options, message):
  with pytest.raises(ConfigError, match=message):
    run_video(tmp_path / "run", **options)


def _content(clips, number, **options):
  need = Need((2, 4, 4, 3), "uint8")
  return SourceContent("frames", clips, np.arange(number), need, {"frames": 2, "size": 4}, **options)


def test_frames_are_read_for_each_devices_share_alone():
  clips = Clips(range(1, 17))
  content = _content(clips, 17)
  from mlrec.train import sharding

  mesh = sharding.make_mesh()
  items = np.arange(16).reshape(2, 8)
  arrays = sharding.put_content(mesh, items.shape, sharding.Shares.of(mesh).read(content, items))
  np.testing.assert_array_equal(arrays["frames"], content.read(items)["frames"])
  assert not np.asarray(arrays["frames"])[0, 0].any(), "the padding item has no frames"
  assert jax.tree.leaves(arrays)[0].shape == (2, 8, 2, 4, 4, 3)


@pytest.mark.parametrize(("kept_bytes", "reads"), [(1 << 20, 2), (0, 3)])
def test_frames_of_a_small_set_are_decoded_once(kept_bytes, reads):
  clips = Clips([1, 2, 3, 5])
  content = _content(clips, 6, kept_bytes=kept_bytes)
  for items in ([[3, 0, 4], [1, 3, 1]], [[5, 3, 0], [4, 1, 2]], [[1, 2, 3], [5, 5, 0]]):
    frames = content.read(np.asarray(items))["frames"]
    for place, item in np.ndenumerate(items):
      wanted = clips.read([item], frames=2, size=4)[0] if item in clips.items else np.zeros((2, 4, 4, 3))
      clips.reads -= item in clips.items
      np.testing.assert_array_equal(frames[place], wanted)
  assert clips.reads == reads


@pytest.mark.slow
def test_a_run_is_compared_with_popularity_and_with_item_ids(run_video, run_tiny, tmp_path):
  lines = []
  options = {"train.epochs": 1, "baselines": ("popularity", "id"), "seeds": (0, 1)}
  run_video(tmp_path / "run", say=lines.append, **options)
  rows = read_json(tmp_path / "run" / "comparison.json")
  assert list(rows) == ["popularity", "item IDs", "this run (two_stages_for_tests)"]
  alone = run_tiny(tmp_path / "alone", **{"train.epochs": 1, "train.steps_per_dispatch": 1, "seeds": (0, 1)})
  assert rows["item IDs"]["hr@10"] == pytest.approx(alone["test"]["hr@10"])
  assert 0 < rows["popularity"]["hr@10"] < 1
  table = lines[-4:]
  assert table[0].split() == ["test", "hr@10", "ndcg@10", "hr@20", "ndcg@20", "cold/hr@10"]
  assert [line.split("  ")[0] for line in table[1:]] == list(rows)


@pytest.mark.parametrize(
  ("head", "argument", "size", "options"),
  [
    pytest.param("sasrec", "r3d_r18,top", 16, {"depths": (1, 1, 1, 1)}, marks=pytest.mark.slow),
    ("gru4rec", "vit_s,frozen", 32, {"depth": 1, "dim": 48}),
    pytest.param("nextitnet", "vit_s,full", 32, {"depth": 1, "dim": 48}, marks=pytest.mark.slow),
  ],
)
def test_the_shipped_configs_train_through_their_encoders(head, argument, size, options, clips, make_pairs, tmp_path):
  # Of an encoder with its published widths a step takes seconds: there are as few clips as make some batches.
  config = runpy.run_path(str(ROOT / "configs" / f"video_{head}.py"))["get_config"](argument)
  config.update_from_flattened_dict({
    "data.source": str(make_pairs(users=40, items=24)), "data.features_dir": str(tmp_path / "features"),
    "model.dim": 16, "model.item.weights": "random", "model.item.frames": 2, "model.item.size": size,
    "model.item.options": {**config.model.item.options, **options},
    "train.batch_size": 20, "train.epochs": 1, "eval.item_batch": 32, "log.tensorboard": False,
  })  # fmt: skip
  result = experiment.run(
    validate(config), tmp_path / "run", sources={"frames": clips}, say=lambda text: None
  ).to_json()
  assert np.isfinite(_losses(tmp_path / "run")).all()
  assert 0 <= result["test"]["hr@10"] <= 1
