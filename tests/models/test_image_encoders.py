import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.image.swin import _adjacent
from mlrec.models.items.image.swin import _ways
from mlrec.models.layers.context import Context
from mlrec.models.layers.patches import grid_sinusoids
from mlrec.models.layers.patches import resized
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny


@pytest.mark.parametrize(
  ("name", "file", "output", "cases"),
  [
    ("clip_vit_b_32", "clip", "output", 2),
    ("vit_mae_b", "vit_mae", "output", 1),
    ("swin_t", "swin", "output", 2),
    ("siglip_b_16", "siglip", "pooled", 2),
    ("siglip_b_16", "siglip", "mean", 1),
    ("resnet18", "resnet_basic", "output", 1),
    ("resnet50", "resnet_bottleneck", "output", 1),
  ],
)
def test_golden_output(golden, name, file, output, cases):
  arrays = golden(f"image_{file}_tiny")
  model = tiny.golden(tiny.built(name, **({"feature": output} if name == "siglip_b_16" else {})), arrays)
  for case in range(cases):
    tiny.assert_near(tiny.run(model, arrays[f"input_{case}"]), arrays[f"{output}_{case}"], 1e-5)


def test_golden_output_of_masked_patches(golden):
  arrays = golden("image_vit_mae_tiny")
  model = tiny.golden(tiny.built("vit_mae_b", reference=True), arrays)
  model.noise = lambda tokens, context: jnp.asarray(arrays["noise_0"])
  tiny.assert_near(tiny.run(model, arrays["input_0"]), arrays["masked_0"], 1e-5)


@pytest.mark.parametrize(
  ("name", "prefix", "others"),
  [
    (
      "clip_vit_b_32", "vision_model.",
      ("text_model.encoder.layers.0.mlp.fc1.weight", "text_projection.weight", "visual_projection.weight",
       "logit_scale", "vision_model.post_layernorm.bias", "vision_model.embeddings.position_ids"),
    ),
    ("siglip_b_16", "vision_model.", ("text_model.head.weight", "logit_scale", "logit_bias")),
    ("vit_mae_b", "", ("decoder.mask_token", "decoder.decoder_layers.0.output.dense.bias")),
    (
      "swin_t", "swin.",
      ("classifier.weight", "classifier.bias",
       "swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"),
    ),
    ("resnet18", "", ("fc.weight", "fc.bias", "bn1.num_batches_tracked", "layer1.0.bn1.num_batches_tracked")),
  ],
)  # fmt: skip
def test_a_whole_models_file_loads_and_so_does_the_encoders_alone(name, prefix, others):
  model = tiny.drawn(name)
  arrays = to_torch(model)
  whole = {(f"vit.{key}" if name == "vit_mae_b" else key): value for key, value in arrays.items()}
  alone = {key.removeprefix(prefix): value for key, value in arrays.items()}
  for file in (whole | {key: np.zeros(3) for key in others}, alone):
    other = tiny.built(name)
    load_torch(other, file)
    checks.assert_holds(other, arrays)


def test_siglip_without_its_pool_takes_a_file_with_one():
  arrays = to_torch(tiny.drawn("siglip_b_16"))
  model = tiny.built("siglip_b_16", feature="mean")
  load_torch(model, arrays)
  assert not any(".head." in key for key in to_torch(model))
  assert model.stages[-1] == "vision_model.post_layernorm"


def test_positions_of_vit_mae_start_as_published_and_are_not_trained():
  options = tiny.TINY["vit_mae_b"] | {"depth": 1}
  model = tiny.fresh(lambda: models.create("vit_mae_b", rngs=nnx.Rngs(0), **options))
  table = to_torch(model)["embeddings.position_embeddings"]
  assert table.shape == (1, 17, 32)
  np.testing.assert_array_equal(table[0, 0], 0)
  # Place (row 1, column 2): columns come first.
  frequencies = 10000.0 ** -(np.arange(8) / 8)
  wanted = [np.sin(2 * frequencies), np.cos(2 * frequencies), np.sin(frequencies), np.cos(frequencies)]
  np.testing.assert_allclose(table[0, 1 + 4 + 2], np.concatenate(wanted), atol=1e-6)
  assert not any("positions" in path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)))


def test_masked_patches_differ_from_image_to_image_and_draw_to_draw_and_are_fixed_in_evaluation():
  model = tiny.drawn("vit_mae_b", mask_ratio=0.75)
  tokens = jnp.broadcast_to(jnp.arange(17.0)[:, None], (8, 17, 32))

  def read(seed):
    context = Context() if seed is None else Context(True, nnx.Rngs(dropout=seed))
    return np.asarray(model.masked(tokens, model.noise(tokens, context)))[:, :, 0]

  evaluated, trained, again = read(None), read(1), read(2)
  for rows in (evaluated, trained, again):
    assert rows.shape == (8, 5)
    np.testing.assert_array_equal(rows[:, 0], 0)
    assert all(len(set(row)) == 5 for row in rows)
    assert len({tuple(row) for row in rows}) > 4
  assert (trained != again).any()
  np.testing.assert_array_equal(evaluated, read(None))


