"""What training and evaluation compile for a GPU has no form that was made for a CPU: seen by lowering, without one."""

import jax
import pytest

from mlrec import config as config_lib
from mlrec.models.layers.platforms import CPU_FORM
from mlrec.planning.population import made_up
from mlrec.planning.program import planned_run
from mlrec.planning.program import programs

_TINY = {
  "model.dim": 8, "model.user": {"name": "sasrec", "heads": 2, "blocks": 1, "dropout": 0.2}, "train.batch_size": 8,
  "train.steps_per_dispatch": 1, "eval.batch_size": 128, "eval.chunk": 512, "data.source": "nothing_pairs.tsv",
}  # fmt: skip


def _video(encoder, **options):
  item = {"name": "video", "encoder": encoder, "mode": "full", "weights": "", "size": 32, "accumulate": 1}
  return {"model.item": item | {"options": options, "mode": "scratch", "dtype": "bfloat16"}}


_ONE_BLOCK = {"depths": (1, 1, 1, 1)}
_RUNS = {
  "id": {},
  "lightgcn": {"model": {"name": "lightgcn", "dim": 8, "layers": 1}},
  "r3d": _video("r3d_r18", stem=8, **_ONE_BLOCK),
  "slowfast": _video("slowfast_r50", widths=(8, 2), feature="pooled", **_ONE_BLOCK),
  "videomae": _video("videomae_b", dim=16, depth=1, heads=2, hidden=32, patch=8),
}


def _lowered(name: str, platform: str) -> list[str]:
  config = config_lib.with_values(config_lib.default_config(), _TINY | _RUNS[name])
  run = planned_run(config, made_up(config, items=200, users=400), jax.devices()[:1])
  return [one.trace().lower(lowering_platforms=(platform,)).as_text(debug_info=True) for one in programs(run)]


@pytest.mark.parametrize(
  "name", ["id", "r3d", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lightgcn", "slowfast"))]
)
def test_a_step_for_a_cpu_has_its_forms(name):
  assert CPU_FORM in _lowered(name, "cpu")[0]


@pytest.mark.parametrize(
  "name", ["id", "r3d", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lightgcn", "slowfast", "videomae"))]
)
@pytest.mark.parametrize("platform", ["cuda", pytest.param("tpu", marks=pytest.mark.slow)])
def test_no_program_for_another_device_has_a_form_of_a_cpu(name, platform):
  texts = _lowered(name, platform)
  assert len(texts) == 3
  assert all(CPU_FORM not in text for text in texts)
