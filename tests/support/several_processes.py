"""The command in two processes that train together."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import socket
import subprocess
from typing import Any

from support.tiny_runs import environment
from support.tiny_runs import main_command
from support.tiny_runs import started


@contextlib.contextmanager
def two_processes(
  *arguments: str, each: Sequence[Sequence[str]] = ((), ()), **options: Any
) -> Iterator[list[subprocess.Popen]]:
  """The command in two processes of four devices each, with arguments that `each` has beside."""
  together = [f"--coordinator=localhost:{free_port()}", "--processes=2"]
  with contextlib.ExitStack() as stack:
    yield [
      stack.enter_context(
        started(
          main_command(*arguments, *together, f"--process={number}", *more), env=environment(devices=4), **options
        )
      )
      for number, more in enumerate(each)
    ]


def free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def ended(processes: list[subprocess.Popen]) -> list[tuple[str, str]]:
  """What the processes printed; both must have succeeded."""
  printed = [process.communicate(timeout=240) for process in processes]
  for process, (_, errors) in zip(processes, printed):
    assert process.returncode == 0, errors[-2000:]
    assert "Traceback" not in errors
  return printed
