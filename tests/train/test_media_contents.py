"""Covers and sound tracks of a prepared data set, opened as towers name them."""

import types

import numpy as np
from PIL import Image
import pytest

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.content.audio import Audio
from mlrec.content.base import Need
from mlrec.content.covers import Covers
from mlrec.data import DataError
from mlrec.models.items.audio.tower import AudioRecipe
from mlrec.models.items.image.tower import ImageRecipe
from mlrec.train import item_content
from support import sounds
import tfds_microlens

_NAME = "microlens/1m-items-cover12-audio1s"
_COVER = ImageRecipe("vit_image_s", (), "random", "float32", size=6)
_SOUND = AudioRecipe("ast_s", (), "random", "float32", samples=2000, rate=16_000)
# Of four items the first has no cover, and the last has no sound.
_SPLIT = types.SimpleNamespace(num_items=4, item_ids=np.array([0, 30, 10, 40, 20]), item_names=None)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("items")
  manual = folder / "manual"
  for kind in ("covers", "audio"):
    (manual / f"MicroLens-1M_{kind}").mkdir(parents=True)
  (manual / "MicroLens-1M_pairs.tsv").write_text("1\t10 20 30 40 50\n")
  (manual / "MicroLens-1M_title.csv").write_text("10,ten\n")
  for item in (10, 20, 40, 50):
    Image.new("RGB", (16, 16), (5 * item, 100, 0)).save(manual / "MicroLens-1M_covers" / f"{item}.png")
  for item in (10, 30, 40):
    sounds.write_wav(manual / "MicroLens-1M_audio" / f"{item}.wav", sounds.tone(0.1, hz=10 * item))
  tfds_microlens.prepare(_NAME, data_dir=folder, manual_dir=manual)
  return folder


def _open(data_dir, name=_NAME, **recipes):
  """The content of a model that reads what the recipes say, each below the path of a tower."""
  config = config_lib.default_config()
  config.data.content, config.data.data_dir = name, str(data_dir)
  reads = {path.replace("__", "/"): recipe.need() for path, recipe in recipes.items()}
  reads |= {f"{path}_present": Need((), "bool") for path in reads}
  recipes = {path.replace("__", "/"): recipe for path, recipe in recipes.items()}
  return item_content.open_content(config.data, _SPLIT, types.SimpleNamespace(reads=reads, recipes=recipes))


def test_arrays_are_those_of_the_sources_and_zeros_where_there_is_nothing(data_dir, caplog):
  content = _open(data_dir, a__cover=_COVER, b__audio=_SOUND)
  assert content.needs == {
    "a/cover": Need((6, 6, 3), "uint8"), "a/cover_present": Need((), "bool"),
    "b/audio": Need((2000,), "int16"), "b/audio_present": Need((), "bool"),
  }  # fmt: skip
  read = content.read(np.array([[3, 0, 1], [2, 4, 3]]))
  assert {name: (array.shape, str(array.dtype)) for name, array in read.items()} == {
    name: ((2, 3, *need.shape), need.dtype) for name, need in content.needs.items()
  }
  assert read["a/cover_present"].tolist() == [[True, False, False], [True, True, True]]
  assert read["b/audio_present"].tolist() == [[True, False, True], [True, False, True]]
  covers, tracks = Covers(_NAME, data_dir), Audio(_NAME, data_dir)
  (cover,), (sound,) = covers.read([40], size=6), tracks.read([40], samples=2000)
  for place in ((0, 0), (1, 2)):
    assert np.array_equal(read["a/cover"][place], cover)
    assert np.array_equal(read["b/audio"][place], sound)
  assert not read["a/cover"][0, 1:].any()
  assert not read["b/audio"][0, 1].any()
  assert not read["b/audio"][1, 1].any()
  assert content.fingerprint == f"{covers.fingerprint}-{tracks.fingerprint}"
  assert "1 of 4 items have no cover (item 30 first)" in caplog.text
  assert "1 of 4 items have no audio (item 20 first)" in caplog.text


def test_towers_of_the_same_content_tell_once_what_is_missing(data_dir, caplog):
  _open(data_dir, a__cover=_COVER, b__cover=_COVER)
  assert caplog.text.count("1 of 4 items have no cover") == 1


@pytest.mark.parametrize(
  ("recipe", "name", "message"),
  [
    (_COVER, "", r"config\.data\.content is empty, and the item tower reads covers: .*demo-items-cover224"),
    (_SOUND, "", r"config\.data\.content is empty, and the item tower reads sound tracks: .*demo-items-audio10s"),
    (_COVER, "microlens/1m-items", r"config\.data\.content: 'microlens/1m-items' has no cover of its items"),
    (_COVER, "here_titles.csv", r"config\.data\.content: 'here_titles.csv': "),
  ],
)
def test_what_has_no_such_media_is_refused(data_dir, recipe, name, message):
  with pytest.raises((ConfigError, DataError), match=message):
    _open(data_dir, name, **{recipe.content: recipe})


def test_larger_covers_than_are_stored_are_refused_when_they_are_read(data_dir):
  content = _open(data_dir, cover=ImageRecipe("vit_image_s", (), "random", "float32", size=16))
  with pytest.raises(DataError, match=r"size=16: expected 1 to 12"):
    content.read(np.array([2]))
