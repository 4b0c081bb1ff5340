"""Runs a notebook's code as Jupyter would, without a server or a kernel: `python notebooks.py NOTEBOOK [FIGURES]`.

The first cell, which installs, is left out. What a cell raises, and a `!` command that fails, ends the run. Figures
that are shown are written into the folder FIGURES, if one is named.
"""

import json
import os
import pathlib
import sys
from typing import Any


def code(path: pathlib.Path) -> list[str]:
  """The sources of a notebook's code cells."""
  cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
  return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(path: pathlib.Path, figures: pathlib.Path | None = None) -> None:
  from IPython.core.interactiveshell import InteractiveShell
  import matplotlib.pyplot as plt
  from traitlets.config import Config

  class Shell(InteractiveShell):
    def system(self, cmd: str) -> None:
      self.system_raw(cmd)
      if self.user_ns["_exit_code"]:
        raise RuntimeError(f"status {self.user_ns['_exit_code']} of {cmd}")

  shown = 0

  def show(*_: Any, **__: Any) -> None:
    nonlocal shown
    for number in plt.get_fignums():
      shown += 1
      if figures is not None:
        plt.figure(number).savefig(figures / f"{path.stem}_{shown:02d}.png", dpi=70)
    plt.close("all")

  plt.show = show
  # `python` in a command is this one.
  os.environ["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
  shell = Shell.instance(config=Config(HistoryManager={"enabled": False}))
  for source in code(path)[1:]:
    shell.run_cell(source).raise_error()
  assert shown, "no figure was shown"


if __name__ == "__main__":
  run(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None)
