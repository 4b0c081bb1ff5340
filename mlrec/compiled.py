"""Programs that JAX has compiled, kept in the user's cache folder: a command that was run before starts without them.

JAX has such a cache, which is off unless a folder is named, has no bound without another package, and keeps what a
killed process has half written. This is one behind the same door: a program is written whole or not at all, is compared
with its digest when it is read, and the ones that were used least lately go where all are more than a bound.

A program is code of this machine: the folder is this user's alone, and has the processor's features in its name.
"""

import hashlib
import os
import pathlib
import platform
import stat

from absl import logging
import jax

from mlrec import files
from mlrec import machine

_SUFFIX = ".program"
# What compiles in less is not kept.
_LEAST_SECONDS = 0.1
# Where programs are more than the bound, they go until they are so much of it.
_LEFT = 0.8


class Programs:
  """A folder of programs by JAX's keys."""

  def __init__(self, folder: pathlib.Path, most_bytes: int):
    """Nothing is read.

    Args:
      folder: which is there.
      most_bytes: of all programs.
    """
    self._folder, self._most = folder, most_bytes

  def get(self, key: str) -> bytes | None:
    """The program of a key; None where there is none that is whole."""
    path = self._path(key)
    try:
      content = files.read_regular(path)
      # It was used now.
      os.utime(path)
    except OSError:
      return None
    digest, program = content[:32], content[32:]
    if digest != _digest(key, program):
      logging.warning("%s: a compiled program is not what was kept; it is compiled again.", path)
      self._remove(path)
      return None
    return program

  def put(self, key: str, value: bytes) -> None:
    """Keeps a program, if it can be kept: without it there is only more to wait for."""
    path = self._path(key)
    try:
      if path.exists() or len(value) > self._most:
        return
      with files.replacing(path) as temporary:
        temporary.write_bytes(_digest(key, value) + value)
      self._trim()
    except OSError as error:
      logging.info("%s: a compiled program cannot be kept (%s).", self._folder, error.strerror)

  def clear(self) -> None:
    """Removes all."""
    for _, path, _ in self._there():
      self._remove(path)

  def _trim(self) -> None:
    there = sorted(self._there())
    total = sum(size for _, _, size in there)
    if total <= self._most:
      return
    for _, path, size in there:
      if total <= _LEFT * self._most:
        return
      self._remove(path)
      total -= size

  def _there(self) -> list[tuple[int, pathlib.Path, int]]:
    """When each was used last, where it is, and its bytes; unfinished ones of killed processes too."""
    found = []
    for path in self._folder.iterdir():
      try:
        said = path.stat()
      except OSError:
        # Another process has removed it.
        continue
      if _SUFFIX in path.name:
        found.append((said.st_mtime_ns, path, said.st_size))
    return found

  def _path(self, key: str) -> pathlib.Path:
    return self._folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + _SUFFIX)

  def _remove(self, path: pathlib.Path) -> None:
    try:
      path.unlink(missing_ok=True)
    except OSError as error:
      logging.info("%s: it cannot be removed (%s).", path, error.strerror)


def keep(most_mib: int) -> None:
  """Has JAX keep programs from here on, unless this process has settings of its own for that, or nothing can be kept.

  Args:
    most_mib: of all programs that are kept; 0 for none.
  """
  settings = jax.config.values
  if not most_mib or settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
    return
  try:
    folder = machine.cache_folder("compiled") / _processor()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _is_own(folder):
      logging.warning("%s: others may write there, so that no compiled programs are kept in it.", folder)
      return
    from jax._src import compilation_cache

    # It has no public name. Where it is gone, JAX's own cache, without a bound, would take the folder.
    assert callable(compilation_cache.get_file_cache)
  except (OSError, RuntimeError, ImportError, AttributeError, AssertionError) as error:
    logging.info("Compiled programs are not kept (%s).", error)
    return
  programs = Programs(folder, most_mib << 20)
  compilation_cache.get_file_cache = lambda path: (programs, path)  # type: ignore[assignment,return-value]
  jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
  jax.config.update("jax_compilation_cache_dir", str(folder))


def _digest(key: str, program: bytes) -> bytes:
  return hashlib.sha256(key.encode() + program).digest()


def _is_own(folder: pathlib.Path) -> bool:
  """Whether nobody else may put programs there, which this process would run."""
  if not hasattr(os, "getuid"):
    return True
  said = folder.stat()
  return said.st_uid == os.getuid() and not said.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _processor() -> str:
  """What programs for a CPU depend on: a home may be on several machines."""
  features = platform.machine() + platform.processor()
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
  except OSError:
    lines = []
  # Of the first processor; the other lines say how fast it is now.
  for name in ("model name", "flags", "Features"):
    features += next((line.partition(":")[2] for line in lines if line.startswith(name)), "")
  return hashlib.sha256(features.encode()).hexdigest()[:12]
