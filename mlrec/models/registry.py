"""The registry of models: a new one is one new file in one of these packages."""

from collections.abc import Mapping
from typing import Any

from mlrec.registry import closest
from mlrec.registry import OptionError
from mlrec.registry import Registry

USER_ENCODER = "user encoder"
ITEM_TOWER = "item tower"
VIDEO_ENCODER = "video encoder"
IMAGE_ENCODER = "image encoder"
AUDIO_ENCODER = "audio encoder"
TEXT_ENCODER = "text encoder"
RECOMMENDER = "recommender"
QUANTIZER = "quantizer"

models = Registry(
  "model", ["mlrec.models.items", "mlrec.models.users", "mlrec.models.recommenders", "mlrec.models.quantizers"]
)


def choose(section: Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
  """What a section of options chooses by its `name`, and the other options.

  Raises:
    OptionError: the name is missing, or names nothing of that kind.
  """
  options = dict(section)
  if "name" not in options:
    raise OptionError("name", f"is missing beside {sorted(options)}: it chooses the {kind}")
  name, known = options.pop("name"), models.names(kind)
  if name not in known:
    raise OptionError("name", f"= {name!r}: there is no such {kind}; {closest(str(name), known)}")
  return name, options
