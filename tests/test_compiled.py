"""Compiled programs that are kept: whole ones alone, no more than a bound, and none where that was not asked for."""

import os
import pathlib
import subprocess
import sys
import threading

import pytest

from mlrec import compiled
from support.tiny_runs import ROOT

_PROGRAM = """
import sys
import jax
import jax.numpy as jnp
from jax import monitoring
from mlrec import compiled

events = []
monitoring.register_event_listener(lambda name, **_: events.append(name))
compiled._LEAST_SECONDS = 0.0
compiled.keep(int(sys.argv[1]))
result = float(jax.jit(lambda x: (x @ x).sum() * 3)(jnp.ones((4, 4))))
print(result, sum(name.endswith("compilation_cache/cache_hits") for name in events) > 0)
"""


@pytest.fixture
def ran(tmp_path):
  """Runs a program that keeps what it compiles: what it printed, and its messages."""

  def run(mib: int = 1, **variables: str) -> tuple[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment = own | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
      [sys.executable, "-c", _PROGRAM, str(mib)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip(), done.stderr

  return run


def kept(tmp_path) -> list[pathlib.Path]:
  return sorted(tmp_path.glob("mlrec/compiled/*/*.program"))


def test_a_program_is_compiled_once_and_again_where_it_is_damaged(ran, tmp_path):
  assert ran()[0] == "192.0 False"
  programs = kept(tmp_path)
  assert programs
  assert ran()[0] == "192.0 True"
  for path in programs:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  printed, said = ran()
  assert printed == "192.0 False"
  assert "is not what was kept; it is compiled again" in said
  assert "Traceback" not in said
  assert ran()[0] == "192.0 True"
  assert kept(tmp_path) == programs


@pytest.mark.slow
def test_nothing_is_kept_where_it_is_not_asked_for_or_another_folder_is_named(ran, tmp_path):
  assert ran(0) == ("192.0 False", "")
  ran(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
  assert not kept(tmp_path)


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_or_is_not_this_users_alone_is_done_without(ran, tmp_path):
  (tmp_path / "mlrec").write_text("in the way")
  assert ran() == ("192.0 False", "")
  (tmp_path / "mlrec").unlink()
  ran()
  (folder,) = (tmp_path / "mlrec" / "compiled").iterdir()
  assert folder.stat().st_mode & 0o777 == 0o700
  folder.chmod(0o770)
  printed, said = ran()
  assert printed == "192.0 False"
  assert "others may write there" in said


def test_no_more_is_kept_than_the_bound_and_what_was_used_lately_stays(tmp_path):
  programs = compiled.Programs(tmp_path, 10_000)
  for number in range(9):
    programs.put(str(number), bytes([number]) * 1000)
    os.utime(programs._path(str(number)), ns=(number, number))
  assert programs.get("0") == bytes(1000)
  programs.put("new", b"n" * 1500)
  assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
  assert programs.get("0") == bytes(1000)
  assert programs.get("new") == b"n" * 1500
  assert programs.get("1") is None
  assert programs.get("8") is not None
  programs.put("large", b"l" * 10_001)
  assert programs.get("large") is None
  (tmp_path / "another file").write_text("stays")
  programs.clear()
  assert [path.name for path in tmp_path.iterdir()] == ["another file"]


def test_many_may_keep_and_read_at_once(tmp_path):
  wrong = []

  def work(seed: int) -> None:
    programs = compiled.Programs(tmp_path, 20_000)
    for n in range(60):
      key = str((n * seed) % 13)
      programs.put(key, key.encode() * 1000)
      if programs.get(key) not in (None, key.encode() * 1000):
        wrong.append(key)

  threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 7)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong
  assert not [path for path in tmp_path.iterdir() if path.suffix != ".program"]


def test_a_disk_that_is_full_costs_a_compilation_and_no_more(tmp_path, monkeypatch):
  def full(*unused):
    raise OSError(28, "No space left on device")

  programs = compiled.Programs(tmp_path, 1000)
  monkeypatch.setattr(pathlib.Path, "write_bytes", full)
  programs.put("a", b"a")
  assert programs.get("a") is None
