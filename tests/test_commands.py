"""What all commands share: their list, their help, and how mistakes in flags are told."""

import subprocess
import sys

import pytest

from mlrec import __main__
from support.tiny_runs import environment


@pytest.fixture
def call(forked, tmp_path):
  def run(name, *arguments):
    return forked.run(name, [*arguments], cwd=tmp_path, env=environment())

  return run


def test_the_package_lists_its_commands_a_line_each(capsys):
  assert __main__.main(["mlrec"]) == 0
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  told = {line[0]: " ".join(line[1:]) for line in lines if line and line[0] in __main__.commands()}
  assert told == __main__.commands()
  assert told["mlrec.recommend"] == "Recommends items of a trained workdir, by original ids"
  assert told["mlrec.main"] == "Trains, evaluates and resumes"
  assert "mlrec.command_line" not in told
  assert all(0 < len(what) < 105 for what in told.values())


def test_a_command_that_is_called_without_its_dot_is_told(capsys):
  assert __main__.main(["mlrec", "recomend", "--user=3"]) == 2
  assert "did you mean 'mlrec.recommend'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mlrec", "mlrec.main", "mlrec.recommend", "mlrec.report", "mlrec.convert"])
def test_help_is_whole_and_no_failure(name, call):
  done = call(name, "--help")
  assert (done.returncode, done.stderr) == (0, "")
  flag = {
    "mlrec.main": "--workdir",
    "mlrec.recommend": "--[no]new_items",
    "mlrec.report": "--format",
    "mlrec": "mlrec.main",
  }
  assert flag.get(name, "--to") in done.stdout


def test_mistakes_in_flags_are_told_in_a_line(call):
  for argument, told in (
    ("--usr=3", "error: Unknown command line flag 'usr'. Did you mean"),
    ("--k=x", "error: --k=x: expected an integer"),
    ("--k=0", "error: flag --k=0"),
  ):
    done = call("mlrec.recommend", argument)
    assert done.returncode == 2
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1


def test_what_the_system_refuses_is_told_in_a_line():
  script = "from mlrec import command_line; command_line.run(lambda argv: open('/none/file'))"
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
  assert done.returncode == 1
  assert done.stderr == "error: /none/file: No such file or directory\n"
