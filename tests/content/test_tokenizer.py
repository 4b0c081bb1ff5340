import json

import numpy as np
import pytest

from mlrec.content.base import Need
from mlrec.content.base import SourceContent
from mlrec.content.titles import Titles
from mlrec.content.titles import TitleTokens
from mlrec.content.tokenizer import beside
from mlrec.content.tokenizer import Tokenizer
from mlrec.data import DataError


@pytest.fixture(scope="module")
def recorded(golden_path):
  return json.loads((golden_path / "text_tokens.json").read_text())


@pytest.fixture(scope="module")
def texts(recorded):
  return recorded["texts"] + [text * times for text, times in recorded["repeated"]]


@pytest.fixture
def word_pieces(recorded, tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("".join(f"{token}\n" for token in recorded["word_pieces"]), encoding="utf-8")
  return path


@pytest.fixture
def byte_pairs(recorded, tmp_path):
  (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in recorded["merges"]))
  path = tmp_path / "vocab.json"
  path.write_text(json.dumps(recorded["byte_pairs"]))
  return path


def _assert_tokens(tokenizer, texts, wanted, length):
  ids, lengths = tokenizer(texts, length)
  assert ids.shape == (len(texts), length)
  assert ids.dtype == lengths.dtype == np.int32
  for text, row, count, found in zip(texts, ids, lengths, wanted):
    # Of a text of which nothing remains the published tokenizers give the special tokens alone.
    found = [] if len(found) == tokenizer.specials else found
    assert row[:count].tolist() == found, text[:40]
    assert not row[count:].any()


@pytest.mark.parametrize(("lower", "key"), [(True, "lower"), (None, "lower"), (False, "cased")])
def test_word_pieces_are_those_of_the_published_tokenizer(recorded, texts, word_pieces, lower, key):
  tokenizer = Tokenizer(word_pieces, lower=lower)
  assert tokenizer.vocabulary == len(recorded["word_pieces"])
  _assert_tokens(tokenizer, texts, recorded[key], recorded["length"])


def test_byte_pairs_are_those_of_the_published_tokenizer(recorded, texts, byte_pairs):
  known = [(text, ids) for text, ids in zip(texts, recorded["roberta"]) if ids is not None]
  assert len(known) > 10
  tokenizer = Tokenizer(byte_pairs)
  assert tokenizer.vocabulary == len(recorded["byte_pairs"])
  _assert_tokens(tokenizer, *zip(*known), recorded["length"])
  lower, _ = Tokenizer(byte_pairs, lower=True)(["HELLO"], 5)
  assert lower.tolist() == tokenizer(["hello"], 5)[0].tolist()


def test_a_tokenizer_file_gives_what_its_parts_do(recorded, texts, word_pieces):
  made = Tokenizer(word_pieces).wrapped
  # As published files have it; it must not decide about our lengths.
  made.enable_padding(length=40)
  made.enable_truncation(7)
  path = word_pieces.with_name("tokenizer.json")
  made.save(str(path))
  _assert_tokens(Tokenizer(path), texts, recorded["lower"], recorded["length"])
  assert Tokenizer(word_pieces.parent).path == path
  with pytest.raises(DataError, match=r"config.model.item.lower = False: .* name the vocab.txt beside it"):
    Tokenizer(path, lower=False)


def test_a_tokenizer_file_of_cased_text_can_be_lower_cased(word_pieces):
  path = word_pieces.with_name("tokenizer.json")
  Tokenizer(word_pieces, lower=False).wrapped.save(str(path))
  cased, lower = Tokenizer(path), Tokenizer(path, lower=True)
  assert cased(["HELLO"], 5)[0][0].tolist() != lower(["HELLO"], 5)[0][0].tolist() == cased(["hello"], 5)[0][0].tolist()
  assert cased.fingerprint != lower.fingerprint


