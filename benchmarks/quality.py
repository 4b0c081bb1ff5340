"""Test and validation metrics of finished workdirs, kept in results/ for the README's table.

python benchmarks/quality.py --label "SASRec, ID (configs/50k/sasrec.py)" --name id_50k_sasrec WORKDIR
"""

import argparse
import json
import pathlib

from compare import RESULTS

KEYS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", "mrr", "coverage@10", "cold/hr@10")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("workdir", type=pathlib.Path)
  parser.add_argument("--name", required=True)
  parser.add_argument("--label", required=True)
  arguments = parser.parse_args()
  result = json.loads((arguments.workdir / "result.json").read_text())
  record = {"label": arguments.label, "seeds": result.get("seeds", [result.get("seed")])}
  record |= {key: result[key] for key in ("config_hash", "seconds")}
  for split in ("valid", "test"):
    record[split] = {key: figure(result[split].get(key)) for key in KEYS}
  RESULTS.mkdir(exist_ok=True)
  (RESULTS / f"quality_{arguments.name}.json").write_text(json.dumps(record, indent=2) + "\n")


def figure(value: float | dict | None) -> dict[str, float] | None:
  """Mean and spread, whether the result is of one seed or of several."""
  return value if isinstance(value, dict) or value is None else {"mean": value, "std": 0.0}


if __name__ == "__main__":
  main()
