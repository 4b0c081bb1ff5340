"""What a recommender's constructor needs to know of the data, handed to it by name."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import functools
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from mlrec.config import ConfigError
from mlrec.data import feature_files
from mlrec.data.ages import item_ages
from mlrec.data.splits import Split
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.models.recommenders.recommender import Recommender
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER


class _Lazy(Mapping[str, Any]):
  """Values that are made when they are first looked up."""

  def __init__(self, makers: Mapping[str, Callable[[], Any]]):
    self._makers, self._made = makers, dict[str, Any]()

  def __getitem__(self, name: str) -> Any:
    if name not in self._made:
      self._made[name] = self._makers[name]()
    return self._made[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._makers)

  def __len__(self) -> int:
    return len(self._makers)


class Facts:
  """Builds the recommender that a config names, for a split.

  Attributes:
    recommender: its class.
  """

  def __init__(self, config: ConfigDict, split: Split):
    """Looks up what is needed; nothing is computed yet.

    Raises:
      ConfigError: `config.model` sets a fact.
      ValueError: it names no recommender.
    """
    self._config, self._split = config, split
    self._options = config.model.to_dict()
    self._name = self._options.pop("name")
    self.recommender: Any = models.get(self._name, kind=RECOMMENDER)
    makers = self._makers()
    for option in self._options:
      if option in makers:
        raise ConfigError(f"config.model.{option} = {self._options[option]!r} cannot be set: it is known from the data")
    named = set(models.options(self._name))
    if not config.data.features:
      # Who can do without them has a default.
      named -= {"feature_dim", "features"} - set(models.required(self._name))
    # Only what is asked for is computed: features may be large.
    self._facts = {name: make for name, make in makers.items() if name in named}

  @property
  def fingerprints(self) -> list[str]:
    """Of what the recommender is built of beside the split."""
    return [self._features.fingerprint] if "features" in self._facts and self._config.data.features else []

  def create(self, *, rngs: nnx.Rngs) -> Recommender:
    """A recommender to be trained.

    Raises:
      DataError, ValueError: an option is wrong, or a fact cannot be had.
    """
    return self._create(rngs=rngs)

  def create_fitted(self) -> FittedRecommender:
    """A recommender that is computed at once.

    Raises:
      DataError, ValueError: as `create`.
    """
    return self._create()

  def _create(self, **options: Any) -> Any:
    facts = {name: make() for name, make in self._facts.items()}
    return models.create(self._name, kind=RECOMMENDER, **facts, **options, **self._options)

  def _makers(self) -> dict[str, Callable[[], Any]]:
    split, source = self._split, self._config.data.features
    return {
      "num_items": lambda: split.num_items,
      "num_users": lambda: split.num_users,
      "max_length": lambda: split.max_length,
      "train": lambda: split.train,
      "feature_dim": lambda: feature_files.width(source),
      "features": lambda: self._features.vectors,
      "item_facts": lambda: self._item_facts,
    }

  @functools.cached_property
  def _item_facts(self) -> Mapping[str, Any]:
    split, source = self._split, self._config.data.features
    return _Lazy({
      "feature_dim": lambda: feature_files.width(source) if source else 0,
      "train_counts": lambda: split.train_counts,
      "item_ages": lambda: item_ages(split.train, split.num_items),
    })  # fmt: skip

  @functools.cached_property
  def _features(self) -> feature_files.Features:
    read = feature_files.read(self._config.data.features, self._split.item_ids)
    return feature_files.whitened(read, self._split.item_ids) if self._config.data.whiten else read
