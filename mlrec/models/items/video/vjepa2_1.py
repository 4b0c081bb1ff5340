"""V-JEPA 2.1's encoder (Mur-Labadia et al., arXiv 2603.14482), as Meta publishes it.

Its files hold several nets: `python -m mlrec.convert FILE.pt --key=KEY --to=OUT.safetensors` takes out the encoder,
with the key `ema_encoder` for the sizes `b` and `l`, which were distilled, and `target_encoder` for the two others.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any
from typing import NamedTuple

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.encoder import IMAGENET
from mlrec.models.items.open_clip import Table
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.joint_attention import JointBlock
from mlrec.models.layers.patches import PatchEmbedding
from mlrec.models.layers.rotary import angles
from mlrec.models.layers.rotary import NEIGHBOURS
from mlrec.models.layers.rotary import turned
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-6
_BASE = 10_000.0
# Four blocks have a norm of their own; the last one's is that of the output.
_LEVELS = 4
_BEFORE = ("patch_embed", "patch_embed_img", "img_mod_embed", "video_mod_embed")


class Video(NamedTuple):
  """What becomes of a clip: pixels, then tokens `[B, T, H, W, D]`."""

  x: Array


class Image(NamedTuple):
  """Likewise of a clip of one frame, for which there are patches of their own."""

  x: Array


class VJEPA21(VideoEncoder):
  """V-JEPA 2 with tokens that know whether they are of a video or of an image, and places that fit the picture.

  Queries and keys are turned by their place in time, height and width; rows and columns are stretched over the grid of
  the pre-training, whatever the picture's size. The output is the mean of all tokens after the last norm. Any number of
  frames and any multiples of the patch will do; one frame is an image, and frames beyond the last whole window are not
  read. The predictor of the pre-training and the norms of its other levels are not used.
  """

  torch_names = (
    (r"^patches\.", "patch_embed.proj."),
    (r"^image_patches\.", "patch_embed_img.proj."),
    (r"^of_(video|image)\.values$", lambda match: f"{'img' if match[1] == 'image' else 'video'}_mod_embed"),
    (r"^norm\.", f"norms_block.{_LEVELS - 1}."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.mlp_norm\.", ".norm2."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
  )
  torch_dropped = (rf"^norms_block\.[0-{_LEVELS - 2}]\.",)

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    patch: int = 16,
    tubelet: int = 2,
    grid: int = 16,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for what the other options say.
      dim: channels.
      depth: blocks; in the mode `top` the last two are trained, and the norm.
      heads: of the attention; each has an even number of channels, at least 6: two for an axis.
      hidden: channels within the MLPs.
      patch: height and width of a patch.
      tubelet: its frames in a video.
      grid: rows and columns of the pre-training's grid, over which those of a picture are stretched.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` and `heads` do not fit, or a number is out of range.
    """
    at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, patch=patch, grid=grid)
    at_least(2, tubelet=tubelet)
    if dim % (2 * heads) or dim < 6 * heads:
      raise OptionError(
        "dim",
        f"= {dim} must give each of heads = {heads} the same even number of channels, and 6 or more: "
        f"the nearest is {2 * heads * max(3, round(dim / (2 * heads)))}",
      )
    self.spec = dataclasses.replace(
      spec, features=dim, top=f"blocks.{max(depth - 2, 0)}", half=f"blocks.{depth // 2}"
    )  # fmt: skip
    self.stages = (*_BEFORE, *(f"blocks.{n}" for n in range(depth)), "norms_block")
    self.grid = grid
    start = nnx.initializers.normal(1e-6)
    self.patches = PatchEmbedding(dim, tubelet, patch, dtype=dtype, rngs=rngs)
    self.image_patches = PatchEmbedding(dim, 1, patch, dtype=dtype, rngs=rngs)
    self.of_image = Table(start(rngs.params(), (1, 1, dim)))
    self.of_video = Table(start(rngs.params(), (1, 1, dim)))
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(JointBlock(dim, heads, hidden, epsilon=_EPSILON, dtype=dtype, rngs=rngs))
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)

  def stage(self, index: int, x: Any, context: Context) -> Any:
    """Hands on a `Video` or an `Image`; the last stage's result is float32 `[B, D]`."""
    del context  # Nothing here acts otherwise in training.
    name = self.stages[index]
    if name == "patch_embed":
      return Image(x) if x.ndim == 5 and x.shape[1] == 1 else Video(self.patches(x))
    if name == "patch_embed_img":
      return Image(self.image_patches(x.x)) if isinstance(x, Image) else x
    if name == "img_mod_embed":
      return Image(_marked(x.x, self.of_image)) if isinstance(x, Image) else x
    if name == "video_mod_embed":
      return Video(_marked(x.x, self.of_video)) if isinstance(x, Video) else x
    if name == "norms_block":
      return self.norm(x.x).mean((1, 2, 3), dtype=jnp.float32)
    return x._replace(x=self._block(self.blocks[index - len(_BEFORE)], x.x))

  def _block(self, block: JointBlock, x: Array) -> Array:
    _, time, height, width, dim = x.shape
    by = turns((time, height, width), dim // block.attention.heads, self.grid)
    tokens = rearrange(x, "b t h w d -> b (t h w) d")
    tokens = block(tokens, turn=functools.partial(turned, angles=by, pairs=NEIGHBOURS))
    return rearrange(tokens, "b (t h w) d -> b t h w d", t=time, h=height, w=width)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries without the names of what wrapped the encoder in its training."""
    return {name.replace("module.", "").replace("backbone.", ""): array for name, array in entries.items()}


def _marked(x: Array, sort: Table) -> Array:
  return x + sort()[0, 0].astype(x.dtype)


@functools.lru_cache(maxsize=32)
def turns(shape: tuple[int, int, int], channels: int, grid: int) -> np.ndarray:
  """Radians `[T H W, P]` by which each token turns its pairs of channels.

  A third of the channels, rounded down to an even number, is for each of time, height and width; what remains is not
  turned. Rows, and columns, lie evenly between 0 and `grid` - 1; a single one lies at 0.
  """
  third = channels // 3 // 2
  places = rearrange(np.indices(shape).astype(np.float64), "tyx t h w -> tyx (t h w)")
  for axis in (1, 2):
    places[axis] *= (grid - 1) / max(shape[axis] - 1, 1)
  return np.concatenate([angles(axis, third, _BASE) for axis in places], axis=1)


def _spec(name: str) -> Spec:
  """Without what the options say: the net fills it in. Frames are as many, and as far apart, as those of V-JEPA 2."""
  return Spec(
    frames=64, interval=8, size=384, mean=IMAGENET["mean"], std=IMAGENET["std"], features=0, weights=f"{name}.pt",
    licence="MIT", top="", source="facebookresearch/vjepa2",
  )  # fmt: skip


# Name: specification and options.
VARIANTS: dict[str, tuple[Spec, dict[str, Any]]] = {
  "vjepa2_1_b": (_spec("vjepa2_1_vitb_dist_vitG_384"), {}),
  "vjepa2_1_l": (
    _spec("vjepa2_1_vitl_dist_vitG_384"), {"dim": 1024, "depth": 24, "heads": 16, "hidden": 4096},
  ),
  "vjepa2_1_giant": (
    _spec("vjepa2_1_vitg_384"), {"dim": 1408, "depth": 40, "heads": 22, "hidden": 6144},
  ),
  "vjepa2_1_gigantic": (
    _spec("vjepa2_1_vitG_384"), {"dim": 1664, "depth": 48, "heads": 26, "hidden": 8192},
  ),
}  # fmt: skip


for _name, (_published, _options) in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(VJEPA21, spec=_published, **_options))
