"""Writes `text_siglip_tiny.npz` and the lists of SigLIP 2's names, from Hugging Face's SiglipModel.

It needs PyTorch and transformers (made with 2.15.0 and 5.24.0); no test runs it. The image half is SigLIP's, whose
arrays `make_images.py` writes. Weights are drawn from a seed, norms away from 1 and 0, so that an error in one shows.
"""

import pathlib

from make_images import drawn
from make_images import published
import names
import numpy as np
import torch
from transformers import SiglipConfig
from transformers import SiglipModel
from transformers import SiglipTextConfig
from transformers import SiglipTextModel

_FOLDER = pathlib.Path(__file__).parent
_TINY = {
  "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 50,
  "max_position_embeddings": 8, "projection_size": 32, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
_LENGTHS = (8, 1, 5)
# Width, layers, heads, channels of an MLP, and the images' size.
_FULL = {
  "siglip2_b_16": (768, 12, 12, 3072, 224), "siglip2_l_16": (1024, 24, 16, 4096, 256),
  "siglip2_so400m_16": (1152, 27, 16, 4304, 384),
}  # fmt: skip


def main() -> None:
  model = SiglipTextModel(SiglipTextConfig(**_TINY)).eval()
  mask = torch.arange(8) < torch.tensor(_LENGTHS)[:, None]
  ids = torch.randint(3, 50, mask.shape, generator=torch.Generator().manual_seed(2)) * mask
  with torch.no_grad():
    drawn(model)
    # All places are seen, those of padding too.
    arrays = {"output": model(input_ids=ids).pooler_output.numpy()}
  arrays["titles"] = np.stack([ids.numpy(), mask.numpy()], 1).astype(np.int32)
  prefix = "" if any(name.startswith("text_model.") for name in published(model)) else "text_model."
  arrays |= {f"sd/{prefix}{name}": value.numpy() for name, value in published(model).items()}
  np.savez_compressed(_FOLDER / "text_siglip_tiny.npz", **arrays)

  with torch.device("meta"):
    for file, (width, layers, heads, hidden, size) in _FULL.items():
      shared = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": hidden,
      }  # fmt: skip
      config = SiglipConfig(
        text_config=shared | {"vocab_size": 256_000, "projection_size": width},
        vision_config=shared | {"image_size": size, "patch_size": 16},
      )
      names.write(f"{file}.txt", published(SiglipModel(config)))


if __name__ == "__main__":
  main()
