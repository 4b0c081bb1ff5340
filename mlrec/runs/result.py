"""What a finished run found: `result.json`, typed."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any
from typing import Self

import numpy as np

from mlrec.data.splits import EVALUATED

Metrics = Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Spread:
  """Mean and sample standard deviation over seeds (0 for one)."""

  mean: float
  std: float

  @classmethod
  def of(cls, values: Sequence[float]) -> Self:
    return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """What a run of one seed found, and what it cost.

  Attributes:
    metrics: fractions by split and name; None for what is not finite.
    seed: of the run.
    config_hash: as of `config.config_hash`.
    data: fingerprint of the split.
    best_step: the step that the parameters come from; 0 for a model that is not trained.
    best_epoch: epochs done by then.
    seconds: wall time of training and evaluation, over all continuations.
    cpu_seconds: CPU time in them of the process and its children; None in results of old versions, as are the others.
    users: of the split.
    items: of the split.
    skipped_users: too short to be split.
    moments: of a split by time, when the targets of `valid` and `test` begin.
    parameters: numbers trained, or kept as they were given.
    peak_memory_mib: the most that the process held.
    peak_device_memory_mib: the most on one of its devices, where devices count it.
    versions: of Python and packages.
    devices: their `count` and `kind`, and the number of `processes`.
  """

  metrics: Mapping[str, Metrics]
  seed: int
  config_hash: str
  data: str
  best_step: int = 0
  best_epoch: int = 0
  seconds: float = 0.0
  cpu_seconds: float | None = None
  users: int | None = None
  items: int | None = None
  skipped_users: int | None = None
  moments: Mapping[str, str] | None = None
  parameters: int | None = None
  peak_memory_mib: float | None = None
  peak_device_memory_mib: float | None = None
  versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  devices: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def metric(self, split: str, name: str) -> float | None:
    """A metric; None where there is none, or none that is finite."""
    return self.metrics.get(split, {}).get(name)

  def to_json(self) -> dict[str, Any]:
    plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "metrics"}
    return {**self.metrics, **{name: value for name, value in plain.items() if value is not None}}

  @classmethod
  def from_json(cls, value: Any) -> Self:
    """The result in a JSON object.

    Raises:
      ValueError: a key is missing, or has a value of another type.
    """
    value = _object(value, "it")
    found: dict[str, Any] = {"metrics": {split: _metrics(value[split], split) for split in EVALUATED if split in value}}
    for name, kind in _KINDS.items():
      if name in value:
        found[name] = _checked(value[name], kind, name)
      elif name in _REQUIRED:
        raise ValueError(f"it has no {name!r}")
    return cls(**found)


# The types that values have in JSON.
_KINDS: Mapping[str, Any] = {
  "seed": int, "config_hash": str, "data": str, "best_step": int, "best_epoch": int, "seconds": float,
  "cpu_seconds": float, "users": int, "items": int, "skipped_users": int, "moments": dict, "parameters": int,
  "peak_memory_mib": float, "peak_device_memory_mib": float, "versions": dict, "devices": dict,
}  # fmt: skip
_REQUIRED = ("seed", "config_hash", "data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedsResult:
  """What runs of several seeds found together.

  Attributes:
    seeds: of the runs.
    config_hash: which they share, as they do `data`.
    data: fingerprint of the split.
    metrics: by split and name, those that are finite for each seed.
    seconds: of all of them.
  """

  seeds: Sequence[int]
  config_hash: str
  data: str
  metrics: Mapping[str, Mapping[str, Spread]]
  seconds: float

  @classmethod
  def of(cls, results: Sequence[Result], splits: Sequence[str]) -> Self:
    metrics = {}
    for split in splits:
      shared = [name for name in results[0].metrics[split] if all(r.metric(split, name) is not None for r in results)]
      metrics[split] = {name: Spread.of([r.metrics[split][name] for r in results]) for name in shared}  # type: ignore[misc]
    return cls(
      seeds=[result.seed for result in results],
      config_hash=results[0].config_hash,
      data=results[0].data,
      metrics=metrics,
      seconds=round(sum(result.seconds for result in results), 1),
    )

  def metric(self, split: str, name: str) -> float | None:
    """The mean of a metric; None where a seed has none that is finite."""
    spread = self.metrics.get(split, {}).get(name)
    return None if spread is None else spread.mean

  def to_json(self) -> dict[str, Any]:
    metrics = {split: {name: vars(spread) for name, spread in found.items()} for split, found in self.metrics.items()}
    said = {"seeds": list(self.seeds), "config_hash": self.config_hash, "data": self.data}
    return {**said, **metrics, "seconds": self.seconds}


def _object(value: Any, named: str) -> dict[str, Any]:
  if not isinstance(value, dict):
    raise ValueError(f"{named} must be an object, not {_shown(value)}")
  return value


def _metrics(value: Any, split: str) -> dict[str, float | None]:
  found = _object(value, repr(split))
  return {name: None if one is None else _checked(one, float, f"{split}/{name}") for name, one in found.items()}


def _checked(value: Any, kind: type, name: str) -> Any:
  wanted: Any = (int, float) if kind is float else kind
  if not isinstance(value, wanted) or isinstance(value, bool) or (kind is float and not math.isfinite(float(value))):
    raise ValueError(f"{name!r} must be of type {kind.__name__}, not {_shown(value)}")
  return value


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 40 else f"{text[:40]}…"
