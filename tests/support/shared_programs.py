"""Runs of the same experiment in one process share its traced and compiled functions.

Dozens of tests run one tiny experiment over and over. Each run plans, traces and loads the same five programs anew,
which takes twice as long as all the rest of it. They depend on the config and the interactions alone.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import json
from typing import Any

from mlrec import config as config_lib
from mlrec import rows_in_lines
from mlrec.train import loop
from mlrec.train.evaluator import Evaluator
from mlrec.train.state import StateSpec

_KEPT = 32
_OF_EVALUATORS = ("_fill", "_room", "encode", "encode_all", "encode_users", "rank_batch")


class SharedPrograms:
  """Plans by config and data, the last few; with each, what is compiled from it."""

  def __init__(self) -> None:
    self._real_plan, self._real_steps = loop._plan, loop.make_train_steps
    self._plans: collections.OrderedDict[Any, tuple] = collections.OrderedDict()
    self._made: dict[Any, Any] = {}

  @contextlib.contextmanager
  def installed(self) -> Iterator[None]:
    """Lets runs begin with what is kept."""
    loop._plan, loop.make_train_steps, loop.Evaluator = self._plan, self._train_steps, self._evaluator
    try:
      yield
    finally:
      loop._plan, loop.make_train_steps, loop.Evaluator = self._real_plan, self._real_steps, Evaluator

  def _plan(self, config, split, builder, mesh, impressions) -> tuple:
    try:
      # Of vectors that a model holds.
      fingerprints = tuple(builder.fingerprints)
    except ValueError:
      return self._real_plan(config, split, builder, mesh, impressions)
    settings = json.dumps(config_lib.to_json(config), sort_keys=True)
    lanes = tuple(rows_in_lines.LANES.items())
    key = (settings, split.fingerprint, fingerprints, builder.recommender, mesh, impressions, lanes)
    if key not in self._plans:
      self._plans[key] = self._real_plan(config, split, builder, mesh, impressions)
      if len(self._plans) > _KEPT:
        self._forget(self._plans.popitem(last=False)[1][0])
    self._plans.move_to_end(key)
    return self._plans[key]

  def _train_steps(self, spec, optimizer, mesh, **options) -> Callable[..., Any]:
    make = lambda: self._real_steps(spec, optimizer, mesh, **options)  # noqa: E731
    return self._kept(spec, ("steps", *options.items()), make)

  def _evaluator(self, graphdef, split, layout, mesh, batch_size, chunk, *others) -> Evaluator:
    made = Evaluator(graphdef, split, layout, mesh, batch_size, chunk, *others)
    spec = next((spec for spec, *_ in self._plans.values() if spec.graphdef is graphdef), None)
    shared = self._kept(spec, ("evaluator", chunk), lambda: made)
    made.__dict__.update({name: getattr(shared, name) for name in _OF_EVALUATORS})
    return made

  def _kept(self, spec: StateSpec | None, what: Any, make: Callable[[], Any]) -> Any:
    """What is made from a plan, if that is kept."""
    if not any(spec is kept for kept, *_ in self._plans.values()):
      return make()
    key = (id(spec), what)
    if key not in self._made:
      self._made[key] = make()
    return self._made[key]

  def _forget(self, spec: StateSpec) -> None:
    self._made = {key: value for key, value in self._made.items() if key[0] != id(spec)}
