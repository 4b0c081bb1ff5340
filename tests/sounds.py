"""Small sound files for tests, made by PyAV."""

import pathlib
import wave

import av
import numpy as np


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
