"""Writes `text_bert_tiny.npz`, `text_tokens.json` and lists of names, from Hugging Face's BERT, RoBERTa and tokenizers.

It needs PyTorch and transformers (made with 2.13.0 and 5.24.0); no test runs it. Weights are drawn from a seed, norms
away from 1 and 0, so that an error in one shows. Word pieces are those of the older tokenizer, which is all Python.
"""

import json
import pathlib
import string
import tempfile

import numpy as np
import torch
from transformers import BertConfig
from transformers import BertModel
from transformers import RobertaConfig
from transformers import RobertaModel
from transformers import RobertaTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

_FOLDER = pathlib.Path(__file__).parent
_TINY = {
  "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 50,
}  # fmt: skip
_ROBERTA = {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
_LENGTHS = (9, 1, 4)

_LETTERS = string.ascii_lowercase + string.digits
_VOCABULARY = [
  "[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS, *(f"##{letter}" for letter in _LETTERS),
  *"#,.!?'\"-_()你好世界日本語한글😀",
  "hello", "world", "play", "##ing", "##ed", "cafe", "naive", "hell", "wor", "##ld",
]  # fmt: skip
_KNOWN = {*range(32, 127), *"é你😀".encode()}
_BYTES = [*map(chr, range(ord("!"), ord("~") + 1)), "Ġ", "ä", "½", "ł", "å", "¥", "ð", "Ł", "ĺ", "Ģ", "Ã", "©"]
_MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "Ġ hello", "Ã ©", "ä ½"]
_TEXTS = [
  "", " ", "\t\r\n ", "hello", "Hello WORLD", "playing played plays", "café CAFÉ cafe\u0301", "naïve", "你好世界",
  "你好hello世界", "日本語テキスト 한글", "😀", "😀hello😀 👨\u200d👩\u200d👧", "\x00hello\x01 wor\x7fld",
  "\u200bhello\u200d", "\ufeffhello\ufffd", "hello\u00a0world\u3000play", "##ing", "[SEP] hello [MASK] [CLS]",
  "hello,world!#play", "İstanbul ıI", "ﬁ Ⅷ ½", "ÀÉÎÕÜ ñ ß ẞ Σς",
  "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3", "'\"-_()?.!,", "   hello   world   ",
  "#hello#world # play", "e\u0301\u0302\u0303", "\u202ehello", "مرحبا hello",
]  # fmt: skip
# Long ones, and how often each is repeated.
_REPEATED = [("x", 100), ("x", 101), ("hello", 60), ("hello ", 2000), ("é", 10_000), ("😀", 10_000)]
_LENGTH = 30


def _drawn(model: torch.nn.Module, generator: torch.Generator) -> None:
  for name, parameter in model.named_parameters():
    if "LayerNorm" in name:
      low, high = (0.6, 1.4) if name.endswith("weight") else (-0.4, 0.4)
      parameter.uniform_(low, high, generator=generator)
    else:
      parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)


def _outputs() -> dict[str, np.ndarray]:
  arrays = {}
  generator = torch.Generator().manual_seed(2)
  mask = torch.arange(_LENGTHS[0]) < torch.tensor(_LENGTHS)[:, None]
  ids = torch.randint(5, 50, mask.shape, generator=generator) * mask
  with torch.no_grad():
    for name, model in (
      ("bert", BertModel(BertConfig(**_TINY, max_position_embeddings=12))),
      ("roberta", RobertaModel(RobertaConfig(**_TINY, **_ROBERTA, max_position_embeddings=14))),
    ):
      model.eval()
      _drawn(model, torch.Generator().manual_seed(1))
      # RoBERTa tells padding by its id, too.
      given = torch.where(mask, ids, model.config.pad_token_id)
      tokens = model(input_ids=given, attention_mask=mask.long()).last_hidden_state
      arrays[f"{name}/cls"] = tokens[:, 0].numpy()
      arrays[f"{name}/mean"] = ((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
      arrays |= {f"{name}/sd/{key}": value.numpy() for key, value in model.state_dict().items()}
  return arrays | {"titles": np.stack([ids.numpy(), mask.numpy()], 1).astype(np.int32)}


def _tokens() -> dict:
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in _VOCABULARY), encoding="utf-8")
    found: dict = {"length": _LENGTH, "texts": _TEXTS, "repeated": _REPEATED}
    found |= {"word_pieces": _VOCABULARY, "merges": _MERGES}
    texts = _TEXTS + [text * times for text, times in _REPEATED]
    for key, lower in (("lower", True), ("cased", False)):
      tokenizer = BertTokenizerLegacy(str(folder / "vocab.txt"), do_lower_case=lower)
      found[key] = [tokenizer(text, truncation=True, max_length=_LENGTH)["input_ids"] for text in texts]
    pairs = ["<s>", "<pad>", "</s>", "<unk>", *_BYTES, *(merge.replace(" ", "") for merge in _MERGES), "<mask>"]
    found["byte_pairs"] = {token: number for number, token in enumerate(pairs)}
    tokenizer = RobertaTokenizer(vocab=found["byte_pairs"], merges=[tuple(merge.split()) for merge in _MERGES])
    # Null where a byte is not in the vocabulary: versions differ in what they make of it.
    found["roberta"] = [
      tokenizer(text, truncation=True, max_length=_LENGTH)["input_ids"] if set(text.encode()) <= _KNOWN else None
      for text in texts
    ]
  return found


def _names(file: str, model: torch.nn.Module) -> None:
  lines = [f"{name} {tuple(value.shape)}\n" for name, value in model.state_dict().items()]
  (_FOLDER / "keys" / file).write_text("".join(lines))


def main() -> None:
  np.savez_compressed(_FOLDER / "text_bert_tiny.npz", **_outputs())
  text = json.dumps(_tokens(), ensure_ascii=True, indent=None, separators=(",", ":"))
  (_FOLDER / "text_tokens.json").write_text(text + "\n")
  with torch.device("meta"):
    minilm = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    _names("minilm_l6.txt", BertModel(minilm))
    multilingual = BertConfig(hidden_size=384, num_hidden_layers=12, intermediate_size=1536, vocab_size=250_037)
    _names("multilingual_minilm_l12.txt", BertModel(multilingual))
    roberta = RobertaConfig(**_ROBERTA, vocab_size=50_265, max_position_embeddings=514)
    _names("roberta_base.txt", RobertaModel(roberta))


if __name__ == "__main__":
  main()
