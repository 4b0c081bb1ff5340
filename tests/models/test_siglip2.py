"""SigLIP 2's encoders of images and texts; the image half of SigLIP is tested with the other encoders of images."""

import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.text.siglip import VARIANTS
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import VIDEO_ENCODER
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_TEXT = {"dim": 32, "depth": 2, "heads": 2, "hidden": 48, "vocabulary": 50, "positions": 8}
_OTHER_HALF = {"image": r"^(text_model\.|logit_)", "text": r"^(vision_model\.|logit_)"}


def _text(**options):
  return tiny.zeros("siglip2_b_16_text", **_TEXT | options)


def test_golden_output_of_texts_however_they_are_padded(golden):
  arrays = golden("text_siglip_tiny")
  model = tiny.golden(_text(), arrays)
  titles = arrays["titles"].copy()
  tiny.assert_near(tiny.run(model, titles), arrays["output"], 1e-5)
  # In fewer places, and with anything in those that the mask leaves out.
  shorter = titles[1:, :, :6]
  shorter[:, 0] = np.where(shorter[:, 1], shorter[:, 0], 17)
  tiny.assert_near(tiny.run(model, shorter), arrays["output"][1:], 1e-5)


# The image half at this size is SigLIP's, whose names are tested with the other encoders of images.
@pytest.mark.parametrize(
  ("name", "half"),
  [
    ("siglip2_b_16", "text"),
    pytest.param("siglip2_b_16", "image", marks=pytest.mark.slow),
    pytest.param("siglip2_l_16", "text", marks=pytest.mark.slow),
    pytest.param("siglip2_l_16", "image", marks=pytest.mark.slow),
    pytest.param("siglip2_so400m_16", "text", marks=pytest.mark.slow),
    pytest.param("siglip2_so400m_16", "image", marks=pytest.mark.slow),
  ],
)
def test_names_and_shapes_are_the_published_ones(golden_path, name, half):
  published = tiny.published(golden_path / "keys" / f"{name}.txt", without=_OTHER_HALF[half])
  model = tiny.full_size(name if half == "image" else f"{name}_text")
  assert tiny.shapes(model) == published
  spec = model.spec
  assert {spec.top, spec.half} < set(model.stages)
  assert spec.licence == "Apache-2.0"
  if half == "image":
    assert spec.size == int(spec.source[-3:])
  else:
    assert (spec.length, spec.vocabulary) == (64, 256_000)


def test_texts_have_images_beside_them_and_both_one_file():
  for name, (spec, options) in VARIANTS.items():
    image = name.removesuffix("_text")
    assert image in models.names(IMAGE_ENCODER)
    other = models.models.parameters(image)["spec"].default
    assert (other.source, other.weights) == (spec.source, spec.weights)
    assert all(models.models.parameters(image)[option].default == value for option, value in options.items())
  assert "siglip2_b_16_frames" in models.names(VIDEO_ENCODER)


def test_a_whole_models_file_loads_and_so_does_the_text_half_alone():
  model = tiny.filled(_text(depth=1))
  arrays = to_torch(model)
  others = ("vision_model.head.probe", "logit_scale", "logit_bias", "text_model.embeddings.position_ids")
  alone = {key.removeprefix("text_model."): value for key, value in arrays.items()}
  for file in (arrays | {key: np.zeros(3) for key in others}, alone):
    other = _text(depth=1)
    load_torch(other, file)
    checks.assert_holds(other, arrays)
  checks.assert_misfits_are_named(model, "text_model.head.weight", unused="text_model.blocks.7.weight")


def test_gradients_stop_at_the_first_trained_stage(golden):
  titles = golden("text_siglip_tiny")["titles"]
  # The softmax removes what a key's bias adds to all scores of a query.
  checks.assert_gradients_stop(tiny.filled(_text()), titles, 2, least=1e-6, unreached=r"k_proj\.bias$")


def test_texts_longer_than_the_table_of_positions_are_refused():
  with pytest.raises(ValueError, match=r"titles of 9 tokens were given.*places for 8"):
    _text()(np.zeros((1, 2, 9), np.int32))
