"""What all text encoders have in common."""

import dataclasses
import re

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items import encoder
from mlrec.models.items.encoder import Encoder
from mlrec.models.layers.initializers import uniform

# Of the names in a published file where the encoder is a part of a whole model.
MODEL_PREFIX = re.compile(r"^(bert|roberta)\.")


@dataclasses.dataclass(frozen=True)
class Spec(encoder.Spec):
  """What a text encoder expects.

  Attributes:
    vocabulary: how many token ids there are.
    length: tokens of a title, specials included, that are read; 30 in MicroLens's released code.
  """

  vocabulary: int
  length: int = 30


class TextEncoder(Encoder):
  """Titles, `[B, 2, L]` int, token ids above the mask of those that are there (1, then 0), to vectors.

  What stands in the places that the mask leaves out has no effect, and neither has their number. A row whose mask is
  zero throughout is read as its first token alone.
  """

  spec: Spec
  projection_name = "pooler"

  def make_projection(self, dim: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer at PyTorch's own start, as MicroLens's code leaves it."""
    start = uniform(self.spec.features**-0.5)
    return nnx.Linear(self.spec.features, dim, kernel_init=start, bias_init=start, rngs=rngs)


def ids_and_mask(titles: Array) -> tuple[Array, Array]:
  """The token ids `[B, L]` of titles `[B, 2, L]`, and which are there, bool.

  Raises:
    ValueError: the titles have another shape.
  """
  if titles.ndim != 3 or titles.shape[1] != 2 or not titles.shape[2]:
    raise ValueError(f"titles of shape {titles.shape} were given; expected [B, 2, L], ids above their mask")
  return titles[:, 0], titles[:, 1] != 0


def seen(there: Array) -> Array:
  """Which tokens are seen, of those that are there, `[B, L]` bool: of a title without any its first place."""
  return there | (jnp.arange(there.shape[1]) == 0)
