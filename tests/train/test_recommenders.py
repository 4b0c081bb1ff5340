"""Recommenders of every sort under one run: of rows or interactions, scored otherwise, or computed at once."""

import inspect
import os

import numpy as np
import pytest

from mlrec import command_line
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.runs import workdir
from mlrec.runs.baselines import popularity_row
from mlrec.train.model_builder import ModelBuilder
from mlrec.train.stop import Interrupted
from support.tiny_recommenders import Factors
from support.tiny_recommenders import FromContent
from support.tiny_recommenders import FromFeatures
from support.tiny_recommenders import LastAgain
from support.tiny_recommenders import noting
from support.tiny_recommenders import registered
from support.tiny_recommenders import Straight
from support.tiny_runs import assert_same_run
from support.tiny_runs import histories
from support.tiny_runs import ITEMS
from support.tiny_runs import losses
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import ROOT
from support.tiny_runs import run_to_the_end
from support.tiny_runs import SASREC
from support.tiny_runs import saved_steps
from support.tiny_runs import StopAt
from support.tiny_runs import USERS


@pytest.fixture(scope="module", autouse=True)
def _registered():
  with registered(
    factors=Factors, straight=Straight, from_features=FromFeatures, from_content=FromContent, last_again=LastAgain
  ):
    yield


@pytest.fixture(scope="module")
def split(pairs_file):
  return leave_one_out(read_pairs(pairs_file))


def sequential(**options) -> dict:
  return {"name": "sequential", "dim": 8, "item": {"name": "id"}, "user": SASREC, **options}


DRAWN = {
  "sampled softmax": sequential(loss="sampled_softmax", negatives=7),
  "sampled softmax by popularity": sequential(loss="sampled_softmax", negatives=7, drawn_by="popularity"),
  "full softmax": sequential(loss="full_softmax", block=32),
  "gbce": sequential(loss="gbce", negatives=7, calibration=0.75, from_prior=True),
}


# The in-batch softmax is seen to learn in test_finished_runs.py.
@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=pytest.mark.slow) if name.endswith(("popularity", "gbce")) else name for name in DRAWN],
)
def test_each_loss_of_items_drawn_teaches_which_item_follows(name, run_tiny, split, tmp_path):
  options = DRAWN[name]
  model = {**options, "dim": 16, "user": SASREC | {"dropout": 0.0}}
  if "negatives" in options:
    model["negatives"] = 20
  settings = {"train.epochs": 10, "eval.every_epochs": 10, "optimizer.lr": 2e-2}
  result = run_tiny(tmp_path / "run", model=model, **settings)
  assert result["test"]["ndcg@10"] > 1.4 * popularity_row(split)["ndcg@10"]


