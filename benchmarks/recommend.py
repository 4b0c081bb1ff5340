"""Users/s of recommending ten items to every user of a run, what they watched left out: `recommend.py --workdir RUN`.

Prints a JSON object: the median of some rounds, after one in which programs are compiled.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import mlrec


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--rounds", type=int, default=5)
  arguments = parser.parse_args()
  recommender = mlrec.Recommender.load(arguments.workdir)
  number = len(recommender.recommend_users(k=10))
  wall, cpu = [], []
  for _ in range(arguments.rounds):
    start, cpu_start = time.perf_counter(), time.process_time()
    recommender.recommend_users(k=10)
    wall.append(number / (time.perf_counter() - start))
    cpu.append(number / (time.process_time() - cpu_start))
  print(json.dumps({"users_per_s": statistics.median(wall), "users_per_cpu_s": statistics.median(cpu)}))


if __name__ == "__main__":
  main()
