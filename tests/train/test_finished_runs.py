"""What a finished run leaves behind, and what asking for it again does."""

import importlib.util
import json
import pathlib
import shutil

from flax import nnx
from ml_collections import ConfigDict
import numpy as np
import pytest

from mlrec.data.id_map import IdMap
from support.tiny_runs import assert_same_run
from support.tiny_runs import losses
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import ROOT
from support.tiny_runs import saved_arrays
from support.tiny_runs import saved_steps
from support.tiny_runs import STEPS_PER_EPOCH
from support.tiny_runs import tiny_arguments

HEADLINE = {"hr@10", "ndcg@10", "hr@20", "ndcg@20"}
# Of models that are judged by clicks.
CLICKS = {"auc", "gauc", "log_loss", "ece", "calibration"}
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.py") if not path.name.startswith("_"))
# Other tests train these.
CONFIGS = [
  path
  for path in CONFIGS
  if path.stem not in ("demo", "id_sasrec", "id_gru4rec", "id_nextitnet", "mmctr", "tiger", "pretrain_demo")
]
CONFIGS = [path for path in CONFIGS if not path.stem.startswith("video_") and path.parent.name != "studies"]


def _name(path: pathlib.Path) -> str:
  return str(path.relative_to(ROOT))


def family(path: pathlib.Path) -> str:
  """What two experiments share that are the same model once they are made tiny."""
  model = shipped(path).model.to_dict()
  return json.dumps({"model": _without_sizes(model)}, sort_keys=True)


def _without_sizes(options):
  """Options without the numbers that say how large, or how strong, something is; whether they are 0 stays."""
  if isinstance(options, dict):
    return {name: _without_sizes(value) for name, value in options.items()}
  return bool(options) if isinstance(options, int | float) else options


def shipped(path: pathlib.Path, **overrides) -> ConfigDict:
  """A shipped experiment, made tiny by `overrides` where its model has such options."""
  from mlrec import config as config_lib

  spec = importlib.util.spec_from_file_location("shipped_config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  if "blocks" in config.model.get("user", {}):
    config.model.user.blocks = 1
  if "dim" in config.model:
    config.model.dim = 16
  config.update_from_flattened_dict({"log.tensorboard": False, **overrides})
  return config_lib.validate(config)


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("tfds")


def popularity_hit_rate(source: str, data_dir: pathlib.Path) -> float:
  """HR@10 on the validation targets of the items that training names most."""
  from mlrec.data import leave_one_out
  from mlrec.sources import load_interactions

  split = leave_one_out(load_interactions(source, str(data_dir)))
  scores = np.repeat(split.train_counts[None].astype(float), split.num_users, axis=0)
  scores[:, 0] = -1
  seen = split.seen("valid")
  scores[np.repeat(np.arange(split.num_users), seen.lengths), seen.values] = -1
  targets = scores[np.arange(split.num_users), split.targets("valid")]
  return float(((scores >= targets[:, None]).sum(axis=1) <= 10).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "lr"), [("sasrec", 1e-2), ("gru4rec", 2e-2), ("nextitnet", 2e-2)])
def test_each_user_encoder_learns_more_than_popularity_on_the_demo_data(encoder, lr, demo_folder, tmp_path):
  from mlrec.runs import experiment

  source = "microlens/demo-sequences"
  config = shipped(
    ROOT / "configs" / f"id_{encoder}.py",
    **{
      "data.source": source, "data.data_dir": str(demo_folder), "optimizer.lr": lr, "train.batch_size": 128,
      "train.epochs": 8, "train.patience": 0, "eval.batch_size": 2048, "eval.chunk": 512, "eval.every_epochs": 8,
    },
  )  # fmt: skip
  result = experiment.run(config, tmp_path / "run").to_json()
  popularity = popularity_hit_rate(source, demo_folder)
  assert 0.02 < popularity < 0.12
  assert result["valid"]["hr@10"] > 1.8 * popularity
  assert result["test"]["hr@10"] > 1.5 * popularity


