"""What a run uses of its machine."""

import resource
import sys

import jax


def cpu_seconds() -> float:
  """CPU time so far of this process and of its children that have ended."""
  used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_memory() -> dict[str, float]:
  """The most MiB that the process has held since it began, and the most on one of its devices where devices tell.

  Under `peak_memory_mib` and `peak_device_memory_mib`. Runs that share a process share these.
  """
  # In KiB, but on macOS in bytes (getrusage(2)).
  unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
  found = {"peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
  # None on devices that keep no count, such as CPUs.
  peak = max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices())
  return found | ({"peak_device_memory_mib": round(peak / (1 << 20), 1)} if peak else {})
