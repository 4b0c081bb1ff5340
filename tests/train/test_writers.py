"""What takes metrics beside `metrics.jsonl`."""

from collections.abc import Iterator
import contextlib
import os
import subprocess
import sys
from typing import ClassVar

import pytest

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.train import writers as writers_lib
from mlrec.train.writers import Run
from mlrec.train.writers import writers
from support.tiny_runs import metric_lines


@contextlib.contextmanager
def _registered(name: str, entry) -> Iterator[None]:
  writers.names()
  writers.register(name)(entry)
  try:
    yield
  finally:
    writers.unregister(name)


class _Kept:
  """Keeps what it is given."""

  all: ClassVar[list["_Kept"]] = []

  def __init__(self, run, target):
    self.run, self.target, self.lines, self.closed = run, target, [], False
    self.all.append(self)

  def write(self, step, split, metrics):
    self.lines.append({"step": step, "split": split, **metrics})

  def close(self):
    self.closed = True


def test_a_writer_is_given_what_the_file_is_and_its_config(run_tiny, tmp_path, monkeypatch):
  monkeypatch.setattr(_Kept, "all", [])
  with _registered("mlflow_like", _Kept), _log_key("mlflow_like", monkeypatch):
    run_tiny(tmp_path / "run", **{"train.epochs": 1, "log.mlflow_like": "somewhere"})
  (kept,) = _Kept.all
  assert (kept.run.folder, kept.run.step, kept.target, kept.closed) == (tmp_path / "run", 0, "somewhere", True)
  assert kept.run.config["train"]["epochs"] == 1
  assert [list(line.items())[:3] for line in kept.lines] == [
    list(line.items())[:3] for line in metric_lines(tmp_path / "run")
  ]


def test_a_writer_is_given_the_metrics_of_what_is_computed_at_once(run_tiny, tmp_path, monkeypatch):
  monkeypatch.setattr(_Kept, "all", [])
  with _registered("mlflow_like", _Kept), _log_key("mlflow_like", monkeypatch):
    for _ in range(2):
      result = run_tiny(tmp_path / "run", model={"name": "popularity"}, **{"log.mlflow_like": "somewhere"})
      (tmp_path / "run" / "result.json").unlink()
  kept = _Kept.all[-1]
  assert (kept.run.folder, kept.target, kept.closed) == (tmp_path / "run", "somewhere", True)
  # Each once, though the run was begun twice.
  assert [(line["step"], line["split"]) for line in metric_lines(tmp_path / "run")] == [(0, "valid"), (0, "test")]
  for line, told in zip(metric_lines(tmp_path / "run"), kept.lines):
    assert line["hr@10"] == told["hr@10"] == result[line["split"]]["hr@10"]


@contextlib.contextmanager
def _log_key(name: str, monkeypatch) -> Iterator[None]:
  """Has configs know `log.{name}`."""
  make = config_lib.default_config

  def default():
    config = make()
    with config.unlocked():
      config.log[name] = ""
    return config

  with monkeypatch.context() as patched:
    patched.setattr(config_lib, "default_config", default)
    yield


def test_what_cannot_be_opened_is_told(tmp_path):
  def lost(run, target):
    raise RuntimeError("no route to host")

  def missing(run, target):
    raise ModuleNotFoundError("No module named 'x'", name="x")

  run = Run(tmp_path, 0, {})
  with _registered("lost", lost), pytest.raises(ConfigError, match=r"config\.log\.lost = 'there': .*no route to host"):
    writers_lib.opened(run, {"lost": "there"})
  with _registered("missing", missing), pytest.raises(ConfigError, match=r"config\.log\.missing needs .* install x"):
    writers_lib.opened(run, {"missing": "there"})
  assert writers_lib.opened(run, {"tensorboard": False, "wandb": "", "mlflow": ""}) == []


@pytest.mark.slow
def test_mlflow_resumes_the_run_of_a_workdir(tmp_path):
  mlflow = pytest.importorskip("mlflow")
  pytest.importorskip("sqlalchemy")
  uri = f"sqlite:///{tmp_path}/mlflow.db"
  for step in (10, 20):
    (writer,) = writers_lib.opened(Run(tmp_path / "run", step - 10, {"train": {"epochs": 3}}), {"mlflow": uri})
    writer.write(step, "valid", {"hr@10": step / 100})
    writer.close()
  client = mlflow.MlflowClient(uri)
  (run,) = client.search_runs([client.get_experiment_by_name("mlrec").experiment_id])
  assert run.data.params == {"train.epochs": "3"}
  assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "valid/hr_at_10")] == [
    (10, 0.1), (20, 0.2)
  ]  # fmt: skip


@pytest.mark.slow
def test_weights_and_biases_keeps_a_run_of_a_workdir_off_line(tmp_path, monkeypatch):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  (tmp_path / "run").mkdir()
  (writer,) = writers_lib.opened(Run(tmp_path / "run", 0, {"train": {"epochs": 3}}), {"wandb": "mlrec"})
  writer.write(10, "valid", {"hr@10": 0.1})
  writer.close()
  (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
  assert b"valid/hr@10" in kept.read_bytes()


def test_tensorboard_does_not_load_pytorch_where_it_is_installed(tmp_path):
  # It would, for types of tensors that are not used: half a GiB of the process.
  (tmp_path / "torch.py").write_text("raise SystemExit('PyTorch was imported')")
  opens = f"""
import pathlib, sys
from mlrec.train import writers
from mlrec.train.writers import Run
events = writers.writers.get("tensorboard")(Run(pathlib.Path({str(tmp_path)!r}), 0, {{}}), True)
events.write(1, "valid", {{"hr@10": 0.5}})
events.close()
assert "torch" not in sys.modules
import torch
"""
  paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
  done = subprocess.run(
    [sys.executable, "-c", opens], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
  )
  assert done.stderr.endswith("PyTorch was imported\n"), "by the last line, and by no other"
  assert [path.name for path in tmp_path.glob("events.*")]
