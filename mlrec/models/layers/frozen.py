"""Parameters that training does not touch."""

from collections.abc import Iterable
from typing import Any

from flax import nnx


class Frozen(nnx.Variable):
  """A parameter that takes no gradient, has no optimiser state and is not averaged; it is kept as statistics are."""


def freeze(model: nnx.Module, paths: Iterable[tuple[Any, ...]]) -> None:
  """Turns the parameters at those paths of `nnx.state(model)` into `Frozen` ones, in place."""
  owners = {path: module for path, module in nnx.iter_modules(model)}
  for path in paths:
    owner, name = owners[path[:-1]], str(path[-1])
    variable = getattr(owner, name)
    if isinstance(variable, nnx.Param):
      setattr(owner, name, Frozen(variable[...]))