@pytest.mark.parametrize("name", ["factors", "straight"])
def test_recommenders_of_interactions_learn(name, run_tiny, split, tmp_path):
  settings = {"train.epochs": 6, "optimizer.lr": 2e-2, "train.batch_size": 128}
  result = run_tiny(tmp_path / "run", model={"name": name}, **settings)
  found = losses(tmp_path / "run")
  steps = -(-len(split.train.values) // 128)
  assert len(found) == 6 * steps
  first, last = (np.mean([found[n] for n in steps_of]) for steps_of in (range(1, 4), range(6 * steps - 3, 6 * steps)))
  assert last < 0.7 * first
  assert result["best_step"] % steps == 0
  assert result["test"]["hr@20"] > 20 / ITEMS


@pytest.mark.parametrize(
  "model", [pytest.param(DRAWN["gbce"], marks=pytest.mark.slow), {"name": "factors"}], ids=["gbce", "factors"]
)
def test_a_run_with_items_drawn_is_resumed_bit_for_bit(model, run_tiny, tmp_path):
  settings = {"model": model, "train.epochs": 2, "train.batch_size": 128 if model["name"] != "sequential" else 32}
  run_tiny(tmp_path / "whole", **settings)
  assert len(set(losses(tmp_path / "whole").values())) > 10
  run_to_the_end(run_tiny, tmp_path / "run", stop=StopAt(2), stops=1, **settings)
  assert_same_run(tmp_path / "run", tmp_path / "whole")


_DEVICES = """
import jax
import numpy as np
from support.tiny_recommenders import Factors
from support.tiny_runs import histories
from mlrec.config import default_config
from mlrec.data import leave_one_out, Rows
from mlrec.data.interaction_batches import InteractionBatches
from mlrec.data.interactions import Interactions
from mlrec.train.optimizer import make_optimizer
from mlrec.train.sharding import make_mesh, put
from mlrec.train.state import make_train_steps, state_spec

rows = histories()
split = leave_one_out(Interactions(np.arange(len(rows)), Rows.from_lists(rows)))
found = []
for devices in (1, 8):
  mesh = make_mesh(jax.devices()[:devices])
  # 100 has no eight equal parts: the rest is filler.
  batches = InteractionBatches(split, batch_size=100, seed=0, inputs=True, negatives=3, multiple_of=devices)
  optimizer = make_optimizer(default_config().optimizer, 100)
  spec = state_spec(lambda rngs: Factors(split.num_items, split.num_users, 10, rngs=rngs), optimizer, mesh, seed=0)
  steps = make_train_steps(spec, optimizer, mesh, seed=0)
  stack = batches.stack(0, 4, 4)
  assert stack.users.shape[1] == (104 if devices == 8 else 100)
  state, losses = steps(spec.create(), put(mesh, stack, axis=1), 4)
  found.append([np.asarray(losses), *(np.asarray(leaf) for leaf in jax.tree.leaves(state.params))])
for one, eight in zip(*found):
  np.testing.assert_allclose(one, eight, rtol=2e-6, atol=2e-5)
print("equal")
"""


def test_interactions_are_trained_on_alike_on_one_and_eight_devices(program):
  folders = (str(ROOT / "tests"), str(ROOT))
  done = program(_DEVICES, devices=8, PYTHONPATH=os.pathsep.join(folders))
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout == "equal\n"


def popular(split, name: str) -> float:
  """HR@10 of popularity by loops."""
  hits = 0
  for user, target in enumerate(split.targets(name)):
    counts = split.train_counts.copy()
    counts[[0, *split.seen(name)[user]]] = -1
    counts_of_target = split.train_counts[target]
    counts[target] = -1
    hits += int((counts >= counts_of_target).sum()) < 10
  return hits / split.num_users


def test_popularity_is_a_run_like_any_other(run_tiny, split, tmp_path):
  said: list[str] = []
  result = run_tiny(tmp_path / "run", model={"name": "popularity"}, say=said.append)
  for name in ("valid", "test"):
    assert result[name]["hr@10"] == pytest.approx(popular(split, name))
  assert result["best_step"] == result["best_epoch"] == 0
  assert result == read_json(tmp_path / "run" / "result.json")
  assert read_json(tmp_path / "run" / "config.json")["model"] == {"name": "popularity"}
  assert result["test"] == popularity_row(split)
  assert not saved_steps(tmp_path / "run")
  assert any(line.startswith("test ") for line in said)
  again: list[str] = []
  assert run_tiny(tmp_path / "run", model={"name": "popularity"}, say=again.append) == result
  assert "is finished" in again[0]
  evaluation = run_tiny(tmp_path / "run", model={"name": "popularity"}, evaluate_only=True)
  assert evaluation["test"] == result["test"]
  with pytest.raises(ConfigError, match=r"config\.model\.name"):
    run_tiny(tmp_path / "run", model={"name": "last_again"})


def test_a_fitted_recommender_is_scored_on_each_splits_histories(run_tiny, split, tmp_path):
  result = run_tiny(tmp_path / "run", model={"name": "last_again", "shift": 1.0})
  for name in ("valid", "test"):
    inputs, targets = split.inputs(name), split.targets(name)
    near = np.mean([abs(int(inputs[user][-1]) + 1 - int(targets[user])) <= 2 for user in range(split.num_users)])
    assert result[name]["hr@10"] >= near > 0.4
  elsewhere = run_tiny(tmp_path / "other", model={"name": "last_again", "shift": 30.0})
  assert elsewhere["test"]["hr@10"] < 0.3 * result["test"]["hr@10"]
  assert elsewhere["config_hash"] != result["config_hash"]


def test_a_fitted_recommender_whose_scores_are_not_finite_is_told(run_tiny, tmp_path, capsys):
  run = lambda: run_tiny(tmp_path / "run", model={"name": "last_again", "scale": 1e38})  # noqa: E731
  assert command_line.run_reporting(run, tmp_path / "run", print) == command_line.FAILED
  assert "error: scores are not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("model", "why"),
  [
    ({"name": "dssm", "dim": 8}, "dssm is trained on interactions"),
    ({"name": "sequential", "dim": 8, "loss": "sampled_softmax", "negatives": 8}, "sequential draws its negatives"),
    ({"name": "sequential", "dim": 8, "loss": "full_softmax"}, "sequential scores all items"),
  ],
)
def test_groups_of_negatives_are_refused_where_they_would_mean_nothing(model, why, run_tiny, tmp_path):
  with pytest.raises(ConfigError, match=rf"config\.loss\.negative_groups = 2: {why}"):
    run_tiny(tmp_path / "run", model=model, **{"loss.negative_groups": 2})


