"""PE-Core's encoders of images, videos and texts."""

import re

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.image.pe_core import VARIANTS
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import TEXT_ENCODER
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_SIZES = {"dim": 32, "depth": 3, "heads": 2, "features": 12}
_IMAGE = _SIZES | {"hidden": 64, "patch": 4, "size": 16}
_TEXT = _SIZES | {"hidden": 128, "vocabulary": 50, "positions": 10}
_OTHER_HALF = {"image": r"^(?!visual\.)", "text": r"^(visual\.|logit_scale$)"}


def _image(**options):
  return tiny.zeros("pe_core_b_16", **_IMAGE | options)


def _text(**options):
  return tiny.zeros("pe_core_b_16_text", **_TEXT | options)


def _frames():
  return tiny.blank(lambda: models.create("pe_core_b_16_frames", options=_IMAGE, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("case", range(2))
def test_golden_output_of_images(golden, case):
  arrays = golden("image_pe_core_tiny")
  model = tiny.golden(_image(), arrays)
  tiny.assert_near(tiny.run(model, arrays[f"input_{case}"]), arrays[f"output_{case}"], 1e-5)


def test_a_clip_is_the_mean_of_its_frames(golden):
  arrays = golden("image_pe_core_tiny")
  model = tiny.golden(_frames(), arrays)
  assert (model.spec.frames, model.spec.features, model.spec.mean) == (8, 12, (0.5, 0.5, 0.5))
  checks.assert_holds(model, tiny.under(arrays))
  frames = arrays["input_0"]
  clips = np.stack([frames, np.stack([frames[1], frames[1]])])
  wanted = np.stack([arrays["output_0"].mean(0), arrays["output_0"][1]])
  tiny.assert_near(tiny.run(model, clips), wanted, 1e-5)


def test_golden_output_of_texts_whatever_follows_them(golden):
  arrays = golden("text_pe_core_tiny")
  model = tiny.golden(_text(), arrays)
  titles = arrays["titles"].copy()
  tiny.assert_near(tiny.run(model, titles), arrays["output"], 1e-5)
  titles[:, 0] = np.where(titles[:, 1], titles[:, 0], 17)
  titles[2] = 0
  output = tiny.run(model, titles)
  tiny.assert_near(output[:2], arrays["output"][:2], 1e-5)
  # Without any token it is the text of the one token 0.
  assert np.isfinite(output).all()


def _names(name):
  marks = () if name.startswith("pe_core_b") else pytest.mark.slow
  return pytest.param(name, marks=marks)


@pytest.mark.parametrize("half", ["image", "text"])
@pytest.mark.parametrize("name", [_names(name) for name in VARIANTS])
def test_names_and_shapes_are_the_published_ones(golden_path, name, half):
  published = tiny.published(golden_path / "keys" / f"{name}.txt", without=_OTHER_HALF[half])
  model = tiny.full_size(name if half == "image" else f"{name}_text")
  assert tiny.shapes(model) == published
  spec = model.spec
  assert {spec.top, spec.half} < set(model.stages)
  assert (spec.licence, spec.weights) == ("Apache-2.0", f"{spec.source.removeprefix('facebook/')}.pt")
  if half == "image":
    size = int(np.sqrt(published["visual.positional_embedding"][0] - 1)) * published["visual.conv1.weight"][-1]
    assert spec.size == size == int(spec.source[-3:])
  else:
    assert spec.length == published["positional_embedding"][0] == 32
  # Each parameter is one stage's.
  assert {stage for stage in model.stages if any(f"{key}.".startswith(f"{stage}.") for key in published)} == {
    *model.stages
  }


def test_every_size_has_its_encoders_of_images_videos_and_texts():
  for name in VARIANTS:
    assert name in models.names(IMAGE_ENCODER)
    assert f"{name}_frames" in models.names(VIDEO_ENCODER)
    assert f"{name}_text" in models.names(TEXT_ENCODER)


def test_a_whole_models_file_loads_into_each_half(golden):
  image, text = _image(depth=1), _text(depth=1)
  rng = np.random.default_rng(0)
  file = {key: rng.normal(size=shape) for model in (image, text) for key, shape in tiny.shapes(model).items()}
  file["logit_scale"] = np.array(3.0)
  for model in (image, text):
    load_torch(model, file)
    checks.assert_holds(model, {key: file[key].astype(np.float32) for key in to_torch(model)})
  alone = {key.removeprefix("visual."): array for key, array in to_torch(image).items()}
  load_torch(image, alone)
  checks.assert_misfits_are_named(image, "visual.attn_pool.attn.in_proj_weight", unused="visual.blocks.7.weight")
  checks.assert_misfits_are_named(text, "text_projection", unused="ln_pre.weight")


def test_gradients_stop_at_the_first_trained_stage():
  image = tiny.filled(_image(depth=2))
  pixels = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  checks.assert_gradients_stop(image, pixels, image.stages.index("visual.transformer.resblocks.1"))


def test_half_precision_is_near_the_exact_output():
  titles = np.random.default_rng(0).integers(1, 50, (3, 2, 8)).astype(np.int32)
  checks.assert_near_in_half_precision(lambda **options: tiny.filled(_text(depth=2, **options)), titles)


def test_what_is_no_square_image_no_clip_and_no_title_is_refused():
  with pytest.raises(ValueError, match=r"square images \[B, S, S, 3\].*\(2, 16, 20, 3\)"):
    _image()(jnp.zeros((2, 16, 20, 3)))
  with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\].*\(2, 16, 16, 3\)"):
    _frames()(jnp.zeros((2, 16, 16, 3)))
  with pytest.raises(ValueError, match=r"titles of 11 tokens were given.*places for 10"):
    _text()(np.zeros((1, 2, 11), np.int32))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"dim": 36}, "dim = 36 must be a multiple of 4 heads = 8: the nearest is"),
    ({"pool_heads": 5}, "dim = 32 must be a multiple of heads = 5"),
    ({"size": 18}, "size = 18 must be a multiple of patch = 4"),
    ({"depth": 0}, "depth = 0"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(OptionError, match=re.escape(message)):
    _image(**options)
