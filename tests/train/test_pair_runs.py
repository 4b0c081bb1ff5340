"""Runs of models over interactions, and of models that read ready vectors, from each form of vectors there is."""

import json

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from mlrec.config import ConfigError
from mlrec.config import default_config
from mlrec.content import vectors
from mlrec.content.base import Source
from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.interaction_batches import InteractionBatches
from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.variables import ENCODER
from mlrec.models.layers.variables import groups
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.runs import experiment
from mlrec.train import frozen_vectors
from mlrec.train import item_content
from mlrec.train.optimizer import make_optimizer
from mlrec.train.sharding import make_mesh
from mlrec.train.state import make_train_steps
from mlrec.train.state import state_spec
from mlrec.train.stop import Interrupted
from support import tiny_encoders as tiny
from support.tiny_runs import assert_same_run
from support.tiny_runs import losses
from support.tiny_runs import StopAt

_WIDTH = 6
_VECTORS = np.random.default_rng(3).normal(size=(100, _WIDTH)).astype(np.float32)
_BESIDE_IDS = {"name": "id_features", "id_dropout": 0.3}
_MODELS = {
  "dssm": {"name": "dssm", "dim": 8, "hidden": (8,), "dropout": 0.2},
  "dssm_v": {"name": "dssm", "dim": 8, "visual_dim": 4},
  "vbpr": {"name": "vbpr", "dim": 8, "visual_dim": 4},
  "youtube_v": {"name": "youtube", "dim": 8, "item": _BESIDE_IDS},
  "sasrec_v": {
    "name": "sequential",
    "dim": 8,
    "item": _BESIDE_IDS,
    "user": {"name": "sasrec", "heads": 1, "blocks": 1},
  },
  "fused": {
    "name": "sequential",
    "dim": 8,
    "item": {
      "name": "fused",
      "towers": {"id": {"name": "id"}, "vectors": {"name": "features", "hidden": 8, "activation": "none"}},
      "fusion": "gate",
      "id_dropout": 0.3,
      "modality_dropout": 0.2,
    },
    "user": {"name": "sasrec", "heads": 1, "blocks": 1},
  },
}


@pytest.fixture(scope="module")
def vectors_file(tmp_path_factory):
  path = tmp_path_factory.mktemp("vectors") / "vectors.npy"
  np.save(path, _VECTORS)
  return path


@pytest.fixture
def run_model(tiny_config):
  """Runs a tiny experiment of a model: `run_model(workdir, {"name": "dssm"}, features)`."""

  def run(workdir, model, features="", stop=None, **overrides):
    config = tiny_config(**{"train.batch_size": 256, "optimizer.weight_decay": 0.0, "eval.item_batch": 32, **overrides})
    with config.unlocked():
      config.model, config.data.features = ConfigDict(model), str(features)
    return experiment.run(config, workdir, stop=stop, say=lambda text: None).to_json()

  return run


@pytest.mark.parametrize(
  "name", ["dssm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vbpr", "youtube_v", "fused"))]
)
def test_a_stopped_run_learns_and_is_resumed_bit_for_bit(name, run_model, vectors_file, tmp_path):
  settings = {"train.epochs": 4, "optimizer.lr": 2e-2}
  if name == "fused":
    # Its batches are of users, not of their interactions.
    settings |= {"train.batch_size": 32, "data.whiten": True}
  run_model(tmp_path / "whole", _MODELS[name], vectors_file, **settings)
  found = list(losses(tmp_path / "whole").values())
  assert np.mean(found[-4:]) < np.mean(found[:4]) - 0.05
  with pytest.raises(Interrupted):
    run_model(tmp_path / "stopped", _MODELS[name], vectors_file, stop=StopAt(2), **settings)
  run_model(tmp_path / "stopped", _MODELS[name], vectors_file, **settings)
  assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_steps_are_those_of_whole_gradients(pairs_file):
  """Both of VBPR's item tables are read and differentiated by the batch's rows alone: that must not show."""
  split = leave_one_out(read_pairs(pairs_file))
  features = np.concatenate([np.zeros((1, _WIDTH), np.float32), _VECTORS])

  def make_model(rngs):
    facts = {"num_items": split.num_items, "num_users": split.num_users, "feature_dim": _WIDTH}
    return models.create("vbpr", dim=8, visual_dim=4, rngs=rngs, **facts)

  config = default_config().optimizer
  config.lr = 1e-2
  optimizer = make_optimizer(config, 100)
  mesh = make_mesh(jax.devices()[:1])
  spec = state_spec(make_model, optimizer, mesh, seed=3)
  stack = InteractionBatches(split, batch_size=32, seed=0, negatives=1).stack(0, 3, 3)
  stack = stack._replace(content={"features": features[stack.items]})
  state, found = make_train_steps(spec, optimizer, mesh, seed=3)(spec.create(), stack, 3)

  graphdef, params, rest = nnx.split(tiny.fresh(lambda: make_model(nnx.Rngs(3))), nnx.Param, ...)

  @jax.jit
  def step(params, optimizer_state, batch):
    value, gradients = jax.value_and_grad(lambda params: nnx.merge(graphdef, params, rest).loss(batch))(params)
    updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
    return jax.tree.map(jnp.add, params, updates), optimizer_state, value

  optimizer_state, wanted = optimizer.init(params), []
  for n in range(3):
    params, optimizer_state, value = step(params, optimizer_state, jax.tree.map(lambda x, n=n: x[n], stack))
    wanted.append(float(value))
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.params, params)