def test_a_loss_of_all_items_is_no_matter_of_the_rows_that_a_batch_holds(run_tiny, tmp_path):
  model = {"name": "sequential", "dim": 8, "loss": "full_softmax"}
  with pytest.raises(ConfigError, match=r"config\.optimizer\.item_tables = 'lazy_adamw': .* all rows; give 'adamw'"):
    run_tiny(tmp_path / "run", model=model, **{"optimizer.item_tables": "lazy_adamw"})


def test_a_recommender_without_towers_is_compared_with_popularity_alone(run_tiny, tmp_path):
  said: list[str] = []
  run_tiny(tmp_path / "run", model={"name": "last_again"}, baselines=("popularity",), say=said.append)
  assert list(read_json(tmp_path / "run" / "comparison.json")) == ["popularity", "this run (last_again)"]
  with pytest.raises(ConfigError, match=r"config\.baselines.*'last_again' has no item tower"):
    run_tiny(tmp_path / "new", model={"name": "last_again"}, baselines=("popularity", "id"))
  assert not (tmp_path / "new").exists()


def test_the_default_folder_of_a_recommender_without_towers_names_it(tiny_config):
  folder = workdir.default("configs/any.py", "", tiny_config(model={"name": "popularity"}))
  assert folder.name == "any_Tiny_pairs_popularity_seed42"
  folder = workdir.default("configs/any.py", "", tiny_config(model={"name": "factors", "dim": 4}))
  assert folder.name == "any_Tiny_pairs_factors_d4_seed42"


def test_seeds_of_a_fitted_recommender_agree(run_tiny, tmp_path):
  summary = run_tiny(tmp_path / "run", model={"name": "last_again"}, seeds=(0, 1))
  assert summary["test"]["hr@10"]["std"] == 0


@pytest.mark.parametrize(
  "names", [(), ("num_items",), ("num_users", "max_length"), ("train", "num_items"), ("feature_dim",), ("features",)]
)
def test_a_recommender_gets_exactly_the_data_it_names(names, split, tiny_config, tmp_path):
  vectors = np.random.default_rng(0).normal(size=(ITEMS, 5)).astype(np.float32)
  np.save(tmp_path / "v.npy", vectors)
  entry, seen = noting(**dict.fromkeys(names, inspect.Parameter.empty))
  with registered(seen=entry):
    config = tiny_config(model={"name": "seen"}, **{"data.features": str(tmp_path / "v.npy")})
    builder = ModelBuilder(config, split)
    assert seen == [], "nothing is computed before it is built"
    assert builder.recommender is entry
    builder.create_fitted()
  (given,) = seen
  assert given.keys() == set(names)
  wanted = {"num_items": ITEMS, "num_users": USERS, "max_length": 10, "feature_dim": 5}
  for name, value in given.items():
    if name == "train":
      assert value == split.train
    elif name == "features":
      np.testing.assert_array_equal(value, np.concatenate([np.zeros((1, 5), np.float32), vectors]))
    else:
      assert value == wanted[name]
  assert len(builder.fingerprints) == ("features" in names)


def test_who_can_do_without_features_keeps_a_default_where_there_are_none(split, tiny_config):
  entry, seen = noting(num_items=inspect.Parameter.empty, feature_dim=0, features=None)
  with registered(seen=entry):
    builder = ModelBuilder(tiny_config(model={"name": "seen"}), split)
    builder.create_fitted()
  assert seen == [{"num_items": ITEMS, "feature_dim": 0, "features": None}]
  assert builder.fingerprints == []