def test_pieces_of_any_script_are_those_of_the_best_total_score(tmp_path):
  tokenizers = pytest.importorskip("tokenizers")
  # As XLM-RoBERTa's files have it: special tokens, pieces with scores, and a sign before each word.
  pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁hel", -2.0), ("lo", -2.0), ("▁hello", -5.0)]
  pieces += [("▁", -3.0), ("你好", -4.0), ("你", -3.0), ("好", -3.0), ("世界", -4.0)]
  library = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=3))
  library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  library.post_processor = tokenizers.processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
  )
  library.save(str(tmp_path / "tokenizer.json"))
  (tmp_path / "bare").mkdir()
  tokenizer = Tokenizer(tmp_path)
  assert (tokenizer.vocabulary, tokenizer.specials) == (12, 2)
  # A tokenizer of an encoder that puts its own token may put none.
  library.post_processor = tokenizers.processors.Sequence([])
  library.save(str(tmp_path / "bare" / "tokenizer.json"))
  with pytest.raises(DataError, match="it puts no special token before a text"):
    Tokenizer(tmp_path / "bare")
  bare = Tokenizer(tmp_path / "bare", bare=True)
  _assert_tokens(bare, ["hello", ""], [[4, 5], []], 1 + 1)
  # Two pieces of -2 are better than the one of -5, and one of -4 than two of -3; what no piece has is unknown.
  _assert_tokens(
    tokenizer, ["hello", "你好世界", "hello 好х"], [[0, 4, 5, 2], [0, 7, 8, 11, 2], [0, 4, 5, 7, 10, 3, 2]], 9
  )


def test_settings_beside_word_pieces_say_whether_they_are_lower_case(recorded, texts, word_pieces):
  settings = word_pieces.with_name("tokenizer_config.json")
  settings.write_text('{"do_lower_case": false}')
  _assert_tokens(Tokenizer(word_pieces), texts, recorded["cased"], recorded["length"])
  settings.write_text('{"do_lower_case": "no"}')
  with pytest.raises(DataError, match="do_lower_case is true or false"):
    Tokenizer(word_pieces)


def test_long_titles_keep_the_tokens_of_their_beginning(word_pieces):
  tokenizer = Tokenizer(word_pieces)
  long = ("hello world " * 1000)[:10_000]
  (whole,), _ = tokenizer([long], 40)
  (cut,), (length,) = tokenizer([long], 8)
  assert cut.tolist() == [*whole[:7].tolist(), whole[39]]
  assert length == 8


def test_a_lone_surrogate_is_no_crash(word_pieces):
  (row,), (length,) = Tokenizer(word_pieces)(["hello \ud83d"], 8)
  assert length == 4
  assert row[1] == Tokenizer(word_pieces)(["hello"], 8)[0][0, 1]


def _without(file, token):
  file.write_text(file.read_text(encoding="utf-8").replace(f"{token}\n", ""), encoding="utf-8")
  return file


@pytest.mark.parametrize(
  ("break_it", "message"),
  [
    (lambda file: file.with_name("no.txt"), "no.txt: no such file; expected tokenizer.json, vocab.txt"),
    (lambda file: file.rename(file.with_name("words.txt")), "words.txt: a tokenizer is known by its file's name"),
    (lambda file: _without(file, "[SEP]"), r"the special token '\[SEP\]' is not among its \d+ tokens"),
    (lambda file: file.rename(file.with_name("tokenizer.json")), "tokenizer.json: no tokenizer can be made of it"),
    (lambda file: file.rename(file.with_name("vocab.json")), "there is no merges.txt beside it"),
    (lambda file: file.rename(file.with_name("x.bin")).parent, "there is no tokenizer in this folder"),
    (lambda file: file.write_bytes(b"\xff\n") and file, "vocab.txt: no tokenizer can be made of it"),
  ],
)
def test_what_is_no_tokenizer_is_refused(break_it, message, word_pieces):
  with pytest.raises(DataError, match=message):
    Tokenizer(break_it(word_pieces))


