import copy
import json
import re

from ml_collections import ConfigDict
import pytest

from mlrec import config as config_lib
from mlrec.config import config_hash
from mlrec.config import ConfigError
from mlrec.config import default_config
from mlrec.config import differences
from mlrec.config import flatten
from mlrec.config import from_file
from mlrec.config import MUTABLE
from mlrec.config import to_json
from mlrec.config import validate
from mlrec.config import with_values


def _with(**values) -> ConfigDict:
  """The default config with dotted keys (`__` for a dot) set, whatever their type."""
  plain = default_config().to_dict()
  for key, value in values.items():
    section, _, leaf = key.replace("__", ".").rpartition(".")
    (plain[section] if section else plain)[leaf] = value
  return ConfigDict(plain)


def test_the_defaults_are_valid_and_complete():
  config = validate(default_config())
  assert to_json(config) == to_json(default_config())
  assert json.loads(json.dumps(to_json(config))) == to_json(config)


def test_keys_that_are_not_given_take_their_defaults():
  config = validate(ConfigDict({"train": {"epochs": 3}, "seeds": (1, 2)}))
  assert config.train.epochs == 3
  assert tuple(config.seeds) == (1, 2)
  expected = to_json(default_config())
  expected["train"]["epochs"] = 3
  expected["seeds"] = [1, 2]
  assert to_json(config) == expected


def test_validation_leaves_what_it_is_given_alone():
  config = _with(train__epochs=3)
  before = copy.deepcopy(to_json(config))
  validate(config).train.epochs = 9
  assert to_json(config) == before


@pytest.mark.parametrize(
  ("key", "meant"),
  [
    ("train__epoch", "train.epochs"),
    ("trian__epochs", "train.epochs"),
    ("optimizer__learning_rate", "optimizer."),
    ("optimizer__weight_decoy", "optimizer.weight_decay"),
    ("data__sauce", "data.source"),
    ("sed", "seed"),
    ("eval__chunks", "eval.chunk"),
  ],
)
def test_an_unknown_key_is_named_with_the_nearest(key, meant):
  section, _, leaf = key.replace("__", ".").rpartition(".")
  config = ConfigDict({section: {leaf: 1}} if section else {leaf: 1})
  with pytest.raises(ConfigError, match=f"unknown key config.{key.replace('__', '.')}: .*{meant}"):
    validate(config)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("train__epochs", 2.5),
    ("train__epochs", "3"),
    ("train__epochs", True),
    ("train__epochs", None),
    ("optimizer__lr", "1e-3"),
    ("optimizer__lr", True),
    ("log__tensorboard", 1),
    ("data__source", 5),
    ("seeds", 3),
    ("seeds", "012"),
    ("init_from", 0),
    ("data__workers", 1.0),
    ("data__workers", None),
  ],
)
def test_a_value_of_another_type_is_named(key, value):
  with pytest.raises(ConfigError, match=f"config.{key.replace('__', '.')} must be of type"):
    validate(_with(**{key: value}))


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("train__epochs", 0),
    ("train__batch_size", 0),
    ("train__patience", -1),
    ("train__steps_per_dispatch", 0),
    ("train__ema_decay", 1.0),
    ("train__ema_decay", -0.1),
    ("eval__every_epochs", 0),
    ("eval__chunk", 0),
    ("eval__batch_size", 0),
    ("log__every_steps", 0),
    ("checkpoint__every_steps", -1),
    ("loss__negative_groups", 0),
    ("data__max_length", 0),
    ("data__min_length", 2),
    ("data__train_windows", -1),
    ("data__split", "tme:0.8,0.1"),
    ("data__split", "time:0.8,0.3"),
    ("data__split", ""),
    ("data__cold_share", -0.1),
    ("data__cold_share", 1.0),
    ("data__cold_seed", -1),
    ("seed", -1),
    ("optimizer__lr", 0.0),
    ("optimizer__lr", -1e-3),
    ("optimizer__lr", float("nan")),
    ("optimizer__eps", 0.0),
    ("optimizer__b1", 1.0),
    ("optimizer__b2", 1.0),
    ("optimizer__weight_decay", -0.1),
    ("optimizer__clip_norm", -1.0),
    ("optimizer__clip_norm", float("nan")),
    ("optimizer__warmup_steps", -5),
    ("optimizer__item_tables", "lazy_adam"),
    ("optimizer__item_tables_lr", -1e-3),
    ("optimizer__b1", float("inf")),
    ("loss__popularity_power", 1e38),
    ("loss__popularity_power", -1e38),
    ("loss__popularity_power", float("nan")),
    ("loss__popularity_power", float("-inf")),
    ("loss__popularity_power", 1e300),
    ("optimizer__lr", 1e39),
    ("optimizer__weight_decay", 3.5e38),
    ("optimizer__lr", 10**400),
    ("train__epochs", 2**31),
    ("train__batch_size", 10**400),
    ("eval__chunk", 2**40),
    ("checkpoint__every_steps", 2**31),
    ("seed", 2**32),
    ("data__cold_seed", 2**32),
    ("data__max_length", 65_537),
    ("data__workers", -1),
    ("data__workers", 2**31),
    ("seeds", (1, 1)),
    ("seeds", (0, -1)),
    ("seeds", (0, 1.5)),
    ("seeds", (0, True)),
    ("seeds", (0, 2**32)),
    ("eval__buckets", (0, 5)),
    ("eval__buckets", (5, 5)),
    ("eval__buckets", (20, 5)),
    ("eval__buckets", (2.5, 5)),
  ],
)
def test_a_value_out_of_range_is_named(key, value):
  with pytest.raises(ConfigError, match=f"config.{key.replace('__', '.')}.*{re.escape(str(value))}"):
    validate(_with(**{key: value}))


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("seed", 2**32 - 1), ("data__cold_seed", 2**32 - 1), ("seeds", (0, 2**32 - 1)), ("train__epochs", 2**31 - 1),
    ("data__max_length", 65_536), ("optimizer__weight_decay", 3.3e38), ("loss__popularity_power", -2.0),
    ("data__workers", 4),
  ],
)  # fmt: skip
def test_the_largest_values_are_taken(key, value):
  taken = dict(flatten(validate(_with(**{key: value}))))[key.replace("__", ".")]
  assert taken == value


