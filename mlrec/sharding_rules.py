"""`config.sharding.rules`: which parameters are cut over devices, and how.

Read without JAX, so that mistakes are told at once.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import re
from typing import Any
from typing import NamedTuple

from mlrec.registry import near
from mlrec.registry import OptionError

# Axes of the mesh of devices.
DATA, MODEL = "data", "model"
AXES = (DATA, MODEL)
# How an array is cut: along its first axis; along its largest one that the devices divide, as FSDP does; or not.
ROWS, FSDP, WHOLE = "rows", "fsdp", "whole"
_STRATEGIES = (ROWS, FSDP, WHOLE)
_SYNTAX = f"expected {ROWS}:AXES, {FSDP}:AXES or {WHOLE}, where AXES are {DATA}, {MODEL} or {DATA}+{MODEL}"


class Rule(NamedTuple):
  """Where parameters lie whose path has a pattern in it, and their optimiser's arrays with them.

  Attributes:
    pattern: sought by `re.search` in a path such as `items.table.embedding.value`.
    strategy: `rows`, `fsdp` or `whole`.
    axes: of the mesh, over which the array is cut.
  """

  pattern: re.Pattern[str]
  strategy: str
  axes: tuple[str, ...]

  def __str__(self) -> str:
    return f"({self.pattern.pattern!r}, {':'.join([self.strategy, '+'.join(self.axes)]).rstrip(':')!r})"


def parse(rules: Iterable[Any]) -> tuple[Rule, ...]:
  """The rules of a config, each a pair of a pattern and a strategy; of those that fit a path, the first counts.

  Raises:
    OptionError: one is no such pair.
  """
  return tuple(_parsed(rule) for rule in rules)


def _hint(wrong: str, valid: Sequence[str], how: str) -> str:
  """What a strategy may be meant for, of which one part is wrong, and what there is."""
  meant = near(wrong, valid)
  return f"did you mean {how.replace(wrong, meant[0], 1)!r}? {_SYNTAX}" if meant else _SYNTAX


def _parsed(rule: Any) -> Rule:
  if not (isinstance(rule, Sequence) and len(rule) == 2 and all(isinstance(part, str) for part in rule)):
    raise OptionError("rules", f"holds {rule!r}: expected pairs of strings, such as ('table', '{ROWS}:{MODEL}')")
  pattern, how = rule
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    raise OptionError("rules", f"holds {pattern!r}, which is no regular expression: {error}") from error
  strategy, colon, axes = how.partition(":")
  if strategy not in _STRATEGIES:
    raise OptionError("rules", f"holds {how!r}: {_hint(strategy, _STRATEGIES, how)}")
  named = tuple(axes.split("+")) if colon else ()
  if unknown := [axis for axis in named if axis not in AXES]:
    raise OptionError("rules", f"holds {how!r}: {_hint(unknown[0], AXES, how)}")
  if bool(named) == (strategy == WHOLE) or len(set(named)) < len(named):
    raise OptionError("rules", f"holds {how!r}: {_SYNTAX}")
  return Rule(compiled, strategy, tuple(axis for axis in AXES if axis in named))
