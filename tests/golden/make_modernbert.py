"""Writes `text_modernbert_tiny.npz` and the lists of ModernBERT's names, from Hugging Face's ModernBertModel.

It needs PyTorch and transformers (made with 2.13.0 and 5.24.0); no test runs it. Weights are drawn from a seed, norms
away from 1, so that an error in one shows. Texts are longer than the window, so that it acts.
"""

import pathlib

import numpy as np
import torch
from transformers import ModernBertConfig
from transformers import ModernBertForMaskedLM
from transformers import ModernBertModel

_FOLDER = pathlib.Path(__file__).parent
_TINY = {
  "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 24, "vocab_size": 50,
  "local_attention": 4, "pad_token_id": 0, "max_position_embeddings": 16,
}  # fmt: skip
_LENGTHS = (9, 1, 6)
_LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 28, "intermediate_size": 2624}


def main() -> None:
  model = ModernBertModel(ModernBertConfig(**_TINY)).eval()
  generator = torch.Generator().manual_seed(1)
  mask = torch.arange(_LENGTHS[0]) < torch.tensor(_LENGTHS)[:, None]
  ids = torch.randint(5, 50, mask.shape, generator=generator) * mask
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if "norm" in name:
        parameter.uniform_(0.6, 1.4, generator=generator)
      else:
        gain = 4 if "Wqkv" in name else 1.5
        parameter.normal_(0, gain / parameter.shape[-1] ** 0.5, generator=generator)
    tokens = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
  arrays = {"titles": np.stack([ids.numpy(), mask.numpy()], 1).astype(np.int32), "cls": tokens[:, 0].numpy()}
  arrays["mean"] = ((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
  arrays |= {f"sd/{name}": value.numpy() for name, value in model.state_dict().items()}
  np.savez_compressed(_FOLDER / "text_modernbert_tiny.npz", **arrays)

  with torch.device("meta"):
    for file, options in (("modernbert_base", {}), ("modernbert_large", _LARGE)):
      model = ModernBertForMaskedLM(ModernBertConfig(**options))
      lines = [f"{name} {tuple(value.shape)}\n" for name, value in model.state_dict().items()]
      (_FOLDER / "keys" / f"{file}.txt").write_text("".join(lines))


if __name__ == "__main__":
  main()
