import re

import numpy as np
import pytest

from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.video.vjepa2_1 import turns
from mlrec.models.items.video.vjepa2_1 import VARIANTS
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_GOLDEN = {"dim": 28, "depth": 12, "heads": 2, "hidden": 28}
_TINY = {"dim": 16, "depth": 2, "heads": 2, "hidden": 24, "patch": 4}
_OTHER_LEVELS = r"^norms_block\.[0-2]\."


def _tiny(**options):
  return tiny.filled(tiny.zeros("vjepa2_1_b", **_TINY | options))


# Whole windows, an odd number of frames, and one frame, which has patches of its own.
@pytest.mark.parametrize("case", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_golden_output(golden, case):
  arrays = golden("video_vjepa2_1_tiny")
  model = tiny.golden(tiny.zeros("vjepa2_1_b", **_GOLDEN), arrays)
  clips = arrays[f"input_{case}"].astype(np.float32)
  tiny.assert_near(tiny.run(model, clips), arrays[f"output_{case}"], 2e-5)


@pytest.mark.parametrize(
  "name", ["vjepa2_1_b", *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name != "vjepa2_1_b")]
)
def test_names_and_shapes_are_the_published_ones(golden_path, name):
  published = tiny.published(golden_path / "keys" / f"{name}.txt")
  assert any(re.search(_OTHER_LEVELS, key) for key in published)
  wanted = {key: shape for key, shape in published.items() if not re.search(_OTHER_LEVELS, key)}
  model = tiny.full_size(name)
  assert tiny.shapes(model) == wanted
  # In the order of the computation, in which PyTorch has them but for the two signs and their patches.
  starts = checks.stage_starts(model.stages, sorted(wanted, key=lambda key: _place(model.stages, key)))
  assert {model.spec.top, model.spec.half} < starts.keys()
  assert (model.spec.features, model.spec.size) == (wanted["img_mod_embed"][-1], 384)


def _place(stages, key):
  return next(n for n, stage in enumerate(stages) if f"{key}.".startswith(f"{stage}."))


def test_a_file_loads_without_the_names_of_what_wrapped_the_encoder():
  model = _tiny()
  arrays = to_torch(model)
  file = {f"module.backbone.{key}": value for key, value in arrays.items()}
  file |= {f"module.backbone.norms_block.{n}.weight": np.zeros(16) for n in range(3)}
  other = tiny.zeros("vjepa2_1_b", **_TINY)
  load_torch(other, file)
  checks.assert_holds(other, arrays)
  checks.assert_misfits_are_named(model, "blocks.1.attn.qkv.weight", unused="norms_block.4.weight")


def test_gradients_stop_at_the_first_trained_stage_and_reach_the_sort_of_a_clip_alone():
  unreached = r"^(patch_embed_img\.|img_mod_embed$)"
  checks.assert_gradients_stop(_tiny(depth=1), tiny.clips(2, 4, 8, 12), 0, least=1e-7, unreached=unreached)


def test_places_of_a_picture_are_stretched_over_the_grid_of_the_pre_training():
  by = turns((2, 3, 4), 16, 7)
  assert by.shape == (24, 6)
  by = by.reshape(2, 3, 4, 3, 2)
  frequencies = np.array([1, 0.01])
  for axis, places in enumerate(([0, 1], [0, 3, 6], [0, 2, 4, 6])):
    found = np.moveaxis(by[..., axis, :], axis, 0)
    np.testing.assert_allclose(found, np.broadcast_to(np.outer(places, frequencies)[:, None, None], found.shape))
  assert not turns((1, 1, 1), 16, 7).any()


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 4, 8, 10, 3), (2, 1, 8, 10, 3), (2, 0, 8, 8, 3)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\].*" + re.escape(str(shape))):
    tiny.zeros("vjepa2_1_b", **_TINY)(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"depth": 0}, "depth = 0"),
    ({"dim": 18}, "dim = 18.*heads = 2.*nearest is 16"),
    ({"tubelet": 1}, "tubelet = 1 must be at least 2"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(OptionError, match=message):
    tiny.zeros("vjepa2_1_b", **_TINY | options)