def test_lazy_adamw_needs_momentum_that_fades_faster_than_the_squares():
  validate(_with(optimizer__item_tables="lazy_adamw", optimizer__b1=0.99, optimizer__b2=0.99))
  for values in ({"optimizer__b1": 0.95, "optimizer__b2": 0.9}, {"optimizer__b1": 0.0, "optimizer__b2": 0.0}):
    validate(_with(**values))
    with pytest.raises(ConfigError, match=r"config\.optimizer\.item_tables = 'lazy_adamw': the square of .*'adamw'"):
      validate(_with(optimizer__item_tables="lazy_adamw", **values))


def test_a_batch_divides_into_its_groups():
  with pytest.raises(ConfigError, match=r"config\.train\.batch_size = 10 .*config\.loss\.negative_groups = 4"):
    validate(_with(train__batch_size=10, loss__negative_groups=4))
  assert validate(_with(train__batch_size=12, loss__negative_groups=4)).loss.negative_groups == 4


def test_whole_numbers_stand_for_real_ones():
  assert validate(_with(optimizer__clip_norm=5, optimizer__weight_decay=0)).optimizer.clip_norm == 5


def test_options_of_models_are_left_to_the_models():
  model = {"name": "sequential", "dim": 8, "item": {"name": "id"}, "user": {"name": "gru4rec", "blocks": 1}}
  assert validate(_with(model=ConfigDict(model))).model.to_dict() == model


def test_a_model_that_is_no_section_is_named():
  with pytest.raises(ConfigError, match=r"config\.model"):
    validate(ConfigDict({"model": "sasrec"}))


def test_keys_that_may_change_do_not_change_the_hash():
  reference = config_hash(validate(default_config()), "data")
  known = dict(flatten(default_config()))
  others = {
    "data.source": "elsewhere.tsv", "data.data_dir": "/there", "data.videos": "microlens/demo-videos-1x32",
    "data.content": "/titles.csv", "data.features_dir": "/cache", "data.splits_dir": "/kept",
    "data.features": "/v.npy", "data.codes": "/codes.safetensors", "seeds": (3, 4),
    "log.tensorboard": False, "log.wandb": "p", "log.mlflow": "sqlite:///x", "eval.per_user": False,
    "baselines": ("popularity",), "eval.buckets": (1000, 100_000), "sharding.rules": (("table", "rows:model"),),
    "data.skip_damaged": True,
  }  # fmt: skip
  for key in MUTABLE:
    assert key in known
    value = others.get(key, 7)
    assert value != known[key]
    assert config_hash(validate(_with(**{key.replace(".", "__"): value})), "data") == reference, key
  assert config_hash(validate(_with(seed=9)), "data") == reference


def test_everything_else_changes_the_hash():
  reference = config_hash(validate(default_config()), "data")
  others = {
    "init_from": "there",
    "data.max_length": 9,
    "data.min_length": 6,
    "data.train_windows": 0,
    "data.split": "users:0.8,0.1",
    "data.whiten": True,
    "model.dim": 8,
    "loss.negative_groups": 4,
    "loss.popularity_power": 0.5,
    "optimizer.lr": 3e-4,
    "optimizer.weight_decay": 0.0,
    "optimizer.schedule": "cosine",
    "train.batch_size": 128,
    "train.monitor": "ndcg@10",
    "train.ema_decay": 0.9,
  }
  hashes = [config_hash(validate(_with(**{key.replace(".", "__"): value})), "data") for key, value in others.items()]
  hashes.append(config_hash(validate(default_config()), "other data"))
  hashes.append(config_hash(validate(_with(model__user={"name": "gru4rec"})), "data"))
  assert len({reference, *hashes}) == len(hashes) + 1
  assert all(len(digits) == 12 and set(digits) <= set("0123456789abcdef") for digits in hashes)


