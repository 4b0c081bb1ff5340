"""Mistakes on the command line of a plan: one clear message, exit status 2, no traceback."""

import re

import pytest

from support.tiny_runs import environment
from support.tiny_runs import ROOT

_CONFIG = f"--config={ROOT / 'configs' / 'id_sasrec.py'}"


@pytest.mark.parametrize(
  ("arguments", "pattern"),
  [
    (["--topology=v5e:2x2"], r"--config=FILE\.py is required"),
    ([_CONFIG], r"--topology=CHIP:AxB is required"),
    ([_CONFIG, "--topology=v5e:2x2", "--items=many"], r"--items=many: expected a positive integer"),
    ([_CONFIG, "--topology=v5q:2x2"], r"there is no accelerator 'v5q'; did you mean 'v5"),
    ([_CONFIG, "--topology=v5e:2x2", "v5e:4x4"], r"unexpected argument 'v5e:4x4'"),
    ([_CONFIG, "--topology=v5e:2x2", "--config.train.batch=3"], r"did you mean 'train\.batch_size'"),
    ([_CONFIG, "--topology=v5e:2x2", "--config.train.parts=3"], r"batch_size = \d+ must be a multiple of .*parts = 3"),
    (
      [_CONFIG, "--topology=v5e:16x16", "--users_per_chip=45", "--parts_per_chip=2"],
      r"batch_size = 11520 must be a multiple of config\.loss\.negative_groups = 512",
    ),
  ],
)
def test_a_mistake_is_refused_by_name(arguments, pattern, forked, tmp_path):
  done = forked.run("mlrec.plan", arguments, cwd=tmp_path, env=environment())
  assert "Traceback" not in done.stderr, done.stderr[-1500:]
  assert done.returncode == 2, done.stderr[-1500:]
  assert re.search(pattern, done.stderr), done.stderr[-1500:]