# The first of each family, those of MicroLens-50k before those of 100k.
FAMILIES = list({family(path): path for path in reversed(CONFIGS)}.values())


def _parts(path: pathlib.Path) -> str:
  """The names of a config's recommender, user encoder and item tower, and whether it reads vectors."""
  config = shipped(path)
  names = [config.model.name, *(config.model.get(part, {}).get("name", "") for part in ("user", "item"))]
  return " ".join([*names, str(bool(config.data.features))])


# Other families of the same parts differ in whether some option is 0.
_FIRST = set({_parts(path): path for path in reversed(FAMILIES)}.values())
_FAMILIES = [path if path in _FIRST else pytest.param(path, marks=pytest.mark.slow) for path in FAMILIES]


def with_titles(path: pathlib.Path, settings: dict, folder: pathlib.Path) -> dict:
  """Settings of a config that reads titles: a few of them, and a small encoder at random in place of a package's."""
  if not path.name.endswith("_title.py"):
    return settings
  (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three"]) + "\n")
  lines = [f"{item},{('one', 'two', 'three')[item % 3]}" for item in range(1, 101)]
  (folder / "tiny_titles.csv").write_text("\r\n".join(["item,title", *lines]) + "\r\n", newline="")
  title = {"encoder": "bert_tiny", "weights": "random", "tokenizer": str(folder / "vocab.txt")}
  content = {"data.content": str(folder / "tiny_titles.csv"), "data.features_dir": str(folder / "kept")}
  words = {"tokenizer": str(folder / "vocab.txt"), "options.vocabulary": 7, "options.dim": 8}
  return settings | content | {
    f"model.item.towers.{tower}.{name}": value
    for tower, options in {"title": title, "words": words}.items()
    for name, value in options.items()
  }  # fmt: skip


@pytest.fixture
def tiny_data(pairs_file, tmp_path):
  np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32))
  return {
    "data.source": str(pairs_file), "data.features": str(tmp_path / "vectors.npy"),
    "train.epochs": 1, "train.batch_size": 64, "eval.batch_size": 512,
  }  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_every_shipped_config_can_be_built(path, tiny_data, tmp_path):
  from mlrec.data import leave_one_out
  from mlrec.data import read_pairs
  from mlrec.train.model_builder import ModelBuilder

  builder = ModelBuilder(
    shipped(path, **with_titles(path, tiny_data, tmp_path)), leave_one_out(read_pairs(tiny_data["data.source"]))
  )
  if builder.recommender.fitted:
    builder.create_fitted()
  else:
    nnx.eval_shape(lambda: builder.create(rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("path", _FAMILIES, ids=_name)
def test_every_family_of_shipped_configs_trains_and_is_evaluated(path, tiny_data, tmp_path):
  from mlrec.runs import experiment

  config = shipped(path, **with_titles(path, tiny_data, tmp_path))
  result = experiment.run(config, tmp_path / "run").to_json()
  assert result["test"].keys() >= (CLICKS if "auc" in config.train.monitor else HEADLINE)
  assert all(value is None or np.isfinite(value) for value in result["test"].values())


def test_a_workdir_holds_what_the_contract_says(finished, tiny_config):
  config = read_json(finished / "config.json")
  assert config == json.loads(json.dumps(tiny_config().to_dict()))
  result = read_json(finished / "result.json")
  assert result.keys() >= {"valid", "test", "seconds", "config_hash", "seed", "versions", "devices"}
  assert result["seed"] == 42
  assert result["seconds"] > 0
  for split in ("valid", "test"):
    assert result[split].keys() >= HEADLINE | {"mrr", "coverage@10", "cold/targets"}
    assert all(0 <= result[split][name] <= 1 for name in HEADLINE)
    assert result[split]["hr@10"] <= result[split]["hr@20"]
  assert not list(finished.glob("*.tmp"))


def test_metrics_hold_each_step_and_split_once_in_order(finished):
  lines = metric_lines(finished)
  keys = [(line["step"], line["split"]) for line in lines]
  steps = range(1, 3 * STEPS_PER_EPOCH + 1)
  assert [step for step, split in keys if split == "train"] == list(steps)
  assert [step for step, split in keys if split == "valid"] == [10, 20, 30]
  assert len(set(keys)) == len(keys)
  assert [step for step, _ in keys] == sorted(step for step, _ in keys)


def test_the_result_is_that_of_the_best_validation(finished):
  valid = [line for line in metric_lines(finished) if line["split"] == "valid"]
  best = max(valid, key=lambda line: line["hr@10"])
  result = read_json(finished / "result.json")
  assert result["best_step"] == best["step"]
  assert result["best_epoch"] == best["step"] // STEPS_PER_EPOCH
  assert result["valid"] == {name: value for name, value in best.items() if name not in ("step", "split")}


def test_the_same_run_twice_is_the_same_bit_for_bit(finished, run_tiny, tmp_path):
  run_tiny(tmp_path / "again")
  assert_same_run(tmp_path / "again", finished)


def test_running_a_finished_workdir_again_says_so_and_trains_nothing(copied, run_tiny, monkeypatch):
  from mlrec.train import loop

  monkeypatch.setattr(loop.TrainingRun, "train", lambda *unused, **options: pytest.fail("it trains"))
  before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
  said: list[str] = []
  result = run_tiny(copied, say=said.append)
  assert "is finished" in said[0]
  assert result == read_json(copied / "result.json")
  assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_evaluating_only_gives_the_result_again_and_changes_nothing_else(copied, run_tiny):
  before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
  result = run_tiny(copied, evaluate_only=True)
  evaluation = read_json(copied / "evaluation.json")
  assert evaluation["valid"] == result["valid"] == read_json(copied / "result.json")["valid"]
  assert evaluation["test"] == result["test"] == read_json(copied / "result.json")["test"]
  after = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
  after.pop(copied / "evaluation.json")
  assert after == before


@pytest.mark.parametrize("setting", [{"eval.chunk": 64}, {"eval.batch_size": 128}])
def test_metrics_do_not_depend_on_how_evaluation_is_cut(copied, run_tiny, setting):
  evaluation = run_tiny(copied, evaluate_only=True, **setting)
  result = read_json(copied / "result.json")
  assert evaluation["valid"] == result["valid"]
  assert evaluation["test"] == result["test"]


def test_other_buckets_are_asked_for_when_evaluating_again(copied, run_tiny):
  evaluation = run_tiny(copied, evaluate_only=True, **{"eval.buckets": (30, 60)})
  figures, before = evaluation["test"], read_json(copied / "result.json")["test"]
  assert {name.split("/")[0] for name in figures if "/" in name} == {"cold", "count_1-30", "count_31-60", "count_61+"}
  assert figures["cold/targets"] == before["cold/targets"]
  assert sum(value for name, value in figures.items() if name.endswith("/targets")) == evaluation["users"]
  assert figures["hr@10"] == before["hr@10"]


def scripted_validation(monkeypatch, scores: list[float]) -> None:
  """Validations find these values of `hr@10` one after another, whatever the parameters."""
  from mlrec.train import evaluator

  coming = iter(scores)
  real = evaluator.Evaluator.figures

  def figures(self, ranked, name):
    return real(self, ranked, name) | ({"hr@10": next(coming, 0.0)} if name == "valid" else {})

  monkeypatch.setattr(evaluator.Evaluator, "figures", figures)


def test_the_best_checkpoint_and_the_latest_two_are_kept(run_tiny, tmp_path, monkeypatch):
  scripted_validation(monkeypatch, [0.1, 0.9, 0.2, 0.3, 0.4])
  result = run_tiny(tmp_path / "run", **{"train.epochs": 5})
  assert result["best_step"] == 20
  assert result["best_epoch"] == 2
  assert saved_steps(tmp_path / "run") == [20, 40, 50]


def test_a_better_validation_replaces_the_best_checkpoint(run_tiny, tmp_path, monkeypatch):
  scripted_validation(monkeypatch, [0.5, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1])
  result = run_tiny(tmp_path / "run", **{"train.epochs": 7})
  assert result["best_step"] == 40
  assert saved_steps(tmp_path / "run") == [40, 60, 70]


def test_of_equal_validations_the_first_is_the_best(run_tiny, tmp_path, monkeypatch):
  scripted_validation(monkeypatch, [0.5, 0.5, 0.5])
  assert run_tiny(tmp_path / "run")["best_step"] == 10


def test_patience_ends_the_run(run_tiny, tmp_path, monkeypatch):
  scripted_validation(monkeypatch, [0.1, 0.5, 0.4, 0.3, 0.9])
  result = run_tiny(tmp_path / "run", **{"train.epochs": 5, "train.patience": 2})
  assert result["best_step"] == 20
  assert saved_steps(tmp_path / "run")[-1] == 40
  assert [line["step"] for line in metric_lines(tmp_path / "run") if line["split"] == "valid"] == [10, 20, 30, 40]


def test_the_last_epoch_is_validated_whatever_the_interval(run_tiny, tmp_path):
  run_tiny(tmp_path / "run", **{"eval.every_epochs": 2})
  assert [line["step"] for line in metric_lines(tmp_path / "run") if line["split"] == "valid"] == [20, 30]


def test_another_measure_can_choose_the_best(run_tiny, tmp_path):
  result = run_tiny(tmp_path / "run", **{"train.monitor": "ndcg@20"})
  valid = [line for line in metric_lines(tmp_path / "run") if line["split"] == "valid"]
  assert result["valid"]["ndcg@20"] == max(line["ndcg@20"] for line in valid)


def test_several_seeds_have_a_folder_each_and_a_mean(run_tiny, tmp_path, finished):
  seeds = (42, 7)
  run_tiny(tmp_path / "run", seeds=seeds, **{"train.epochs": 3})
  summary = read_json(tmp_path / "run" / "result.json")
  parts = [read_json(tmp_path / "run" / f"seed_{seed}" / "result.json") for seed in seeds]
  assert [part["seed"] for part in parts] == list(seeds)
  assert summary["seeds"] == list(seeds)
  for split in ("valid", "test"):
    for name in HEADLINE:
      values = [part[split][name] for part in parts]
      assert summary[split][name]["mean"] == pytest.approx(np.mean(values), abs=1e-12)
      assert summary[split][name]["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
  assert parts[0]["test"] == read_json(finished / "result.json")["test"]
  assert len({part["config_hash"] for part in parts}) == 1
  first_losses = {metric_lines(tmp_path / "run" / f"seed_{seed}")[0]["loss"] for seed in seeds}
  assert len(first_losses) == len(seeds)


def test_seeds_that_are_finished_are_not_trained_again_when_one_is_added(run_tiny, tmp_path, finished):
  shutil.copytree(finished, tmp_path / "run" / "seed_42")
  before = (tmp_path / "run" / "seed_42" / "result.json").stat().st_mtime_ns
  run_tiny(tmp_path / "run", seeds=(42, 7))
  assert (tmp_path / "run" / "seed_42" / "result.json").stat().st_mtime_ns == before
  assert read_json(tmp_path / "run" / "result.json")["seeds"] == [42, 7]


def test_a_workdir_of_several_seeds_run_again_without_them_is_told_apart(run_tiny, tmp_path, finished):
  from mlrec.config import ConfigError

  shutil.copytree(finished, tmp_path / "run" / "seed_42")
  run_tiny(tmp_path / "run", seeds=(42,))
  with pytest.raises(ConfigError, match="seeds"):
    run_tiny(tmp_path / "run")


def test_several_seeds_do_not_overwrite_the_run_that_a_workdir_holds(run_tiny, copied):
  from mlrec.config import ConfigError

  before = (copied / "result.json").read_bytes()
  shutil.copytree(copied, copied / "seed_42")
  with pytest.raises(ConfigError, match="seeds"):
    run_tiny(copied, seeds=(42,))
  assert (copied / "result.json").read_bytes() == before


def started_from(source: pathlib.Path, tiny_config, pairs_file, workdir: pathlib.Path):
  """A tiny run and its state before the first step, from the parameters in `source`."""
  from mlrec.data import leave_one_out
  from mlrec.data import read_pairs
  from mlrec.runs.workdir import Workdir
  from mlrec.train import loop
  from mlrec.train import warm_start

  split = leave_one_out(read_pairs(pairs_file))
  run = loop.TrainingRun(tiny_config(), split, Workdir(workdir).files)
  run.plan()
  run.prepare()
  other = Workdir(source).files if source.is_dir() else source
  return run, warm_start.load(other, run.spec, run.spec.create(), IdMap.of(split))


def test_a_warm_start_begins_with_the_best_parameters_of_the_other_run(finished, tiny_config, pairs_file, tmp_path):
  import jax

  run, state = started_from(finished, tiny_config, pairs_file, tmp_path)
  other = read_json(finished / "result.json")
  wanted = saved_arrays(finished, other["best_step"])
  for path, leaf in jax.tree_util.tree_flatten_with_path(state.params)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    np.testing.assert_array_equal(leaf, wanted[f"model/params.{name}"], err_msg=name, strict=True)
  assert state.step == 0
  assert run.evaluator(state.params, state.rest, "valid") == other["valid"]


def test_a_warm_start_has_an_optimiser_and_steps_of_its_own(finished, run_tiny, tmp_path):
  run_tiny(tmp_path / "warm", init_from=str(finished), **{"train.epochs": 1})
  lines = metric_lines(tmp_path / "warm")
  assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, STEPS_PER_EPOCH + 1))
  assert lines[0]["loss"] < metric_lines(finished)[0]["loss"] - 0.1
  assert saved_arrays(tmp_path / "warm")["training/step"] == STEPS_PER_EPOCH


def tiny_model(finished: pathlib.Path, tiny_config, dim: int = 8):
  """The model of the tiny runs, with the best parameters of `finished` where the width is theirs."""
  from flax import nnx
  import jax.numpy as jnp

  from mlrec import models

  options = tiny_config(**{"model.dim": dim}).model.to_dict()
  model = models.create(options.pop("name"), rngs=nnx.Rngs(0), num_items=100, max_length=10, **options)
  if dim == 8:
    arrays = saved_arrays(finished, read_json(finished / "result.json")["best_step"])
    flat = [
      (path, jnp.asarray(arrays[f"model/params.{'.'.join(map(str, path))}.value"]))
      for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))
    ]
    for path, array in flat:
      owner = model
      for part in path[:-1]:
        owner = owner[part] if isinstance(part, int) else getattr(owner, part)
      getattr(owner, path[-1])[...] = array
  return model


