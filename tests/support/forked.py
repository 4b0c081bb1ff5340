"""Commands in processes of their own, forked from one that has the imports behind it.

A command's own imports take two seconds, most of what a refusal takes. The process here imports libraries once, then
forks for each command: the child sets environment and folder, and runs a module as `python -m` does, or a program as
`python -c` does.
"""

import atexit
import contextlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import textwrap
import traceback
from typing import Any

# What commands import, as far as importing it starts no thread and no device.
_IMPORTED = (
  "absl.app",
  "flax.nnx",
  "grain",
  "jax",
  "ml_collections",
  "numpy",
  "optax",
  "orbax.checkpoint",
  "scipy.sparse",
)


class Forked:
  """Runs commands, one at a time."""

  def __init__(self) -> None:
    self._process: subprocess.Popen | None = None

  def run(
    self, module: str, arguments: list[str], *, cwd: pathlib.Path, env: dict[str, str], timeout: float = 300
  ) -> subprocess.CompletedProcess:
    """`python -m module arguments`, its output as text."""
    return self._ask({"module": module}, arguments, cwd, env, timeout)

  def run_program(
    self, program: str, arguments: list[str], *, cwd: pathlib.Path, env: dict[str, str], timeout: float = 300
  ) -> subprocess.CompletedProcess:
    """`python -c program arguments`, its output as text; the program may be indented."""
    return self._ask({"program": textwrap.dedent(program)}, arguments, cwd, env, timeout)

  def _ask(
    self, what: dict[str, str], arguments: list[str], cwd: pathlib.Path, env: dict[str, str], timeout: float
  ) -> subprocess.CompletedProcess:
    if self._process is None:
      self._start(env)
    with tempfile.TemporaryDirectory() as folder:
      asked = what | {"arguments": arguments, "cwd": str(cwd), "env": env, "folder": folder, "s": timeout}
      self._process.stdin.write(json.dumps(asked) + "\n")
      self._process.stdin.flush()
      status = int(self._process.stdout.readline())
      output, errors = (pathlib.Path(folder, name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess([*what.values(), *arguments], status, output, errors)

  def close(self) -> None:
    if self._process is not None:
      self._process.communicate()

  def _start(self, env: dict[str, str]) -> None:
    self._process = subprocess.Popen(
      [sys.executable, __file__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _serve() -> None:
  for name in _IMPORTED:
    __import__(name)
  for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
      _become(asked)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)


def _become(asked: dict[str, Any]) -> None:
  """Runs a command in this process, and ends it as `python -m` would."""
  import signal

  signal.alarm(int(asked["s"]))
  os.chdir(asked["cwd"])
  os.environ.clear()
  os.environ.update(asked["env"])
  for name, descriptor in (("stdout", 1), ("stderr", 2)):
    os.dup2(os.open(pathlib.Path(asked["folder"], name), os.O_CREAT | os.O_WRONLY), descriptor)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  sys.argv = [asked.get("module", "-c"), *asked["arguments"]]
  sys.path[:1] = [asked["cwd"], *filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep))]
  status = 0
  try:
    if "module" in asked:
      runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    else:
      exec(compile(asked["program"], "<string>", "exec"), {"__name__": "__main__"})
  except SystemExit as ended:
    if isinstance(ended.code, str):
      print(ended.code, file=sys.stderr)
    status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
  except BaseException:
    traceback.print_exc()
    status = 1
  with contextlib.suppress(Exception):
    atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


if __name__ == "__main__":
  _serve()
