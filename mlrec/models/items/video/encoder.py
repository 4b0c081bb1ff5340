"""What all video encoders have in common."""

import dataclasses

from mlrec.models.items.encoder import Encoder
from mlrec.registry import closest

# What encoders with published classes give: their scores, or what those are computed from.
FEATURES = ("classes", "pooled")

# Statistics of the pixels, on a scale of 0 to 1, that published encoders were trained with.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KINETICS = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}


@dataclasses.dataclass(frozen=True)
class Spec:
  """What an encoder expects and where its weights come from.

  Attributes:
    frames: frames it is fed.
    interval: source frames from one to the next.
    size: their height and width in pixels.
    mean: of each colour, on a scale of 0 to 1; frames are fed as (pixel / 255 - mean) / std.
    std: likewise.
    features: the width of its output.
    weights: name of the published file.
    licence: of those weights.
    top: the first stage that is trained in the mode `top`.
    half: likewise where half of the encoder is trained, for encoders published so.
    source: where architecture and weights were published.
  """

  frames: int
  interval: int
  size: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  features: int
  weights: str
  licence: str
  top: str
  half: str | None = None
  source: str = ""


class VideoEncoder(Encoder):
  """Clips, `[B, T, H, W, 3]` float, normalised by `spec`, to vectors."""

  spec: Spec
  projection_name = "video_proj"

  @staticmethod
  def scores_classes(feature: str) -> bool:
    """Whether the output is scores of classes, by the option `feature`, one of `FEATURES`."""
    if feature not in FEATURES:
      raise ValueError(f"feature = {feature!r}: {closest(feature, FEATURES)}")
    return feature == "classes"
