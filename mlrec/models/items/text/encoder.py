"""What all text encoders have in common."""

import dataclasses
import re
from typing import NamedTuple

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items import encoder
from mlrec.models.items.encoder import Encoder
from mlrec.models.items.encoder import of_unit_length
from mlrec.models.layers.initializers import uniform
from mlrec.registry import closest
from mlrec.registry import OptionError

# Of the names in a published file where the encoder is a part of a whole model.
MODEL_PREFIX = re.compile(r"^(bert|roberta)\.")

# The first token's vector, or the mean of those of all that are there.
FEATURES = ("cls", "mean")


class Tokens(NamedTuple):
  """What one stage hands to the next.

  Attributes:
    x: `[B, L, D]`.
    there: `[B, L]` bool. The first is seen all the same.
  """

  x: Array
  there: Array


@dataclasses.dataclass(frozen=True)
class Spec(encoder.Spec):
  """What a text encoder expects.

  Attributes:
    vocabulary: how many token ids there are.
    length: tokens of a title, specials included, that are read; 30 in MicroLens's released code.
    bare: whether the encoder itself puts the token that it reads, so that a tokenizer need not put any special one.
  """

  vocabulary: int
  length: int = 30
  bare: bool = False


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


def check_feature(feature: str) -> None:
  """Sees to it that `feature` is one of `FEATURES`.

  Raises:
    ValueError: it is not.
  """
  if feature not in FEATURES:
    raise OptionError("feature", f"= {feature!r}: {closest(feature, FEATURES)}")


def pooled(tokens: Tokens, feature: str, *, unit_length: bool = False) -> Array:
  """One vector of each title.

  Args:
    tokens: the last ones.
    feature: `cls` for the first token's, or `mean` for the mean of those of all that are there, 0 where none is.
    unit_length: whether it is divided by its length.

  Returns:
    float32 `[B, D]`.
  """
  if feature == "cls":
    y = tokens.x[:, 0].astype(jnp.float32)
  else:
    there = tokens.there[..., None]
    total = jnp.where(there, tokens.x, 0).sum(1, dtype=jnp.float32)
    y = total / jnp.maximum(there.sum(1), 1)
  return of_unit_length(y) if unit_length else y


def places(table: Array, length: int) -> Array:
  """The first `length` rows of a table of positions `[P, D]`.

  Raises:
    ValueError: it has fewer.
  """
  if length > len(table):
    raise ValueError(f"titles of {length} tokens were given; the table of positions has places for {len(table)}")
  return table[:length]
