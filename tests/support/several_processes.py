"""The command in two processes that train together."""

from collections.abc import Iterator
import contextlib
import socket
import subprocess
from typing import Any

from support.tiny_runs import environment
from support.tiny_runs import main_command
from support.tiny_runs import started


@contextlib.contextmanager
def two_processes(*arguments: str, **options: Any) -> Iterator[list[subprocess.Popen]]:
  """The command in two processes of four devices each."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  together = [f"--coordinator=localhost:{port}", "--processes=2"]
  with contextlib.ExitStack() as stack:
    yield [
      stack.enter_context(
        started(main_command(*arguments, *together, f"--process={number}"), env=environment(devices=4), **options)
      )
      for number in (0, 1)
    ]


def ended(processes: list[subprocess.Popen]) -> list[tuple[str, str]]:
  """What the processes printed; both must have succeeded."""
  printed = [process.communicate(timeout=240) for process in processes]
  for process, (_, errors) in zip(processes, printed):
    assert process.returncode == 0, errors[-2000:]
    assert "Traceback" not in errors
  return printed
