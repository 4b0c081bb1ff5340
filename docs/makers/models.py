"""What can be chosen by name in a config: recommenders, towers, user encoders and encoders, of their registry."""

from collections.abc import Mapping
import inspect
from typing import Any

from flax import nnx

from makers import markdown
from mlrec.models.items.encoder import Spec
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.models.registry import USER_ENCODER

# What a model gets from the data or from what it is part of, which no config sets.
_GIVEN = {"num_items", "num_users", "train", "features", "feature_dim", "codes", "item_data", "item_fields", "spec"}
_GIVEN_TO_PARTS = {*_GIVEN, "dim", "max_length"}
# What encoders are fed, as far as those of a modality have it.
_FED = {"frames": "{} frames", "interval": "{} apart", "size": "of {0} × {0}", "samples": "{:,} samples",
        "length": "{} tokens"}  # fmt: skip


def page(kind: str) -> str:
  """A table of all of a kind: name, what it is, options with their defaults; of encoders also their weights.

  Raises:
    ValueError: there is no such kind.
  """
  names = models.names(kind)
  if not names:
    raise ValueError(f"there is no kind {kind!r} among {', '.join(models.kinds())}")
  encodes = kind.endswith(" encoder") and kind != USER_ENCODER
  rows = [
    (f"`{name}`", _summary(name), *([_published(_spec(name))] if encodes else []), _options(name)) for name in names
  ]
  heads = ("name", "what it is", *(["reads; published weights, their licence"] if encodes else []), "options")
  return markdown.table(heads, rows)


def classes(kind: str) -> str:
  """The docstring of each class of a kind, for mkdocstrings.

  Raises:
    ValueError: there is no such kind.
  """
  entries = [models.get(name) for name in models.names(kind)]
  if not entries:
    raise ValueError(f"there is no kind {kind!r} among {', '.join(models.kinds())}")
  options = ("members: false", "heading_level: 4", "show_bases: false", "show_root_full_path: false")
  return "\n\n".join(
    "\n".join([f"::: {entry.__module__}.{entry.__qualname__}", "    options:", *(f"      {line}" for line in options)])
    for entry in entries
  )


def _summary(name: str) -> str:
  return (inspect.getdoc(models.get(name)) or "").partition("\n")[0]


def _options(name: str) -> str:
  given = _GIVEN if models.kind_of(name) == RECOMMENDER else _GIVEN_TO_PARTS
  return ", ".join(_option(one) for one in models.parameters(name).values() if one.name not in given)


def _option(parameter: inspect.Parameter) -> str:
  default = parameter.default
  if default is inspect.Parameter.empty:
    return f"`{parameter.name}`"
  shown = default.__name__ if inspect.isclass(default) else dict(default) if isinstance(default, Mapping) else default
  return f"`{parameter.name}={shown if inspect.isclass(default) else repr(shown)}`"


def _spec(name: str) -> Any:
  """What an encoder expects; of one whose constructor does not say it, that of the encoder, which is not computed."""
  parameter = models.parameters(name).get("spec")
  if parameter is not None and isinstance(parameter.default, Spec):
    return parameter.default
  return nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0))).spec


def _published(spec: Any) -> str:
  fed = [words.format(getattr(spec, field)) for field, words in _FED.items() if hasattr(spec, field)]
  weights = f"`{spec.weights}` ({spec.source}), {spec.licence}" if spec.weights else f"none ({spec.source})"
  return f"{', '.join(fed)}; {weights}"
