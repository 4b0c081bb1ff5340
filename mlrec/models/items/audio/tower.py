"""The audio tower: an item is what an audio encoder makes of its sound track."""

import dataclasses
import functools
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.content.base import Need
from mlrec.models.items.audio.encoder import Spec
from mlrec.models.items.encoded import EncodedTower
from mlrec.models.items.recipe import Recipe
from mlrec.models.registry import AUDIO_ENCODER
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import at_least


@dataclasses.dataclass(frozen=True)
class AudioRecipe(Recipe):
  """An audio encoder and its waveforms.

  Attributes:
    samples: of each; 0 for as many as the encoder is built for.
    rate: samples a second; the encoder's own.
  """

  kind = AUDIO_ENCODER
  content = "audio"

  samples: int = 0
  rate: int = 0

  def completed(self, spec: Spec) -> "AudioRecipe":
    return dataclasses.replace(self, samples=self.samples or spec.samples, rate=spec.rate)

  def need(self) -> Need:
    return Need((self.samples,), "int16")

  def reading(self) -> dict[str, Any]:
    return {"samples": self.samples, "rate": self.rate}

  def inputs(self, array: Array, padding: Array, spec: Spec) -> Array:
    """Waveforms `[B, S]` int16; the padding item's is silence."""
    del spec
    return jnp.where(padding[:, None], 0, array)


@models.register("audio", kind=ITEM_TOWER)
class AudioTower(EncodedTower):
  """A projection of an audio encoder's output, without an activation.

  MicroLens's released code has no audio tower; this one is made as its image tower is.
  """

  encodes = AUDIO_ENCODER
  net_name = ("audio_encoder", "audio_net")

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    encoder: str = "ast_b",
    samples: int = 0,
    rngs: nnx.Rngs,
    **shared: Any,
  ):
    """Builds the tower.

    Args:
      num_items: not used; waveforms say which item they are of.
      dim: width of item vectors.
      encoder: an audio encoder's name; its spectrogram is computed in float32.
      samples: of each item's waveform; 0 for as many as the encoder is built for.
      rngs: random streams.
      **shared: the other options of `EncodedTower`.

    Raises:
      ValueError: a name or a combination is not possible.
    """
    del num_items
    at_least(0, samples=samples)
    super().__init__(functools.partial(AudioRecipe, samples=samples), dim, encoder=encoder, rngs=rngs, **shared)