def test_differences_name_the_keys_that_may_not_change():
  old = to_json(validate(default_config()))
  assert differences(old, old) == []
  assert differences(old, to_json(validate(_with(train__epochs=3, eval__chunk=8, data__source="x.tsv")))) == []
  new = to_json(validate(_with(train__epochs=3, optimizer__lr=0.5, model__user={"name": "gru4rec", "blocks": 1})))
  lines = differences(old, new)
  assert [line.split(":")[0] for line in lines] == [
    "config.model.user.blocks",
    "config.model.user.name",
    "config.optimizer.lr",
  ]
  assert "'sasrec'" in lines[1]
  assert "'gru4rec'" in lines[1]
  assert "0.5" in lines[2]
  assert "absent" in lines[0]


def test_each_protocol_has_its_own_least_length():
  assert validate(_with(data__split="none", data__min_length=2)).data.min_length == 2
  with pytest.raises(ConfigError, match=r"data\.min_length must be at least 2, not 1"):
    validate(_with(data__split="none", data__min_length=1))


def test_keys_at_their_defaults_do_not_count_in_the_hash(monkeypatch):
  config = validate(_with(optimizer__lr=0.5))
  reference = config_hash(config, "data")

  def with_a_new_key():
    defaults = default_config()
    with defaults.unlocked():
      defaults.train.brand_new = 3
    return defaults

  monkeypatch.setattr(config_lib, "default_config", with_a_new_key)
  later = validate(_with(optimizer__lr=0.5))
  assert later.train.brand_new == 3
  assert config_hash(later, "data") == reference
  later.train.brand_new = 4
  assert config_hash(later, "data") != reference


def test_options_of_the_model_count_in_the_hash_even_where_they_are_the_default():
  shorter = {"name": "sequential", "dim": 512, "item": {"name": "id"}}
  assert config_hash(validate(_with(model=shorter)), "data") != config_hash(validate(default_config()), "data")


def test_a_key_that_only_one_of_two_configs_has_differs_unless_it_is_at_its_default():
  config = to_json(validate(default_config()))
  older = copy.deepcopy(config)
  del older["data"]["whiten"], older["train"]["ema_decay"], older["eval"]
  assert differences(older, config) == differences(config, older) == []
  config["data"]["whiten"] = True
  assert differences(older, config) == ["config.data.whiten: False there, True now"]
  assert differences(config, older) == ["config.data.whiten: True there, False now"]
  older["train"]["row_width"] = 16
  assert differences(older, to_json(validate(default_config()))) == [
    "config.train.row_width: 16 there, '(absent)' now",
  ]
  older["log"]["every_step"] = 3
  assert len(differences(older, to_json(validate(default_config())))) == 2, "only known keys are known to be mutable"


def test_mutable_keys_may_be_held_too():
  old, new = to_json(validate(default_config())), to_json(validate(_with(train__epochs=3, eval__chunk=8)))
  assert differences(old, new, also=("eval.chunk",)) == ["config.eval.chunk: 4096 there, 8 now"]
  falling = to_json(validate(_with(train__epochs=3, optimizer__schedule="cosine")))
  assert [line.split(":")[0] for line in differences(old, falling)] == [
    "config.optimizer.schedule",
    "config.train.epochs",
  ]


def test_other_values_of_keys_make_another_config():
  changed = with_values(
    default_config(), {"optimizer.lr": 0.5, "model.user": {"name": "gru4rec"}, "model.item.extra": 1}
  )
  assert changed.optimizer.lr == 0.5
  assert changed.model.to_dict() == {
    "name": "sequential", "dim": 512, "item": {"name": "id", "extra": 1}, "user": {"name": "gru4rec"},
  }  # fmt: skip
  assert default_config().optimizer.lr != 0.5
  with pytest.raises(ConfigError, match=r"unknown key config\.optimizer\.lrr"):
    with_values(default_config(), {"optimizer.lrr": 0.5})


def test_a_function_of_a_config_file_is_called_with_its_argument_if_it_takes_one(tmp_path):
  file = tmp_path / "config.py"
  file.write_text(
    "def one(argument='none'):\n  return argument\n\ndef two():\n  return 2\n\ndef bad():\n  return 1 / 0\n"
  )
  assert from_file(str(file), "one", "wanted") == "none"
  assert from_file(f"{file}:it", "one", "wanted") == "it"
  assert from_file(f"{file}:it", "two", "wanted") == 2
  with pytest.raises(ConfigError, match=r"config\.py has no three\(\): such as it is"):
    from_file(str(file), "three", "such as it is")
  with pytest.raises(ConfigError, match=r"bad\(\) of .*config\.py: ZeroDivisionError: division by zero"):
    from_file(str(file), "bad", "wanted")
