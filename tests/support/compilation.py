"""What makes XLA compile tiny programs sooner; most of the time of the tests is spent compiling."""

import os
import subprocess
import sys

# Emitters of fusions build each kernel through MLIR, which takes more than half of the time to compile it.
_FLAG = "--xla_cpu_use_fusion_emitters=false"


def set_flags() -> None:
  """Sets `XLA_FLAGS` for this process, whose JAX must not have started, and those that it starts."""
  given = os.environ.get("XLA_FLAGS", "").split()
  if not any(flag.partition("=")[0] == _FLAG.partition("=")[0] for flag in given) and _is_known():
    os.environ["XLA_FLAGS"] = " ".join([*given, _FLAG])


def _is_known() -> bool:
  """Whether the installed XLA has the flag, tried apart: it ends a process at once for one that it does not know."""
  tried = os.environ | {"XLA_FLAGS": _FLAG, "JAX_PLATFORMS": "cpu"}
  program = "import jax; jax.devices()"
  return subprocess.run([sys.executable, "-c", program], env=tried, capture_output=True).returncode == 0
