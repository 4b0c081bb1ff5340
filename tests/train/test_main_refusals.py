"""Mistakes in flags, configs, data and workdirs: one clear message, exit status 2, no traceback."""

import pathlib
import re

import pytest

from mlrec.config import ConfigError
from mlrec.train.loop import TrainingRun
from support.tiny_runs import assert_same_run
from support.tiny_runs import saved_steps
from support.tiny_runs import tiny_arguments


def refused(done, pattern: str) -> None:
  assert "Traceback" not in done.stderr, done.stderr[-1500:]
  assert done.returncode == 2, done.stderr[-1500:]
  assert re.search(pattern, done.stderr), done.stderr[-1500:]


@pytest.mark.parametrize(
  ("flag", "pattern"),
  [
    ("seedd=1", r"unknown key config\.seedd: did you mean 'seed'"),
    ("data.sorce=x", r"unknown key config\.data\.sorce: did you mean 'data\.source'"),
    ("loss.negativ_groups=2", r"unknown key config\.loss\.negativ_groups: did you mean 'loss\.negative_groups'"),
    ("optimizer.lrr=1", r"unknown key config\.optimizer\.lrr: did you mean 'optimizer\.lr'"),
    ("train.epocs=3", r"unknown key config\.train\.epocs: did you mean 'train\.epochs'"),
    ("eval.chunks=1", r"unknown key config\.eval\.chunks: did you mean 'eval\.chunk'"),
    ("checkpoint.every=3", r"unknown key config\.checkpoint\.every: did you mean 'checkpoint\.every_steps'"),
    ("log.evry_steps=3", r"unknown key config\.log\.evry_steps: did you mean 'log\.every_steps'"),
    ("modle.dim=3", r"unknown key config\.modle\.dim: did you mean 'model\.dim'"),
    ("model.dims=3", r"config\.model\.dims: the config file sets no such option.*did you mean 'dim'"),
    ("model.user.hads=2", r"config\.model\.user\.hads: the config file sets no such option.*did you mean 'heads'"),
    ("model.negatives=2", r"config\.model\.negatives: the config file sets no such option, and only what it sets"),
    ("train.epochs=many", r"config\.train\.epochs=many"),
    ("train.epochs=1.5", r"config\.train\.epochs=1\.5"),
    ("optimizer.lr=fast", r"config\.optimizer\.lr=fast: expected a number"),
    ("model.dim=2.5", r"config\.model\.dim=2\.5: expected an integer"),
    ("data.whiten=maybe", r"config\.data\.whiten=maybe: expected true or false"),
    ("eval.buckets=(1,", r"config\.eval\.buckets=\(1,: expected values in brackets"),
    ("train.batch_size=2147483647", r"config\.train\.batch_size must be at most 1048576"),
    ("optimizer.eps=1e-300", r"config\.optimizer\.eps must be positive in float32, not 1e-300"),
    ("data.workers=2000", r"config\.data\.workers must be at most 1024, not 2000"),
    ("log.tensorboard=perhaps", r"config\.log\.tensorboard"),
    ("train.epochs=0", r"config\.train\.epochs must be at least 1, not 0"),
    ("optimizer.lr=-1", r"config\.optimizer\.lr must be positive.*, not -1"),
    ("optimizer.lr=nan", r"config\.optimizer\.lr must be a finite number in float32, not nan"),
    ("optimizer.b1=1", r"config\.optimizer\.b1 must be below 1, not 1"),
    ("train.ema_decay=1", r"config\.train\.ema_decay must be below 1, not 1"),
    ("data.min_length=2", r"config\.data\.min_length must be at least 3, not 2"),
    ("loss.negative_groups=5", r"batch_size = 32 must be a multiple of config\.loss\.negative_groups = 5"),
    ("seeds=(1,1)", r"config\.seeds must be distinct integers"),
    ("optimizer.lr=inf", r"config\.optimizer\.lr must be"),
    ("optimizer.schedule=cosin", r"config\.optimizer\.schedule.*did you mean 'cosine'"),
    ("train.monitor=hr@11", r"config\.train\.monitor.*did you mean 'hr@10'"),
    ("seed=1180591620717411303424", r"config\.seed must be at most 4294967295, not 1180591620717411303424"),
    ("optimizer.warmup_steps=1099511627776", r"config\.optimizer\.warmup_steps must be at most 2147483647"),
    ("data.max_length=2147483647", r"config\.data\.max_length must be at most 65536, not 2147483647"),
    ("eval.item_batch=nan", r"config\.eval\.item_batch=nan"),
    ("model.name=sequentia", r"config\.model\.name = 'sequentia': there is no .*did you mean 'sequential'"),
    ("model.user.name=sasrek", r"config\.model\.user\.name = 'sasrek': .*user encoder; did you mean 'sasrec'"),
    ("model.item.name=idd", r"config\.model\.item\.name = 'idd': there is no such item tower; did you mean 'id'"),
    ("model.user.heads=3", r"config\.model\.user\.heads = 3: .*8"),
    ("model.user.dropout=1.5", r"config\.model\.user\.dropout = 1\.5 must be at least 0 and below 1"),
    ("model.dim=0", r"config\.model\.dim = 0 must be at least 1"),
    ("model.user.blocks=-1", r"config\.model\.user\.blocks = -1 must be at least 1"),
    ("init_from=nothing", r"config\.init_from = 'nothing': expected a workdir"),
    ("data.source=nothing_pairs.tsv", r"nothing_pairs\.tsv: no such file"),
    ("data.source=nothing", r"config\.data\.source = 'nothing': expected .*microlens/"),
    ("data.source=mikrolens/50k-sequences", r"config\.data\.source = 'mikrolens/50k-sequences'.*microlens/"),
    ("data.source=microlens/demo-sequence", r"did you mean 'microlens/demo-sequences'"),
    ("train.steps_per_epoch=2147483647", r"config\.train\.steps_per_epoch must be at most 10000000, not 2147483647"),
    ("train.epochs=2147483647", r"config\.train\.epochs = 2147483647 of 10 steps must be .* name 214748364 or fewer"),
    ("data.min_length=50", r"none of 310 users has 50 items"),
  ],
  ids=lambda value: value.partition("=")[0] if "=" in value and "\\" not in value else "",
)  # fmt: skip
def test_a_wrong_setting_is_refused_by_name(flag, pattern, command, pairs_file, tmp_path):
  workdir = tmp_path / "run"
  done = command(*tiny_arguments(pairs_file, workdir), f"--config.{flag}", TFDS_DATA_DIR=str(tmp_path / "tfds"))
  refused(done, pattern)
  assert not saved_steps(workdir)


