import errno
import os
import pathlib
import re
import resource
import stat
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


def test_a_list_has_a_line_for_each_name(weights, capsys):
  save_file({"a\nb\x1b[2J": np.array(3)}, weights)
  assert convert.main(["convert", "--list", str(weights)]) == 0
  assert capsys.readouterr().out == r"'a\nb\x1b[2J'  ()  int64" + "\n"


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
    (["{folder}", "--list"], "it is a directory; expected a regular file"),
    (["{folder}/pipe", "--list"], "it is a named pipe; expected a regular file"),
    (["{folder}/pipe", "--to={folder}/out.safetensors"], "it is a named pipe; expected a regular file"),
    (["{file}", "--to={folder}/link.safetensors", "--overwrite"], "it is FILE itself"),
    (["{file}", "--to={folder}/pipe.safetensors", "--overwrite"], "no regular file"),
    (["{file}", "--to={folder}/folder.safetensors", "--overwrite"], "it is a folder"),
    (["{folder}/there.safetensors", "--list"], "no whole safetensors file"),
  ],
)
def test_mistakes_are_told_in_a_line(arguments, message, weights, tmp_path, capsys):
  (tmp_path / "there.safetensors").write_bytes(b"x")
  (tmp_path / "link.safetensors").symlink_to(weights)
  (tmp_path / "folder.safetensors").mkdir()
  os.mkfifo(tmp_path / "pipe")
  os.mkfifo(tmp_path / "pipe.safetensors")
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


def test_a_full_disk_is_told_and_leaves_nothing(weights, tmp_path, capsys):
  save_file({"w": np.zeros(2**16, np.float32)}, weights)
  (tmp_path / "there.safetensors").write_bytes(b"x")
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  # Writing beyond the limit fails as it does on a full disk, with another number.
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, limits[1]))
  try:
    status = convert.main(["convert", str(weights), f"--to={tmp_path / 'there.safetensors'}", "--overwrite"])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  error = capsys.readouterr().err
  assert status == 2
  assert re.fullmatch(r"error: \S+/there\.safetensors: cannot be written: .*File too large.*\n", error)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["there.safetensors", "weights.bin"]
  assert (tmp_path / "there.safetensors").read_bytes() == b"x"


def test_a_folder_that_may_not_be_written_to_is_told(weights, tmp_path, monkeypatch, capsys):
  def denied(self, *arguments, **options):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

  # Modes of folders do not bind the superuser, as whom tests may run.
  monkeypatch.setattr(pathlib.Path, "touch", denied)
  monkeypatch.setattr(pathlib.Path, "unlink", denied)
  assert convert.main(["convert", str(weights), f"--to={tmp_path / 'out.safetensors'}"]) == 2
  error = capsys.readouterr().err
  assert error == f"error: {tmp_path}/out.safetensors: cannot be written: Read-only file system\n"
  assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  target, synced = tmp_path / "a.safetensors", []

  def fsync(descriptor):
    synced.append((os.fstat(descriptor).st_ino, target.exists()))

  monkeypatch.setattr(os, "fsync", fsync)
  convert.write({"x": np.zeros(2)}, target)
  assert synced == [(target.stat().st_ino, False), (tmp_path.stat().st_ino, True)], "the file, then its name"


def test_a_file_may_be_read_by_whom_the_mask_lets(tmp_path):
  mask = os.umask(0o027)
  try:
    convert.write({"x": np.zeros(2)}, tmp_path / "a.safetensors")
  finally:
    os.umask(mask)
  assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640


def test_a_name_that_safetensors_keeps_for_itself_is_refused(tmp_path):
  with pytest.raises(ValueError, match="'__metadata__' is no name of a tensor"):
    convert.write({"__metadata__": np.zeros(2)}, tmp_path / "a.safetensors")
  assert list(tmp_path.iterdir()) == []


def test_the_command_runs_by_its_name(weights, tmp_path):
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "mlrec.convert", str(weights), f"--to={tmp_path / 'out.safetensors'}"]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
  assert (done.returncode, done.stderr) == (0, "")
  assert "2 tensors" in done.stdout
  done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