def test_a_warm_start_from_a_file_under_pytorch_names(finished, tiny_config, pairs_file, tmp_path):
  from safetensors.numpy import save_file

  from mlrec.models.convert import to_torch

  arrays = {name: np.ascontiguousarray(array) for name, array in to_torch(tiny_model(finished, tiny_config)).items()}
  save_file(arrays, tmp_path / "weights.safetensors")
  assert "id_encoder.weight" in arrays
  run, state = started_from(tmp_path / "weights.safetensors", tiny_config, pairs_file, tmp_path)
  assert run.evaluator(state.params, state.rest, "valid") == read_json(finished / "result.json")["valid"]


def test_a_warm_start_from_a_file_of_another_shape_names_the_entry(finished, run_tiny, tiny_config, tmp_path):
  from safetensors.numpy import save_file

  from mlrec.models.convert import to_torch

  arrays = to_torch(tiny_model(finished, tiny_config, dim=4))
  save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tmp_path / "weights.safetensors")
  with pytest.raises(ValueError, match=r"entry '[\w.]+' has shape \(.*\); .* expects \("):
    run_tiny(tmp_path / "warm", init_from=str(tmp_path / "weights.safetensors"))


def test_a_warm_start_from_a_model_of_another_width_is_refused(finished, run_tiny, tmp_path):
  with pytest.raises(ValueError, match=r"config\.init_from = .* holds another model"):
    run_tiny(tmp_path / "warm", init_from=str(finished), **{"model.dim": 16})


