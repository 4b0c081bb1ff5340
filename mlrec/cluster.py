"""The processes of one run: how they find each other, and what becomes of the rest where one is gone.

Where a process dies, the others wait for it in their next collective, without end on some devices. JAX's own heartbeats
end them in the end, with a dump of C++ frames. So here each process says every few seconds that it is there, in JAX's
key-value store, and ends with a line that names who is not.
"""

import atexit
from collections.abc import Callable
import contextlib
import ctypes
import json
import signal
import socket
import sys
import threading
import time
from typing import Any

import jax
import numpy as np

from mlrec import machine
from mlrec import terminal
from mlrec.config import ConfigError

# Signs of life that a process gives within the time after which it would count as gone.
_SIGNS_IN_TIME = 12
# Until the processes have found each other.
_JOINING = 300
_SIGNS, _LEFT, _SAID = "mlrec/alive", "left", "mlrec/said"
# Milliseconds in which others come to say the same; if one is gone, the watch ends this process before.
_SAYING = 7 * 24 * 3600 * 1000
# Seconds in which process 0 answers, if it is there; between asking it, and until that is told.
_CONNECTING, _BETWEEN, _TOLD_AFTER = 3.0, 0.5, 10.0
# Seconds in which a process ends that has nothing to wait for, at the most and as a rule.
_ENDING, _ENDING_BEFORE = 30.0, 1.0
# How long an aborted process waits for the watch to name who is gone, in times of its patience.
_ABORTING = 1.5
# What this process holds until it ends: handlers of aborts, of which C has but the addresses, and its claim to a port.
_kept: list[Any] = []


def join(
  coordinator: str | None, processes: int | None, process: int | None, *, patience: float, end: Callable[[str], None]
) -> "Watch | None":
  """Joins the other processes of a run, before anything else is asked of JAX, and watches them from then on.

  Args:
    coordinator: HOST:PORT of process 0; None to ask the cluster (a TPU pod, Slurm, Open MPI and others), as are the
      others.
    processes: how many there are.
    process: this one's number, from 0.
    patience: seconds without a sign of life after which a process counts as gone.
    end: ends this process at once, with a message; called in another thread than the main one, which waits for one that
      is gone.

  Returns:
    The watch; None where there are no others.

  Raises:
    ConfigError: there is no cluster to ask, or what is given cannot be.
  """
  if coordinator is not None:
    _check(coordinator, processes, process)
    unmet = (
      f"the {processes} processes of --coordinator={coordinator} did not come together within {_JOINING} s: start all "
      "of them with the same --coordinator and --processes, each with a --process of its own, from 0 on"
    )
    if process and (reason := _silence_after(coordinator, _JOINING)):
      end(
        f"process 0 did not answer at --coordinator={coordinator} within {_JOINING} s ({reason}): start it there, with "
        "--process=0, or name its address"
      )
  else:
    unmet = f"the processes of this job did not come together within {_JOINING} s"
  # JAX's client does not raise what fails here: it aborts.
  _handle_aborts(lambda: end(unmet))
  try:
    # JAX's own patience is longer: else it would end this process before anything could be said.
    jax.distributed.initialize(
      coordinator, processes, process, initialization_timeout=_JOINING, heartbeat_timeout_seconds=int(4 * patience)
    )
  except (ValueError, RuntimeError) as error:
    if coordinator is None:
      raise ConfigError(
        f"--distributed: this is no machine of a cluster that JAX knows ({error}): name the processes by "
        "--coordinator=HOST:PORT, --processes=N and --process=NUMBER"
      ) from error
    raise ConfigError(f"--coordinator={coordinator}: {error}") from error
  if jax.process_count() == 1:
    _handle_aborts(lambda: None)
    return None
  store = Store()
  message = _gone(0, jax.process_count(), "has ended, or cannot be reached any more")
  address = store.address if jax.process_index() else None
  _handle_aborts(lambda: _wait_for_who_is_gone(address, lambda: end(message), patience=patience))
  watch = Watch(store, jax.process_index(), jax.process_count(), patience=patience, end=end)
  watch.start()
  return watch


