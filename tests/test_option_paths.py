"""Options that are wrong are named by their whole path in the config."""

from flax import nnx
import numpy as np
import pytest

from mlrec.config import ConfigError
from mlrec.config import default_config
from mlrec.config import with_values
from mlrec.data import leave_one_out
from mlrec.data import Rows
from mlrec.data.interactions import Interactions
from mlrec.registry import OptionError
from mlrec.train.model_builder import ModelBuilder

_COVER = {"name": "image", "encoder": "vit_image_s", "mode": "scratch", "options": {"depth": 1, "dim": 8, "heads": 2}}
_SEQUENTIAL = {"name": "sequential", "dim": 8, "item": {"name": "id"}, "user": {"name": "sasrec", "heads": 2}}


def _towers(**cover):
  return {"item": {"name": "fused", "towers": {"id": {"name": "id"}, "cover": _COVER | cover}}}


@pytest.fixture(scope="module")
def split():
  lists = [np.roll(np.arange(1, 8), n) for n in range(4)]
  return leave_one_out(Interactions(np.arange(1, 5), Rows.from_lists(lists)))


def _create(split, model):
  builder = ModelBuilder(with_values(default_config(), {"model": model}), split)
  if builder.recommender.fitted:
    return builder.create_fitted()
  return nnx.eval_shape(lambda: builder.create(rngs=nnx.Rngs(0)))


def test_what_is_right_is_built(split):
  _create(split, _SEQUENTIAL | _towers())
  _create(split, {"name": "ease"}).fit(split.train)


@pytest.mark.parametrize(
  ("model", "message"),
  [
    ({"name": "sequentiel"}, r"name = 'sequentiel': there is no such recommender; did you mean 'sequential'"),
    ({"name": "sasrec"}, r"name = 'sasrec': there is no such recommender"),
    (_SEQUENTIAL | {"dims": 8}, r"dims = 8: 'sequential' has no such option; did you mean 'dim'"),
    (_SEQUENTIAL | {"dim": 2.5}, r"dim = 2\.5 must be an integer"),
    (_SEQUENTIAL | {"dim": None}, r"dim = None must be an integer"),
    (_SEQUENTIAL | {"dim": 0}, r"dim = 0 must be at least 1"),
    (_SEQUENTIAL | {"item": 3}, r"item = 3 must be a section of options"),
    (_SEQUENTIAL | {"item": {}}, r"item\.name is missing beside \[\]: it chooses the item tower"),
    (_SEQUENTIAL | {"item": {"name": "sasrec"}}, r"item\.name = 'sasrec': there is no such item tower"),
    (_SEQUENTIAL | {"user": {"name": "sasrek"}}, r"user\.name = 'sasrek': .* did you mean 'sasrec'"),
    (_SEQUENTIAL | {"user": {"name": "sasrec", "heads": 3}}, r"user\.heads = 3: dim = 8 must be a multiple"),
    (_SEQUENTIAL | {"user": {"name": "sasrec", "dropout": 1.0}}, r"user\.dropout = 1\.0 must be at least 0 and"),
    (_SEQUENTIAL | {"user": {"name": "sasrec", "dim": 8}}, r"user\.dim = 8 cannot be set here: it is known already"),
    (_SEQUENTIAL | {"user": {"name": "sasrec", "max_length": 3}}, r"user\.max_length = 3 cannot be set here"),
    (_SEQUENTIAL | {"user": {"name": "sasrec", "kind": "x"}}, r"user\.kind = 'x': 'sasrec' has no such option"),
    (_SEQUENTIAL | {"user": {"name": "sasrec", "rngs": 1}}, r"user\.rngs = 1 cannot be set here"),
    (_SEQUENTIAL | {"item": {"name": "id", "dim": 3}}, r"item\.dim = 3 cannot be set here"),
    (_SEQUENTIAL | {"item": {"name": "id", "num_items": 3}}, r"item\.num_items = 3 cannot be set here"),
    (_SEQUENTIAL | {"item": {"name": "features", "feature_dim": 3}}, r"item\.feature_dim = 3 cannot be set here"),
    (_SEQUENTIAL | {"rngs": 1}, r"rngs = 1 cannot be set here"),
    (_SEQUENTIAL | {"kind": "x"}, r"kind = 'x': 'sequential' has no such option"),
    (_SEQUENTIAL | {"user": {"name": "gru4rec", "blocks": 0}}, r"user\.blocks = 0 must be at least 1"),
    (_SEQUENTIAL | _towers() | {"loss": "gbce"}, r"negatives = 0 must be at least 1, with loss = 'gbce'"),
    (
      _SEQUENTIAL | _towers() | {"loss": "gbce", "negatives": 100_000_000},
      r"negatives = 100000000 must be at most 1000000",
    ),
    ({"name": "lightgcn", "layers": 0}, r"layers = 0 must be at least 1"),
    ({"name": "mmgcn", "reference": True, "layers": 2}, r"layers = 2 must be 3 with reference = True"),
    ({"name": "dssm", "hidden": 3}, r"hidden = 3 must be a list of integers"),
    ({"name": "item_knn", "similarity": "cosin"}, r"similarity = 'cosin': did you mean 'cosine'"),
    ({"name": "item_knn", "shrink": "1"}, r"shrink = '1' must be a number"),
    ({"name": "ease", "max_items": 3}, r"max_items = 3: the data has 7 items"),
    (
      {"name": "youtube", "item": {"name": "statistics", "bumps": 1}, "dim": 8},
      r"item\.bumps = 1 must be at least 2",
    ),
  ],
)  # fmt: skip
def test_a_wrong_option_is_named_from_the_config_on(split, model, message):
  with pytest.raises(OptionError, match=rf"^config\.model\.{message}"):
    _create(split, model)


@pytest.mark.parametrize(
  ("cover", "message"),
  [
    ({"mode": "tpo"}, r"mode = 'tpo': did you mean 'top'"),
    ({"weights": "random"}, r"mode = 'scratch' starts at random"),
    ({"encoder": "slow_r50"}, r"encoder = 'slow_r50': there is no such image encoder"),
    ({"encoder": "vit_s"}, r"encoder = 'vit_s': .*'vit_image_s'"),
    ({"options": {"depth": 0}}, r"options\.depth = 0 must be at least 1"),
    ({"options": {"heads": 5}}, r"options\.dim = \d+ must be a multiple of heads = 5"),
    ({"options": {"dept": 1}}, r"options\.dept = 1: 'vit_image_s' has no such option"),
    ({"options": {"size": "big"}}, r"options\.size = 'big' must be an integer"),
    ({"options": {"dtype": "bfloat16"}}, r"options\.dtype = 'bfloat16' cannot be set here"),
    ({"options": {"dim": 0}}, r"options\.dim = 0 must be at least 1"),
    ({"options": {"hidden": -1}}, r"options\.hidden = -1 must be at least 1"),
    ({"dtype": "float31"}, r"dtype = 'float31': did you mean 'float32'"),
    ({"size": -3}, r"size = -3 must be at least 0"),
  ],
)
def test_a_wrong_option_of_a_tower_among_towers_is_named_from_the_config_on(split, cover, message):
  with pytest.raises(OptionError, match=rf"^config\.model\.item\.towers\.cover\.{message}"):
    _create(split, _SEQUENTIAL | _towers(**cover))


@pytest.mark.parametrize("option", ["num_items", "max_length"])
def test_what_the_data_says_cannot_be_set(split, option):
  with pytest.raises(ConfigError, match=rf"config\.model\.{option} = 3 cannot be set: it is known from the data"):
    _create(split, _SEQUENTIAL | {option: 3})