def test_features_are_read_for_no_one_who_does_not_ask(split, tiny_config):
  entry, seen = noting(num_items=inspect.Parameter.empty)
  with registered(seen=entry):
    config = tiny_config(model={"name": "seen"}, **{"data.features": "nothing.npy"})
    ModelBuilder(config, split).create_fitted()
  assert seen == [{"num_items": ITEMS}]


@pytest.mark.parametrize(
  ("model", "pattern"),
  [
    (
      {"name": "last_again", "shfit": 1.0},
      r"config\.model\.shfit = 1\.0: 'last_again' has no such option; did you mean 'shift'",
    ),
    (sequential(negativs=3), r"config\.model\.negativs = 3: 'sequential' has no such option; did you mean 'negatives'"),
    ({"name": "factors", "dims": 3}, r"config\.model\.dims = 3: 'factors' has no such option; did you mean 'dim'"),
    ({"name": "factors", "num_users": 3}, r"config\.model\.num_users = 3 cannot be set: it is known from the data"),
    (sequential(feature_dim=4), r"config\.model\.feature_dim = 4 cannot be set"),
    (
      {"name": "popularty"},
      r"config\.model\.name = 'popularty': there is no such recommender; did you mean 'popularity'",
    ),
    ({"name": "sasrec"}, r"config\.model\.name = 'sasrec': there is no such recommender"),
    (sequential(item={"dim": 3}), r"config\.model\.item\.name is missing beside \['dim'\]"),
    (sequential(user={"heads": 3}), r"config\.model\.user\.name is missing beside \['heads'\]"),
    (sequential(loss="softmax"), r"config\.model\.loss = 'softmax': did you mean 'full_softmax' or 'sampled_softmax'"),
    (sequential(loss="gbce"), r"config\.model\.negatives = 0 must be at least 1, with loss = 'gbce'"),
    (sequential(negatives=4), r"config\.model\.negatives = 4 must be 0, as the loss draws none"),
  ],
)
def test_wrong_options_are_refused_by_name(model, pattern, run_tiny, tmp_path):
  with pytest.raises(ValueError, match=pattern):
    run_tiny(tmp_path / "run", model=model)
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("name", [pytest.param("from_features", marks=pytest.mark.slow), "from_content"])
def test_a_run_is_resumed_with_the_vectors_it_has_read_and_no_others(name, run_tiny, tmp_path):
  vectors = np.random.default_rng(0).normal(size=(ITEMS, 5)).astype(np.float32)
  np.save(tmp_path / "v.npy", vectors)
  np.save(tmp_path / "moved.npy", vectors)
  settings = {"model": {"name": name}, "train.epochs": 2, "train.batch_size": 128, "train.steps_per_dispatch": 4}

  def run(workdir, file, stop=None):
    return run_tiny(tmp_path / workdir, stop=stop, **settings, **{"data.features": str(tmp_path / file)})

  whole = run("whole", "v.npy")
  with pytest.raises(Interrupted):
    run("run", "v.npy", StopAt(2))
  np.save(tmp_path / "other.npy", vectors + 1)
  with pytest.raises(ConfigError, match="its run read other data"):
    run("run", "other.npy")
  # The file itself, too, may have been written again.
  np.save(tmp_path / "v.npy", vectors + 1)
  with pytest.raises(ConfigError, match="its run read other data"):
    run("run", "v.npy")
  assert run("run", "moved.npy")["test"] == whole["test"]
  assert metric_lines(tmp_path / "run") == metric_lines(tmp_path / "whole")
  other = run("other", "v.npy")
  assert other["config_hash"] != whole["config_hash"], "another file is another experiment"
  assert other["data"] == whole["data"], "of the same data set"


@pytest.mark.parametrize("name", ["from_features", "from_content"])
def test_a_recommender_that_reads_features_needs_a_file_of_them(name, run_tiny, tmp_path):
  with pytest.raises((ConfigError, DataError), match=r"config\.data\.features is empty"):
    run_tiny(tmp_path / "run", model={"name": name})
  np.save(tmp_path / "v.npy", np.full((ITEMS, 3), np.nan, np.float32))
  with pytest.raises(DataError, match=r"the vector of item \d+ holds NaN"):
    run_tiny(tmp_path / "run", model={"name": name}, **{"data.features": str(tmp_path / "v.npy")})
  assert not (tmp_path / "run" / "config.json").exists()


def test_histories_of_the_tests_have_all_items_and_users(split):
  assert split.num_items == ITEMS == max(map(max, histories()))
  assert split.num_users == USERS
