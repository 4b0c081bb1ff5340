"""Log-mel filter banks of waveforms, as Kaldi computes them."""

import functools

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

# A window's and a hop's share of a second.
_WINDOW, _HOP = 0.025, 0.010
_PRE_EMPHASIS = 0.97
_LOWEST = 20.0
# The least energy that is told from none: float32's distance from 1 to the next number.
_FLOOR = float(np.finfo(np.float32).eps)


def log_mel(waveforms: Array, *, rate: int = 16_000, mels: int = 128) -> Array:
  """Logarithms of the energy in bands of equal width on the mel scale, each hundredth of a second.

  Each window of 25 ms has its mean taken off, is pre-emphasised by 0.97 and weighed by a Hann window; its power
  spectrum is summed under triangles on the mel scale from 20 Hz to half the rate (Kaldi's `compute-fbank-feats`;
  `torchaudio.compliance.kaldi.fbank`). All of that but the power is linear, hence one product with a matrix.

  Args:
    waveforms: `[B, S]`, mono: int16, or float on a scale of -1 to 1. Only whole windows are read.
    rate: samples a second.
    mels: the number of bands.

  Returns:
    float32 `[B, T, mels]`, T = 1 + (S - window) // hop; silence is log(2 ** -23).

  Raises:
    ValueError: `waveforms` have another shape or dtype, or there is no band or sample.
  """
  if waveforms.ndim != 2 or not (waveforms.dtype == jnp.int16 or jnp.issubdtype(waveforms.dtype, jnp.floating)):
    raise ValueError(
      f"expected waveforms [B, S] of int16 or float, not an array of shape {waveforms.shape} and {waveforms.dtype}"
    )
  if mels < 1 or rate < 100:
    raise ValueError(f"mels = {mels} must be at least 1, and rate = {rate} at least 100 Hz")
  window, hop = frame_sizes(rate)
  exact = waveforms.astype(jnp.float32)
  if waveforms.dtype == jnp.int16:
    exact = exact / 32768
  number = num_frames(waveforms.shape[1], rate)
  frames = exact[:, np.arange(number)[:, None] * hop + np.arange(window)]
  highest = jax.lax.Precision.HIGHEST
  parts = jnp.einsum("bts,spf->btpf", frames, _spectrum(window), precision=highest)
  energy = jnp.einsum("btpf,fm->btm", jnp.square(parts), _bands(rate, _length(window), mels), precision=highest)
  return jnp.log(jnp.maximum(energy, _FLOOR))


def frame_sizes(rate: int) -> tuple[int, int]:
  """Samples of a window, and from one window to the next, at `rate` a second."""
  return int(rate * _WINDOW), int(rate * _HOP)


def num_frames(samples: int, rate: int) -> int:
  """How many whole windows are in so many samples."""
  window, hop = frame_sizes(rate)
  return 0 if samples < window else 1 + (samples - window) // hop


def _length(window: int) -> int:
  """The samples that a window is filled up to: a power of two."""
  return 1 << (window - 1).bit_length()


@functools.lru_cache(maxsize=8)
def _spectrum(window: int) -> np.ndarray:
  """`[window, 2, F]`: what makes real and imaginary parts of frequencies of a window's samples."""
  samples = np.eye(window) - 1 / window
  before = np.concatenate([samples[:, :1], samples[:, :-1]], axis=1)
  shaped = (samples - _PRE_EMPHASIS * before) * np.hanning(window)
  spectrum = np.fft.rfft(shaped, _length(window))
  return np.stack([spectrum.real, spectrum.imag], axis=1).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _bands(rate: int, length: int, mels: int) -> np.ndarray:
  """`[F, mels]`: how much of each frequency's power is in a band."""

  def mel(hertz: np.ndarray | float) -> np.ndarray:
    return 1127 * np.log1p(np.asarray(hertz) / 700)

  corners = np.linspace(mel(_LOWEST), mel(rate / 2), mels + 2)
  place = mel(np.arange(length // 2 + 1) * rate / length)[:, None]
  left, centre, right = corners[:-2], corners[1:-1], corners[2:]
  rising, falling = (place - left) / (centre - left), (right - place) / (right - centre)
  return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