def test_a_missing_library_is_told_with_the_way_to_get_it(word_pieces, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
  with pytest.raises(DataError, match=r'titles need tokenizers .* pip install "mlrec\[text\]"'):
    Tokenizer(word_pieces)


def test_a_length_without_a_place_for_text_is_refused(word_pieces):
  with pytest.raises(DataError, match=r"config\.model\.item\.length = 2: expected at least 3"):
    Tokenizer(word_pieces)(["hello"], 2)


def test_a_tokenizer_is_found_beside_the_weights(word_pieces):
  assert Tokenizer(beside(word_pieces.with_name("model.safetensors"))).path == word_pieces
  word_pieces.unlink()
  with pytest.raises(DataError, match=r"no tokenizer in this folder.*name one by config.model.item.tokenizer"):
    beside(word_pieces.with_name("model.safetensors"))


_TITLES = {3: "hello world", 5: "\x00\u200b", 7: "你好", 11: "hello play, played!", 900: "😀"}


@pytest.fixture
def made(word_pieces):
  return TitleTokens(Titles("here", _TITLES), Tokenizer(word_pieces), 30)


def test_titles_are_ids_above_a_mask_as_long_as_the_longest(made, word_pieces):
  # Of 5 nothing remains.
  assert made.items.tolist() == [3, 7, 11, 900]
  ids, lengths = Tokenizer(word_pieces)([_TITLES[11], _TITLES[3]], 30)
  assert made.length == lengths.max() < 30
  read = made.read(np.array([11, 3]))
  assert read.shape == (2, 2, made.length)
  assert read.dtype == np.int32
  np.testing.assert_array_equal(read[:, 0], ids[:, : made.length])
  np.testing.assert_array_equal(read[:, 1], np.arange(made.length) < lengths[:, None])
  with pytest.raises(DataError, match="here: item 8 is none of the 4 items that have a title"):
    made.read(np.array([7, 8]))


def test_fingerprints_follow_the_tokens(made, word_pieces):
  def fingerprint(titles, length=30, **options):
    return TitleTokens(Titles("there", titles), Tokenizer(word_pieces, **options), length).fingerprint

  assert fingerprint(_TITLES | {4: " "}) == made.fingerprint
  others = {
    fingerprint(_TITLES | {4: "hello"}),
    fingerprint(_TITLES, 4),
    fingerprint(_TITLES | {3: "HELLO"}, lower=False),
  }
  assert len(others | {made.fingerprint}) == 4


def test_items_without_a_title_and_padding_are_zeros_and_not_present(made):
  content = SourceContent("title", made, np.array([0, 900, 4, 5, 3]), Need((2, 30), "int32"), {})
  assert content.missing.tolist() == [4, 5]
  dense = np.array([[0, 1, 2], [3, 4, 4]])
  read = content.read(dense)
  assert {name: (need.shape, need.dtype) for name, need in content.needs.items()} == {
    name: (array.shape[2:], array.dtype.name) for name, array in read.items()
  }
  assert read["title_present"].tolist() == [[False, True, False], [False, True, True]]
  assert not read["title"][~read["title_present"]].any()
  np.testing.assert_array_equal(read["title"][1, 1], made.read([3])[0])
  np.testing.assert_array_equal(read["title"][0, 1], made.read([900])[0])


def test_titles_without_any_token_are_refused(word_pieces):
  with pytest.raises(DataError, match="no title has a token"):
    TitleTokens(Titles("here", {1: "\x00"}), Tokenizer(word_pieces), 30)


def test_many_titles_are_made_in_parts(word_pieces):
  titles = ["hello " * (item % 5 + 1) for item in range(1, 30)]
  whole, parted = (Tokenizer(word_pieces)(titles, 30, at_once=number) for number in (100, 4))
  assert whole[1].tolist() == [item % 5 + 3 for item in range(1, 30)]
  for one, other in zip(parted, whole):
    np.testing.assert_array_equal(one, other)
