import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file

from mlrec import convert

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def weights(tmp_path) -> pathlib.Path:
  path = tmp_path / "weights.bin"
  save_file({"module.w": np.arange(6, dtype=np.float32).reshape(2, 3), "module.n": np.array(3)}, path)
  return path


def test_a_file_is_converted_and_leaves_nothing_beside_it(weights, tmp_path):
  target = tmp_path / "out.safetensors"
  assert convert.main(["convert", str(weights), f"--to={target}"]) == 0
  arrays = load_file(target)
  np.testing.assert_array_equal(arrays["w"], np.arange(6, dtype=np.float32).reshape(2, 3), strict=True)
  np.testing.assert_array_equal(arrays["n"], np.array(3), strict=True)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "weights.bin"]


def test_strided_arrays_and_all_dtypes_are_written_as_they_are(tmp_path):
  import ml_dtypes

  matrix = np.arange(6).reshape(2, 3)
  arrays = {f"{dtype}": matrix.astype(dtype).T for dtype in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")}
  arrays["bfloat16"] = matrix.astype(ml_dtypes.bfloat16).T
  arrays["scalar"] = np.float32(2) * np.ones(())
  convert.write(arrays, tmp_path / "a.safetensors")
  back = load_file(tmp_path / "a.safetensors")
  for name, array in arrays.items():
    np.testing.assert_array_equal(back[name], array, strict=True, err_msg=name)


def test_a_list_writes_nothing(weights, tmp_path, capsys):
  assert convert.main(["convert", "--list", str(weights)]) == 0
  assert sorted(capsys.readouterr().out.splitlines()) == ["n  ()  int64", "w  (2, 3)  float32"]
  assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


def test_help_says_what_there_is(capsys):
  assert convert.main(["convert", "--help"]) == 0
  text = capsys.readouterr().out
  assert all(flag in text for flag in ("--to", "--key", "--[no]list", "--[no]overwrite"))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["{file}"], "--to=OUT.safetensors is required"),
    ([], "expected one FILE, not 0"),
    (["{file}", "{file}", "--list"], "expected one FILE, not 2"),
    (["{file}", "--too=x"], "Did you mean: to"),
    (["{file}", "--to={folder}/out.pt"], "ends in .safetensors"),
    (["{file}", "--to={folder}/no/out.safetensors"], "no folder"),
    (["{file}", "--to={folder}/there.safetensors"], "--overwrite replaces it"),
    (["{file}", "--to={folder}/out.safetensors", "--key=model"], "no keys above them"),
    (["{folder}/nothing.pt", "--list"], "No such file"),
    (["{folder}", "--list"], "Is a directory"),
    (["{folder}/there.safetensors", "--list"], "no whole safetensors file"),
  ],
)
def test_mistakes_are_told_in_a_line(arguments, message, weights, tmp_path, capsys):
  (tmp_path / "there.safetensors").write_bytes(b"x")
  before = sorted(tmp_path.iterdir())
  assert convert.main(["convert", *(text.format(file=weights, folder=tmp_path) for text in arguments)]) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ")
  assert error.count("\n") == 1
  assert message in error
  assert sorted(tmp_path.iterdir()) == before
  assert (tmp_path / "there.safetensors").read_bytes() == b"x"


def test_a_file_is_overwritten_only_when_asked(weights, tmp_path):
  target = tmp_path / "there.safetensors"
  target.write_bytes(b"x")
  assert convert.main(["convert", str(weights), f"--to={target}", "--overwrite"]) == 0
  assert load_file(target).keys() == {"w", "n"}


def test_a_dtype_that_safetensors_has_not_is_refused_and_leaves_nothing(tmp_path):
  with pytest.raises(ValueError, match="cannot be written"):
    convert.write({"x": np.zeros(2, np.complex128)}, tmp_path / "a.safetensors")
  assert list(tmp_path.iterdir()) == []


def test_the_command_runs_by_its_name(weights, tmp_path):
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "mlrec.convert", str(weights), f"--to={tmp_path / 'out.safetensors'}"]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
  assert (done.returncode, done.stderr) == (0, "")
  assert "2 tensors" in done.stdout
  done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
