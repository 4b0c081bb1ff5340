"""Image encoders over the frames of a clip, whose vectors are averaged, as PE-Core and SigLIP are used for videos."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from einops import rearrange
from flax import nnx
import jax
import jax.numpy as jnp

from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import options_of
from mlrec.registry import variant

# As many PE-Core averages (Bolya et al., arXiv 2504.13181).
_FRAMES = 8


class FrameMean(VideoEncoder):
  """The mean of the vectors that an image encoder gives a clip's frames, in the space of its images.

  Any number of frames will do, and any size that the image encoder takes. It has the image encoder's names and files.
  """

  torch_names = ((r"^image\.", ""),)

  def __init__(self, *, image: str, options: Mapping[str, Any] = {}, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    """Builds the net.

    Args:
      image: the image encoder's name.
      options: its options.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: an option is not possible.
    """
    with options_of("options"):
      self.image = models.create(image, kind=IMAGE_ENCODER, section=dict(options), dtype=dtype, rngs=rngs)
    own = self.image.spec
    self.stages = self.image.stages
    self.spec = Spec(
      frames=_FRAMES, interval=1, **{field.name: getattr(own, field.name) for field in dataclasses.fields(own)}
    )

  def stage(self, index: int, x: Any, context: Context) -> Any:
    """What stages hand on is `[B, T, ...]`; the last stage's result is float32 `[B, features]`."""
    if index == 0 and (x.ndim != 5 or 0 in x.shape):
      raise ValueError(f"expected clips [B, T, H, W, 3], not an array of shape {tuple(x.shape)}")
    frames = jax.tree.leaves(x)[0].shape[1]
    images = jax.tree.map(lambda leaf: rearrange(leaf, "b t ... -> (b t) ..."), x)
    made = self.image.stage(index, images, context)
    made = jax.tree.map(lambda leaf: rearrange(leaf, "(b t) ... -> b t ...", t=frames), made)
    return made.mean(1) if index == len(self.stages) - 1 else made

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries as the image encoder takes them."""
    return getattr(self.image, "torch_prepared", dict)(entries)


# Name: the image encoder of each frame.
VARIANTS: dict[str, str] = {
  "pe_core_t_16_frames": "pe_core_t_16",
  "pe_core_s_16_frames": "pe_core_s_16",
  "pe_core_b_16_frames": "pe_core_b_16",
  "pe_core_l_14_frames": "pe_core_l_14",
  "siglip2_b_16_frames": "siglip2_b_16",
}


for _name, _image in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(FrameMean, image=_image))
