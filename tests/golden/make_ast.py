"""Writes `audio_ast_tiny.npz`, `log_mel.npz` and the list of AST's names, from Hugging Face's ASTModel.

It needs PyTorch and transformers (made with 2.13.0 and 5.24.0), and no torchaudio, so that the library's own NumPy code
makes the spectrograms; no test runs it. Weights are drawn from a seed, norms away from 1 and 0, and kept under the
names of published files.
"""

import pathlib

import numpy as np
import torch
from transformers import ASTConfig
from transformers import ASTFeatureExtractor
from transformers import ASTForAudioClassification
from transformers import ASTModel
from transformers.core_model_loading import revert_weight_conversion

_FOLDER = pathlib.Path(__file__).parent
_RATE = 16_000
_TINY = {
  "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "max_length": 40,
  "num_mel_bins": 32, "num_labels": 3,
}  # fmt: skip


def _waveforms(samples: int, seed: int) -> np.ndarray:
  """`[2, samples]` int16: a loud chord beside faint noise, and a tone with an offset that fades into silence."""
  rng = np.random.default_rng(seed)
  time = np.arange(samples) / _RATE
  chord = sum(np.sin(2 * np.pi * hertz * time) for hertz in (110, 440, 3300)) / 4 + 0.003 * rng.normal(size=samples)
  fading = 0.1 + np.sin(2 * np.pi * 900 * time) * np.maximum(0, 0.5 - 5 * time)
  fading[samples // 2 :] = 0
  return np.round(32767 * np.stack([chord, fading])).clip(-32768, 32767).astype(np.int16)


def _drawn(model: torch.nn.Module) -> None:
  generator = torch.Generator().manual_seed(1)
  for name, value in model.named_parameters():
    if "norm" in name:
      low, high = (0.6, 1.4) if name.endswith("weight") else (-0.4, 0.4)
      value.uniform_(low, high, generator=generator)
    else:
      fan = value[0].numel() if value.ndim > 1 else 4
      value.normal_(0, 1.5 / fan**0.5, generator=generator)


def _published(model: torch.nn.Module) -> dict[str, torch.Tensor]:
  found = {}
  for name, value in model.state_dict().items():
    found |= revert_weight_conversion(model, {name: value})
  return found


def _spectrograms(waveforms: np.ndarray, frames: int, mels: int, **options) -> np.ndarray:
  extractor = ASTFeatureExtractor(max_length=frames, num_mel_bins=mels, **options)
  scaled = list(waveforms.astype(np.float32) / 32768)
  return np.stack(extractor(scaled, sampling_rate=_RATE)["input_values"]).astype(np.float32)


def main() -> None:
  waveforms = _waveforms(4000, 2)
  np.savez_compressed(
    _FOLDER / "log_mel.npz",
    waveforms=waveforms,
    # 23 windows, then rows of zeros.
    log_mel=_spectrograms(waveforms, 23, 128, do_normalize=False),
    filled=_spectrograms(waveforms, 30, 128),
    cut=_spectrograms(waveforms, 16, 128),
  )
  arrays = {}
  with torch.no_grad():
    model = ASTForAudioClassification(ASTConfig(**_TINY)).eval()
    _drawn(model)
    arrays |= {f"sd/{name}": value.numpy() for name, value in _published(model).items()}
    # Longer and shorter than the 40 rows.
    for case, samples in enumerate((7000, 4000)):
      waveforms = _waveforms(samples, 3 + case)
      values = torch.from_numpy(_spectrograms(waveforms, _TINY["max_length"], _TINY["num_mel_bins"]))
      arrays |= {
        f"input_{case}": waveforms,
        f"output_{case}": model.audio_spectrogram_transformer(values).pooler_output.numpy(),
      }
  np.savez_compressed(_FOLDER / "audio_ast_tiny.npz", **arrays)
  with torch.device("meta"):
    model = ASTModel(ASTConfig())
  lines = [f"{name} {tuple(value.shape)}\n" for name, value in _published(model).items()]
  (_FOLDER / "keys" / "ast_b.txt").write_text("".join(lines))


if __name__ == "__main__":
  main()
