"""Renders `results/plans/`, what `mlrec.plan --to` wrote, into the table of docs/scale/plan.md.

python benchmarks/plans.py [training step]
"""

import json
import pathlib
import sys

_FOLDER = pathlib.Path(__file__).parent / "results" / "plans"
_HEAD = (
  "plan", "chips", "users a step", "memory a chip, GiB", "of it temporaries", "TFLOP a chip", "sent a chip, MiB",
  "compute / memory / transfers, ms", "share of transfers", "MFU, at most",
)  # fmt: skip


def rows(program: str) -> list[tuple[str, ...]]:
  """A row for each topology of each file."""
  out = []
  for path in sorted(_FOLDER.glob("*.json"), key=_order):
    for plan in json.loads(path.read_text(encoding="utf-8")):
      name = path.stem.removesuffix("_" + plan["topology"].replace(":", "_"))
      found = [one for one in plan["programs"] if one["name"] == program]
      out.append((name, f"`{plan['topology']}`", f"{plan['batch_size']:,}", *_figures(plan, found)))
  return out


def _order(path: pathlib.Path) -> tuple[str, int]:
  plans = json.loads(path.read_text(encoding="utf-8"))
  return path.stem.partition("_v")[0], plans[0]["chips"] if plans else 0


def _figures(plan: dict, found: list[dict]) -> tuple[str, ...]:
  if not found:
    return ("not compiled in time", *[""] * 6)
  (one,) = found
  if "seconds" not in one:
    return (f"{one['needed_bytes'] / 2**30:.2f}: does not fit", *[""] * 6)
  memory, seconds = one["memory_bytes"], one["seconds"]
  sent = sum(each["bytes"] * each["times"] for each in one["collectives"])
  return (
    f"{sum(memory.values()) / 2**30:.2f}", f"{memory['temporaries'] / 2**30:.2f}",
    f"{one['flops'] / plan['chips'] / 1e12:.3f}", f"{sent / 2**20:,.1f}",
    " / ".join(f"{seconds[name] * 1e3:.2f}" for name in ("compute", "memory", "communication")),
    f"{one['communication_share']:.0%}", f"{one['mfu']['most']:.0%}",
  )  # fmt: skip


def main() -> None:
  program = " ".join(sys.argv[1:]) or "training step"
  plans = [plan for path in _FOLDER.glob("*.json") for plan in json.loads(path.read_text(encoding="utf-8"))]
  if program not in (known := sorted({one["name"] for plan in plans for one in plan["programs"]})):
    sys.exit(f"{program!r} is no program of these plans: expected one of {', '.join(known)}")
  print("| " + " | ".join(_HEAD) + " |\n" + "|---" * len(_HEAD) + "|")
  for row in rows(program):
    print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
  main()