@pytest.mark.parametrize("name", ["", "nothing", "weights.bin"])
def test_a_warm_start_from_nothing_is_refused(name, run_tiny, tmp_path):
  (tmp_path / "weights.bin").write_bytes(b"x")
  with pytest.raises(ValueError, match=r"config\.init_from"):
    run_tiny(tmp_path / "warm", init_from=str(tmp_path / name if name else tmp_path))


@pytest.mark.slow
def test_a_moving_average_changes_no_step_of_training(command, pairs_file, tmp_path):
  # Programs with and without one are compiled as outside the tests, whose flags round them differently.
  for name, options in {"plain": {}, "averaged": {"train.ema_decay": 0.9}}.items():
    arguments = tiny_arguments(pairs_file, tmp_path / name, **{"train.epochs": 2, **options})
    done = command(*arguments, XLA_FLAGS="")
    assert done.returncode == 0, done.stderr[-2000:]
  found, wanted = (losses(tmp_path / name) for name in ("averaged", "plain"))
  assert list(found) == list(range(1, 2 * STEPS_PER_EPOCH + 1))
  assert found == wanted


def test_the_moving_average_is_what_is_evaluated_and_kept(run_tiny, tmp_path):
  run_tiny(tmp_path / "run", **{"train.ema_decay": 0.9, "train.epochs": 2})
  arrays = saved_arrays(tmp_path / "run")
  name = "params.items.table.embedding.value"
  assert not np.array_equal(arrays[f"model/{name}"], arrays[f"training/{name}"])
  result = read_json(tmp_path / "run" / "result.json")
  assert (
    run_tiny(tmp_path / "run", evaluate_only=True, **{"train.ema_decay": 0.9, "train.epochs": 2})["test"]
    == result["test"]
  )