def test_windows_of_a_rolled_image_keep_what_is_not_adjacent_apart():
  # Rows 0 to 7, rolled by 2: the lower windows hold rows 6, 7 and then 0, 1.
  adjacent = _adjacent(8, 8, 4, 2)
  assert adjacent.shape == (4, 16, 16)
  assert adjacent[0].all()
  lower_left = adjacent[2].reshape(4, 4, 4, 4)
  assert lower_left[1, 0, 0, 3]
  assert not lower_left[1, 0, 2, 0]
  assert not lower_left[3, 2, 1, 2]


def test_swin_sees_across_windows_only_where_it_rolls():
  model = tiny.drawn("swin_t", depths=(1,), heads=(2,))
  block = model.layers[0].blocks[0]

  @functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
  def run(graphdef, state, x):
    return nnx.merge(graphdef, state)(x, Context())

  def reached(shift):
    block.shift = shift
    grid = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    changed = grid.copy()
    changed[0, 3, 3, 0] += 1
    before, after = (np.asarray(run(*nnx.split(block), x)) for x in (grid, changed))
    return np.argwhere(np.abs(before - after).max(-1)[0] > 1e-6)

  np.testing.assert_array_equal(reached(0).max(0), [3, 3])
  assert reached(2).min(0).tolist() == [2, 2]
  assert reached(2).max(0).tolist() == [5, 5]


def test_a_grid_smaller_than_a_window_is_one_window_with_the_biases_of_its_ways():
  model = tiny.built("swin_t")
  assert nnx.eval_shape(lambda: model(jnp.zeros((2, 6, 6, 3)))).shape == (2, 16)
  # From place (0, 0) to (1, 1), and back.
  assert _ways(2, 4)[0, 3] == _ways(4, 4)[0, 5]
  assert _ways(2, 4)[3, 0] == _ways(4, 4)[5, 0]


def test_later_blocks_of_swin_are_skipped_more_often():
  model = tiny.built("swin_t", drop_path=0.3)
  rates = [block.drop_path.rate for stage in model.layers for block in stage.blocks]
  np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["clip_vit_b_32", "vit_image_s"])
def test_the_order_of_rows_and_columns_acts(name):
  model, images = tiny.drawn(name), tiny.content(name)
  output = tiny.run(model, images)
  for axis in (1, 2):
    shape = (*images.shape[:axis], -1, 4, *images.shape[axis + 1 :])
    swapped = jnp.flip(images.reshape(shape), axis).reshape(images.shape)
    assert np.abs(tiny.run(model, swapped) - output).max() > 1e-4


def test_fixed_positions_fit_any_image():
  model = tiny.drawn("vit_image_s", positions="sinusoid")
  assert tiny.run(model, jnp.zeros((1, 8, 20, 3))).shape == (1, 32)
  assert grid_sinusoids(2, 5, 32).shape == (10, 32)


def test_a_cubic_table_keeps_its_middle_when_it_grows_threefold():
  table = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  grown = np.asarray(resized(table, (5,), (15,), cubic=True))
  np.testing.assert_allclose(grown[1::3], table, rtol=1e-5)
  constant = np.asarray(resized(np.ones((5, 1), np.float32), (5,), (7,), cubic=True))
  np.testing.assert_allclose(constant, 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 16, 16), (2, 16, 18, 3), (2, 16, 16, 1), (2, 0, 16, 3), (2, 1, 16, 16, 3)])
@pytest.mark.parametrize("name", ["clip_vit_b_32", "swin_t", "resnet18"])
def test_what_is_no_image_is_refused(name, shape):
  if shape[2:3] == (18,) and name != "clip_vit_b_32":
    shape = (2, 16, 16, 4)
  with pytest.raises(ValueError, match=r"\[B, H, W, 3\].*" + re.escape(str(shape))):
    tiny.built(name)(jnp.zeros(shape))


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("clip_vit_b_32", {"depth": 0}, "depth = 0"),
    ("clip_vit_b_32", {"size": 18}, "size = 18.*patch = 4.*nearest is 16"),
    ("siglip_b_16", {"feature": "poled"}, "feature = 'poled'.*'pooled'"),
    ("vit_mae_b", {"dim": 30}, "dim = 30.*nearest is 32"),
    ("vit_mae_b", {"mask_ratio": 1.0}, "mask_ratio = 1.0"),
    ("vit_mae_b", {"mask_ratio": 0.5, "reference": True}, "reference = True.*0.75.*0.5"),
    ("swin_t", {"heads": (2,)}, "depths = .*heads = "),
    ("swin_t", {"heads": (3, 4)}, "heads has 3: channels 8.*heads = 3"),
    ("swin_t", {"drop_path": 1.0}, "drop_path = 1.0 must be at least 0 and below 1"),
    ("resnet18", {"depths": (1, 1, 1)}, "depths"),
    ("vit_image_s", {"positions": "learnt"}, "positions = 'learnt'.*'learned'"),
    ("swin_t", {"windows": 3}, "windows = 3: 'swin_t' has no such option; did you mean 'window'"),
  ],
)
def test_impossible_options_are_named(name, options, message):
  with pytest.raises(OptionError, match=message):
    tiny.built(name, **options)
