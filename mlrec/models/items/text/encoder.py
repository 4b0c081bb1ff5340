"""What all text encoders have in common."""

import dataclasses

from flax import nnx

from mlrec.models.items.encoder import Encoder
from mlrec.models.layers.initializers import uniform


@dataclasses.dataclass(frozen=True)
class Spec:
  """What an encoder expects and where its weights come from.

  Attributes:
    vocabulary: how many token ids there are.
    features: the width of its output.
    weights: name of the published file.
    licence: of those weights.
    top: the first stage that is trained in the mode `top`.
    half: likewise where half of the encoder is trained.
    length: tokens of a title, specials included, that are read; 30 in MicroLens's released code.
    source: where architecture and weights were published.
  """

  vocabulary: int
  features: int
  weights: str
  licence: str
  top: str
  half: str | None = None
  length: int = 30
  source: str = ""


class TextEncoder(Encoder):
  """Titles, `[B, 2, L]` int, token ids above the mask of those that are there (1, then 0), to vectors.

  What stands in the places that the mask leaves out has no effect, and neither has their number. A row whose mask is
  zero throughout is read as its first token alone.
  """

  spec: Spec
  projection_name = "pooler"

  def projection(self, dim: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer at PyTorch's own start, as MicroLens's code leaves it."""
    start = uniform(self.spec.features**-0.5)
    return nnx.Linear(self.spec.features, dim, kernel_init=start, bias_init=start, rngs=rngs)
