"""The layers of `convolutions.py` in PyTorch, which this script alone needs: one JSON line a layer.

OTHER_PYTHON benchmarks/torch_convolutions.py [--only depthwise stem_1x7x7] [--threads 2]
"""

import argparse
import json
import statistics
import time

from convolution_cases import CASES
from convolution_cases import CLIPS
import torch


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--only", nargs="*", default=[""], help="beginnings of layers' names")
  parser.add_argument("--runs", type=int, default=5)
  parser.add_argument("--threads", type=int, default=2)
  arguments = parser.parse_args()
  torch.set_num_threads(arguments.threads)
  for name, case in CASES.items():
    if not name.startswith(tuple(arguments.only)):
      continue
    x = torch.randn(CLIPS, case.inputs, *case.sizes, requires_grad=case.inputs != 3)
    kernel = torch.randn(case.outputs, case.inputs // case.groups, *case.kernel, requires_grad=not case.pool)
    wanted = [array for array in (x, kernel) if array.requires_grad]

    def forward(x=x, kernel=kernel, case=case):
      if case.pool:
        return torch.nn.functional.max_pool3d(x, case.kernel, case.stride, case.padding)
      return torch.nn.functional.conv3d(x, kernel, None, case.stride, case.padding, 1, case.groups)

    grad = torch.randn_like(forward())

    def both(forward=forward, wanted=wanted, grad=grad):
      torch.autograd.grad(forward(), wanted, grad)

    record = {"layer": name, "where": case.where, "form": case.kind}
    with torch.no_grad():
      record["torch_forward"] = milliseconds(forward, arguments.runs)
    record["torch_both"] = milliseconds(both, arguments.runs)
    print(json.dumps(record), flush=True)


def milliseconds(run, runs: int) -> list[float]:
  """Medians of wall and CPU time."""
  run()
  walls, cpus = [], []
  for _ in range(runs):
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    walls.append((time.perf_counter() - wall) * 1e3)
    cpus.append((time.process_time() - cpu) * 1e3)
  return [round(statistics.median(values), 1) for values in (walls, cpus)]


if __name__ == "__main__":
  main()
