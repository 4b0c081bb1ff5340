"""Plans of real runs: sizes that are stated, what is refused, and programs compiled for TPUs that are not here."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.metrics import ScoresNotFinite
from mlrec.planning import advice
from mlrec.planning import estimate
from mlrec.planning import page
from mlrec.planning.costs import Collective
from mlrec.planning.costs import Memory
from mlrec.planning.estimate import plan
from mlrec.planning.population import made_up
from mlrec.planning.population import population
from mlrec.planning.program import planned_run
from mlrec.planning.program import programs
from mlrec.planning.roofline import roofline
from mlrec.planning.topology import Topology

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'mlrec[tpu]'"
)
_TINY = {
  "model.dim": 8, "model.user": {"name": "sasrec", "heads": 2, "blocks": 1, "dropout": 0.2}, "train.batch_size": 32,
  "train.steps_per_dispatch": 2, "eval.batch_size": 128, "eval.chunk": 512, "data.source": "nothing_pairs.tsv",
}  # fmt: skip


def tiny(**changes):
  return config_lib.with_values(config_lib.default_config(), _TINY | changes)


def silent(text: str) -> None:
  del text


def test_histories_that_are_made_up_are_shaped_like_those_of_the_release():
  split = made_up(tiny(**{"train.batch_size": 512}), items=19_220, users=50_000)
  lengths = split.rows.lengths
  assert (split.num_users, split.num_items) == (50_000, 19_220)
  assert np.median(lengths) == 6
  # Of the release's, cut to the newest 13: mean 6.79.
  assert lengths.mean() == pytest.approx(339_511 / 50_000, rel=0.03)
  assert (lengths.min(), lengths.max()) == (3, 13)
  assert int(split.rows.values.max()) <= 19_220


def test_a_plan_holds_as_many_users_as_are_stated_and_makes_up_few():
  split = made_up(tiny(), items=1_142_528, users=34_492_051)
  assert (split.num_users, split.num_items) == (34_492_051, 1_142_528)
  assert len(split.rows) == pytest.approx(50_000, rel=0.01)
  assert len(split.item_ids) == 1_142_529


def test_the_data_is_taken_where_it_is_there(pairs_file):
  split = population(tiny(**{"data.source": str(pairs_file)}), say=silent)
  assert (split.num_users, split.num_items) == (310, 100)


def test_sizes_of_a_release_are_known_without_it(tmp_path):
  config = tiny(**{"data.source": "microlens/1m-sequences", "data.data_dir": str(tmp_path)})
  split = population(config, say=silent)
  assert (split.num_users, split.num_items) == (1_000_000, 91_402)


def test_sizes_that_nobody_knows_are_asked_for():
  with pytest.raises(ConfigError, match=r"nothing_pairs\.tsv.*needs both --items and --users"):
    population(tiny(), say=silent)


def test_a_batch_that_leaves_devices_without_users_is_refused():
  split = made_up(tiny(), items=50, users=200)
  with pytest.raises(ConfigError, match=r"train\.batch_size = 32 does not give each of 64 devices a user: name 64"):
    planned_run(tiny(), split, [jax.devices()[0]] * 64)


def test_what_is_computed_at_once_has_no_step_to_plan():
  config = tiny(model={"name": "popularity"})
  with pytest.raises(ConfigError, match="'popularity' is computed at once"):
    planned_run(config, made_up(config, items=50, users=200), jax.devices()[:1])


def test_a_model_of_all_interactions_is_not_planned_from_some():
  config = tiny(model={"name": "lightgcn"})
  with pytest.raises(ConfigError, match="'lightgcn' computes on all interactions at once"):
    planned_run(config, made_up(config, items=50, users=10**7), jax.devices()[:1])


def test_a_tpu_without_libtpu_names_the_extra(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ConfigError, match=r"libtpu.*pip install 'mlrec\[tpu\]'"):
    Topology.parse("v5e:2x2").devices()


def described(arguments):
  return jax.tree.map(lambda x: (np.shape(x), jax.numpy.result_type(x)), arguments)


@pytest.mark.parametrize("parts", [1, 2])
def test_programs_are_planned_for_what_training_and_evaluation_hand_to_them(parts, pairs_file):
  config = tiny(**{"data.source": str(pairs_file), "train.parts": parts, "loss.negative_groups": parts})
  run = planned_run(config, population(config, say=silent), jax.devices()[:1])
  training, items, ranking = programs(run)
  state = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), run.spec.abstract)
  count, batches = next(run.groups(0, 2))
  lowered = run.train_steps.lower(state, batches, count).as_text()
  assert lowered == training.trace().lower().as_text()

  given = {}

  def recording(name, function):
    def called(*arguments):
      given[name] = described(arguments)
      return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(function, *arguments))

    return called

  for name in ("encode_all", "rank_batch"):
    run.evaluator.__dict__[name] = recording(name, getattr(run.evaluator, name))
  with pytest.raises(ScoresNotFinite):  # zeros stand for what is computed
    run.evaluator.ranks(state.params, state.rest, "test")
  assert given["encode_all"] == described(items.arguments)
  assert given["rank_batch"] == described(ranking.arguments)


@pytest.mark.slow
def test_a_plan_for_gpus_goes_as_far_as_there_is_no_gpu(pairs_file):
  config = tiny(**{"data.source": str(pairs_file)})
  made = plan(config, Topology.parse("h100:1"), population(config, say=silent), say=silent)
  assert [one.name for one in made.estimates] == ["training step", "encoding items", "ranking users"]
  assert made.estimates[0].flops > 0
  assert made.estimates[0].collectives == []
  assert all(one.fits for one in made.estimates)
  text, record = page.text(made, ["less"]), page.record(made, ["less"])
  assert "training step" in text
  assert "- less" in text
  assert json.loads(json.dumps(record, allow_nan=False))["programs"][0]["memory_bytes"]["arguments"] > 0


def test_what_does_not_fit_is_told_with_what_to_change():
  message = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 23.50G of 15.75G "
    "hbm. Exceeded hbm capacity by 7.75G."
  )
  found = estimate._without_room("training step", message, 1.0, 1e9, 16 << 30)
  assert not found.fits
  assert (found.needed, found.room) == (int(23.5 * (1 << 30)), int(15.75 * (1 << 30)))
  config = tiny(**{"model.item": {"name": "video", "mode": "full", "remat": False, "accumulate": 2}})
  made = estimate.Plan(Topology.parse("v5e:2x2"), 1, 1, 1, 30, {}, 0.0625, 1, [found], [])
  filler, memory = advice.advice(config, made)
  assert "take a multiple of 4" in filler
  for key in ("config.model.item.remat (False)", "config.model.item.accumulate (2)", "config.train.batch_size (32)"):
    assert key in memory
  assert "DOES NOT FIT" in page.text(made, [])


def test_another_failure_of_the_compiler_is_told_as_it_is():
  with pytest.raises(ConfigError, match="XLA refuses to compile it: INTERNAL: no such thing"):
    estimate._without_room("training step", "INTERNAL: no such thing\nat x.cc:3", 1.0, 1e9, 1)


def test_a_plan_that_fits_is_told_in_words_and_in_json():
  sent = Collective("all-reduce", 3 << 30, 4, 1, "f32[100,64]", "scatter-add")
  topology = Topology.parse("v5e:2x2")
  line = roofline(topology, flops=4e12, moved=1 << 30, collectives=[sent])
  memory = Memory(2 << 30, 0, 1 << 30, 0)
  one = estimate.Estimate("training step", 2.0, 4e12, memory, memory.total, 16 << 30, 1 << 30, {}, [sent], [], line)
  made = estimate.Plan(topology, 7, 5, 1, 32, {"items": 9}, 0.0, 1, [one], ["ranking users"])
  sentences = advice.advice(tiny(), made)
  assert "all-reduce of 3.00 GiB (f32[100,64], scatter-add)" in sentences[0]
  text, record = page.text(made, sentences), page.record(made, sentences)
  for told in ("3.00 GiB of 16.00 GiB", "4.000 TFLOP", "among 4", "ranking users: not compiled in the time given"):
    assert told in text
  (program,) = json.loads(json.dumps(record, allow_nan=False))["programs"]
  assert program["fits"]
  assert program["seconds"]["serial"] == line.serial
  assert program["mfu"]["most"] == pytest.approx(4e12 / 4 / 197e12 / line.communication)


def test_a_compilation_that_takes_too_long_is_left():
  from concurrent.futures import Future

  never: Future = Future()
  with pytest.raises(estimate.TooLong):
    estimate._within(0.01, never.result)
  never.set_result(None)
  assert estimate._within(5.0, lambda: 3) == 3


@pytest.mark.slow
@needs_libtpu
def test_the_real_step_compiles_for_a_tpu_that_is_not_here():
  made = plan(tiny(), Topology.parse("v5e:2x2"), made_up(tiny(), items=20_000, users=500), say=silent)
  training = made.estimates[0]
  assert training.fits
  assert training.collectives
  assert training.xla["flops"] > 0
  # A table's rows are added up on each device: no whole table of sums is sent.
  table = 20_001 * 8 * 4
  assert all(one.bytes < table / 2 for one in training.collectives)
  ranking = made.estimates[2]
  assert ranking.roofline.flops > 0


@pytest.mark.slow
@needs_libtpu
def test_a_topology_that_libtpu_cannot_describe_is_refused():
  with pytest.raises(ConfigError, match="libtpu cannot describe it"):
    Topology("v5e:2x2x2x2", "v5e", (2, 2, 2, 2)).devices()
