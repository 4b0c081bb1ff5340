"""Opens what a model's item tower reads beside ids."""

from collections.abc import Callable
from collections.abc import Mapping
import sys
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from mlrec.config import ConfigError
from mlrec.data import feature_files
from mlrec.data.content import Below
from mlrec.data.content import Content
from mlrec.data.content import FeatureContent
from mlrec.data.content import Need
from mlrec.data.content import SourceContent
from mlrec.data.content import THERE
from mlrec.data.content import Together
from mlrec.data.interactions import DataError
from mlrec.data.splits import Split
from mlrec.models.items.encoded import RANDOM
from mlrec.models.items.encoded import Recipe
from mlrec.train import frozen_features


def open_content(config: ConfigDict, split: Split, model: Any) -> Content | None:
  """What `model.reads` names, for the items of `split`; None where that is nothing.

  A name is that of the content, after the path of the tower that reads it where towers are parts of one
  (`title/features`). One that ends in `_there` comes with the array that it is of.

  Raises:
    ConfigError: the config does not say where something is.
    DataError: it cannot be read.
  """
  needs: dict[str, Need] = {
    name: need for name, need in getattr(model, "reads", {}).items() if not name.endswith(THERE)
  }  # fmt: skip
  recipes: Mapping[str, Recipe] = getattr(model, "recipes", {})
  parts: list[Content] = []
  # By content, so that two towers over the titles tell once which of them are missing.
  missing: dict[str, np.ndarray] = {}
  for name, need in needs.items():
    path, slash, kind = name.rpartition("/")
    recipe = recipes.get(name)
    opener = _features if kind == "features" else _of_source
    part, lacking = opener(config, split, recipe, need)
    parts.append(Below(part, path + slash) if path else part)
    if recipe is not None:
      missing[recipe.content] = lacking
  for content, items in missing.items():
    if len(items):
      logging.warning("%d of %d items have no %s (item %d first).", len(items), split.num_items, content, items[0])
  return None if not parts else parts[0] if len(parts) == 1 else Together(parts)


def _of_source(config: ConfigDict, split: Split, recipe: Recipe | None, need: Need) -> tuple[Content, np.ndarray]:
  """Content as a tower's recipe reads it, and the items that lack it."""
  if recipe is None:
    raise TypeError("a tower that reads more than features says in its `recipes` how")
  content = SourceContent(recipe.content, _open_for(config, recipe, split), split.item_ids, need, recipe.reading())
  return content, content.missing


def _open_for(config: ConfigDict, recipe: Recipe, split: Split) -> Any:
  """The source that a recipe reads, which is of an item or more of the split."""
  source = open_source(config, recipe)
  if not np.isin(split.item_ids[1:], np.asarray(source.items)).any():
    key, what = _HELD[recipe.content]
    raise DataError(
      f"config.data.{key} = {config.data[key]!r}: none of its {len(source.items):,} {what} is of the "
      f"{split.num_items:,} items"
    )
  return source


def _features(config: ConfigDict, split: Split, recipe: Recipe | None, need: Need) -> tuple[Content, np.ndarray]:
  """Vectors of a file, or those of a frozen encoder, and the items that lack them."""
  if recipe is None:
    read = feature_files.read(config.data.features, split.item_ids)
  else:
    read = frozen_features.load_or_make(
      recipe, _open_for(config, recipe, split), split.item_ids, folder=config.data.features_dir, say=_tell
    )
    if read.vectors.shape[1:] != need.shape:
      raise ConfigError(
        f"vectors of the frozen encoder are {read.vectors.shape[1:]}; the item tower expects {need.shape}"
      )  # fmt: skip
  if config.data.whiten:
    read = feature_files.whitened(read, split.item_ids)
  return FeatureContent(read.vectors, read.fingerprint, feature_files.there(read, split.item_ids)), read.missing


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def open_videos(config: ConfigDict, recipe: Recipe | None = None) -> Any:
  """The prepared videos that `config.data.videos` names."""
  del recipe
  if not config.data.videos:
    raise ConfigError(
      "config.data.videos is empty, and the item tower reads frames: name a prepared data set, such as "
      "microlens/demo-videos-5x64"
    )
  # It brings in TFDS and an image decoder.
  from mlrec.data.frames import Frames

  return Frames(config.data.videos, config.data.data_dir)


def open_covers(config: ConfigDict, recipe: Any = None) -> Any:
  """The covers of the prepared items that `config.data.content` names."""
  del recipe
  name = _prepared_items(config, "covers", "cover224")
  from mlrec.data.covers import Covers

  return Covers(name, config.data.data_dir)


def open_audio(config: ConfigDict, recipe: Any = None) -> Any:
  """The sound tracks of the prepared items that `config.data.content` names."""
  del recipe
  name = _prepared_items(config, "sound tracks", "audio10s")
  from mlrec.data.audio import Audio

  return Audio(name, config.data.data_dir)


def _prepared_items(config: ConfigDict, what: str, media: str) -> str:
  if not config.data.content:
    raise ConfigError(
      f"config.data.content is empty, and the item tower reads {what}: name a prepared data set that has them, such as "
      f"microlens/demo-items-{media}"
    )
  return config.data.content


def open_titles(config: ConfigDict, recipe: Any) -> Any:
  """The titles that `config.data.content` names, as tokens of the recipe's encoder.

  Raises:
    ConfigError: none are named, or the tokenizer is not the encoder's.
    DataError: titles or tokenizer cannot be read.
  """
  if not config.data.content:
    raise ConfigError(
      "config.data.content is empty, and the item tower reads titles: name a prepared data set, such as "
      "microlens/50k-items, or a file, such as MicroLens-50k_titles.csv"
    )
  from mlrec.data import titles
  from mlrec.data import tokens

  if not recipe.tokenizer and recipe.weights == RANDOM:
    raise ConfigError("config.model.item.tokenizer is empty, and there are no weights that one could lie beside")
  where = recipe.tokenizer or tokens.tokenizer_beside(recipe.weights)
  tokenizer = tokens.Tokenizer(where, lower=recipe.lower)
  if tokenizer.vocabulary > recipe.vocabulary:
    raise ConfigError(
      f"{tokenizer.path} has {tokenizer.vocabulary:,} tokens, and the encoder {recipe.encoder!r} knows "
      f"{recipe.vocabulary:,}: they do not belong together"
    )
  return tokens.TitleTokens(titles.open_titles(config.data.content, config.data.data_dir), tokenizer, recipe.length)


def open_source(config: ConfigDict, recipe: Recipe) -> Any:
  """What a recipe's content is read from."""
  return SOURCES[recipe.content](config, recipe)


# By the name of the content.
SOURCES: dict[str, Callable[[ConfigDict, Any], Any]] = {
  "frames": open_videos,
  "cover": open_covers,
  "audio": open_audio,
  "title": open_titles,
}
# The key under config.data that names the source, and what that holds, in the plural.
_HELD = {
  "frames": ("videos", "videos"), "cover": ("content", "covers"), "audio": ("content", "sound tracks"),
  "title": ("content", "titles"),
}  # fmt: skip
