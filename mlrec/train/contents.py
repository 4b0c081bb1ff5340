"""Opens what a model's item tower reads beside ids."""

from collections.abc import Callable
import sys
from typing import Any

from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from mlrec.config import ConfigError
from mlrec.data import feature_files
from mlrec.data.content import Content
from mlrec.data.content import FeatureContent
from mlrec.data.content import FrameContent
from mlrec.data.content import Need
from mlrec.data.content import Together
from mlrec.data.splits import Split
from mlrec.train import frozen_features


def open_content(config: ConfigDict, split: Split, model: nnx.Module) -> Content | None:
  """What `model.reads` names, for the items of `split`; None where that is nothing.

  Raises:
    ConfigError: the config does not say where something is.
    DataError: it cannot be read.
  """
  needs: dict[str, Need] = dict(getattr(model, "reads", {}))
  parts = [_OPENERS[name](config, split, model, need) for name, need in needs.items()]
  return None if not parts else parts[0] if len(parts) == 1 else Together(parts)


def _frames(config: ConfigDict, split: Split, model: Any, need: Need) -> Content:
  del model
  content = FrameContent(open_videos(config), split.item_ids, need)
  if len(content.missing):
    logging.warning(
      "%d of %d items have no video in %s; their frames are black.",
      len(content.missing), split.num_items, config.data.videos,
    )  # fmt: skip
  return content


def _features(config: ConfigDict, split: Split, model: Any, need: Need) -> Content:
  frozen = getattr(getattr(model, "items", None), "frozen", None)
  if frozen is None:
    read = feature_files.read(config.data.features, split.item_ids)
    return FeatureContent(read.vectors, read.fingerprint)
  vectors, fingerprint = frozen_features.load_or_make(
    frozen, open_videos(config), split.item_ids, folder=config.data.features_dir, say=_tell
  )
  if vectors.shape[1:] != need.shape:
    raise ConfigError(f"vectors of the frozen encoder are {vectors.shape[1:]}; the item tower expects {need.shape}")
  return FeatureContent(vectors, fingerprint)


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def open_videos(config: ConfigDict) -> Any:
  """The prepared videos that `config.data.videos` names."""
  if not config.data.videos:
    raise ConfigError(
      "config.data.videos is empty, and the item tower reads frames: name a prepared data set, such as "
      "microlens/demo-videos-5x64"
    )
  # It brings in TFDS and an image decoder.
  from mlrec.data.frames import Frames

  return Frames(config.data.videos, config.data.data_dir)


_OPENERS: dict[str, Callable[[ConfigDict, Split, Any, Need], Content]] = {"frames": _frames, "features": _features}
