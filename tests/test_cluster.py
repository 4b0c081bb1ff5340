"""The watch of the other processes of a run; that of real ones is in tests/train/test_several_devices.py."""

import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NoReturn

import pytest

from mlrec import cluster
from mlrec.config import ConfigError
from support.tiny_runs import environment

_PATIENCE = 0.3


class Store:
  """A key-value store of one process; `broken` as one whose process 0 is gone."""

  def __init__(self) -> None:
    self.signs: dict[str, str] = {}
    self.broken = False

  def put(self, key: str, value: str) -> None:
    if self.broken:
      raise RuntimeError("UNAVAILABLE")
    self.signs[key] = value

  def all(self) -> dict[str, str]:
    if self.broken:
      raise RuntimeError("UNAVAILABLE")
    return dict(self.signs)


@pytest.fixture
def started():
  """Starts watches of two processes on one store, each of which keeps what it would have ended with."""
  watches: list[cluster.Watch] = []
  told: list[str] = []
  ended = threading.Event()

  def start(store: Store, process: int) -> cluster.Watch:
    def end(message: str) -> None:
      told.append(message)
      ended.set()

    watch = cluster.Watch(store, process, 2, patience=_PATIENCE, end=end)
    watches.append(watch)
    watch.start()
    return watch

  start.told, start.ended = told, ended
  yield start
  for watch in watches:
    watch.leave()
    watch.join(5)


def test_processes_that_are_there_are_left_alone(started):
  store = Store()
  started(store, 0)
  started(store, 1)
  assert not started.ended.wait(3 * _PATIENCE)


def test_one_that_is_silent_ends_the_other_with_its_number(started):
  started(Store(), 0)
  assert started.ended.wait(10)
  assert started.told[0].startswith(
    "process 1 of 2 has not been heard of for 0.3 s: it has ended, or cannot be reached."
  )
  assert "the run is resumed from its last checkpoint" in started.told[0]


def test_one_whose_store_is_gone_names_process_0(started):
  store = Store()
  store.signs["0"] = "7"
  watch = started(store, 1)
  store.broken = True
  assert started.ended.wait(10)
  assert started.told[0].startswith("process 0 of 2 has not been heard of")
  watch.join(5)
  assert not watch.is_alive()


def test_one_that_has_left_because_it_is_done_is_not_missed(started):
  store = Store()
  started(store, 1)
  other = started(store, 0)
  time.sleep(_PATIENCE)
  other.leave()
  assert not started.ended.wait(3 * _PATIENCE)
  store.broken = True
  assert not started.ended.wait(3 * _PATIENCE)


def test_process_0_is_there_where_it_greets_and_not_where_a_connection_is_but_taken(monkeypatch):
  monkeypatch.setattr(cluster, "_CONNECTING", 0.2)
  with socket.create_server(("localhost", 0)) as server:
    address = f"localhost:{server.getsockname()[1]}"
    assert cluster._silence(address) == "timed out", "nobody accepts"
    with server.accept()[0]:
      pass

    def serve(greeting: bytes) -> None:
      with server.accept()[0] as connection:
        connection.sendall(greeting)

    for greeting in (b"settings", b""):
      thread = threading.Thread(target=serve, args=(greeting,))
      thread.start()
      assert cluster._silence(address) == ("" if greeting else "connection closed")
      thread.join()
  assert cluster._silence(address) == "Connection refused", "nobody listens"


@pytest.mark.parametrize(("named_after", "status"), [(0.2, 7), (60, -signal.SIGABRT)])
def test_an_aborted_process_waits_for_the_watch_to_name_who_is_gone(named_after, status):
  script = f"""
import os, threading
from mlrec import cluster
cluster._handle_aborts(lambda: cluster._wait_for_who_is_gone(None, lambda: None, patience=0.4))
watch = threading.Timer({named_after}, lambda: os._exit(7))
watch.daemon = True
watch.start()
os.abort()
"""
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), timeout=60)
  assert done.returncode == status, done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":1234", "localhost:0", "localhost:70000", "a:b"])
def test_an_address_that_is_none_is_told(address):
  with pytest.raises(ConfigError, match=f"--coordinator={address}: expected HOST:PORT of process 0"):
    cluster.join(address, 2, 0, patience=60.0, end=print)


@pytest.mark.parametrize("process", [-1, 2])
def test_a_number_that_no_process_has_is_told(process):
  with pytest.raises(ConfigError, match=f"--process={process}: expected 0 to 1, for --processes=2"):
    cluster.join("localhost:1234", 2, process, patience=60.0, end=print)


def test_no_processes_are_none():
  with pytest.raises(ConfigError, match="--processes=0: expected 1 or more"):
    cluster.join("localhost:1234", 0, 0, patience=60.0, end=print)


def test_a_port_that_another_process_0_has_is_told():
  with socket.socket() as other:
    # As JAX opens it, so that several may have it.
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    other.bind(("", 0))
    other.listen()
    port = other.getsockname()[1]
    with pytest.raises(ConfigError, match=f"process 0 cannot have port {port} of this machine"):
      cluster.join(f"localhost:{port}", 2, 0, patience=60.0, end=print)


def test_of_two_that_are_process_0_at_the_same_time_one_has_the_port():
  with socket.create_server(("localhost", 0)) as server:
    port = server.getsockname()[1]
  # Neither has opened it yet.
  cluster._claim(port)
  with pytest.raises(ConfigError, match=f"process 0 cannot have port {port} of this machine"):
    cluster.join(f"localhost:{port}", 2, 0, patience=60.0, end=print)


def test_process_0_that_does_not_answer_is_waited_for_and_then_named(monkeypatch, capsys):
  monkeypatch.setattr(cluster, "_JOINING", 1)
  monkeypatch.setattr(cluster, "_TOLD_AFTER", 0.1)
  with socket.create_server(("localhost", 0)) as server:
    port = server.getsockname()[1]

  def end(message: str) -> NoReturn:
    raise SystemExit(message)

  with pytest.raises(SystemExit, match=f"0 did not answer at --coordinator=localhost:{port} within 1 s .Connec"):
    cluster.join(f"localhost:{port}", 2, 1, patience=60.0, end=end)
  assert f"waiting for process 0 to answer at localhost:{port} (Connection refused)" in capsys.readouterr().err
