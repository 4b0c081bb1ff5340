"""Models by exact name: user encoders, item towers, recommenders."""

from typing import Any

from flax import nnx

from mlrec.models.registry import models


def create(name: str, *, rngs: nnx.Rngs, **options: Any) -> Any:
  """Builds the model of that exact name.

  Args:
    name: one of `names()`.
    rngs: random streams; parameters are drawn from `params`.
    **options: the constructor's own, at their full-size defaults where they are not given.

  Raises:
    ValueError: the name or an option is unknown; the message names the closest ones.
  """
  return models.create(name, rngs=rngs, **options)


def names(kind: str | None = None) -> list[str]:
  """All exact names, or those of one kind (`user encoder`, `item tower`, `recommender`)."""
  return models.names(kind)


__all__ = ["create", "names"]