def _check(coordinator: str, processes: int | None, process: int | None) -> None:
  """Raises a ConfigError where what is given cannot be, or cannot be had."""
  if not _is_address(coordinator):
    raise ConfigError(f"--coordinator={coordinator}: expected HOST:PORT of process 0, such as 10.0.0.2:1234")
  if processes is None or process is None:
    return
  if processes < 1:
    raise ConfigError(f"--processes={processes}: expected 1 or more")
  if not 0 <= process < processes:
    raise ConfigError(f"--process={process}: expected 0 to {processes - 1}, for --processes={processes}")
  if process == 0:
    port = int(coordinator.rpartition(":")[2])
    # JAX shares the port with whoever has it, and each then has processes of its own.
    try:
      _claim(port)
      dual = socket.has_dualstack_ipv6()
      family = socket.AF_INET6 if dual else socket.AF_INET
      socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
      raise ConfigError(
        f"--coordinator={coordinator}: process 0 cannot have port {port} of this machine ({error.strerror}): another "
        "one may be process 0 there; name a port that is free, the same in all processes"
      ) from error


def _claim(port: int) -> None:
  """Says to other processes of this machine that this one has the port, before JAX opens it, until it ends.

  Raises:
    OSError: another one has said so.
  """
  if sys.platform != "linux":
    return
  claim = socket.socket(socket.AF_UNIX)
  # Names that begin so are no files: they are the machine's, as ports are, and go with the process.
  claim.bind(f"\0mlrec process 0 at port {port}")
  _kept.append(claim)


def _handle_aborts(handle: Callable[[], None]) -> None:
  """Has `handle` called where this process is aborted; if it returns, the abort goes on.

  Python's handlers of signals run in the main thread, which may be waiting for who is gone. So this one is the C
  library's.
  """

  def called(number: int) -> None:
    handle()
    set_handler(number, None)  # SIG_DFL is 0

  function = ctypes.CFUNCTYPE(None, ctypes.c_int)(called)
  set_handler = ctypes.CDLL(None).signal
  set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
  _kept.append(function)
  set_handler(signal.SIGABRT, ctypes.cast(function, ctypes.c_void_p))


def _wait_for_who_is_gone(coordinator: str | None, end: Callable[[], None], *, patience: float) -> None:
  """Of a process that is aborted: returns where, in the time that the watch needs to tell, all others are there.

  JAX's client aborts where process 0, and its store with it, is gone, and collectives of CPUs may where connections to
  any other process break: both at once, before the watch could name it. JAX has a callback for the former, which fails
  before it is called.

  Args:
    coordinator: HOST:PORT of process 0, with which this one `end`s; None in process 0 itself.
    end: ends this process.
    patience: of the watch, which ends this process where another one is silent.
  """
  until = time.monotonic() + _ABORTING * patience
  while time.monotonic() < until:
    if coordinator is not None and _silence(coordinator):
      end()
    time.sleep(patience / _SIGNS_IN_TIME)


def _silence_after(coordinator: str, seconds: float) -> str:
  """`_silence`, where it lasts so long; says for what this process waits."""
  start, told = time.monotonic(), False
  while reason := _silence(coordinator):
    waited = time.monotonic() - start
    if waited > seconds:
      break
    if waited > _TOLD_AFTER and not told:
      terminal.tell(f"waiting for process 0 to answer at {coordinator} ({reason})")
      told = True
    time.sleep(_BETWEEN)
  return reason


def _silence(coordinator: str) -> str:
  """Why process 0 seems not to be there; empty where it is: its server greets whoever connects.

  A connection alone says nothing: the system takes it for a process that is about to be gone, too.
  """
  host, _, port = coordinator.rpartition(":")
  try:
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECTING) as connection:
      return "" if connection.recv(1) else "connection closed"
  except OSError as error:
    return error.strerror or str(error)


def _is_address(text: str) -> bool:
  host, colon, port = text.rpartition(":")
  return bool(host and colon) and port.isdecimal() and 0 < int(port) < 1 << 16


class Store:
  """JAX's key-value store of the processes of a run; it has no public name yet."""

  def __init__(self) -> None:
    from jax._src import distributed

    self._client: Any = distributed.global_state.client
    self.address: str = distributed.global_state.coordinator_address or ""

  def put(self, key: str, value: str) -> None:
    self._client.key_value_set(f"{_SIGNS}/{key}", value, allow_overwrite=True)

  def say(self, key: str, value: str) -> None:
    """Once for each key."""
    self._client.key_value_set(f"{_SAID}/{key}", value)

  def heard(self, key: str) -> str:
    """What is said under a key; waits for it."""
    return self._client.blocking_key_value_get(f"{_SAID}/{key}", _SAYING)

  def all(self) -> dict[str, str]:
    return {key.rpartition("/")[2]: value for key, value in self._client.key_value_dir_get(_SIGNS)}


