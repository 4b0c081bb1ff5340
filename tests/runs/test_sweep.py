"""Sweeps: what they leave, going on after a kill, several processes, trials that fail."""

import contextlib
import importlib.util
import json
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.runs.sweep import runner
from mlrec.runs.sweep.trials import Trials
from mlrec.search_space import choice
from mlrec.search_space import integers
from mlrec.search_space import log_uniform
from mlrec.search_space import to_json
from support.tiny_runs import environment
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import SASREC
from support.tiny_runs import started
from support.tiny_runs import TINY
from support.tiny_runs import wait_for

# One program for all values: only the first trial of the session compiles.
SPACE = {"train.epochs": integers(1, 3), "data.max_length": integers(8, 10)}
LR = {"optimizer.lr": log_uniform(1e-4, 1e-2)}


def sweep(workdir, config, space, *, trials=None, seconds=None, say=lambda text: None) -> list[dict]:
  """Runs a sweep in this process; its trials."""
  runner.check_space(space, config)
  runner.Sweep(config, space, workdir, file="tiny.py").run(trials=trials, seconds=seconds, say=say)
  return listed(workdir)


def listed(workdir: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in (workdir / "trials.jsonl").read_text().splitlines()]


@pytest.fixture
def popularity(tiny_config):
  """The config of a model that is computed at once."""
  config = tiny_config()
  config.model = {"name": "popularity"}
  return config


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, pairs_file) -> pathlib.Path:
  """A file with the tiny experiment and a search space."""
  path = tmp_path_factory.mktemp("configs") / "tiny.py"
  path.write_text(
    textwrap.dedent(f"""
      from mlrec.config import default_config
      from mlrec.search_space import log_uniform

      def get_config():
        config = default_config()
        config.model.user = {SASREC!r}
        config.update_from_flattened_dict({TINY | {"data.source": str(pairs_file)}!r})
        return config

      def get_search_space():
        return {{"optimizer.lr": log_uniform(1e-4, 1e-2)}}
    """)
  )
  return path


