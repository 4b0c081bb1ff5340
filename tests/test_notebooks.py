"""The notebooks: their form, and that every cell of them runs."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from support import notebooks
from support.tiny_runs import environment
from support.tiny_runs import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_FORM = {
  "code": {"cell_type", "execution_count", "id", "metadata", "outputs", "source"},
  "markdown": {"cell_type", "id", "metadata", "source"},
}
# What compiles tiny programs sooner makes these slower.
_OF_THE_TESTS = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> pathlib.Path:
  return request.param


def test_it_is_a_valid_notebook_without_outputs(notebook):
  book = json.loads(notebook.read_text(encoding="utf-8"))
  assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
  assert book.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
  ids = [cell["id"] for cell in book["cells"]]
  assert len(set(ids)) == len(ids)
  for cell in book["cells"]:
    assert cell.keys() == _FORM[cell["cell_type"]]
    assert re.fullmatch("[a-z0-9-]{1,64}", cell["id"])
    assert cell["metadata"] == {}
    assert (cell.get("execution_count"), cell.get("outputs", [])) == (None, [])
    assert all(line.endswith("\n") for line in cell["source"][:-1])
    assert "".join(cell["source"]).strip()
  assert notebook.stat().st_size < 32_768


def test_its_first_cell_is_one_pip_install_of_extras_that_exist(notebook):
  book = json.loads(notebook.read_text(encoding="utf-8"))
  assert book["cells"][0]["cell_type"] == "code"
  (line,) = book["cells"][0]["source"]
  extras = re.fullmatch(r'%pip install -q "mlrec\[([a-z,]+)\]"', line)[1].split(",")
  with (ROOT / "pyproject.toml").open("rb") as file:
    project = tomllib.load(file)["project"]
  assert project["name"] == "mlrec"
  assert project["optional-dependencies"].keys() >= set(extras)
  assert "%pip" not in "".join(notebooks.code(notebook)[1:])


def test_readme_names_each_of_them():
  named = re.findall(r"\]\(notebooks/([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
  assert sorted(named) == [path.name for path in NOTEBOOKS]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
  """Where the notebooks prepare the demo, each data set of it once."""
  return tmp_path_factory.mktemp("tfds")


@pytest.mark.slow
def test_each_of_its_cells_runs(notebook, prepared, tmp_path):
  env = {name: value for name, value in environment().items() if name not in _OF_THE_TESTS}
  env |= {"TFDS_DATA_DIR": str(prepared), "IPYTHONDIR": str(tmp_path / "ipython"), "MPLBACKEND": "agg"}
  program = [sys.executable, os.fspath(ROOT / "tests" / "support" / "notebooks.py"), str(notebook)]
  done = subprocess.run(program, cwd=tmp_path, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
