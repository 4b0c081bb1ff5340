"""`python -m mlrec.serve`, in a process of its own."""

import collections
import concurrent.futures
import json
import re
import signal
import socket
import sys
import urllib.request

import pytest

import mlrec
from support.tiny_runs import environment
from support.tiny_runs import started
from support.tiny_runs import wait_for


@pytest.fixture
def serve(forked, tmp_path):
  def run(*arguments):
    return forked.run("mlrec.serve", [*map(str, arguments)], cwd=tmp_path, env=environment())

  return run


def test_a_workdir_is_served_until_sigterm(finished):
  pytest.importorskip("fastapi")
  command = [sys.executable, "-m", "mlrec.serve", f"--workdir={finished}", "--port=0"]
  with started(command) as process:
    line = process.stdout.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]

    def get(address):
      with urllib.request.urlopen(url + address, timeout=60) as answer:
        return json.loads(answer.read())

    assert get("health")["status"] == "ready", "once it says where"
    items = [item["id"] for item in get("recommend?user=7&k=3")["items"]]
    assert items == mlrec.Recommender.load(finished).recommend_users([7], k=3).items[0]
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
  assert process.returncode == 0, errors
  assert "ended: what was asked is answered" in output
  assert errors == ""


@pytest.mark.slow
def test_in_the_midst_of_many_who_connect_sigterm_loses_none(finished):
  """Each asks on a connection of its own: it is answered, or is refused the connection."""
  pytest.importorskip("fastapi")
  command = [sys.executable, "-m", "mlrec.serve", f"--workdir={finished}", "--port=0"]
  outcomes = collections.Counter()

  def ask(address):
    try:
      connection = socket.create_connection(address, timeout=60)
    except ConnectionRefusedError:
      return False
    with connection:
      connection.sendall(b"GET /recommend?user=7 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
      found = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    outcomes[found[:12]] += 1
    return True

  def ask_until_the_end(address):
    while ask(address):
      pass

  with started(command) as process, concurrent.futures.ThreadPoolExecutor(64) as threads:
    line = process.stdout.readline()
    address = ("127.0.0.1", int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1]))
    asking = [threads.submit(ask_until_the_end, address) for _ in range(64)]
    wait_for(lambda: outcomes.total() > 200, process=process)
    process.send_signal(signal.SIGTERM)
    for one in asking:
      one.result()
    output, errors = process.communicate(timeout=60)
  assert (process.returncode, errors) == (0, "")
  assert set(outcomes) == {b"HTTP/1.1 200"}
  assert "ended: what was asked is answered" in output


def test_a_port_in_use_is_told_before_anything_is_loaded(serve, finished):
  pytest.importorskip("fastapi")
  with socket.create_server(("127.0.0.1", 0)) as other:
    port = other.getsockname()[1]
    done = serve(f"--workdir={finished}", f"--port={port}")
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr == (
    f"error: --host=127.0.0.1 --port={port}: it cannot be served there (Address already in use); choose another "
    "--port, or 0 for any\n"
  )


def test_a_workdir_of_another_version_is_told_in_a_line(serve, copied):
  pytest.importorskip("fastapi")
  data = copied / "data.safetensors"
  config = json.loads((copied / "config.json").read_text())
  (copied / "config.json").write_text(json.dumps(config | {"novelty": {"of_tomorrow": 1}}))
  newer = serve(f"--workdir={copied}", "--port=0")
  (copied / "config.json").write_text(json.dumps(config))
  data.unlink()
  older = serve(f"--workdir={copied}", "--port=0")
  for done, message in ((newer, "novelty"), (older, "of an older version, which kept no ids and histories")):
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--workdir=DIR is required"),
    (["--workdir={w}", "stray"], "unexpected argument 'stray'"),
    (["--workdir={w}/checkpoints", "--port=0"], "holds no run"),
    (["--workdir={w}", "--port=0", "--host=no.such.host.invalid"], "--host=no.such.host.invalid: there is no such"),
    (["--workdir={w}", "--port=0", "--host=192.0.2.1"], "--host=192.0.2.1 --port=0: it cannot be served there"),
    (["--workdir={w}", "--port=0", "--media=nothing"], "--media=nothing: no such folder"),
    (["--workdir={w}", "--port=0", "--titles=no.csv"], "no.csv"),
    (["--workdir={w}", "--port=0", "--new_items"], "reads no content of an item"),
  ],
)
def test_what_cannot_be_is_told_in_a_line(arguments, message, serve, finished):
  pytest.importorskip("fastapi")
  done = serve(*(one.format(w=finished) for one in arguments))
  assert done.returncode == 2
  (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert message in line
  assert "Traceback" not in done.stderr


def test_without_the_extra_what_to_install_is_told(serve, finished, tmp_path):
  (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError('No module named fastapi', name='fastapi')\n")
  done = serve(f"--workdir={finished}")
  assert done.returncode == 2
  assert done.stderr == "error: fastapi is not installed: pip install 'mlrec[serve]'\n"