def loaded(path: pathlib.Path):
  from mlrec import config as config_lib

  spec = importlib.util.spec_from_file_location("best", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return config_lib.validate(module.get_config())


def command(*arguments) -> list[str]:
  return [sys.executable, "-m", "mlrec.sweep", *map(str, arguments)]


@pytest.mark.slow
def test_a_sweep_finds_the_best_on_validation_and_never_looks_at_the_test_split(tiny_config, tmp_path, monkeypatch):
  from mlrec.runs import experiment
  from mlrec.train import evaluator
  from mlrec.train import loop

  looked_at = []
  real = evaluator.Evaluator.ranks
  monkeypatch.setattr(
    evaluator.Evaluator, "ranks", lambda *arguments: looked_at.append(arguments[-1]) or real(*arguments)
  )
  said: list[str] = []
  config = tiny_config(baselines=("popularity",), **{"train.monitor": "ndcg@20"})
  found = sweep(tmp_path, config, LR, trials=2, say=said.append)
  assert set(looked_at) == {"valid"}

  values = [trial["value"] for trial in found]
  for trial in found:
    folder = tmp_path / f"trial_{trial['number']:04}"
    lines = [line["ndcg@20"] for line in metric_lines(folder) if line["split"] == "valid"]
    assert trial["value"] == max(lines), "the best epoch counts"
    assert read_json(folder / "result.json").keys() & {"valid", "test"} == {"valid"}
  best = read_json(tmp_path / "best.json")
  assert best["value"] == max(values)
  assert best["trial"] == values.index(max(values))
  assert [folder.name for folder in tmp_path.glob("trial_*") if (folder / "checkpoints").exists()] == [best["workdir"]]
  assert sum(bool(re.match(r"trial \d: valid ndcg@20 \d\.\d{4} in \d+ s · best", line)) for line in said) == 2
  assert not list(tmp_path.rglob("*.tmp"))

  # The file is a config; the best trial's own folder goes with it, and only has to be tested.
  chosen = loaded(tmp_path / "best.py")
  assert chosen.optimizer.lr == best["params"]["optimizer.lr"]
  monkeypatch.setattr(loop.TrainingRun, "_train_epoch", lambda *unused: pytest.fail("it trains"))
  result = experiment.run(chosen, tmp_path / best["workdir"], say=said.append)
  assert result.metric("valid", "ndcg@20") == best["value"]
  assert result.metric("test", "hr@10") >= 0


# Kills the process itself once the n-th checkpoint is on its way.
_KILLED = """
  import os, signal
  from mlrec import command_line, sweep
  from mlrec.train import checkpoint

  saves = 0
  real = checkpoint.Checkpoints.save

  def save(self, *arguments, **options):
    global saves
    saves += 1
    real(self, *arguments, **options)
    if saves == {at}:
      self.wait()
      os.kill(os.getpid(), signal.SIGKILL)

  checkpoint.Checkpoints.save = save
  command_line.run(sweep.main, command_line.flags_parser(sweep._CONFIG))
"""


@pytest.mark.slow
def test_a_sweep_that_was_killed_is_resumed_within_its_trial_and_ends_as_if_it_had_not_been(
  config_file, program, tmp_path
):
  config, space = loaded(config_file), runner.load_space(str(config_file))
  # Three epochs a trial: the fifth checkpoint is the second of trial 1.
  arguments = [f"--config={config_file}", f"--workdir={tmp_path / 'killed'}", "--trials=2"]
  done = program(_KILLED.format(at=5), *arguments)
  assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
  assert [trial["state"] for trial in listed(tmp_path / "killed")] == ["complete"]
  assert not (tmp_path / "killed" / "trial_0001" / "result.json").exists()

  said: list[str] = []
  found = sweep(tmp_path / "killed", config, space, trials=2, say=said.append)
  assert any(line.startswith("trial 1, which was cut off, is resumed: optimizer.lr=") for line in said)
  whole = sweep(tmp_path / "whole", config, space, trials=2)
  assert [trial["params"] for trial in found] == [trial["params"] for trial in whole]
  assert [trial["value"] for trial in found] == [trial["value"] for trial in whole]
  for number in range(2):
    folders = [tmp_path / name / f"trial_{number:04}" for name in ("killed", "whole")]
    assert metric_lines(folders[0]) == metric_lines(folders[1])
  texts = [(tmp_path / name / "best.py").read_text() for name in ("killed", "whole")]
  took = re.compile(r"config\.tuning\.seconds = [\d.]+\n")
  assert took.sub("", texts[0]) == took.sub("", texts[1]) != texts[1]


@pytest.mark.slow
def test_processes_share_the_trials(config_file, tmp_path):
  arguments = command(f"--config={config_file}", f"--workdir={tmp_path}", "--trials=2", "--config.train.epochs=1")
  with started(arguments) as first:
    # By then it trains, and holds the lock of its trial alone.
    wait_for(lambda: (tmp_path / "trial_0000" / "config.json").exists(), process=first)
    first.send_signal(signal.SIGSTOP)
    # While the first stands still, the second takes what is left, and leaves the first one's trial alone.
    second = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr[-2000:]
    assert "trial 1: valid hr@10" in second.stdout
    assert "under way in other processes: trial 0" in second.stdout
    first.send_signal(signal.SIGCONT)
    output, errors = first.communicate(timeout=300)
  assert first.returncode == 0, errors[-2000:]
  assert "trial 0: valid hr@10" in output
  assert "2 of 2 trials done" in output
  assert "trial 1" not in output.partition("best: ")[0].replace("(trial 1)", "")
  assert [trial["state"] for trial in listed(tmp_path)] == ["complete"] * 2
  assert read_json(tmp_path / "best.json")["value"] == max(trial["value"] for trial in listed(tmp_path))


def open_trials(workdir: pathlib.Path, space=SPACE, seed: int = 0) -> Trials:
  workdir.mkdir(exist_ok=True)
  return Trials(workdir, space, seed=seed)


def test_a_trial_is_its_process_s_until_that_is_dead(tmp_path):
  one, other = open_trials(tmp_path), open_trials(tmp_path)
  first, second = one.claim(most=2, seconds=None), other.claim(most=2, seconds=None)
  assert (first.number, second.number) == (0, 1)
  assert one.claim(most=2, seconds=None) is None
  first.lock.close()  # as the system does for a process that ends
  again = other.claim(most=2, seconds=None)
  assert (again.number, again.params, again.resumed) == (0, first.params, True)


def test_a_trial_that_was_killed_while_it_was_drawn_is_replaced(tmp_path):
  trials = open_trials(tmp_path)
  trials._study.ask()  # has no values yet
  claimed = trials.claim(most=1, seconds=None)
  assert claimed.params.keys() == SPACE.keys()
  assert [record.number for record in trials.records()] == [claimed.number]


def drawn(workdir: pathlib.Path, *, opened_anew: bool, seed: int = 0) -> list[dict]:
  trials = open_trials(workdir, LR, seed)
  out = []
  for _ in range(12):  # the first ten are drawn blindly
    trials = open_trials(workdir, LR, seed) if opened_anew else trials
    trial = trials.claim(most=None, seconds=None)
    trials.complete(trial, -abs(trial.params["optimizer.lr"] - 1e-3), seconds=1.0, data="same")
    out.append(trial.params)
  return out


@pytest.mark.slow
def test_what_is_tried_depends_on_the_seed_and_not_on_interruptions(tmp_path):
  whole = drawn(tmp_path / "whole", opened_anew=False)
  assert drawn(tmp_path / "parts", opened_anew=True) == whole
  assert drawn(tmp_path / "other", opened_anew=False, seed=1) != whole


def test_the_first_trial_has_the_config_s_own_values_as_far_as_the_space_has_them(popularity, tmp_path):
  popularity.data.max_length = 9
  space = {"data.max_length": integers(8, 40), "optimizer.lr": log_uniform(0.5, 0.9)}
  first, second = sweep(tmp_path, popularity, space, trials=2)
  assert first["params"]["data.max_length"] == 9
  assert 0.5 <= first["params"]["optimizer.lr"] <= 0.9, "the config's own is outside"
  assert second["params"] != first["params"]


def test_the_same_values_are_not_trained_twice(popularity, tmp_path, monkeypatch):
  from mlrec.runs import experiment

  runs = []
  real = experiment.run
  monkeypatch.setattr(experiment, "run", lambda *arguments, **options: runs.append(1) or real(*arguments, **options))
  found = sweep(tmp_path, popularity, {"data.max_length": choice(8, 9)}, trials=5)
  assert len(runs) == 2
  by_params: dict = {}
  for trial in found:
    value, number = by_params.setdefault(trial["params"]["data.max_length"], (trial["value"], trial["number"]))
    assert trial["value"] == value
    assert trial["same_as"] == (None if trial["number"] == number else number)


def test_more_trials_continue_a_sweep_that_ended_and_a_finished_one_does_nothing(popularity, tmp_path):
  first = sweep(tmp_path, popularity, SPACE, trials=2)
  assert sweep(tmp_path, popularity, SPACE, trials=3)[:2] == first
  assert len(sweep(tmp_path, popularity, SPACE, trials=1)) == 3


def test_no_trial_begins_once_the_seconds_are_used(tmp_path):
  trials = open_trials(tmp_path)
  for took in (4.0, 5.0, 2.0):
    trials.complete(trials.claim(most=None, seconds=10.0), 0.1, seconds=took, data="same")
  assert trials.claim(most=None, seconds=10.0) is None
  assert trials.claim(most=None, seconds=12.0).number == 3


@pytest.mark.slow
def test_a_trial_of_several_seeds_is_worth_their_mean(tiny_config, tmp_path):
  (trial,) = sweep(tmp_path, tiny_config(seeds=(0, 1), **{"train.epochs": 1}), LR, trials=1)
  parts = [read_json(tmp_path / "trial_0000" / f"seed_{seed}" / "result.json") for seed in (0, 1)]
  assert trial["value"] == pytest.approx(sum(part["valid"]["hr@10"] for part in parts) / 2)
  assert "test" not in parts[0]


def test_values_that_cannot_be_run_fail_alone(tiny_config, tmp_path):
  said: list[str] = []
  space = {"model.user.heads": choice(2, 3)}
  found = sweep(tmp_path, tiny_config(**{"train.epochs": 1}), space, trials=4, say=said.append)
  states = {trial["params"]["model.user.heads"]: trial["state"] for trial in found}
  assert states == {2: "complete", 3: "failed"}
  assert any(re.search(r"trial \d: failed: .*heads", line) for line in said)
  assert loaded(tmp_path / "best.py").model.user.heads == 2


def test_a_sweep_of_which_nothing_can_be_run_says_why(tiny_config, tmp_path):
  with pytest.raises(ConfigError, match=r"none of 2 trials came to a result; the last one: .*heads"):
    sweep(tmp_path, tiny_config(), {"model.user.heads": choice(3, 5)}, trials=2)


def test_data_that_are_not_there_end_the_sweep_and_cost_no_trial(popularity, pairs_file, tmp_path):
  from mlrec.data import DataError

  popularity.data.source = str(tmp_path / "nothing_pairs.tsv")
  with pytest.raises(DataError, match="nothing_pairs"):
    sweep(tmp_path / "sweep", popularity, {"model.name": choice("popularity", "sequential")}, trials=1)
  popularity.data.source = str(pairs_file)
  space = {"model.name": choice("popularity", "sequential")}
  with contextlib.suppress(ConfigError):
    sweep(tmp_path / "sweep", popularity, space, trials=1)
  assert len(listed(tmp_path / "sweep")) == 1


def test_trials_of_other_data_are_not_mixed(popularity, make_pairs, tmp_path):
  space = {"train.epochs": integers(1, 3)}
  sweep(tmp_path, popularity, space, trials=1)
  popularity.data.source = str(make_pairs(seed=5))
  with pytest.raises(ConfigError, match=r"trial \d read other data \(fingerprint \w+\) than trial 0"):
    sweep(tmp_path, popularity, space, trials=4)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("train.patience", 3, r"config\.train\.patience: 0 there, 3 now"),
    ("optimizer.weight_decay", 0.2, r"config\.optimizer\.weight_decay: 0\.1 there, 0\.2 now"),
  ],
)
def test_a_workdir_of_another_sweep_is_refused(key, value, message, popularity, tmp_path):
  sweep(tmp_path, popularity, SPACE, trials=1)
  popularity.update_from_flattened_dict({key: value})
  with pytest.raises(ConfigError, match=message):
    sweep(tmp_path, popularity, SPACE, trials=2)


