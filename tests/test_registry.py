from collections.abc import Mapping
from collections.abc import Sequence
import re
from typing import Any

from flax import nnx
from ml_collections import ConfigDict
import numpy as np
import pytest

from mlrec import models
from mlrec.models.registry import models as model_registry
from mlrec.registry import at_least
from mlrec.registry import closest
from mlrec.registry import near
from mlrec.registry import OptionError
from mlrec.registry import options_of
from mlrec.registry import Registry
from mlrec.registry import variant


def test_models_have_their_exact_names():
  assert {"sasrec", "gru4rec", "nextitnet"} <= set(models.names("user encoder"))
  assert "id" in models.names("item tower")
  assert "sequential" in models.names("recommender")
  assert models.names() == sorted(models.names())
  assert set(models.names()) == {name for kind in model_registry.kinds() for name in models.names(kind)}
  assert models.names("kitchen sink") == []


@pytest.mark.parametrize(
  ("typo", "meant"), [("sasrek", "sasrec"), ("SASRec", "sasrec"), ("gru4rek", "gru4rec"), ("nextit", "nextitnet")]
)
def test_a_name_with_a_typo_answers_with_the_closest(typo, meant):
  with pytest.raises(ValueError, match=f"unknown model '{typo}'.*'{meant}'"):
    models.create(typo, dim=4, rngs=nnx.Rngs(0))


def test_a_name_like_no_other_answers_with_all():
  with pytest.raises(ValueError, match="expected one of") as error:
    models.create("zzzzzzzz", rngs=nnx.Rngs(0))
  assert all(repr(name) in str(error.value) for name in models.names())


@pytest.mark.parametrize(
  ("name", "option", "meant"),
  [
    ("sasrec", "head", "heads"),
    ("sasrec", "drop_out", "dropout"),
    ("gru4rec", "block", "blocks"),
    ("id", "dims", "dim"),
  ],
)
def test_an_unknown_option_answers_with_the_closest(name, option, meant):
  with pytest.raises(OptionError, match=f"^{option} = 2: '{name}' has no such option; did you mean .*'{meant}'"):
    models.create(name, rngs=nnx.Rngs(0), **{option: 2})


@pytest.mark.parametrize(("part", "typo", "meant"), [("user", "sasrek", "sasrec"), ("item", "ids", "id")])
def test_a_part_with_a_typo_is_named_by_its_kind(part, typo, meant):
  with pytest.raises(
    OptionError, match=rf"^{part}\.name = '{typo}': there is no such (user encoder|item tower); .*'{meant}'"
  ):
    models.create("sequential", num_items=3, dim=4, rngs=nnx.Rngs(0), **{part: {"name": typo}})


def test_a_part_of_another_kind_is_refused():
  with pytest.raises(OptionError, match=r"^user\.name = 'id': there is no such user encoder"):
    models.create("sequential", num_items=3, dim=4, user={"name": "id"}, rngs=nnx.Rngs(0))


def test_options_of_parts_reach_their_constructors():
  model = models.create(
    "sequential", num_items=3, dim=8, user={"name": "sasrec", "blocks": 3, "heads": 4}, rngs=nnx.Rngs(0)
  )
  assert len(model.users.blocks) == 3
  assert model.users.blocks[0].attention.heads == 4
  with pytest.raises(OptionError, match=r"^user\.blocs = 3: 'sasrec' has no such option; did you mean 'blocks'"):
    models.create("sequential", num_items=3, dim=8, user={"name": "sasrec", "blocs": 3}, rngs=nnx.Rngs(0))


def test_what_has_no_default_is_required():
  assert model_registry.required("sequential") == ["num_items"]
  assert model_registry.required("popularity") == ["num_items"]
  assert model_registry.required("lightgcn") == ["train", "num_users", "num_items"]
  assert set(model_registry.required("sequential")) < set(model_registry.options("sequential"))


def test_a_registry_keeps_what_is_registered_under_its_name_and_kind():
  registry = Registry("tool", [])

  @registry.register("hammer", kind="steel")
  def hammer(weight, *, handle="ash"):
    return weight, handle

  @registry.register("mallet", kind="wood")
  def mallet(**anything):
    return anything

  assert registry.names() == ["hammer", "mallet"]
  assert registry.names("wood") == ["mallet"]
  assert registry.kinds() == ["steel", "wood"]
  assert registry.get("hammer") is hammer
  assert registry.create("hammer", 3, handle="oak") == (3, "oak")
  assert registry.create("mallet", kind="wood", size=2) == {"size": 2}
  with pytest.raises(ValueError, match=r"unknown steel 'mallet'.*'hammer'"):
    registry.get("mallet", kind="steel")
  with pytest.raises(ValueError, match=r"unknown tool 'hamer'.*'hammer'"):
    registry.get("hamer")


