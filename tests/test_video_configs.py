import pathlib

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import pytest

from mlrec import models
from mlrec.config import validate
from mlrec.models.registry import VIDEO_ENCODER
from support.tiny_runs import environment

_ROOT = pathlib.Path(__file__).parents[1]
_PUBLISHED = (
  "videomae_b", "mvit_b_16x4", "mvit_b_32x3", "slowfast_r50", "slowfast_r101", "slow_r50", "c2d_r50", "i3d_r50",
  "r2plus1d_r50", "r3d_r18", "csn_r101", "x3d_xs", "x3d_s", "x3d_m", "x3d_l",
)  # fmt: skip


def _config(head: str, argument: str):
  loaded = config_flags.config_flags._LoadConfigModule("config", str(_ROOT / "configs" / f"video_{head}.py"))
  return validate(loaded.get_config(argument))


@pytest.mark.parametrize("encoder", _PUBLISHED)
def test_every_published_encoder_has_its_settings_in_every_mode(encoder):
  batches = {mode: _config("sasrec", f"{encoder},{mode}").train.batch_size for mode in ("frozen", "top", "full")}
  assert batches["full"] < batches["frozen"] == batches["top"]
  assert all(size % 4 == 0 for size in batches.values())


def _planned(config):
  options = config.model.to_dict()
  name = options.pop("name")
  return nnx.eval_shape(lambda: models.create(name, num_items=30, max_length=10, rngs=nnx.Rngs(0), **options))


def _slow(*values):
  """Of a net that takes its seconds to plan at full size."""
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("encoder", ["vit_s", *map(_slow, ("hiera_b", "videoprism_b", "vivit_b", "vjepa2_l"))])
def test_encoders_beside_the_papers_can_be_fed_the_clips_of_its_config(encoder):
  config = _config("sasrec", f"{encoder},scratch")
  frames, size = config.model.item.frames, config.model.item.size
  assert f"-videos-{frames}x{size}" in config.data.videos
  clips = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.uint8)
  tower = _planned(config).items
  vectors = nnx.eval_shape(lambda tower, clips: tower(jnp.ones(1, int), {"frames": clips}), tower, clips)
  assert vectors.shape == (1, 512)


@pytest.mark.parametrize(
  ("encoder", "width"), [("slow_r50", 2048), _slow("slowfast_r50", 2304), _slow("mvit_b_16x4", 768)]
)
def test_vectors_before_the_classes_may_be_asked_for(encoder, width):
  config = _config("sasrec", f"{encoder},top")
  assert _planned(config).items.projection.in_features == 400
  config.model.item.options.feature = "pooled"
  assert _planned(config).items.projection.in_features == width


@pytest.mark.parametrize("head", ["sasrec", "gru4rec", "nextitnet"])
@pytest.mark.parametrize("mode", ["frozen", "top", "scratch"])
def test_every_head_plans_a_model_of_full_size(head, mode):
  config = _config(head, f"slow_r50,{mode}")
  model = _planned(config)
  assert model.users.__class__.__name__.lower() == head
  assert list(model.reads) == (["features"] if mode == "frozen" else ["frames"])
  assert config.loss.negative_groups == 4


def test_a_wrong_encoder_or_mode_is_named():
  with pytest.raises(ValueError, match=r"'slow_r5'.*'slow_r50'"):
    _config("sasrec", "slow_r5")
  with pytest.raises(ValueError, match=r"'topp'.*'top'"):
    _config("gru4rec", "slow_r50,topp")


def test_all_published_encoders_are_registered():
  assert set(_PUBLISHED) <= set(models.names(VIDEO_ENCODER))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--encoder=vit_s", "--weights=random"], "--videos is required"),
    (
      ["--videos=microlens/demo-videos-1x32", "--encoder=vit_z", "--weights=random"],
      "--encoder=vit_z: there is no such model",
    ),
    (["--videos=microlens/demo-videos-1x32", "--encoder=vit_s", "--weights=random", "--options=depth"], "'depth'"),
  ],
)
def test_features_refuses_what_it_cannot_make(arguments, message, forked, tmp_path):
  done = forked.run("mlrec.features", [f"--data_dir={tmp_path}", *arguments], cwd=_ROOT, env=environment())
  assert done.returncode == 2
  assert message in done.stderr
  assert "Traceback" not in done.stderr
