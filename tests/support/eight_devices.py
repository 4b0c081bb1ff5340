"""A process with eight devices, in which tests call functions: devices are counted when JAX starts."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import traceback

_DEVICES = 8
_TESTS = pathlib.Path(__file__).resolve().parents[1]


class EightDevices:
  """Started with the first call and kept for all others, whose compiled programs it shares."""

  def __init__(self) -> None:
    self._process: subprocess.Popen | None = None

  def call(self, function: str, *arguments: str | int) -> None:
    """Calls `module:function` of `support`; what it raises is raised as an AssertionError with its traceback."""
    if self._process is None:
      self._process = self._started()
    process = self._process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([function, arguments]) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    assert answer, f"the process with {_DEVICES} devices has ended: {process.wait()}"
    error = json.loads(answer)
    assert error is None, error

  def close(self) -> None:
    if self._process is not None:
      self._process.communicate()

  def _started(self) -> subprocess.Popen:
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
    variables = {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={_DEVICES}"]),
      "PYTHONPATH": os.pathsep.join([str(_TESTS), str(_TESTS.parent), *filter(None, sys.path)]),
    }
    return subprocess.Popen(
      [sys.executable, "-m", "support.eight_devices"], env=os.environ | variables, cwd=_TESTS,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def serve() -> None:
  """Answers calls, a line each, until the input ends."""
  import jax

  # What the functions print is no answer.
  answers, sys.stdout = sys.stdout, sys.stderr
  assert len(jax.devices()) == _DEVICES
  for line in sys.stdin:
    function, arguments = json.loads(line)
    module, _, name = function.partition(":")
    error = None
    try:
      getattr(importlib.import_module(f"support.{module}"), name)(*arguments)
    except Exception:
      error = traceback.format_exc()[-3000:]
    print(json.dumps(error), file=answers, flush=True)


if __name__ == "__main__":
  serve()