@pytest.mark.parametrize("name", ["dssm_v", "vbpr", "youtube_v", "sasrec_v", "fused"])
def test_of_models_of_vectors_only_the_projection_of_dssm_is_in_the_encoders_group(name):
  """As MicroLens's DSSM_ID+V trains it; projections of the others are parts of the head."""
  known = {"num_items": 5, "num_users": 5, "feature_dim": _WIDTH, "item_data": {"feature_dim": _WIDTH}}
  options = dict(_MODELS[name])
  entry = options.pop("name")
  known = {data: value for data, value in known.items() if data in models.options(entry)}
  model = nnx.eval_shape(lambda: models.create(entry, rngs=nnx.Rngs(0), **known, **options))
  found = groups(nnx.state(model, nnx.Param))
  assert found == ({"projection.kernel.value": ENCODER} if name == "dssm_v" else {})


@pytest.mark.slow
def test_each_form_of_vectors_gives_the_same_run(run_model, vectors_file, tmp_path):
  folder = tmp_path / "folder"
  folder.mkdir()
  rows = np.concatenate([np.zeros((1, _WIDTH), np.float32), _VECTORS])
  vectors.write_folder(folder, rows, np.arange(1, 101), {})
  by_item = {str(item): vector.tolist() for item, vector in enumerate(_VECTORS, start=1)}
  (tmp_path / "vectors.json").write_text(json.dumps(dict(reversed(by_item.items()))))
  settings = {"train.epochs": 1}
  for name, form in (("npy", vectors_file), ("json", tmp_path / "vectors.json"), ("folder", folder)):
    run_model(tmp_path / name, _MODELS["dssm_v"], form, **settings)
  for name in ("json", "folder"):
    assert_same_run(tmp_path / name, tmp_path / "npy")


@models.register("mean_for_tests", kind=VIDEO_ENCODER)
class Mean(VideoEncoder):
  """The mean pixel of a clip, and its products."""

  stages = ("only",)
  spec = Spec(2, 1, 4, **KINETICS, features=_WIDTH, weights="", licence="", top="only")

  def __init__(self, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.only = nnx.Linear(3, _WIDTH, dtype=dtype, rngs=rngs)

  def stage(self, index, x, context):
    return self.only(x.mean((1, 2, 3)))


class Clips(Source):
  """Clips of one colour an item, for all items but the last ten."""

  fingerprint = "colours"
  items = np.arange(1, 91)

  def read(self, ids, *, frames=None, size=None):
    colours = np.stack([np.random.default_rng(int(item)).integers(0, 256, 3) for item in ids])
    return np.broadcast_to(colours[:, None, None, None], (len(ids), frames, size, size, 3)).astype(np.uint8)


def test_vectors_come_from_the_folder_of_a_frozen_video_encoder(run_model, pairs_file, tmp_path):
  """What `python -m mlrec.features` keeps is read as the tower over that encoder reads it."""
  video = {"name": "video", "encoder": "mean_for_tests", "mode": "frozen", "weights": "random"}
  where, _ = frozen_vectors.make(frozen_vectors.recipe_of(video), Clips(), folder=str(tmp_path / "kept"))
  split = leave_one_out(read_pairs(pairs_file))
  config = default_config()
  config.data.features, config.data.features_dir = str(where), str(tmp_path / "kept")

  def read(item, **known):
    options = {"num_items": split.num_items, "dim": 8, "item": item, **known}
    model = nnx.eval_shape(lambda: models.create("youtube", rngs=nnx.Rngs(0), **options))
    opened = item_content.open_content(config.data, split, model, sources={"frames": Clips()})
    return opened.read(np.arange(split.num_items + 1))["features"]

  found = read({"name": "features"}, item_data={"feature_dim": _WIDTH})
  np.testing.assert_array_equal(found, read(video))
  assert len(np.unique(found[1:91], axis=0)) == 90
  np.testing.assert_array_equal(found[91:], np.tile(found[0], (10, 1)))
  result = run_model(tmp_path / "run", _MODELS["dssm_v"], where, **{"train.epochs": 1})
  assert np.isfinite(result["test"]["hr@10"])


def test_a_run_is_not_resumed_with_a_file_of_other_vectors(run_model, vectors_file, tmp_path):
  run_model(tmp_path / "run", _MODELS["dssm_v"], vectors_file, **{"train.epochs": 1})
  np.save(tmp_path / "others.npy", 2 * _VECTORS)
  with pytest.raises(ConfigError, match="its run read other data"):
    run_model(tmp_path / "run", _MODELS["dssm_v"], tmp_path / "others.npy", **{"train.epochs": 2})


def _damaged(kind):
  vectors = _VECTORS.copy()
  if kind == "integers":
    return vectors.astype(int)
  if kind == "nan":
    vectors[6, 2] = np.nan
  return vectors[0] if kind == "flat" else vectors


@pytest.mark.parametrize(
  ("kind", "message"),
  [
    ("nan", r"the vector of item 7 holds NaN or infinity in float32 \(1 such vectors\)"),
    ("integers", r"expected a matrix of floats, found int64"),
    ("flat", r"expected a matrix of floats, found float32 \(6,\)"),
  ],
)
@pytest.mark.parametrize("name", ["dssm_v", "sasrec_v"])
def test_vectors_that_cannot_be_read_are_refused(name, kind, message, run_model, tmp_path):
  np.save(tmp_path / "bad.npy", _damaged(kind))
  with pytest.raises(DataError, match=message):
    run_model(tmp_path / "run", _MODELS[name], tmp_path / "bad.npy")


@pytest.mark.parametrize("name", ["dssm_v", "vbpr", "youtube_v", "sasrec_v"])
def test_a_model_of_vectors_without_any_says_what_to_set(name, run_model, tmp_path):
  with pytest.raises(DataError, match=r"config\.data\.features is empty.* python -m mlrec\.features"):
    run_model(tmp_path / "run", _MODELS[name])
