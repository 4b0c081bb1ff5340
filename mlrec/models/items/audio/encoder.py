"""What all audio encoders have in common."""

import dataclasses

from mlrec.models.items import encoder
from mlrec.models.items.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Spec(encoder.Spec):
  """What an audio encoder expects.

  Attributes:
    rate: samples a second.
    samples: how many it is fed.
  """

  rate: int
  samples: int


class AudioEncoder(Encoder):
  """Mono waveforms, `[B, S]` int16 (or float on a scale of -1 to 1), at the rate of `spec`, to vectors.

  MicroLens's code has no audio encoder; names and starts of what follows are those of its image encoders.
  """

  spec: Spec
  projection_name = "audio_proj"