def test_a_name_is_registered_once():
  registry = Registry("tool", [])
  first = registry.register("hammer")(lambda: 1)
  registry.register("hammer")(first)
  with pytest.raises(ValueError, match="tool 'hammer' is registered twice"):
    registry.register("hammer")(lambda: 2)
  assert registry.create("hammer") == 1
  registry.unregister("hammer")
  assert registry.names() == []
  registry.register("hammer")(lambda: 2)
  assert registry.create("hammer") == 2


def test_registries_import_the_packages_that_hold_their_entries_when_asked(tmp_path, monkeypatch):
  package = tmp_path / "toolbox_for_tests"
  package.mkdir()
  (package / "__init__.py").write_text("from mlrec.registry import Registry\ntools = Registry('tool', [__name__])\n")
  (package / "saw.py").write_text(
    "from toolbox_for_tests import tools\n\n@tools.register('saw')\ndef saw():\n  return 'cut'\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  from toolbox_for_tests import tools

  assert tools.names() == ["saw"]
  assert tools.create("saw") == "cut"


def test_closest_names_the_near_ones_or_all():
  assert closest("batch_sise", ["batch_size", "seed"]) == "did you mean 'batch_size'?"
  assert closest("qqq", ["beta", "alpha"]) == "expected one of 'alpha', 'beta'"


@pytest.mark.parametrize("name", ["name", "viewer", "12", "page", ""])
def test_what_is_not_near_is_not_suggested(name):
  assert near(name, ["user", "item", "time", "1", "2", "13"]) == []


def test_near_names_are_found_whatever_their_case():
  assert near("USERID", ["user_id", "UserId", "userid", "item_id"])[:2] == ["UserId", "userid"]


class Base:
  def __init__(self, made, /, *, width=1, depth=2):
    self.given = made, width, depth


class HandsOn(Base):
  def __init__(self, number, *, depth=5, **shared):
    super().__init__(number, depth=depth, **shared)


def test_options_that_a_constructor_hands_on_are_those_of_its_base_class():
  registry = Registry("thing", [])
  registry.register("on")(HandsOn)
  assert sorted(registry.options("on")) == ["depth", "number", "width"]
  assert registry.create("on", 3, width=7).given == (3, 7, 5)
  with pytest.raises(OptionError, match="widht = 7: 'on' has no such option; did you mean 'width'"):
    registry.create("on", 3, widht=7)


def test_a_variant_has_other_defaults_and_the_same_options():
  registry = Registry("thing", [])
  registry.register("wide")(variant(HandsOn, width=9))
  assert sorted(registry.options("wide")) == ["depth", "number", "width"]
  assert registry.create("wide", number=3).given == (3, 9, 5)
  assert registry.create("wide", number=3, width=4).given == (3, 4, 5)
  with pytest.raises(OptionError, match="dpeth = 1: 'wide' has no such option; did you mean 'depth'"):
    registry.create("wide", number=3, dpeth=1)


def test_an_option_is_named_from_where_it_lies():
  error = OptionError("mode", "= 'tpo': did you mean 'top'?")
  assert str(error) == "mode = 'tpo': did you mean 'top'?"
  assert str(error.below("cover").below("towers")) == "towers.cover.mode = 'tpo': did you mean 'top'?"
  assert (error.option, error.problem) == ("mode", "= 'tpo': did you mean 'top'?")
  assert isinstance(error, ValueError)


def test_sections_name_the_options_that_are_wrong_in_them():
  with pytest.raises(OptionError) as told, options_of("config.model"), options_of("item"):
    raise OptionError("dim", "= 0 must be at least 1") from KeyError("cause")
  assert str(told.value) == "config.model.item.dim = 0 must be at least 1"
  assert isinstance(told.value.__cause__, KeyError), "the cause is kept"
  with options_of("config.model"):
    pass
  with pytest.raises(ValueError, match=r"^another$"), options_of("config.model"):
    raise ValueError("another")


def test_the_first_option_that_is_below_is_named():
  at_least(1, dim=1, layers=2)
  with pytest.raises(OptionError, match=r"^layers = 0 must be at least 1$"):
    at_least(1, dim=1, layers=0, heads=-1)
  with pytest.raises(OptionError, match=r"^reg = nan must be at least 0$"):
    at_least(0, reg=float("nan"))


def _of_types(
  flag: bool = False,
  number: int = 1,
  rate: float = 0.5,
  title: str = "",
  lower: bool | None = None,
  size: int | float | None = None,
  part: Mapping[str, Any] = {},
  widths: Sequence[int] = (),
  pair: tuple[int, int] = (1, 1),
  array: np.ndarray | None = None,
  dtype: Any = None,
  plain=None,
):
  del flag, number, rate, title, lower, size, part, widths, pair, array, dtype
  return plain


@pytest.fixture(scope="module")
def typed() -> Registry:
  registry = Registry("thing", [])
  registry.register("typed")(_of_types)
  return registry


@pytest.mark.parametrize(
  ("option", "value", "wanted"),
  [
    ("flag", 1, "True or False"),
    ("flag", "yes", "True or False"),
    ("flag", None, "True or False"),
    ("number", True, "an integer"),
    ("number", 2.0, "an integer"),
    ("number", 2.5, "an integer"),
    ("number", "2", "an integer"),
    ("number", None, "an integer"),
    ("number", (2,), "an integer"),
    ("rate", True, "a number"),
    ("rate", "0.5", "a number"),
    ("rate", None, "a number"),
    ("rate", float("nan"), "a finite number"),
    ("rate", float("inf"), "a finite number"),
    ("rate", 1j, "a number"),
    ("title", 3, "a text"),
    ("title", None, "a text"),
    ("lower", 1, "True or False or None"),
    ("lower", "no", "True or False or None"),
    ("size", "big", "an integer or a number or None"),
    ("size", True, "an integer or a number or None"),
    ("part", 3, "a section of options"),
    ("part", [1], "a section of options"),
    ("part", None, "a section of options"),
    ("widths", 3, "a list of integers"),
    ("widths", "12", "a list of integers"),
    ("widths", {1: 2}, "a list of integers"),
    ("widths", (8, 2.5), "a list of integers"),
    ("widths", (8, True), "a list of integers"),
    ("widths", ["8"], "a list of integers"),
    ("pair", 1, "a list of integers"),
    ("pair", (1, None), "a list of integers"),
  ],
)
def test_a_value_of_another_type_than_the_option_states_is_refused(typed, option, value, wanted):
  with pytest.raises(OptionError, match=re.escape(f"{option} = {value!r} must be {wanted}") + "$"):
    typed.create("typed", **{option: value})


@pytest.mark.parametrize(
  ("option", "value"),
  [
    ("flag", True), ("number", 3), ("number", -3), ("number", np.int64(3)), ("number", 10**30), ("rate", 1),
    ("rate", np.float32(0.5)), ("rate", 1e308), ("title", ""), ("lower", None), ("lower", False), ("size", None),
    ("size", 2), ("size", 2.5), ("part", {}), ("part", {"name": "id"}), ("widths", ()), ("widths", [1, 2]),
    ("pair", (1, 2)), ("array", np.zeros(3)), ("array", None), ("dtype", "float32"), ("plain", object()),
  ],
)  # fmt: skip
def test_a_value_of_the_type_that_the_option_states_is_taken(typed, option, value):
  taken = typed.create("typed", **{option: value})
  assert option != "plain" or taken is value


def test_a_section_of_a_config_is_a_section_of_options(typed):
  typed.create("typed", part=ConfigDict({"name": "id"}))


def test_a_section_sets_what_is_not_given_already():
  registry = Registry("thing", [])

  @registry.register("thing")
  def thing(first: int, second: int = 2, *, third: int = 3):
    return first, second, third

  assert registry.create("thing", 1, section={"second": 5}, third=6) == (1, 5, 6)
  for given in ({"first": 4}, {"third": 4}):
    with pytest.raises(OptionError, match=f"^{next(iter(given))} = 4 cannot be set here: it is known already"):
      registry.create("thing", 1, section=given, third=6)
  with pytest.raises(OptionError, match=r"^kind = 4: 'thing' has no such option"):
    registry.create("thing", 1, section={"kind": 4})
  with pytest.raises(OptionError, match=r"^second = '5' must be an integer"):
    registry.create("thing", 1, section={"second": "5"})


def test_options_of_a_base_class_are_of_the_types_that_it_states():
  class Stated:
    def __init__(self, *, depth: int = 2):
      self.depth = depth

  class Below(Stated):
    def __init__(self, *, width: int = 1, **shared: Any):
      super().__init__(**shared)
      self.width = width

  registry = Registry("thing", [])
  registry.register("below")(Below)
  registry.register("deep")(variant(Below, depth=5))
  assert registry.create("below", depth=3).depth == 3
  assert registry.create("deep").depth == 5
  for name in ("below", "deep"):
    with pytest.raises(OptionError, match=r"^depth = 2.5 must be an integer$"):
      registry.create(name, depth=2.5)
    with pytest.raises(OptionError, match=r"^width = None must be an integer$"):
      registry.create(name, width=None)
