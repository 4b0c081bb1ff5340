"""The stream of training batches, from the split to the devices."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import NamedTuple
from typing import Protocol

from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from mlrec.config import ConfigError
from mlrec.content.base import Content
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.data.impression_batches import ImpressionBatches
from mlrec.data.impression_batches import IMPRESSIONS
from mlrec.data.impressions import Impressions
from mlrec.data.interaction_batches import InteractionBatches
from mlrec.data.interaction_batches import INTERACTIONS
from mlrec.data.splits import Split
from mlrec.data.static_shapes import round_up
from mlrec.models.recommenders.recommender import Recommender
from mlrec.train.sharding import put
from mlrec.train.sharding import put_content
from mlrec.train.sharding import put_parts
from mlrec.train.sharding import Shares

# What a stream gives by step.
Batches = TrainBatches | InteractionBatches | ImpressionBatches


def train_batches(
  config: ConfigDict,
  split: Split,
  layout: Layout,
  model: Recommender,
  mesh: Mesh,
  impressions: Impressions | None = None,
) -> Batches:
  """The stream of batches of a model.

  Args:
    config: validated.
    split: the data.
    layout: how histories are laid out.
    model: shapes are enough.
    mesh: the devices.
    impressions: of a model that learns from them.

  Raises:
    ConfigError: groups of negatives, or parts, that the model cannot have.
    DataError: a user has all items, and the model draws others.
  """
  on_interactions = model.batches_of == INTERACTIONS
  _check_parts(config, model)
  if impressions is not None:
    return ImpressionBatches(
      impressions, max_length=split.max_length, batch_size=config.train.batch_size, seed=config.seed,
      multiple_of=mesh.size,
    )  # fmt: skip
  shared: dict[str, Any] = {
    "batch_size": config.train.batch_size,
    "seed": config.seed,
    "negatives": model.negatives,
    "popularity_power": config.loss.popularity_power,
    "multiple_of": mesh.size,
  }
  if config.loss.negative_groups > 1 and (on_interactions or model.negatives or model.scores_all_items):
    draws = "scores all items" if model.scores_all_items else "draws its negatives"
    why = "is trained on interactions, not on users" if on_interactions and not model.negatives else draws
    raise ConfigError(f"config.loss.negative_groups = {config.loss.negative_groups}: {config.model.name} {why}; give 1")
  if on_interactions:
    return InteractionBatches(split, inputs=model.reads_inputs, **shared)
  shared |= {"negatives_by_popularity": model.negatives_by_popularity, "parts": config.train.parts}
  return TrainBatches(split, layout, negative_groups=config.loss.negative_groups, **shared)


def _check_parts(config: ConfigDict, model: Recommender) -> None:
  """Refuses parts of batches, or groups in them, that the model cannot have."""
  parts, groups = config.train.parts, config.loss.negative_groups
  if model.batches_of == IMPRESSIONS and max(parts, groups) > 1:
    name = "train.parts" if parts > 1 else "loss.negative_groups"
    raise ConfigError(
      f"config.{name} = {max(parts, groups)}: {config.model.name} is trained on impressions, not on users; give 1"
    )
  if parts == 1:
    return
  said = f"config.train.parts = {parts}"
  if model.batches_of == INTERACTIONS:
    raise ConfigError(f"{said}: {config.model.name} is trained on interactions, not on users; give 1")
  if groups % parts and not (model.negatives or model.scores_all_items):
    raise ConfigError(
      f"{said}: users of a part see its own negatives alone, so that config.loss.negative_groups = {groups} must be a "
      f"multiple of it; give {round_up(groups, parts)}"
    )


class Stream(Protocol):
  """Batches by step, whose `items` are read content of."""

  @property
  def stack(self) -> Callable[..., Any]:
    """`(first, count, size)`: the batches of `count` steps from `first` on, on a new leading axis of `size`."""


class Group(NamedTuple):
  """Stacked batches of so many `steps` on the host, and the content of their items by shares."""

  steps: int
  stacked: Any
  content: dict[int, dict[str, np.ndarray]] | None


@dataclasses.dataclass(frozen=True)
class Groups:
  """The groups of steps of an epoch, or of what is left of it, by their number; picklable.

  Attributes:
    batches: the stream.
    bounds: the first step of each group, and the end of the last.
    size: of the stacks.
    content: what the item tower reads; None for nothing.
    shares: this process's.
    parts: that batches are made in; of several a process makes its own alone.
  """

  batches: Stream
  bounds: Sequence[int]
  size: int
  content: Content | None
  shares: Shares
  parts: int

  def __call__(self, number: int) -> Group:
    first = self.bounds[number]
    count = self.bounds[number + 1] - first
    options = {"parts": self.shares.of_parts(self.parts)} if self.parts > 1 else {}
    stacked = self.batches.stack(first, count, self.size, **options)
    content = None
    if self.content is not None:
      content = self.shares.read(self.content, stacked.items, axis=1, held=self.parts > 1)
    return Group(count, stacked, content)


def placed(mesh: Mesh, parts: int, group: Group) -> tuple[int, Any]:
  """The number of steps of a group, and its stacked batches on the devices; they are made in so many parts."""
  if parts > 1:
    batches = put_parts(mesh, group.stacked, Shares.of(mesh).of_parts(parts), parts)
  else:
    batches = put(mesh, group.stacked, axis=1)
  if group.content is not None:
    batches = batches._replace(content=put_content(mesh, batches.items.shape, group.content, axis=1))
  return group.steps, batches
