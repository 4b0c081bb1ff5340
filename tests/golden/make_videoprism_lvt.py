"""Writes `videoprism_lvt_tiny.npz` and the lists of VideoPrism LvT's names, from Hugging Face's VideoPrismClipModel.

It needs PyTorch and transformers (made with 2.15.0 and 5.24.0); no test runs it. Weights are drawn from a seed, norms
away from their start, so that an error in one shows; queries and keys are large, so that the cap on scores acts.
"""

import pathlib

import names
import numpy as np
import torch
from transformers import VideoPrismClipModel
from transformers import VideoPrismConfig

_FOLDER = pathlib.Path(__file__).parent
_SHARED = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
_VISION = {
  "image_size": 12, "num_frames": 3, "tubelet_size": [1, 6, 6], "num_spatial_layers": 1, "num_temporal_layers": 1,
  "num_auxiliary_layers": 2,
}  # fmt: skip
_TEXT = {"vocab_size": 50, "num_hidden_layers": 2, "max_position_embeddings": 8}
_LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
_LENGTHS = (8, 1, 5)


def main() -> None:
  config = VideoPrismConfig(text_config=_SHARED | _TEXT, vision_config=_SHARED | _VISION)
  # Only this way of computing attention knows the cap.
  config._attn_implementation = "eager"
  model = VideoPrismClipModel(config).eval()
  generator = torch.Generator().manual_seed(1)
  mask = torch.arange(8) < torch.tensor(_LENGTHS)[:, None]
  ids = torch.randint(3, 50, mask.shape, generator=generator) * mask
  clips = torch.rand(2, 3, 3, 12, 12, generator=generator)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if "layernorm" in name or "per_dim" in name:
        parameter.uniform_(-0.4, 0.4, generator=generator)
      elif "position" in name or "pooling_attention_query" in name:
        parameter.normal_(0, 0.7, generator=generator)
      else:
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        gain = 4 if "q_proj" in name or "k_proj" in name else 1.5
        parameter.normal_(0, gain / fan**0.5, generator=generator)
    videos = model.get_video_features(pixel_values_videos=clips).pooler_output
    texts = model.get_text_features(input_ids=ids, attention_mask=mask.long()).pooler_output
  arrays = {"clips": clips.permute(0, 1, 3, 4, 2).numpy(), "videos": videos[:, 0].numpy(), "texts": texts.numpy()}
  arrays["titles"] = np.stack([ids.numpy(), mask.numpy()], 1).astype(np.int32)
  arrays |= {f"sd/{name}": value.numpy() for name, value in model.state_dict().items()}
  np.savez_compressed(_FOLDER / "videoprism_lvt_tiny.npz", **arrays)

  with torch.device("meta"):
    names.write("videoprism_lvt_b.txt", VideoPrismClipModel(VideoPrismConfig()).state_dict())
    vision = _LARGE | {"num_frames": 8, "num_spatial_layers": 24}
    large = VideoPrismConfig(text_config=_LARGE, vision_config=vision)
    names.write("videoprism_lvt_l.txt", VideoPrismClipModel(large).state_dict())


if __name__ == "__main__":
  main()
