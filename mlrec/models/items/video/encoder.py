"""What all video encoders have in common."""

import dataclasses

from mlrec.models.items import encoder
from mlrec.models.items.encoder import Encoder
from mlrec.registry import closest
from mlrec.registry import OptionError

# What encoders with published classes give: their scores, or what those are computed from.
FEATURES = ("classes", "pooled")

# Statistics of the pixels, on a scale of 0 to 1, that published encoders were trained with.
KINETICS = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}


@dataclasses.dataclass(frozen=True)
class Spec(encoder.Spec):
  """What a video encoder expects.

  Attributes:
    frames: frames it is fed.
    interval: source frames from one to the next.
    size: their height and width in pixels.
    mean: of each colour, on a scale of 0 to 1; frames are fed as (pixel / 255 - mean) / std.
    std: likewise.
  """

  frames: int
  interval: int
  size: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


class VideoEncoder(Encoder):
  """Clips, `[B, T, H, W, 3]` float, normalised by `spec`, to vectors."""

  spec: Spec
  projection_name = "video_proj"

  @staticmethod
  def scores_classes(feature: str) -> bool:
    """Whether the output is scores of classes, by the option `feature`, one of `FEATURES`."""
    if feature not in FEATURES:
      raise OptionError("feature", f"= {feature!r}: {closest(feature, FEATURES)}")
    return feature == "classes"
