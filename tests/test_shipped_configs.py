"""Configs come with the package: who installed it has no checkout."""

import pathlib
import tomllib

import pytest

from mlrec import command_line
from mlrec import config
from support.tiny_runs import ROOT


def test_every_package_and_its_files_are_shipped():
  with (ROOT / "pyproject.toml").open("rb") as file:
    setuptools = tomllib.load(file)["tool"]["setuptools"]
  there = {
    ".".join(path.parent.relative_to(ROOT).parts)
    for name in ("mlrec", "tfds_microlens")
    for path in (ROOT / name).rglob("__init__.py")
  }
  assert set(setuptools["packages"]) == there | {"mlrec.configs"}
  shipped = {
    path
    for package, patterns in setuptools["package-data"].items()
    for pattern in patterns
    for path in (ROOT / setuptools["package-dir"].get(package, package.replace(".", "/"))).glob(pattern)
  }
  others = {
    path
    for name in ("mlrec", "tfds_microlens", "configs")
    for path in (ROOT / name).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts and (path.suffix != ".py" or name == "configs")
  }
  assert others - shipped == set()


@pytest.mark.parametrize(
  ("given", "found"),
  [
    (["--config=configs/demo.py"], ["--config={shipped}/demo.py"]),
    (["--config", "configs/50k/ease.py", "--workdir=x"], ["--config", "{shipped}/50k/ease.py", "--workdir=x"]),
    (["-config=video_sasrec.py:r3d_r18,top"], ["-config={shipped}/video_sasrec.py:r3d_r18,top"]),
    (["--config=configs/own.py"], ["--config=configs/own.py"]),
    (["--config=configs/none.py"], ["--config=configs/none.py"]),
    (["--config=/configs/demo.py"], ["--config=/configs/demo.py"]),
    (["--config=", "--config.seed=3", "demo.py"], ["--config=", "--config.seed=3", "demo.py"]),
  ],
)
def test_a_config_that_is_not_here_is_the_shipped_one(given, found, tmp_path, monkeypatch):
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "own.py").touch()
  monkeypatch.chdir(tmp_path)
  shipped = config.shipped()
  assert command_line.with_shipped_configs(given) == [one.format(shipped=shipped) for one in found]
  assert (shipped / "demo.py").is_file()


def test_a_command_elsewhere_finds_and_lists_them(command, tmp_path):
  assert "configs/50k/ease.py" in command("--list").stdout
  done = command("--config=configs/dmo.py")
  assert done.returncode == 2
  assert "--config=configs/dmo.py: there is no such file; did you mean 'configs/demo.py'" in done.stderr
  done = command("--config=configs/50k/item_knn.py", "--config.data.source=nothing_pairs.tsv")
  assert "nothing_pairs.tsv: no such file" in done.stderr
  assert pathlib.Path.cwd() != tmp_path
