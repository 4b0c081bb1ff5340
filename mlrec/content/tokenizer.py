"""Tokenizers, as they are published beside a text encoder's weights."""

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from mlrec.data.interactions import DataError

# In a folder the first of these that is there is read.
_JSON, _WORD_PIECES, _BYTE_PAIRS, _MERGES = "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"
FILES = (_JSON, _WORD_PIECES, _BYTE_PAIRS)
_FORMS = f"{_JSON}, {_WORD_PIECES} (word pieces), or {_BYTE_PAIRS} beside {_MERGES} (byte pairs)"
# Says of word pieces whether they are of lower-cased text.
_SETTINGS, _LOWER = "tokenizer_config.json", "do_lower_case"
_BERT = ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]")
_ROBERTA = ("<s>", "</s>", "<unk>", "<pad>", "<mask>")


class Tokenizer:
  """Texts to token ids, by Hugging Face's `tokenizers`.

  Attributes:
    path: its first file.
    vocabulary: one more than the largest id that it gives.
    specials: ids that it puts around every text.
    wrapped: the library's own object.
    fingerprint: sixteen hexadecimal digits of its files and settings.
  """

  def __init__(self, path: str | os.PathLike, *, lower: bool | None = None, bare: bool = False):
    """Reads a tokenizer.

    Args:
      path: one of `FILES`, under its name, or a folder that holds one.
      lower: whether texts are lower-cased. None for the tokenizer's own choice: what `tokenizer.json` says, or
        `tokenizer_config.json` beside word pieces, which are of lower-cased text where nothing is said; byte pairs are
        not.
      bare: whether it may put no special token around a text, for an encoder that puts its own.

    Raises:
      DataError: there is no tokenizer, it is malformed, it lacks a special token, or the library is missing.
    """
    self.path = _found(path)
    library = _library()
    try:
      self.wrapped = _READERS[self.path.name](library, self.path, lower)
    except DataError:
      raise
    except Exception as error:  # the library raises plain exceptions, of broken JSON as of a missing token
      raise DataError(f"{self.path}: no tokenizer can be made of it: {error}") from error
    self.wrapped.no_padding()
    self.wrapped.no_truncation()
    self.vocabulary = max(self.wrapped.get_vocab(with_added_tokens=True).values()) + 1
    self.specials = self.wrapped.num_special_tokens_to_add(False)
    if not self.specials and not bare:
      raise DataError(f"{self.path}: it puts no special token before a text, and encoders read the first one")
    digest = hashlib.sha256(repr(lower).encode())
    for file in (self.path, self.path.with_name(_MERGES), self.path.with_name(_SETTINGS)):
      if file == self.path or (file.name, self.path.name) in ((_MERGES, _BYTE_PAIRS), (_SETTINGS, _WORD_PIECES)):
        digest.update(hashlib.sha256(file.read_bytes() if file.exists() else b"").digest())
    self.fingerprint = digest.hexdigest()[:16]

  def __call__(self, texts: list[str], length: int, *, at_once: int = 1 << 12) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of texts, whatever their length, special tokens included.

    What does not fit is cut off before the last special token. A lone surrogate, which is no character, is read as the
    sign that replaces such.

    Args:
      texts: to be read.
      length: the most tokens of a text.
      at_once: texts that are handed to the library at a time; its own form of their tokens takes far more memory.

    Returns:
      `(ids [texts, length] int32, zeros after a text's last; lengths [texts] int32)`. A text of which nothing remains
      beside the special tokens has none at all: length 0 and zeros.

    Raises:
      DataError: `length` has no place for a token beside the special ones.
    """
    if length <= self.specials:
      raise DataError(
        f"config.model.item.length = {length}: expected at least {self.specials + 1}, for {self.specials} of the "
        "tokens are special ones"
      )
    self.wrapped.enable_truncation(length)
    ids, lengths = np.zeros((len(texts), length), np.int32), np.zeros(len(texts), np.int32)
    for start in range(0, len(texts), at_once):
      part = [text.encode(errors="replace").decode() for text in texts[start : start + at_once]]
      for row, encoding in enumerate(self.wrapped.encode_batch_fast(part), start):
        found = encoding.ids
        if len(found) > self.specials:
          ids[row, : len(found)], lengths[row] = found, len(found)
    return ids, lengths


def beside(weights: str | os.PathLike) -> pathlib.Path:
  """The folder of a file of weights, which holds the tokenizer, too.

  Raises:
    DataError: it does not.
  """
  folder = pathlib.Path(weights).expanduser().parent
  try:
    _found(folder)
  except DataError as error:
    raise DataError(f"{error}; or name one by config.model.item.tokenizer") from error
  return folder


def _found(path: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(path).expanduser()
  if path.is_dir():
    for name in FILES:
      if (path / name).is_file():
        return path / name
    raise DataError(f"{path}: there is no tokenizer in this folder; expected {_FORMS}")
  if not path.is_file():
    raise DataError(f"{path}: no such file; expected {_FORMS}, or a folder that holds one")
  if path.name not in FILES:
    raise DataError(f"{path}: a tokenizer is known by its file's name; expected {_FORMS}")
  return path


def _library() -> Any:
  try:
    import tokenizers
  except ImportError as error:
    raise DataError(f'titles need tokenizers ({error}); pip install "mlrec[text]"') from error
  return tokenizers


def _from_json(library: Any, path: pathlib.Path, lower: bool | None) -> Any:
  if lower is False:
    raise DataError(
      f"config.model.item.lower = False: {path} says itself how texts are lower-cased; name the {_WORD_PIECES} beside "
      "it"
    )
  tokenizer = library.Tokenizer.from_file(str(path))
  if lower:
    own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = library.normalizers.Sequence([library.normalizers.Lowercase(), *own])
  return tokenizer


def _from_word_pieces(library: Any, path: pathlib.Path, lower: bool | None) -> Any:
  # Not at the other signs that Python ends lines at: some vocabularies hold them.
  lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
  vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
  _check_specials(path, vocabulary, _BERT[:3])
  if lower is None:
    lower = _says_lower(path.with_name(_SETTINGS))
  tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
  tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lower)
  tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
  tokenizer.add_special_tokens([token for token in _BERT if token in vocabulary])
  first, last = _BERT[:2]
  tokenizer.post_processor = library.processors.BertProcessing((last, vocabulary[last]), (first, vocabulary[first]))
  return tokenizer


def _says_lower(path: pathlib.Path) -> bool:
  if not path.is_file():
    return True
  settings = json.loads(path.read_text(encoding="utf-8"))
  lower = settings.get(_LOWER, True) if isinstance(settings, dict) else None
  if not isinstance(lower, bool):
    raise DataError(f"{path}: expected an object whose {_LOWER} is true or false")
  return lower


def _from_byte_pairs(library: Any, path: pathlib.Path, lower: bool | None) -> Any:
  merges = path.with_name(_MERGES)
  if not merges.is_file():
    raise DataError(f"{path}: there is no {_MERGES} beside it")
  tokenizer = library.Tokenizer(library.models.BPE.from_file(str(path), str(merges)))
  vocabulary = tokenizer.get_vocab()
  _check_specials(path, vocabulary, _ROBERTA[:2])
  if lower:
    tokenizer.normalizer = library.normalizers.Lowercase()
  tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.add_special_tokens([token for token in _ROBERTA if token in vocabulary])
  first, last = _ROBERTA[:2]
  tokenizer.post_processor = library.processors.RobertaProcessing(
    (last, vocabulary[last]), (first, vocabulary[first]), add_prefix_space=False
  )
  return tokenizer


def _check_specials(path: pathlib.Path, vocabulary: dict[str, int], wanted: tuple[str, ...]) -> None:
  for token in wanted:
    if token not in vocabulary:
      raise DataError(f"{path}: the special token {token!r} is not among its {len(vocabulary):,} tokens")


_READERS = {_JSON: _from_json, _WORD_PIECES: _from_word_pieces, _BYTE_PAIRS: _from_byte_pairs}
