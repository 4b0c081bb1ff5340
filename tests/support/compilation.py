"""What makes XLA compile tiny programs sooner; most of the time of the tests is spent compiling."""

import importlib.util
import mmap
import os
import pathlib

# Emitters of fusions build each kernel through MLIR, which takes more than half of the time to compile it.
_FLAGS = ("--xla_cpu_use_fusion_emitters=false",)


def set_flags() -> None:
  """Sets `XLA_FLAGS` for this process, whose JAX must not have started, and those that it starts."""
  given = os.environ.get("XLA_FLAGS", "").split()
  chosen = {flag.partition("=")[0] for flag in given}
  added = [flag for flag in _FLAGS if flag.partition("=")[0] not in chosen and _known(flag)]
  os.environ["XLA_FLAGS"] = " ".join([*given, *added])


def _known(flag: str) -> bool:
  """Whether the installed XLA has the flag: it ends a process at once for one that it does not know."""
  spec = importlib.util.find_spec("jaxlib")
  assert spec is not None
  name = flag.removeprefix("--").partition("=")[0].encode()
  for folder in spec.submodule_search_locations or ():
    for library in pathlib.Path(folder).glob("libjax_common.*"):
      with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(name) >= 0:
          return True
  return False
