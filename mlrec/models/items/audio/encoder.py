"""What all audio encoders have in common."""

import dataclasses

from mlrec.models.items.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Spec:
  """What an encoder expects and where its weights come from.

  Attributes:
    rate: samples a second.
    samples: how many it is fed.
    features: the width of its output.
    weights: name of the published file.
    licence: of those weights.
    top: the first stage that is trained in the mode `top`.
    half: likewise where half of the encoder is trained.
    source: where architecture and weights were published.
  """

  rate: int
  samples: int
  features: int
  weights: str
  licence: str
  top: str
  half: str | None = None
  source: str = ""


class AudioEncoder(Encoder):
  """Mono waveforms, `[B, S]` int16 (or float on a scale of -1 to 1), at the rate of `spec`, to vectors.

  MicroLens's code has no audio encoder; names and starts of what follows are those of its image encoders.
  """

  spec: Spec
  projection_name = "audio_proj"
