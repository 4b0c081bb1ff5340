"""Small sound files for tests, made by PyAV, and files that are none."""

import pathlib
import wave

import av
import numpy as np

from support import clips


def tone(seconds: float, rate: int = 16_000, hz: float = 440.0, loudness: float = 0.5) -> np.ndarray:
  """`[seconds * rate]` int16."""
  time = np.arange(round(seconds * rate)) / rate
  return np.rint(32_767 * loudness * np.sin(2 * np.pi * hz * time)).astype(np.int16)


def write_wav(path, samples: np.ndarray, rate: int = 16_000) -> pathlib.Path:
  """Writes `samples [n]` or `[channels, n]`, int16."""
  channels = np.atleast_2d(samples)
  with wave.open(str(path), "wb") as file:
    file.setnchannels(len(channels))
    file.setsampwidth(2)
    file.setframerate(rate)
    file.writeframes(np.ascontiguousarray(channels.T).astype("<i2").tobytes())
  return pathlib.Path(path)


def write_coded(path, samples: np.ndarray, codec: str, rate: int, container: str | None = None) -> pathlib.Path:
  """Writes `samples [n]`, int16, mono, by FFmpeg's encoder of that name."""
  with av.open(str(path), "w", format=container) as out:
    stream = out.add_stream(codec, rate=rate, layout="mono")
    resampler = av.AudioResampler(
      format=stream.codec_context.codec.audio_formats[0], layout="mono", rate=rate,
      frame_size=stream.codec_context.frame_size or 1024,
    )  # fmt: skip
    frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
    frame.sample_rate, frame.pts = rate, 0
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
      out.mux(stream.encode(part))
    out.mux(stream.encode(None))
  return pathlib.Path(path)


def loudest_hz(samples: np.ndarray, rate: int = 16_000) -> float:
  """The frequency that is strongest."""
  return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def _truncated(path):
  path.write_bytes(clips.write_sound(path).read_bytes()[:-100])


def _truncated_wave(path):
  path.write_bytes(write_wav(path, tone(0.2)).read_bytes()[:-1000])


def _without_samples(path):
  write_wav(path, np.zeros(0, np.int16))


# What makes each, and the reason that is given.
BAD_SOUNDS = {
  "empty": (lambda path: path.write_bytes(b""), "empty file"),
  "zeros": (lambda path: path.write_bytes(bytes(5000)), "cannot be read as sound"),
  "text": (lambda path: path.write_text("<html>403 Forbidden</html>\n" * 30), "cannot be read as sound"),
  "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "cannot be read as sound"),
  "truncated": (_truncated, "truncated"),
  "truncated wave": (_truncated_wave, "truncated: its 'WAVE' runs to byte"),
  "pictures": (lambda path: clips.write_clip(path, clips.pictures(5)), "no sound track, only pictures"),
  "without samples": (_without_samples, "no sound of it can be decoded"),
  "a folder": (lambda path: path.mkdir(), "not a file"),
}
