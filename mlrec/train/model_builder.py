"""Builds the recommender that a config names, with what its constructor asks to know of the data."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import functools
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from mlrec.config import ConfigError
from mlrec.content import codes
from mlrec.content import vectors
from mlrec.content.codes import Codes
from mlrec.content.vectors import Vectors
from mlrec.data.item_ages import item_ages
from mlrec.data.splits import Split
from mlrec.models.items.tower import ITEM_DATA
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.models.recommenders.recommender import Recommender
from mlrec.models.registry import choose
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import options_of

_FEATURE_DIM, _FEATURES, _CODES = "feature_dim", "features", "codes"


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


class ModelBuilder:
  """Builds a config's recommender for a split.

  Attributes:
    recommender: its class.
  """

  def __init__(self, config: ConfigDict, split: Split):
    """Looks up what the constructor asks for; nothing is computed yet.

    Raises:
      OptionError: `config.model` names no recommender.
      ConfigError: it sets what is known from the data.
    """
    self._data, self._split = config.data, split
    with options_of("config.model"):
      self._name, self._options = choose(config.model.to_dict(), RECOMMENDER)
    self.recommender: Any = models.get(self._name, kind=RECOMMENDER)
    makers = self._makers()
    for option, value in self._options.items():
      if option in makers:
        raise ConfigError(f"config.model.{option} = {value!r} cannot be set: it is known from the data")
    asked = set(models.options(self._name))
    if not vectors.source_of(self._data):
      # A model that can do without vectors has defaults for them.
      asked -= {_FEATURE_DIM, _FEATURES} - set(models.required(self._name))
    # Only what is asked for is computed: vectors may be large.
    self._known = _Lazy({name: make for name, make in makers.items() if name in asked})

  @property
  def fingerprints(self) -> list[str]:
    """Of what the recommender is built from beside the split."""
    read = [self._vectors.fingerprint] if _FEATURES in self._known and vectors.source_of(self._data) else []
    return read + ([self._codes.fingerprint] if self._data.codes else [])

  def create(self, *, rngs: nnx.Rngs) -> Recommender:
    """A recommender to be trained.

    Raises:
      OptionError: an option is wrong; it is named from `config` on.
      DataError: what is asked of the data cannot be had.
    """
    return self._create(rngs=rngs)

  def create_fitted(self) -> FittedRecommender:
    """A recommender that is computed at once, and is not yet.

    Raises:
      OptionError, DataError: as `create`.
    """
    return self._create()

  def _create(self, **options: Any) -> Any:
    with options_of("config.model"):
      return models.create(self._name, kind=RECOMMENDER, section=self._options, **self._known, **options)

  def _makers(self) -> dict[str, Callable[[], Any]]:
    split, source = self._split, vectors.source_of(self._data)
    return {
      "num_items": lambda: split.num_items,
      "num_users": lambda: split.num_users,
      "max_length": lambda: split.max_length,
      "train": lambda: split.train,
      _FEATURE_DIM: lambda: vectors.width(source),
      _FEATURES: lambda: self._vectors.vectors,
      _CODES: lambda: self._codes.codes,
      ITEM_DATA: lambda: self._item_data,
    }

  @functools.cached_property
  def _item_data(self) -> Mapping[str, Any]:
    split, source = self._split, vectors.source_of(self._data)
    return _Lazy({
      _FEATURE_DIM: lambda: vectors.width(source) if source else 0,
      "train_counts": lambda: (
        split.train_counts if split.impressions is None else split.impressions.counts(split.num_items)
      ),
      "item_fields": lambda: split.item_fields,
      "item_ages": lambda: item_ages(split.train, split.num_items),
      "train": lambda: split.train,
      _CODES: lambda: self._codes.codes,
    })  # fmt: skip

  @functools.cached_property
  def _vectors(self) -> Vectors:
    return vectors.load(self._data, self._split.item_ids, self._split.known_ids)

  @functools.cached_property
  def _codes(self) -> Codes:
    return codes.read(self._data.codes, self._split.item_ids)
