"""The command as it is shipped: from `configs/demo.py` to a finished workdir, and what it prints on the way."""

import os
import pty
import re
import select
import subprocess

import pytest

from support.tiny_runs import environment
from support.tiny_runs import main_command
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import ROOT
from support.tiny_runs import saved_steps
from support.tiny_runs import tiny_arguments

RATE = r"epoch \d+ · step \d+/\d+ \(\d+ %\) · loss \d+\.\d{4} · [\d.]+ steps/s, [\d,]+ users/s · \d+:\d\d left"


@pytest.mark.slow
def test_the_demo_leaves_the_workdir_of_the_contract(command, tmp_path):
  workdir = tmp_path / "run"
  done = command(
    "--config=configs/demo.py", f"--workdir={workdir}", "--config.train.epochs=2", "--config.model.dim=16",
    "--config.model.user.blocks=1", f"--config.data.data_dir={tmp_path / 'tfds'}",
    "--config.data.videos=microlens/demo-videos-2x32", "--config.model.item.towers.video.frames=2",
    "--config.model.item.towers.video.size=16", "--config.model.item.towers.video.options.stem=2",
    cwd=ROOT,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  assert "Traceback" not in done.stderr
  config, result = read_json(workdir / "config.json"), read_json(workdir / "result.json")
  assert config["train"]["epochs"] == 2
  assert config["data"]["source"] == "microlens/demo-sequences"
  assert result.keys() >= {"valid", "test", "seconds", "config_hash", "seed", "versions", "devices"}
  for split in ("valid", "test"):
    assert all(0 <= result[split][name] <= 1 for name in ("hr@10", "ndcg@10", "hr@20", "ndcg@20"))
  lines = metric_lines(workdir)
  keys = [(line["step"], line["split"]) for line in lines]
  assert len(set(keys)) == len(keys)
  assert (16, "valid") in keys
  assert saved_steps(workdir) == [8, 16]
  assert list(workdir.glob("events.out.tfevents.*"))
  # Plain lines where the output is no terminal.
  assert "\r" not in done.stdout + done.stderr
  assert re.search(r"(?m)^epoch 1 · mean loss \d+\.\d{4} · valid hr@10 0\.\d{4} · ", done.stderr)
  assert re.search(r"(?m)^test +hr@10 0\.\d{4} · ", done.stdout)
  assert f"{result['test']['hr@10']:.4f}" in done.stdout
  comparison = read_json(workdir / "comparison.json")
  assert list(comparison) == ["popularity", "item IDs", "this run (id + r3d_r18)"]
  assert comparison["this run (id + r3d_r18)"]["hr@10"] == result["test"]["hr@10"]
  assert all(row["cold/hr@10"] is not None for row in comparison.values())


def test_without_a_workdir_there_is_a_readable_one_under_runs(command, finished, pairs_file, tmp_path):
  arguments = [flag for flag in tiny_arguments(pairs_file, "") if not flag.startswith("--workdir")]
  target = tmp_path / "runs" / "id_sasrec_Tiny_pairs_sasrec_d8_seed42"
  target.parent.mkdir()
  target.symlink_to(finished)
  done = command(*arguments, cwd=tmp_path)
  assert done.returncode == 0, done.stderr[-2000:]
  assert f"{target.relative_to(tmp_path)} is finished" in done.stdout


def test_the_list_has_models_by_kind_sources_and_configs(command):
  done = command("--list", cwd=ROOT)
  assert done.returncode == 0
  assert done.stderr == ""
  lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
  assert {"gru4rec", "nextitnet", "sasrec"} <= set(lines["user encoders"].split(", "))
  assert "id" in lines["item towers"].split(", ")
  assert "sequential" in lines["recommenders"].split(", ")
  assert "*_pairs.tsv" in lines["data sources"]
  assert "microlens/" in lines["data sources"]
  assert lines["splits"] == "labels, leave_one_out, none, time, users"
  shipped = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py")}
  assert shipped <= set(lines["configs"].split(", "))


def test_plain_lines_carry_rate_loss_and_time_left(capsys, monkeypatch):
  from mlrec.train import progress as progress_lib

  now = 0.0
  monkeypatch.setattr(progress_lib.time, "monotonic", lambda: now)
  progress = progress_lib.Progress(total=400, done=100, users_per_step=32)
  for step in range(101, 201):
    now += 0.25
    progress.update(step, 2, 1.5)
  lines = capsys.readouterr().err.splitlines()
  assert lines == [
    "epoch 2 · step 141/400 (35 %) · loss 1.5000 · 4.0 steps/s, 128 users/s · 1:05 left",
    "epoch 2 · step 181/400 (45 %) · loss 1.5000 · 4.0 steps/s, 128 users/s · 0:55 left",
  ]
  assert all(re.fullmatch(RATE, line) for line in lines)


def test_time_spent_on_validation_does_not_count_as_training(capsys, monkeypatch):
  from mlrec.train import progress as progress_lib

  now = 0.0
  monkeypatch.setattr(progress_lib.time, "monotonic", lambda: now)
  progress = progress_lib.Progress(total=100, done=0, users_per_step=1)
  progress.update(0, 1, 0.7)
  now = 100.0
  progress.pause(90.0)
  progress.update(20, 1, 0.5)
  assert "2.0 steps/s" in capsys.readouterr().err


def test_time_spent_on_compiling_the_first_steps_does_not_count_as_training(capsys, monkeypatch):
  from mlrec.train import progress as progress_lib

  now = 0.0
  monkeypatch.setattr(progress_lib.time, "monotonic", lambda: now)
  progress = progress_lib.Progress(total=100, done=0, users_per_step=1)
  now = 60.0
  progress.update(10, 1, 0.7)
  now = 80.0
  progress.update(50, 1, 0.5)
  (line,) = capsys.readouterr().err.splitlines()
  assert "2.0 steps/s" in line
  assert line.endswith("0:25 left")


def test_there_is_no_rate_of_the_moment_after_a_long_compilation(capsys, monkeypatch):
  from mlrec.train import progress as progress_lib

  now = 0.0
  monkeypatch.setattr(progress_lib.time, "monotonic", lambda: now)
  progress = progress_lib.Progress(total=100, done=0, users_per_step=1)
  now = 60.0
  progress.update(10, 1, 0.7)
  now = 60.001
  progress.update(20, 1, 0.6)
  assert not capsys.readouterr().err


def test_a_process_that_is_not_the_first_prints_nothing(capsys):
  from mlrec.train import progress as progress_lib

  progress = progress_lib.Progress(total=10, done=0, users_per_step=1, enabled=False)
  progress.update(5, 1, 0.5)
  progress.message("done")
  assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_terminal_has_one_line_that_renews_itself(pairs_file, tmp_path):
  ours, theirs = pty.openpty()
  arguments = tiny_arguments(pairs_file, tmp_path / "run", **{"train.epochs": 5, "eval.every_epochs": 5})
  process = subprocess.Popen(
    main_command(*arguments), env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
  )
  os.close(theirs)
  shown = b""
  while select.select([ours], [], [], 240)[0]:
    try:
      part = os.read(ours, 4096)
    except OSError:  # the other side has closed
      break
    if not part:
      break
    shown += part
  os.close(ours)
  assert process.wait(timeout=60) == 0, shown.decode()[-2000:]
  text = shown.decode().replace("\r\n", "\n")
  live = [part for part in re.split(r"[\r\n]", text) if re.fullmatch(RATE + " *", part)]
  assert live
  assert re.search(r"\r" + RATE, text)
  # What stays starts a line of its own.
  assert re.search(r"[\r\n]epoch 5 · mean loss ", text)
  assert "test " in text.splitlines()[-1]
