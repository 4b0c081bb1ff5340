"""What a recommender's constructor needs to know of the data, handed to it by name."""

from collections.abc import Callable
import functools
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from mlrec.data import feature_files
from mlrec.data.splits import Split
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.models.recommenders.recommender import Recommender
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER


class Facts:
  """Builds the recommender that a config names, for a split."""

  def __init__(self, config: ConfigDict, split: Split):
    self._config, self._split = config, split
    self._options = config.model.to_dict()
    self._name = self._options.pop("name")
    self.recommender: Any = models.get(self._name, kind=RECOMMENDER)
    # Only what is asked for is computed: features may be large.
    self._facts = {name: make for name, make in self._makers().items() if name in models.options(self._name)}

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
      "feature_dim": lambda: feature_files.width(source) if source else 0,
      "features": lambda: self._features.vectors if source else None,
    }

  @functools.cached_property
  def _features(self) -> feature_files.Features:
    return feature_files.read(self._config.data.features, self._split.item_ids)
