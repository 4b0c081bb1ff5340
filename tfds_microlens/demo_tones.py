"""The sounds of the synthetic MicroLens: what each item shows, as a WAV file to be heard.

A sound is 3 s of notes, mono, 16 bits, 16,000 samples a second. Each attribute has a part of it: the colour is the
pitch (six notes of a whole-tone scale), the shape the timbre (which harmonics there are), the motion the melody
(rising, staying, falling, or to and fro), the speed the rhythm (3, 5 or 8 notes a second), the background what is heard
behind (nothing, a hum, ticks, or a hiss). What says nothing differs from item to item: loudness, a slight mistuning,
where the rhythm begins, and the noise.
"""

import os
import pathlib
import wave

import numpy as np

from tfds_microlens import audio
from tfds_microlens import demo

SECONDS = 3
_PITCHES = 220.0 * 2 ** (2 * np.arange(6) / 12)  # Hz
# Of each shape, the strengths of the harmonics from the first on.
_HARMONICS = (
  (1.0,),
  (1.0, 0.0, 0.5, 0.0, 0.3, 0.0, 0.2),
  (1.0, 0.6),
  (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2),
  (0.3, 1.0, 0.0, 0.7),
  (0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 0.6),
)
_NOTES_A_SECOND = (3, 5, 8)
_STEP = 2 ** (1 / 12)  # from a note of the melody to the next
_PERIOD = 4  # notes until the melody begins again


def write(made: demo.Demo, folder: str | os.PathLike[str]) -> pathlib.Path:
  """Writes `<item>.wav` for each item into `folder`."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for attributes, item in zip(made.attributes, made.items.tolist()):
    with wave.open(str(folder / f"{item}.wav"), "wb") as file:
      file.setnchannels(1)
      file.setsampwidth(2)
      file.setframerate(audio.RATE)
      file.writeframes(sound(attributes, item).astype("<i2").tobytes())
  return folder


def sound(attributes: np.ndarray, item: int) -> np.ndarray:
  """An item's sound.

  Args:
    attributes: `[5]`, an index into each of `demo.ATTRIBUTES`.
    item: its id, which alone decides what the attributes leave open.

  Returns:
    `[48000]` int16.
  """
  shape, colour, motion, speed, background = attributes.tolist()
  bits = np.random.PCG64(item)
  loudness, mistuning, begin = ((bits.random_raw(3) >> np.uint64(33)) / 2.0**31).tolist()
  time = np.arange(SECONDS * audio.RATE) / audio.RATE
  beat = time * _NOTES_A_SECOND[speed] + begin
  note = np.floor(beat).astype(np.int64)
  pitch = _PITCHES[colour] * 2 ** ((mistuning - 0.5) / 60) * _STEP ** _melody(motion, note)
  # Within a note: quickly up, and slowly away, so that neighbouring notes are distinct.
  within = beat - note
  envelope = np.minimum(within * 20, 1) * np.exp(-2.5 * within)
  phase = 2 * np.pi * np.cumsum(pitch) / audio.RATE
  strengths = np.array(_HARMONICS[shape])
  tone = sum(strength * np.sin(k * phase) for k, strength in enumerate(strengths, 1)) / np.sqrt((strengths**2).sum())
  mixed = 0.5 * envelope * tone + _behind(demo.ATTRIBUTES["background"][background], time, bits)
  return np.rint(mixed * (0.5 + 0.3 * loudness) * 32_767 * 0.6).clip(-32_768, 32_767).astype(np.int16)


def _melody(motion: int, note: np.ndarray) -> np.ndarray:
  """Half tones above the first note."""
  name = demo.ATTRIBUTES["motion"][motion]
  place = note % _PERIOD
  if name == "rising":
    return 2 * place
  if name == "falling":
    return -2 * place
  if name == "bouncing":
    return 5 * (note % 2)
  return 0 * note


def _behind(background: str, time: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
  if background == "striped":
    return 0.12 * np.sin(2 * np.pi * 60 * time)
  if background == "dotted":
    return 0.25 * (time % 0.25 < 0.004) * np.sin(2 * np.pi * 3000 * time)
  if background == "checked":
    return 0.08 * ((bits.random_raw(len(time)) >> np.uint64(33)) / 2.0**30 - 1)
  return np.zeros_like(time)
