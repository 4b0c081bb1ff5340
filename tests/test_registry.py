from flax import nnx
import pytest

from mlrec import models
from mlrec.models.registry import models as model_registry
from mlrec.registry import closest
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
  with pytest.raises(ValueError, match=f"'{name}' has no option '{option}'.*'{meant}'"):
    models.create(name, rngs=nnx.Rngs(0), **{option: 2})


@pytest.mark.parametrize(("part", "typo", "meant"), [("user", "sasrek", "sasrec"), ("item", "ids", "id")])
def test_a_part_with_a_typo_is_named_by_its_kind(part, typo, meant):
  with pytest.raises(ValueError, match=rf"unknown (user encoder|item tower) '{typo}'.*'{meant}'"):
    models.create("sequential", num_items=3, dim=4, rngs=nnx.Rngs(0), **{part: {"name": typo}})


def test_a_part_of_another_kind_is_refused():
  with pytest.raises(ValueError, match="unknown user encoder 'id'"):
    models.create("sequential", num_items=3, dim=4, user={"name": "id"}, rngs=nnx.Rngs(0))


def test_options_of_parts_reach_their_constructors():
  model = models.create(
    "sequential", num_items=3, dim=8, user={"name": "sasrec", "blocks": 3, "heads": 4}, rngs=nnx.Rngs(0)
  )
  assert len(model.users.blocks) == 3
  assert model.users.blocks[0].attention.heads == 4
  with pytest.raises(ValueError, match=r"'sasrec' has no option 'blocs'.*'blocks'"):
    models.create("sequential", num_items=3, dim=8, user={"name": "sasrec", "blocs": 3}, rngs=nnx.Rngs(0))


def test_what_has_no_default_is_required():
  assert model_registry.required("sequential") == ["num_items"]
  assert model_registry.required("popularity") == ["train", "num_items"]
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
  with pytest.raises(ValueError, match="'on' has no option 'widht': did you mean 'width'"):
    registry.create("on", 3, widht=7)


def test_a_variant_has_other_defaults_and_the_same_options():
  registry = Registry("thing", [])
  registry.register("wide")(variant(HandsOn, width=9))
  assert sorted(registry.options("wide")) == ["depth", "number", "width"]
  assert registry.create("wide", number=3).given == (3, 9, 5)
  assert registry.create("wide", number=3, width=4).given == (3, 4, 5)
  with pytest.raises(ValueError, match="'wide' has no option 'dpeth': did you mean 'depth'"):
    registry.create("wide", number=3, dpeth=1)
