"""Runs two commands in turn, A B A B …, and keeps the medians of a figure and their ratio in results/NAME.json.

  python benchmarks/compare.py --name step_d64 --figure users_per_s --ours "python …" --theirs "python …"

Figures are those that a command prints as a JSON object on its last line, and, measured from outside for any command,
`cpu_s` (user + system), `wall_s` and `peak_rss_mib`. The ratio is how many times better ours is: ours / theirs for a
rate (a name with `per_s`), theirs / ours for anything else.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import time

RESULTS = pathlib.Path(__file__).parent / "results"
MEASURED = ("cpu_s", "wall_s", "peak_rss_mib")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--name", required=True, help="of the comparison; its result replaces an earlier one")
  parser.add_argument("--figure", required=True, nargs="+", help="what to compare")
  parser.add_argument("--ours", required=True)
  parser.add_argument("--theirs", required=True, help="a command, or a JSON file of figures recorded earlier")
  parser.add_argument("--label", default="", help="what is compared, for the table")
  parser.add_argument("--against", default="", help="what theirs is, for the table")
  parser.add_argument("--target", type=float, default=0.0, help="the ratio to reach, for the table")
  parser.add_argument("--runs", type=int, default=3)
  arguments = parser.parse_args()
  ours, theirs = [], []
  for _ in range(arguments.runs):
    ours.append(figures_of(arguments.ours))
    recorded = arguments.theirs.endswith(".json")
    theirs.append(json.loads(pathlib.Path(arguments.theirs).read_text()) if recorded else figures_of(arguments.theirs))
    print(json.dumps({"ours": ours[-1], "theirs": theirs[-1]}), flush=True)
  record = {
    "name": arguments.name, "label": arguments.label or arguments.name, "against": arguments.against,
    "target": arguments.target, "runs": arguments.runs, "cores": os.cpu_count(), "machine": platform.machine(),
    "figures": {figure: compared(figure, ours, theirs) for figure in arguments.figure},
  }  # fmt: skip
  RESULTS.mkdir(exist_ok=True)
  (RESULTS / f"{arguments.name}.json").write_text(json.dumps(record, indent=2) + "\n")
  print(json.dumps(record["figures"], indent=2))


def figures_of(command: str) -> dict[str, float]:
  """Runs a command to its end and returns its figures.

  Raises:
    subprocess.CalledProcessError: it failed.
  """
  start = time.monotonic()
  process = subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE, text=True)
  assert process.stdout
  lines = process.stdout.read().strip().splitlines()
  # wait4 accounts for this one child and its threads alone.
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
  try:
    printed = json.loads(lines[-1])
  except (ValueError, IndexError):
    printed = {}
  figures = {key: value for key, value in printed.items() if isinstance(value, int | float)}
  return figures | {
    "cpu_s": usage.ru_utime + usage.ru_stime,
    "wall_s": time.monotonic() - start,
    "peak_rss_mib": usage.ru_maxrss / 1024,
  }


def compared(figure: str, ours: list[dict], theirs: list[dict]) -> dict[str, float]:
  """Medians of both sides, and how many times better ours is."""
  a, b = (statistics.median(run[figure] for run in runs) for runs in (ours, theirs))
  return {"ours": round(a, 3), "theirs": round(b, 3), "ratio": round(a / b if "per_s" in figure else b / a, 2)}


if __name__ == "__main__":
  main()
