"""Synthetic MicroLens files, tiny experiments in this process, and the command in a process of its own."""

from collections.abc import Callable
from collections.abc import Iterator
import pathlib
import shutil
import subprocess
from typing import Any
from typing import TYPE_CHECKING

from ml_collections import ConfigDict
import pytest

from support import tiny_runs
from support.forked import Forked

if TYPE_CHECKING:
  from support.shared_programs import SharedPrograms


@pytest.fixture(scope="session")
def make_pairs(tmp_path_factory) -> Callable[..., pathlib.Path]:
  """Writes a `*_pairs.tsv`: `make_pairs(users=…, items=…, seed=…)`."""

  def make(**options) -> pathlib.Path:
    return tiny_runs.write_pairs(tmp_path_factory.mktemp("data") / "Tiny_pairs.tsv", tiny_runs.histories(**options))

  return make


@pytest.fixture(scope="session")
def pairs_file(make_pairs) -> pathlib.Path:
  """A `*_pairs.tsv` of 310 users and 100 items."""
  return make_pairs()


@pytest.fixture(scope="session")
def tiny_config(pairs_file) -> Callable[..., ConfigDict]:
  """Builds a validated config: `tiny_config(user={"name": "gru4rec"}, **{"train.epochs": 1})`.

  `model` is the whole of `config.model`, for what the default config does not name.
  """
  from mlrec import config as config_lib

  def make(
    *,
    user: dict[str, Any] | None = None,
    item: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    **overrides: Any,
  ) -> ConfigDict:
    config = config_lib.default_config()
    settings = {**tiny_runs.TINY, "data.source": str(pairs_file)}
    if model:
      with config.unlocked():
        config.model = ConfigDict(model)
      del settings["model.dim"]
    else:
      config.model.user = ConfigDict(user or tiny_runs.SASREC)
      config.model.item = ConfigDict(item or {"name": "id"})
    config.update_from_flattened_dict({**settings, **overrides})
    return config_lib.validate(config)

  return make


@pytest.fixture(scope="session")
def run_tiny(tiny_config) -> Callable[..., dict[str, Any]]:
  """Runs a tiny experiment in this process: `run_tiny(workdir, **{"train.epochs": 1})` returns its result as JSON."""
  from mlrec.runs import experiment

  def run(
    workdir: pathlib.Path,
    *,
    evaluate_only=False,
    step=None,
    sources=None,
    stop=None,
    say=lambda text: None,
    **overrides,
  ) -> dict[str, Any]:
    options = {"evaluate_only": evaluate_only, "step": step, "sources": sources or {}, "stop": stop, "say": say}
    return experiment.run(tiny_config(**overrides), workdir, **options).to_json()

  return run


@pytest.fixture(scope="session")
def shared_programs() -> "SharedPrograms":
  """What runs in this process share."""
  from support.shared_programs import SharedPrograms

  return SharedPrograms()


@pytest.fixture(autouse=True)
def _programs_are_shared(request) -> Iterator[None]:
  """Tests trace and compile the same experiment once; `finished` and other fixtures have programs of their own."""
  if "tiny_config" not in request.fixturenames:
    yield
    return
  with request.getfixturevalue("shared_programs").installed():
    yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory, run_tiny) -> pathlib.Path:
  """The workdir of a tiny run that was never interrupted, to be read only; `copied` is one to change."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  run_tiny(workdir)
  return workdir


@pytest.fixture
def copied(finished, tmp_path) -> pathlib.Path:
  """A copy of `finished`."""
  return pathlib.Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
  """Runs commands without their two seconds of imports: `forked.run("mlrec.report", ["runs"], cwd=…, env=…)`."""
  process = Forked()
  yield process
  process.close()


@pytest.fixture
def command(forked, tmp_path) -> Callable[..., subprocess.CompletedProcess]:
  """Runs `python -m mlrec.main …` to its end: `command("--list", devices=8)`."""

  def run(*arguments: Any, devices: int = 1, cwd: pathlib.Path = tmp_path, **variables: str):
    env = tiny_runs.environment(devices=devices, **variables)
    return forked.run("mlrec.main", [*map(str, arguments)], cwd=cwd, env=env)

  return run


@pytest.fixture
def program(forked, tmp_path) -> Callable[..., subprocess.CompletedProcess]:
  """Runs `python -c …` to its end: `program("import mlrec; …", "argument", devices=8)`."""

  def run(text: str, *arguments: Any, devices: int = 1, **variables: str):
    env = tiny_runs.environment(devices=devices, **variables)
    return forked.run_program(text, [*map(str, arguments)], cwd=tmp_path, env=env)

  return run
