"""What a search space may be, and what is said of one that is wrong."""

import re

from ml_collections import ConfigDict
import pytest

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.config import default_config
from mlrec.runs.sweep import runner
from mlrec.search_space import choice
from mlrec.search_space import integers
from mlrec.search_space import log_uniform
from mlrec.search_space import to_json
from mlrec.search_space import uniform

GOOD = {
  "optimizer.lr": log_uniform(1e-4, 1e-2),
  # An option that the config does not name, and its user encoder has.
  "model.user.dropout": uniform(0, 0.5),
  "model.user.blocks": integers(1, 4),
  "model.dim": choice(64, 128),
  "model.user.name": choice("sasrec", "gru4rec"),
  "train.ema_decay": choice(0.0, 0.99),
}


def test_keys_of_the_config_and_options_of_its_model_may_be_searched():
  runner.check_space(GOOD, default_config())


@pytest.mark.parametrize(
  ("key", "part", "message"),
  [
    ("optimizer.lrr", log_uniform(1e-4, 1e-2), "no key of the config: 'optimizer.lrr'; did you mean 'optimizer.lr'"),
    ("model.user.droput", uniform(0.0, 0.5), "'model.user.droput'; did you mean 'model.user.dropout'"),
    ("model.user", choice("sasrec", "gru4rec"), "names no key of the config: 'model.user'"),
    ("seed", integers(0, 3), "config.seed, which says what is measured"),
    ("data.source", choice("a", "b"), "config.data.source, which says what is measured"),
    ("optimizer.lr", (1e-4, 1e-2), "config.optimizer.lr must be uniform(…), log_uniform(…), integers(…) or choice(…)"),
    ("optimizer.lr", log_uniform(1e-2, 1e-4), "config.optimizer.lr: low must be below high, not 0.01 and 0.0001"),
    ("optimizer.lr", log_uniform(0.0, 1e-2), "config.optimizer.lr: a logarithmic range must begin above 0, not at 0.0"),
    ("optimizer.lr", uniform(0.0, 1e-2), "config.optimizer.lr: config.optimizer.lr must be positive"),
    ("optimizer.lr", uniform(1e-3, float("inf")), "optimizer.lr: bounds must be finite numbers, and high is inf"),
    ("optimizer.lr", uniform("1e-4", 1e-2), "config.optimizer.lr: bounds must be finite numbers, and low is '1e-4'"),
    ("train.ema_decay", uniform(0.9, 1.0), "config.train.ema_decay must be below 1, not 1.0"),
    ("train.batch_size", uniform(1, 8), "config.train.batch_size must be of type int, not 1.0"),
    ("train.batch_size", integers(1, 8.5), "config.train.batch_size: bounds must be whole numbers, and high is 8.5"),
    ("train.batch_size", choice(64), "config.train.batch_size: choice needs two distinct values or more"),
    ("train.batch_size", choice(64, 64), "config.train.batch_size: choice needs two distinct values or more"),
    ("train.batch_size", choice([64, 128], [1]), "config.train.batch_size: [64, 128] is no finite number, string"),
    ("train.batch_size", choice("64", "128"), "config.train.batch_size must be of type int, not '64'"),
  ],
)  # fmt: skip
def test_what_is_wrong_with_a_space_is_told_with_its_key(key, part, message):
  with pytest.raises(ConfigError, match=re.escape(message)):
    runner.check_space({key: part}, default_config())


def test_a_space_of_a_file(tmp_path):
  file = tmp_path / "config.py"
  file.write_text(
    "from mlrec.search_space import choice\ndef get_search_space():\n  return {'model.dim': choice(8, 16)}\n"
  )
  assert runner.load_space(f"{file}:argument") == {"model.dim": choice(8, 16)}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", r"config\.py has no get_search_space\(\): .* such as"),
    ("def get_search_space():\n  return {}", "must return a dict with a key or more, not {}"),
    ("def get_search_space():\n  return 1 / 0", "ZeroDivisionError: division by zero"),
  ],
)
def test_a_file_without_a_space_is_told(tmp_path, text, message):
  file = tmp_path / "config.py"
  file.write_text(text)
  with pytest.raises(ConfigError, match=message):
    runner.load_space(str(file))


def test_spaces_are_told_apart_by_their_json():
  assert to_json(GOOD) == to_json(dict(reversed(GOOD.items())))
  assert to_json({"model.dim": choice(8, 16)}) != to_json({"model.dim": choice(8, 32)})
  assert to_json({"model.dim": integers(8, 16)}) != to_json({"model.dim": integers(8, 16, log=True)})


def loaded(source: str) -> ConfigDict:
  scope: dict = {}
  exec(source, scope)  # what mlrec.main does with a config file
  return scope["get_config"]()


def test_a_config_as_a_file_is_the_same_config():
  config = config_lib.with_values(
    default_config(),
    {
      "optimizer.lr": 1 / 3e3, "model.user.dropout": 0.1 + 0.2, "model.user.name": "gru4rec", "train.epochs": 7,
      "data.source": 'C:\\odd "name"_pairs.tsv', "seeds": (0, 1), "log.tensorboard": False,
    },
  )  # fmt: skip
  source = runner.config_source(config, 'the best of """C:\\odd "name""".py"')
  assert config_lib.to_json(config_lib.validate(loaded(source))) == config_lib.to_json(config)
  assert "train.batch_size" not in source, "what is the default is not repeated"
