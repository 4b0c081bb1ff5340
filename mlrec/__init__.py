"""mlrec: micro-video recommendation in JAX."""

import typing

if typing.TYPE_CHECKING:
  from mlrec.inference.recommender import Filters
  from mlrec.inference.recommender import Recommendations
  from mlrec.inference.recommender import Recommender

__all__ = ["Filters", "Recommendations", "Recommender"]


def __getattr__(name: str) -> typing.Any:
  # JAX and Flax come in when they are asked for: commands set flags before.
  if name not in __all__:
    raise AttributeError(f"module 'mlrec' has no attribute {name!r}")
  from mlrec.inference import recommender

  return getattr(recommender, name)
