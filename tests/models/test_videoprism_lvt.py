"""VideoPrism LvT's encoders of videos and of texts."""

import re

import numpy as np
import pytest

from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import google_files
from support import tiny_encoders as tiny

_SIZES = {"dim": 16, "heads": 2, "hidden": 24}
_VIDEO = _SIZES | {"spatial_depth": 1, "temporal_depth": 1, "patch": 6, "size": 12, "num_frames": 3}
_TEXT = _SIZES | {"depth": 2, "vocabulary": 50}
_COMPUTED = r"^text_model\.embeddings\.position_"


def _video(**options):
  return tiny.zeros("videoprism_lvt_b", **_VIDEO | options)


def _text(**options):
  return tiny.zeros("videoprism_lvt_b_text", **_TEXT | options)


def test_golden_output_of_videos(golden):
  arrays = golden("videoprism_lvt_tiny")
  tiny.assert_near(tiny.run(tiny.golden(_video(), arrays), arrays["clips"]), arrays["videos"], 1e-5)


def test_golden_output_of_texts_however_they_are_padded(golden):
  arrays = golden("videoprism_lvt_tiny")
  model = tiny.golden(_text(), arrays)
  titles = np.pad(arrays["titles"], ((0, 0), (0, 0), (0, 2)))
  titles[:, 0] = np.where(titles[:, 1], titles[:, 0], 17)
  tiny.assert_near(tiny.run(model, titles), arrays["texts"], 1e-5)
  assert np.isfinite(tiny.run(model, np.zeros_like(titles))).all()


def test_the_golden_outputs_need_the_cap_on_scores(golden):
  arrays = golden("videoprism_lvt_tiny")
  output = tiny.run(tiny.golden(_text(cap=1e6), arrays), arrays["titles"])
  assert np.abs(output - arrays["texts"]).max() > 1e-4


@pytest.mark.parametrize("name", ["videoprism_lvt_b", pytest.param("videoprism_lvt_l", marks=pytest.mark.slow)])
def test_names_and_shapes_are_the_published_ones(golden_path, name):
  published = tiny.published(golden_path / "keys" / f"{name}.txt", without=_COMPUTED)
  whole = {key.removeprefix("video_model.").removeprefix("vision_model."): shape for key, shape in published.items()}
  video, text = tiny.full_size(name), tiny.full_size(f"{name}_text")
  assert tiny.shapes(video) | tiny.shapes(text) == whole
  for model in (video, text):
    assert {model.spec.top, model.spec.half} < set(model.stages)
    assert (model.spec.licence, model.spec.features) == ("Apache-2.0", whole["layernorm1.weight"][0])
  assert video.spec.frames == whole["temporal_embeddings.position_embeddings"][1]
  assert (text.spec.length, text.spec.vocabulary) == (64, 32_000)


def test_a_whole_models_file_loads_into_each_half():
  video, text = tiny.filled(_video()), tiny.filled(_text())
  inner = r"auxiliary_layers.", "head"
  file = {
    ("video_model." if key.startswith(inner) else "video_model.vision_model.") + key: value
    for key, value in to_torch(video).items()
  }
  file |= to_torch(text) | {"text_model.embeddings.position_ids": np.arange(8)[None]}
  for model, make in ((video, _video), (text, _text)):
    other = make()
    load_torch(other, file)
    checks.assert_holds(other, to_torch(model))
  checks.assert_misfits_are_named(video, "head.o_proj.weight", unused="auxiliary_layers.7.mlp.fc1.bias")


def test_googles_file_loads_into_each_half(golden):
  arrays = tiny.under(golden("videoprism_lvt_tiny"))
  file = google_files.lvt(arrays)
  whole = {key.removeprefix("video_model.").removeprefix("vision_model."): value for key, value in arrays.items()}
  for model in (_video(), _text()):
    load_torch(model, file)
    checks.assert_holds(model, {key: whole[key] for key in tiny.shapes(model)})
    with pytest.raises(ValueError, match=r"unused.*'params/head/bias'"):
      load_torch(model, file | {"params/head/bias": np.zeros(3)})
  key = "params/contrastive_vision_pooler/pooling_attention/query/w"
  with pytest.raises(ValueError, match=re.escape(f"'{key}' has shape (16, 3, 8); expected (16, 2, 12)")):
    load_torch(_video(), file | {key: np.zeros((16, 3, 8))})


def test_gradients_stop_at_the_first_trained_stage(golden):
  model = _video()
  clips = golden("videoprism_lvt_tiny")["clips"]
  first = model.stages.index("temporal_layers.0")
  checks.assert_gradients_stop(tiny.filled(model), clips, first, least=1e-7, unreached=r"^head\.k_proj\.bias$")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"auxiliary_depth": 0}, "auxiliary_depth = 0 must be at least 1"),
    ({"hidden": 25}, "hidden = 25 must be a multiple of heads = 2"),
    ({"dept": 1}, "dept = 1: 'videoprism_lvt_b' has no such option"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(OptionError, match=message):
    _video(**options)
