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
    (["--config=id_sasrec"], ["--config={shipped}/id_sasrec.py"]),
    (["--config=configs/50k/ease"], ["--config={shipped}/50k/ease.py"]),
    (["--config", "sasrec_title"], ["--config", "{shipped}/50k/sasrec_title.py"]),
    (["--config=lightgcn.py"], ["--config={shipped}/50k/lightgcn.py"]),
    (["--config=gsasrec"], ["--config={shipped}/gsasrec.py"]),
    (["--config=configs/sasrec.py"], ["--config=configs/sasrec.py"]),
    (["--config=mine:x"], ["--config=mine.py:x"]),
    (["--config=demo"], ["--config={shipped}/demo.py"]),
    (["--config=configs/own.py"], ["--config=configs/own.py"]),
    (["--config=configs/none.py"], ["--config=configs/none.py"]),
    (["--config=/configs/demo.py"], ["--config=/configs/demo.py"]),
    (["--config=", "--config.seed=3", "demo.py"], ["--config=", "--config.seed=3", "demo.py"]),
  ],
)
def test_a_config_that_is_not_here_is_the_shipped_one(given, found, tmp_path, monkeypatch):
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "own.py").touch()
  (tmp_path / "mine.py").touch()
  (tmp_path / "demo").mkdir()
  monkeypatch.chdir(tmp_path)
  shipped = config.shipped()
  assert command_line.with_shipped_configs(given) == [one.format(shipped=shipped) for one in found]
  assert (shipped / "demo.py").is_file()


@pytest.mark.parametrize(
  ("file", "told"),
  [
    ("id_sasrek", "did you mean 'configs/id_sasrec.py'"),
    ("configs/sasrec.py", "did you mean 'configs/50k/sasrec.py'?"),
    ("mime.py", "did you mean 'mine.py'"),
    ("./mine2.py", "did you mean 'mine.py'"),
    ("zzzz", "python -m mlrec.main --list names the configs that come with the package"),
  ],
)
def test_of_a_config_that_is_nowhere_the_nearest_are_told(file, told, tmp_path, monkeypatch):
  (tmp_path / "mine.py").touch()
  monkeypatch.chdir(tmp_path)
  assert config.found(file) == file
  assert config.missing(file).startswith(f"there is no such file; {told}")


def test_a_command_elsewhere_finds_and_lists_them(command, tmp_path):
  assert "configs/50k/ease.py" in command("--list").stdout
  done = command("--config=configs/dmo.py")
  assert done.returncode == 2
  assert "--config=configs/dmo.py: there is no such file; did you mean 'configs/demo.py'" in done.stderr
  done = command("--config=configs/50k/item_knn.py", "--config.data.source=nothing_pairs.tsv")
  assert "nothing_pairs.tsv: no such file" in done.stderr
  assert pathlib.Path.cwd() != tmp_path