def test_tensorboard_events_carry_what_metrics_hold(run_tiny, tmp_path):
  run_tiny(tmp_path / "run", **{"log.tensorboard": True, "train.epochs": 1})
  scalars = {(event.step, value.tag): value.simple_value for event in events(tmp_path / "run")
             for value in event.summary.value}  # fmt: skip
  for line in metric_lines(tmp_path / "run"):
    for name, value in line.items():
      if name not in ("step", "split"):
        tag = f"{line['split']}/{name}".replace("@", "_").replace("+", "_")  # TensorBoard's tags have no such signs
        assert scalars[line["step"], tag] == pytest.approx(value, rel=1e-6)


def test_tensorboard_keeps_the_events_of_the_step_a_run_is_resumed_from(copied, run_tiny):
  (copied / "result.json").unlink()
  run_tiny(copied, **{"log.tensorboard": True, "train.epochs": 4})
  # TensorBoard forgets what earlier files say of a START event's step and of all later ones.
  starts = [event.step for event in events(copied) if event.HasField("session_log") and event.session_log.status == 1]
  assert starts == [31]


def events(workdir: pathlib.Path):
  """The events of a workdir: length-prefixed records, each between two checksums."""
  from tensorboardX.proto.event_pb2 import Event

  for path in sorted(workdir.glob("events.out.tfevents.*")):
    data, at = path.read_bytes(), 0
    while at < len(data):
      length = int.from_bytes(data[at : at + 8], "little")
      yield Event.FromString(data[at + 12 : at + 12 + length])
      at += length + 16
