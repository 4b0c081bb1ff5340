"""What a sweep may choose: a few lines in a config file.

```python
from mlrec.search_space import choice, integers, log_uniform, uniform

def get_search_space():
  return {
    "optimizer.lr": log_uniform(1e-4, 1e-2),
    "model.user.dropout": uniform(0.0, 0.5),
    "model.user.blocks": integers(1, 4),
    "model.dim": choice(64, 128, 256),
  }
```
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from mlrec.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Range:
  """All numbers from `low` to `high`, both included.

  Attributes:
    low: the lowest.
    high: the highest.
    log: whether all magnitudes, rather than all numbers, are equally likely.
    whole: whether only integers are meant.
  """

  low: float
  high: float
  log: bool = False
  whole: bool = False

  def check(self, key: str) -> None:
    """Raises a ConfigError that names `key` unless the bounds are numbers in ascending order."""
    kind = "whole numbers" if self.whole else "finite numbers"
    for name, bound in (("low", self.low), ("high", self.high)):
      number = type(bound) is int or (type(bound) is float and not self.whole and math.isfinite(bound))
      if not number:
        raise ConfigError(f"the search space of config.{key}: bounds must be {kind}, and {name} is {bound!r}")
    if not self.low < self.high:
      raise ConfigError(
        f"the search space of config.{key}: low must be below high, not {self.low} and {self.high}; "
        "for a single value set the config's key itself"
      )
    if self.log and not self.low > 0:
      raise ConfigError(f"the search space of config.{key}: a logarithmic range must begin above 0, not at {self.low}")

  def ends(self) -> tuple[Any, ...]:
    """The values that a config must allow if it is to allow all of them."""
    return (self.low, self.high) if self.whole else (float(self.low), float(self.high))

  def holds(self, value: Any) -> bool:
    """Whether `value` is one of them."""
    number = type(value) is int or (type(value) is float and not self.whole)
    return number and self.low <= value <= self.high

  def distribution(self) -> Any:
    """As Optuna says it."""
    from optuna import distributions

    if self.whole:
      return distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
    return distributions.FloatDistribution(self.low, self.high, log=self.log)


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of `values`: numbers, strings or booleans, in no order."""

  values: tuple[Any, ...]

  def check(self, key: str) -> None:
    """Raises a ConfigError that names `key` unless there are two or more values, all of them plain and distinct."""
    for value in self.values:
      if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(
          f"the search space of config.{key}: {value!r} is no finite number, string or boolean; "
          "choice takes the values themselves, as in choice(64, 128)"
        )
    if len(set(self.values)) < max(2, len(self.values)):
      raise ConfigError(
        f"the search space of config.{key}: choice needs two distinct values or more, not {self.values}"
      )

  def ends(self) -> tuple[Any, ...]:
    """The values that a config must allow if it is to allow all of them."""
    return self.values

  def holds(self, value: Any) -> bool:
    """Whether `value` is one of them."""
    return any(type(value) is type(one) and value == one for one in self.values)

  def distribution(self) -> Any:
    """As Optuna says it."""
    from optuna import distributions

    return distributions.CategoricalDistribution(self.values)


Space = Mapping[str, Range | Choice]


def uniform(low: float, high: float) -> Range:
  """A number from `low` to `high`."""
  return Range(low, high)


def log_uniform(low: float, high: float) -> Range:
  """A number from `low` to `high`, all magnitudes equally likely."""
  return Range(low, high, log=True)


def integers(low: int, high: int, *, log: bool = False) -> Range:
  """A whole number from `low` to `high`, both included; with `log` all magnitudes are equally likely."""
  return Range(low, high, log=log, whole=True)


def choice(*values: Any) -> Choice:
  """One of the values."""
  return Choice(values)


def to_json(space: Space) -> dict[str, Any]:
  """Plain JSON types: two spaces are equal if these are."""
  return {key: {name: _plain(value) for name, value in vars(part).items()} for key, part in sorted(space.items())}


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value
