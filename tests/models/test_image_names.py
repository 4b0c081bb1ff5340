import re

import numpy as np
import pytest

from support import encoder_checks as checks
from support import tiny_encoders as tiny


# Of the benchmark's own nets the whole encoder is listed, with its projection.
@pytest.mark.parametrize(
  ("name", "file", "parameters"),
  [
    ("clip_vit_b_32", "image-vit-b-32-clip", 87_849_728),
    ("vit_mae_b", "image-vit-base-mae", 86_192_384),
    ("swin_t", "image-swin-tiny", 27_913_082),
    ("swin_b", "swin_b", None),
    ("siglip_b_16", "siglip_b_16", None),
    ("resnet18", "image_resnet18", None),
    ("resnet50", "image_resnet50", None),
  ],
)
def test_names_and_shapes_are_the_published_ones(golden_path, name, file, parameters):
  model = tiny.full_size(name)
  wanted = tiny.published(golden_path / "keys" / f"{file}.txt")
  if parameters:
    learned = [shape for key, shape in wanted.items() if not key.endswith("relative_position_index")]
    assert sum(int(np.prod(shape)) for shape in learned) == parameters
    projection = wanted.pop(f"{model.projection_name}.weight")
    assert projection == (512, model.spec.features)
    assert wanted.pop(f"{model.projection_name}.bias") == (512,)
    wanted = {key.removeprefix("image_net."): shape for key, shape in wanted.items()}
  dropped = r"relative_position_index$|post_layernorm" if "clip" in name else ""
  dropped = dropped or r"relative_position_index$|^(classifier|fc)\."
  wanted = {key: shape for key, shape in wanted.items() if not re.search(dropped, key)}
  assert tiny.shapes(model) == wanted
  assert model.spec.size == 224
  assert model.spec.features == {"swin_b": 1024, "resnet18": 512, "resnet50": 2048}.get(name, 768)
  assert {model.spec.top, model.spec.half} < set(model.stages)


@pytest.mark.parametrize(
  ("name", "file", "top", "half"),
  [
    ("clip_vit_b_32", "image-vit-b-32-clip", 165, 101),
    ("vit_mae_b", "image-vit-base-mae", 164, 100),
    ("swin_t", "image-swin-tiny", 183, 78),
  ],
)
def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path, name, file, top, half):
  model = tiny.full_size(name)
  names = [key.removeprefix("image_net.") for key in tiny.published(golden_path / "keys" / f"{file}.params.txt")]
  names = [key for key in names if not re.match(r"(image_proj|classifier|vision_model\.post_layernorm)\.", key)]
  starts = checks.stage_starts(model.stages, names)
  assert (starts[model.spec.top], starts[model.spec.half]) == (top, half)