def test_a_workdir_of_another_space_is_refused(popularity, tmp_path):
  sweep(tmp_path, popularity, SPACE, trials=1)
  other = SPACE | {"train.epochs": integers(1, 4)}
  assert to_json(other) != to_json(SPACE)
  with pytest.raises(ConfigError, match=r"the search space of config\.train\.epochs: .*'high': 3.* there, .*'high': 4"):
    sweep(tmp_path, popularity, other, trials=2)


@pytest.mark.parametrize("name", ["what?", "50%20off", "a#b", "mode=ro&x?mode=memory", "ünï cøde"])
def test_a_workdir_of_any_name_holds_its_own_study(name, popularity, tmp_path):
  workdir = tmp_path / name
  first = sweep(workdir, popularity, SPACE, trials=1)
  assert sweep(workdir, popularity, SPACE, trials=2)[:1] == first
  assert (workdir / "study.db").stat().st_size > 0
  assert [path.name for path in tmp_path.iterdir()] == [name]


def _cut(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zeroed(path: pathlib.Path) -> None:
  path.write_bytes(bytes(path.stat().st_size))


def _overwritten_within(path: pathlib.Path) -> None:
  raw = bytearray(path.read_bytes())
  raw[4096:] = b"\xa5" * (len(raw) - 4096)
  path.write_bytes(raw)


@pytest.mark.parametrize("damage", [_cut, _zeroed, _overwritten_within])
def test_a_damaged_study_is_told_and_left_as_it_is(damage, popularity, tmp_path):
  sweep(tmp_path, popularity, SPACE, trials=1)
  damage(tmp_path / "study.db")
  left = (tmp_path / "study.db").read_bytes()
  with pytest.raises(ConfigError, match=r"Optuna cannot (open|use) .*study\.db"):
    sweep(tmp_path, popularity, SPACE, trials=2)
  assert (tmp_path / "study.db").read_bytes() == left


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, lambda path: path.write_bytes(b"")], ids=["gone", "empty"])
def test_a_sweep_whose_study_is_gone_does_not_begin_again(damage, popularity, tmp_path):
  sweep(tmp_path, popularity, SPACE, trials=1)
  damage(tmp_path / "study.db")
  told = (tmp_path / "trials.jsonl").read_bytes()
  with pytest.raises(ConfigError, match=r"study\.db is missing or empty"):
    sweep(tmp_path, popularity, SPACE, trials=2)
  assert (tmp_path / "trials.jsonl").read_bytes() == told