class Watch(threading.Thread):
  """Says that this process is there, and ends it once another is not."""

  def __init__(
    self,
    store: Any,
    process: int,
    processes: int,
    *,
    patience: float,
    end: Callable[[str], None],
  ):
    """Plans.

    Args:
      store: of all processes, as `Store` is.
      process: this one's number.
      processes: how many there are.
      patience: seconds without a sign of life after which one counts as gone.
      end: ends this process with a message.
    """
    super().__init__(name="watch of the other processes", daemon=True)
    self._store, self._process, self._processes = store, process, processes
    self._patience, self._end = patience, end
    self._stopped = threading.Event()

  def start(self) -> None:
    # Before JAX, which registered itself first, leaves the others.
    atexit.register(self.leave)
    super().start()

  def leave(self) -> None:
    """Tells the others that this process ends because it is done."""
    self._stopped.set()
    with contextlib.suppress(Exception):
      self._store.put(str(self._process), _LEFT)

  def run(self) -> None:
    """Until this process is done."""
    seen: dict[str, tuple[str, float]] = {}
    answered = time.monotonic()
    count = 0
    while not self._stopped.wait(self._patience / _SIGNS_IN_TIME):
      count += 1
      now = time.monotonic()
      try:
        self._store.put(str(self._process), str(count))
        signs = self._store.all()
        answered = time.monotonic()
      except Exception:
        # The store is process 0's.
        if seen.get("0", ("", 0.0))[0] == _LEFT:
          return
        if now - answered > self._patience:
          self._miss(0)
          return
        continue
      for process in map(str, range(self._processes)):
        sign = signs.get(process, "")
        if process not in seen or sign != seen[process][0]:
          seen[process] = sign, now
        elif sign != _LEFT and now - seen[process][1] > self._patience:
          self._miss(int(process))
          return

  def _miss(self, process: int) -> None:
    if not self._stopped.is_set():
      what = f"has not been heard of for {self._patience:g} s: it has ended, or cannot be reached"
      self._end(_gone(process, self._processes, what))


def different(
  name: str, see: Callable[[], str], *, beside: str = "", patience: float = 0.0
) -> tuple[tuple[str, str], dict[int, tuple[str, str]]]:
  """Compares what the processes of a run see; all of them call it at the same place, a `name` once.

  Where they differ, all are to end: process 0 returns after the others.

  Args:
    name: of what is compared.
    see: says what this process sees.
    beside: what it tells the others beside that, where they differ.
    patience: seconds in which a process looks again that sees something else than process 0: disks that machines share
      may show late what was written.

  Returns:
    What process 0 sees, and what it tells beside; and, by their numbers, what those do that see something else. A
    process that is alone does not look.
  """
  if jax.process_count() == 1:
    return ("", ""), {}
  from jax.experimental import multihost_utils

  store = Store()
  if jax.process_index() == 0:
    seen = see()
    store.say(f"{name}/0", json.dumps([seen, beside]))
  first, told = json.loads(store.heard(f"{name}/0"))
  if jax.process_index():
    until = time.monotonic() + patience
    while (seen := see()) != first and time.monotonic() < until:
      time.sleep(patience / 100)
    store.say(f"{name}/{jax.process_index()}", json.dumps([seen, beside]))
  differ = np.flatnonzero(multihost_utils.process_allgather(np.array(seen != first)))
  if not len(differ):
    return (first, told), {}
  others = {int(number): tuple(json.loads(store.heard(f"{name}/{number}"))) for number in differ}
  # All are to end now, each with its own words: process 0 not before the others, whom its end aborts.
  _handle_aborts(lambda: time.sleep(_ENDING))
  machine.wait_for_all(f"all that differs in {name} is known")
  if jax.process_index() == 0:
    time.sleep(_ENDING_BEFORE)
  return (first, told), others


def _gone(process: int, processes: int, what: str) -> str:
  return (
    f"process {process} of {processes} {what}. This one ends too. Run the same command in all of them again: the run "
    "is resumed from its last checkpoint"
  )