def test_a_refused_setting_does_not_keep_the_right_one_out_of_the_workdir(run_tiny, tmp_path):
  with pytest.raises(ValueError, match="schedule"):
    run_tiny(tmp_path / "run", **{"optimizer.schedule": "cosin"})
  run_tiny(tmp_path / "run", **{"optimizer.schedule": "constant", "train.epochs": 1})


CONFIG = "from mlrec.config import default_config\n\ndef get_config():\n  config = default_config()\n"


@pytest.mark.parametrize(
  ("text", "pattern"),
  [
    (None, r"experiment\.py.*|No such file"),
    ("config = 3\n", r"get_config"),
    ("def get_config(:\n", r"experiment\.py"),
    ("import no_such_module\n", r"no_such_module"),
    ("def get_config():\n  return 3\n", r"get_config|ConfigDict"),
    (CONFIG + "  config.train.epocs = 3\n  return config\n", r"epochs"),
    (CONFIG + "  config.train.epochs = 'three'\n  return config\n", r"epochs.*three.*int"),
    (
      CONFIG + "  config.model.user = {'name': 'sasrec', 'headz': 2}\n  return config\n",
      r"config\.model\.user\.headz = 2: 'sasrec' has no such option; did you mean 'heads'",
    ),
    (CONFIG + "  config.model.dimm = 2\n  return config\n", r'Did you mean "dim"'),
  ],
  ids=["missing", "no get_config", "syntax", "import", "no config", "key", "type", "option", "model key"],
)  # fmt: skip
def test_a_config_file_that_cannot_be_used_is_refused(text, pattern, command, pairs_file, tmp_path):
  path = tmp_path / "experiment.py"
  if text is not None:
    path.write_text(text)
  done = command(f"--config={path}", f"--workdir={tmp_path / 'run'}", f"--config.data.source={pairs_file}")
  refused(done, pattern)


@pytest.mark.parametrize(
  ("arguments", "pattern"),
  [
    ([], r"--config=FILE\.py is required"),
    (["--config=configs/dmo.py"], r"--config=configs/dmo\.py: there is no such file"),
    (["demo.py"], r"unexpected argument 'demo\.py'"),
    (["--confg=demo.py"], r"Unknown command line flag 'confg'. Did you mean: config"),
    (["--config"], r"Missing value for flag --config"),
  ],
  ids=["nothing", "no such config", "positional", "unknown flag", "no value"],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments, pattern, command):
  refused(command(*arguments), pattern)


def test_a_positional_argument_besides_a_config_is_refused(command, pairs_file, tmp_path):
  refused(command(*tiny_arguments(pairs_file, tmp_path / "run"), "more"), r"unexpected argument 'more'")
  assert not (tmp_path / "run").exists()


def test_one_flag_of_several_processes_asks_for_the_others(command, pairs_file, tmp_path):
  done = command(*tiny_arguments(pairs_file, tmp_path / "run"), "--processes=2")
  refused(done, r"--coordinator, --processes and --process go together")