@pytest.mark.parametrize(
  "text", ["", '{"config": {', "[]", '{"config": [], "space": {}}', '{"config": {}, "space": 3}']
)
def test_settings_that_are_damaged_are_told(text, popularity, tmp_path):
  sweep(tmp_path, popularity, SPACE, trials=1)
  (tmp_path / "sweep.json").write_text(text)
  with pytest.raises(ConfigError, match=r"sweep\.json is damaged"):
    sweep(tmp_path, popularity, SPACE, trials=2)


def test_lists_that_were_cut_off_are_written_anew(popularity, tmp_path):
  first = sweep(tmp_path, popularity, SPACE, trials=2)
  for name in ("trials.jsonl", "best.json", "best.py"):
    _cut(tmp_path / name)
  assert sweep(tmp_path, popularity, SPACE, trials=2) == first
  assert read_json(tmp_path / "best.json")["trials"] == 2
  assert loaded(tmp_path / "best.py").model.name == "popularity"


def test_the_chosen_config_says_what_it_cost_with_what_was_spent_before(popularity, tmp_path):
  popularity.tuning = {"trials": 3, "seconds": 60.5}
  trials = sweep(tmp_path / "a", popularity, SPACE, trials=2)
  best, chosen = read_json(tmp_path / "a" / "best.json"), loaded(tmp_path / "a" / "best.py")
  assert best["seconds"] == pytest.approx(sum(trial["seconds"] for trial in trials), abs=0.1)
  assert chosen.tuning.trials == 5
  assert chosen.tuning.seconds == pytest.approx(60.5 + best["seconds"])
  # It is for reports: the model that it names is the same.
  plain = chosen.copy_and_resolve_references()
  plain.tuning = {"trials": 0, "seconds": 0.0}
  assert config_lib.config_hash(plain, "data") == config_lib.config_hash(chosen, "data")
  with pytest.raises(ConfigError, match=r"config\.tuning\.trials, which says what is measured: it cannot be tuned"):
    runner.check_space({"tuning.trials": integers(1, 3)}, popularity)


def test_what_to_install_is_said_where_optuna_is_missing(popularity, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "optuna", None)
  with pytest.raises(ConfigError, match='pip install "optuna>=4"'):
    sweep(tmp_path, popularity, SPACE, trials=1)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--workdir=x"], r"--trials=N, --seconds=S or both are required"),
    (["--workdir=x", "--trials=0"], r"--trials must be above 0, not 0"),
    (["--trials=1"], r"--workdir=DIR is required"),
    (["--workdir=x", "--trials=1", "--config.optimizer.lrr=1"], r"unknown key config\.optimizer\.lrr"),
  ],
)
def test_mistakes_in_flags_are_told(arguments, message, config_file, forked, tmp_path):
  done = forked.run("mlrec.sweep", [f"--config={config_file}", *arguments], cwd=tmp_path, env=environment())
  assert done.returncode == 2
  assert "Traceback" not in done.stderr
  assert re.search(message, done.stderr), done.stderr[-1500:]
