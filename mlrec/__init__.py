"""mlrec: micro-video recommendation in JAX."""

import importlib
import typing

if typing.TYPE_CHECKING:
  from mlrec.inference.fitting import fit
  from mlrec.inference.recommender import Filters
  from mlrec.inference.recommender import Recommendations
  from mlrec.inference.recommender import Recommender

_HOMES = {
  "Filters": "mlrec.inference.recommender",
  "Recommendations": "mlrec.inference.recommender",
  "Recommender": "mlrec.inference.recommender",
  "fit": "mlrec.inference.fitting",
}
__all__ = ["Filters", "Recommendations", "Recommender", "fit"]


def __getattr__(name: str) -> typing.Any:
  # JAX and Flax come in when they are asked for: commands set flags before.
  if name not in _HOMES:
    raise AttributeError(f"module 'mlrec' has no attribute {name!r}")
  return getattr(importlib.import_module(_HOMES[name]), name)