@pytest.mark.parametrize(
  ("text", "pattern"),
  [
    ("", r"_pairs\.tsv: the file is empty"),
    ("1\t1 2 3 4 5\r\n2\t1 x 3 4 5\r\n", r"_pairs\.tsv:2: expected .*found '2\\t1 x 3 4 5'"),
    ("1\t1 2 3 4 5\r\n\r\n2\t1 2 3 4 5\r\n", r"_pairs\.tsv:2: .*a blank line"),
    ("1\t0 2 3 4 5\r\n", r"_pairs\.tsv:1: .*ids are positive integers"),
    ("1\t1 2 3\r\n2\t4 5 6 7\r\n", r"none of 2 users has 5 items"),
  ],
  ids=["empty", "letters", "blank", "zero", "short"],
)
def test_a_file_of_pairs_that_cannot_be_used_is_refused(text, pattern, command, tmp_path):
  source = tmp_path / "Bad_pairs.tsv"
  source.write_text(text, newline="")
  refused(command(*tiny_arguments(source, tmp_path / "run")), pattern)
  assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_config_is_refused_with_each_difference(command, copied, pairs_file):
  done = command(*tiny_arguments(pairs_file, copied, **{"model.dim": 16, "optimizer.lr": 0.5}))
  refused(done, r"(?s)config\.model\.dim: 8 there, 16 now.*config\.optimizer\.lr: 0\.003 there, 0\.5 now")


def test_other_data_in_a_workdir_are_refused(command, copied, make_pairs):
  (copied / "result.json").unlink()
  refused(command(*tiny_arguments(make_pairs(seed=1), copied)), r"read other data")


def test_data_of_another_number_of_items_in_a_workdir_are_refused_as_other_data(command, copied, make_pairs):
  (copied / "result.json").unlink()
  refused(command(*tiny_arguments(make_pairs(items=120, seed=1), copied)), r"read other data")


def test_parts_that_the_devices_do_not_divide_are_refused_before_there_is_a_workdir(run_tiny, tmp_path, monkeypatch):
  refusal = ConfigError("config.train.parts = 4 must be a multiple of the 8 devices")

  def check_devices(run):
    raise refusal

  monkeypatch.setattr(TrainingRun, "check_devices", check_devices)
  with pytest.raises(ConfigError, match="must be a multiple"):
    run_tiny(tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_evaluating_a_workdir_without_checkpoints_is_refused(command, pairs_file, tmp_path):
  done = command(*tiny_arguments(pairs_file, tmp_path / "run"), "--evaluate_only")
  assert "Traceback" not in done.stderr
  assert done.returncode in (1, 2)
  assert "no checkpoints to evaluate" in done.stderr
  assert not (tmp_path / "run").exists()


def make_file(tmp_path: pathlib.Path) -> pathlib.Path:
  (tmp_path / "file").write_text("x")
  return tmp_path / "file"


@pytest.mark.parametrize("below", ["", "run"])
def test_a_workdir_that_is_a_file_or_lies_below_one_is_refused(below, command, pairs_file, tmp_path):
  refused(command(*tiny_arguments(pairs_file, make_file(tmp_path) / below)), r"--workdir=.*file")


def test_a_workdir_that_cannot_be_written_is_refused(run_tiny, tmp_path, monkeypatch):
  from mlrec import files
  from mlrec.config import ConfigError

  real = files.pathlib.Path.open

  def read_only(path, mode="r", *arguments, **options):
    if "w" in mode or "a" in mode:
      raise PermissionError(13, "Permission denied", str(path))
    return real(path, mode, *arguments, **options)

  monkeypatch.setattr(files.pathlib.Path, "open", read_only)
  with pytest.raises(ConfigError, match=r"--workdir=.*Permission denied"):
    run_tiny(tmp_path / "run")


def test_a_workdir_that_cannot_be_made_is_refused(run_tiny, tmp_path, monkeypatch):
  from mlrec.config import ConfigError
  from mlrec.runs import workdir

  def denied(*unused, **options):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(workdir.pathlib.Path, "mkdir", denied)
  with pytest.raises(ConfigError, match=r"--workdir=.* cannot be written: Permission denied"):
    run_tiny(tmp_path / "run")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{")], ids=["lost", "cut"])
def test_a_config_that_is_lost_is_replaced_by_what_checkpoints_say(damage, copied, finished, run_tiny):
  from mlrec.config import ConfigError

  damage(copied / "config.json")
  (copied / "result.json").unlink()
  with pytest.raises(ConfigError, match=r"config\.model\.dim: 8 there, 16 now"):
    run_tiny(copied, **{"model.dim": 16})
  run_tiny(copied)
  assert_same_run(copied, finished)
  assert (copied / "config.json").read_bytes() == (finished / "config.json").read_bytes()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{")], ids=["lost", "cut"])
def test_a_folder_whose_run_came_to_no_checkpoint_is_any_runs(damage, run_tiny, tmp_path):
  with pytest.raises(ValueError, match=r"config\.init_from"):
    run_tiny(tmp_path / "run", init_from=str(tmp_path / "nothing"))
  (tmp_path / "run" / "config.json").write_text("{}")
  damage(tmp_path / "run" / "config.json")
  assert run_tiny(tmp_path / "run", **{"train.epochs": 1, "model.dim": 4})["best_step"]
