"""The keys that a config may have, their defaults and their checks."""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
import hashlib
import importlib.util
import inspect
import json
import math
import pathlib
from typing import Any

from ml_collections import ConfigDict

from mlrec import sharding_rules
from mlrec.data import protocols
from mlrec.registry import closest
from mlrec.registry import near
from mlrec.registry import OptionError
from mlrec.registry import options_of


class ConfigError(ValueError):
  """A config that cannot be run; the message names the key, the value and what was expected."""


def default_config() -> ConfigDict:
  """Every key with its default: MicroLens's protocol and the settings of its released runs where it shows them."""
  config = ConfigDict()
  # Of parameters, dropout and data order.
  config.seed = 42
  # Several seeds, such as (0, 1, 2): they run one after another, in place of `seed`, and are summarised.
  config.seeds = ()
  # A workdir, or a safetensors file under PyTorch's names, whose parameters training starts from.
  config.init_from = ""
  # What the run is compared with at its end: `popularity`, and `id` for the same model on item IDs.
  config.baselines = ()
  # MiB of compiled programs that are kept in the user's cache folder, so that a command that was run before starts
  # without compiling them; 0 for none. JAX_COMPILATION_CACHE_DIR, where it is set, counts instead.
  config.compiled_mib = 1024

  config.tuning = ConfigDict()
  # How many trials have been spent on choosing the config's values, as mlrec.sweep counts them; 0 for not stated. It is
  # for reports, and changes no run.
  config.tuning.trials = 0
  # The seconds that those trials took together, likewise.
  config.tuning.seconds = 0.0

  config.data = ConfigDict()
  # A TFDS name (microlens/50k-sequences, or with timestamps microlens/50k-interactions), the path of a *_pairs.tsv or,
  # with timestamps, a *_pairs.csv file, that of a *.inter file in MMRec's format, or that of a folder that mlrec.ingest
  # has made. What such a folder holds is read in place of `videos` and `content` that are empty or name a release.
  config.data.source = "microlens/demo-sequences"
  # Where TFDS data lies; empty for TFDS's own default.
  config.data.data_dir = ""
  # The videos of the items, for towers that read frames: a TFDS name (microlens/demo-videos-5x64).
  config.data.videos = ""
  # The items, for towers that read titles, covers or sound: a TFDS name, which says what media it has
  # (microlens/50k-items, microlens/demo-items-cover224-audio10s); for titles alone also the path of a *_titles.csv.
  config.data.content = ""
  # Whether an item whose video, cover or sound cannot be read counts as one that has none. All records are read
  # beforehand to find them; otherwise the first that is met ends the run.
  config.data.skip_damaged = False
  # Where vectors of frozen encoders are kept; empty for mlrec/features in the user's cache folder.
  config.data.features_dir = ""
  # Vectors of the items, for models that read them: a .npy or .json file of MicroLens's release, or a folder that
  # mlrec.features has made.
  config.data.features = ""
  # Codes of the items, for models that read them: a file that mlrec.codes has made.
  config.data.codes = ""
  # Whether vectors, read or made by a frozen encoder, are whitened over the items of the split.
  config.data.whiten = False
  # The size of a log on the disk, in MiB, beyond which its split is not made in memory: it is made once, in passes over
  # the log, and mapped by all runs that read it.
  config.data.in_memory_mib = 256
  # Where such splits are kept; empty for mlrec/splits in the user's cache folder.
  config.data.splits_dir = ""
  # Processes that decode frames, covers and sound; 0 for threads of this one, which serve unless cores are many.
  config.data.workers = 0
  # What is validated and tested on: `leave_one_out`; `time:2023-01-01`, `time:DATE,DATE` or `time:0.8,0.1` (what comes
  # after a moment); `users:0.8,0.1` (unseen users); `labels` (what a *.inter file says of each interaction); or `none`,
  # and all is trained on. `mlrec/data/protocols/` has each.
  config.data.split = "leave_one_out"
  # Items of a history that a model reads, the newest.
  config.data.max_length = 10
  # Windows of max_length + 1 items that training reads of a long history, from the newest back; 0 for all of it.
  config.data.train_windows = 1
  # Users with fewer items are left out.
  config.data.min_length = 5
  # Forced cold start: the share of items that is taken out of training, but not of histories read later.
  config.data.cold_share = 0.0
  # Chooses those items.
  config.data.cold_seed = 0

  config.model = ConfigDict()
  # The recommender. Other options of the section are its own.
  config.model.name = "sequential"
  # The width of item vectors and user states.
  config.model.dim = 512
  # The item tower and its options, of recommenders that have one.
  config.model.item = ConfigDict({"name": "id"})
  # The user encoder and its options, of `sequential`.
  config.model.user = ConfigDict({"name": "sasrec"})

  config.loss = ConfigDict()
  # Groups of users that see only their own negatives; the published video runs have 4, one a device.
  config.loss.negative_groups = 1
  # The exponent of the item counts in the popularity that the loss removes, and by which items may be drawn.
  config.loss.popularity_power = 1.0

  config.impressions = ConfigDict()
  # Of models that predict clicks, where the data has histories alone: items that are drawn for each one that a user
  # watched, of those that the user has not, as shown and not clicked.
  config.impressions.negatives = 4
  # The exponent of the training counts that they are drawn by; 0 for all alike.
  config.impressions.popularity_power = 0.0

  config.optimizer = ConfigDict()
  # AdamW's learning rate.
  config.optimizer.lr = 1e-4
  # Its decoupled decay, of all parameters but those of encoders.
  config.optimizer.weight_decay = 0.1
  # The learning rate of an encoder of content and, of videos, its projection; 0 stands for `lr`.
  config.optimizer.encoder_lr = 0.0
  # The decay of the same.
  config.optimizer.encoder_weight_decay = 0.0
  # How slowly AdamW's average of the gradients fades.
  config.optimizer.b1 = 0.9
  # How slowly its average of their squares fades.
  config.optimizer.b2 = 0.999
  # What is added to the root of that average.
  config.optimizer.eps = 1e-8
  # Gradients of a larger norm, over all parameters together, are scaled down to it; 0 for not.
  config.optimizer.clip_norm = 5.0
  # How the learning rate falls over the run: `constant` (not at all), `cosine` or `linear`.
  config.optimizer.schedule = "constant"
  # Steps in which the learning rate rises from 0, before the schedule.
  config.optimizer.warmup_steps = 0
  # Where a schedule that falls ends, as a share of `lr`.
  config.optimizer.final_lr_fraction = 0.0
  # What trains tables with a row for each item: `adamw`, whose step touches all rows, or, at a cost that does not grow
  # with their number, `lazy_adamw` (the same up to rounding), `sgd` or `adagrad`.
  config.optimizer.item_tables = "adamw"
  # The learning rate of those tables; 0 stands for `lr`.
  config.optimizer.item_tables_lr = 0.0

  config.train = ConfigDict()
  # Parts that a batch is made in, each of users, items and negatives of its own: each process then makes what its own
  # devices train on, and no device reads another's items. They divide `batch_size` and `loss.negative_groups`, and are
  # a multiple of the devices. With 1 a batch is one, and each of its items is encoded once.
  config.train.parts = 1
  # Passes over the training data, at most; where `steps_per_epoch` is set, so many times that many steps.
  config.train.epochs = 50
  # Users in a global batch, whatever the number of devices; or interactions or impressions, of models of those.
  config.train.batch_size = 512
  # Stop after so many validations without a better `monitor`; 0 for never.
  config.train.patience = 5
  # The validation metric that the best parameters are chosen by: hr@10, ndcg@10, hr@20, ndcg@20 or mrr, and with the
  # split `labels` also recall@10 or recall@20; of models that predict clicks `auc` or `gauc`.
  config.train.monitor = "hr@10"
  # Steps that stand for an epoch, after which validations and patience count; 0 for a pass over the training data.
  config.train.steps_per_epoch = 0
  # Steps that one dispatch to the devices takes: the result is the same, but that a 1 may round otherwise.
  config.train.steps_per_dispatch = 8
  # The exponential moving average of the parameters that is evaluated and kept; 0 for none.
  config.train.ema_decay = 0.0

  config.sharding = ConfigDict()
  # Devices along the axis `model` of the mesh; it divides their number, and the rest are along `data`. Users of a batch
  # are spread over all of them, items that are ranked over `model`.
  config.sharding.model = 1
  # Which parameters are cut over devices, with their optimiser's arrays: pairs of a pattern that their path has in it
  # and of `rows:AXES` (along the first axis), `fsdp:AXES` (along the largest) or `whole`, such as
  # (("table", "rows:model"), ("encoder", "fsdp:data+model")). The first that fits counts; all others are whole.
  config.sharding.rules = ()

  config.eval = ConfigDict()
  # Validate after every so many epochs; the last epoch is always validated.
  config.eval.every_epochs = 1
  # Validate within an epoch, too, after every so many steps; 0 for not.
  config.eval.every_steps = 0
  # Evaluate on so many users drawn by lot, the same ones in every run; 0 for all.
  config.eval.users = 0
  # Users scored at a time.
  config.eval.batch_size = 512
  # Items scored at a time; ranks do not depend on it.
  config.eval.chunk = 4096
  # Items encoded at a time, where their content is read.
  config.eval.item_batch = 64
  # Targets are also told apart by how often training names them: never (`cold`), up to each of these, and more often.
  config.eval.buckets = (5, 20, 50)
  # Keep each user's rank and first places in the workdir, for paired tests and beyond-accuracy metrics of reports.
  config.eval.per_user = True

  config.checkpoint = ConfigDict()
  # Save after so many steps, too, besides after each validation; 0 for not.
  config.checkpoint.every_steps = 0

  config.log = ConfigDict()
  # Keep the training loss in metrics.jsonl after so many steps.
  config.log.every_steps = 100
  # Whether events for TensorBoard are written, too.
  config.log.tensorboard = True
  # A project of Weights & Biases that takes the metrics too (extra `wandb`); empty for none.
  config.log.wandb = ""
  # A tracking URI of MLflow, likewise (extra `mlflow`).
  config.log.mlflow = ""
  config.lock()
  return config


# What the best parameters may be chosen by.
RANKING_MONITORS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", "mrr")
CLICK_MONITORS = ("auc", "gauc")
MONITORS = (*RANKING_MONITORS, *CLICK_MONITORS)
# Where users have several targets, also by these.
SEVERAL_MONITORS = ("recall@10", "recall@20")
BASELINES = ("popularity", "id")
# How the learning rate falls over a run.
SCHEDULES = ("constant", "cosine", "linear")
# What trains item tables.
ADAMW, LAZY_ADAMW, SGD, ADAGRAD = "adamw", "lazy_adamw", "sgd", "adagrad"
TABLE_OPTIMIZERS = (ADAMW, LAZY_ADAMW, SGD, ADAGRAD)
# Keys that may change between a run and its continuation: they change neither the model nor the data (whose content,
# wherever it is read from, is compared by a fingerprint).
MUTABLE = (
  "baselines", "compiled_mib", "seeds", "tuning.trials", "tuning.seconds",
  "data.source", "data.data_dir", "data.videos", "data.content", "data.features_dir",
  "data.features", "data.codes", "data.workers", "data.in_memory_mib", "data.splits_dir", "data.skip_damaged",
  "train.epochs", "train.patience", "eval.every_epochs", "eval.batch_size",
  "eval.item_batch", "eval.chunk", "eval.buckets", "eval.per_user", "checkpoint.every_steps",
  "log.every_steps", "log.tensorboard", "log.wandb",
  "log.mlflow", "sharding.model", "sharding.rules",
)  # fmt: skip
# Of normal numbers in float32, and of what counts items, users, steps or bytes: it fits an int32.
_LEAST, _LARGEST, _MOST = 1.2e-38, 3.4e38, 2**31 - 1
# Sections whose keys are the options of what `name` chooses; constructors check those.
_OPEN = ("model",)
# The folder of shipped configs.
_SHIPPED = "configs"
_SUFFIX = ".py"


def validate(config: ConfigDict) -> ConfigDict:
  """A config with every key, checked against `default_config`.

  Raises:
    ConfigError: a key is unknown, or a value has another type or is out of range.
  """
  model = config.get("model", {"name": "sequential"})
  if not isinstance(model, Mapping | ConfigDict) or not isinstance(model.get("name"), str):
    raise ConfigError(f"config.model must be a section with a name, not {model!r}")
  defaults = default_config()
  known = dict(flatten(defaults))
  for key, value in flatten(config):
    if key.split(".")[0] in _OPEN:
      continue
    if key not in known:
      raise ConfigError(f"unknown key config.{key}: {closest(key, known)}")
    _check_type(key, value, known[key])
  complete = default_config()
  with complete.unlocked():
    for key, value in flatten(config):
      section, _, leaf = key.rpartition(".")
      if section.split(".")[0] not in _OPEN:
        (complete[section] if section else complete)[leaf] = value
    complete.model = ConfigDict(config.model.to_dict() if "model" in config else defaults.model.to_dict())
  _check_ranges(complete)
  return complete


def _check_type(key: str, value: Any, default: Any) -> None:
  wanted = (
    (int, float) if isinstance(default, float) else (tuple, list) if isinstance(default, tuple) else type(default)
  )
  if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
    raise ConfigError(f"config.{key} must be of type {type(default).__name__}, not {value!r}")
  # Written so that NaN fails.
  if isinstance(value, int | float) and isinstance(default, float) and not abs(value) <= _LARGEST:
    raise ConfigError(f"config.{key} must be a finite number in float32, not {value}")


def _check_ranges(config: ConfigDict) -> None:
  try:
    with options_of("config.data"):
      protocol = protocols.parse(config.data.split)
    with options_of("config.sharding"):
      sharding_rules.parse(config.sharding.rules)
  except OptionError as error:
    raise ConfigError(str(error)) from error
  at_least = {
    "train.epochs": 1, "train.batch_size": 1, "train.patience": 0, "train.steps_per_dispatch": 1,
    "train.parts": 1, "train.ema_decay": 0, "data.workers": 0, "eval.every_epochs": 1, "eval.batch_size": 1,
    "eval.chunk": 1,
    "eval.item_batch": 1, "log.every_steps": 1, "checkpoint.every_steps": 0, "loss.negative_groups": 1,
    "data.max_length": 1, "data.min_length": protocol.least, "data.train_windows": 0, "data.cold_share": 0,
    "data.cold_seed": 0, "data.in_memory_mib": 0, "compiled_mib": 0, "seed": 0,
    "train.steps_per_epoch": 0, "eval.every_steps": 0, "eval.users": 0, "sharding.model": 1,
    "optimizer.weight_decay": 0, "optimizer.clip_norm": 0,
    "optimizer.warmup_steps": 0, "optimizer.final_lr_fraction": 0, "optimizer.encoder_lr": 0,
    "optimizer.encoder_weight_decay": 0, "optimizer.b1": 0, "optimizer.b2": 0, "optimizer.item_tables_lr": 0,
    "loss.popularity_power": -100, "tuning.trials": 0, "tuning.seconds": 0, "impressions.negatives": 1,
    "impressions.popularity_power": -100,
  }  # fmt: skip
  at_most = {
    # A seed is one word of a random key.
    "seed": 2**32 - 1, "data.cold_seed": 2**32 - 1,
    "data.max_length": 65_536, "data.workers": 1024, "train.batch_size": 1_048_576,
    # Where they are cut into groups is held in memory.
    "train.steps_per_epoch": 10_000_000,
    "loss.popularity_power": 100, "impressions.popularity_power": 100,
  }  # fmt: skip
  below = {"optimizer.b1": 1, "optimizer.b2": 1, "train.ema_decay": 1, "data.cold_share": 1}
  values = dict(flatten(config))
  for key, low in at_least.items():
    if not values[key] >= low:
      raise ConfigError(f"config.{key} must be at least {low}, not {values[key]}")
  for key, high in below.items():
    if not values[key] < high:
      raise ConfigError(f"config.{key} must be below {high}, not {values[key]}")
  for key, value in values.items():
    most = at_most.get(key, _MOST if isinstance(value, int) else math.inf)
    if isinstance(value, int | float) and value > most:
      raise ConfigError(f"config.{key} must be at most {most}, not {value}")
  for key in ("optimizer.lr", "optimizer.eps"):
    if not values[key] >= _LEAST:
      raise ConfigError(f"config.{key} must be positive in float32, not {values[key]}")
  monitor = config.train.monitor
  if monitor in SEVERAL_MONITORS and not protocol.several:
    raise ConfigError(
      f"config.train.monitor = {monitor!r}: with config.data.split = {config.data.split!r} a user has one target, of "
      f"which the recall is the hit rate: give 'hr{monitor.removeprefix('recall')}'"
    )
  monitors = (*MONITORS, *(SEVERAL_MONITORS if protocol.several else ()))
  if monitor not in monitors:
    raise ConfigError(f"config.train.monitor = {monitor!r}: {closest(monitor, monitors)}")
  if config.optimizer.schedule not in SCHEDULES:
    raise ConfigError(
      f"config.optimizer.schedule = {config.optimizer.schedule!r}: {closest(config.optimizer.schedule, SCHEDULES)}"
    )
  _check_tables(config.optimizer)
  for key in ("loss.negative_groups", "train.parts"):
    if config.train.batch_size % values[key]:
      raise ConfigError(
        f"config.train.batch_size = {config.train.batch_size} must be a multiple of config.{key} = {values[key]}"
      )
  for name in config.baselines:
    if name not in BASELINES:
      raise ConfigError(f"config.baselines = {config.baselines}: {closest(str(name), BASELINES)}")
  ends = tuple(config.eval.buckets)
  if not all(type(end) is int and end > 0 for end in ends) or sorted(set(ends)) != list(ends):
    raise ConfigError(f"config.eval.buckets must be ascending integers of at least 1, such as (5, 20, 50), not {ends}")
  if len(set(config.seeds)) != len(config.seeds) or not all(type(s) is int and 0 <= s < 2**32 for s in config.seeds):
    raise ConfigError(f"config.seeds must be distinct integers from 0 to {2**32 - 1}, not {config.seeds}")


def _check_tables(optimizer: ConfigDict) -> None:
  if optimizer.item_tables not in TABLE_OPTIMIZERS:
    raise ConfigError(
      f"config.optimizer.item_tables = {optimizer.item_tables!r}: {closest(optimizer.item_tables, TABLE_OPTIMIZERS)}"
    )
  if optimizer.item_tables == LAZY_ADAMW and not optimizer.b1**2 < optimizer.b2:
    raise ConfigError(
      f"config.optimizer.item_tables = {LAZY_ADAMW!r}: the square of config.optimizer.b1 = {optimizer.b1} must be "
      f"below config.optimizer.b2 = {optimizer.b2}, else rows that are not read move ever further; or give {ADAMW!r}"
    )


def shipped() -> pathlib.Path:
  """The folder of the configs that come with the package: beside its modules, or, in a checkout, beside the package."""
  package = pathlib.Path(__file__).parent
  installed = package / _SHIPPED
  return installed if installed.is_dir() else package.parent / _SHIPPED


def found(file: str) -> str:
  """The path of a config file: one that is here, or else the shipped one of that name.

  `.py` may be left out, of a shipped one also `configs/`, and the folder below it where one alone has that name. A file
  that is neither stays what it is.
  """
  path = pathlib.Path(file)
  with_suffix = path if path.suffix == _SUFFIX else path.with_name(path.name + _SUFFIX)
  for one in (path, with_suffix):
    if one.is_file() or (one.is_absolute() and one.exists()):
      return str(one)
  if path.is_absolute():
    return file
  folder = shipped()
  name = with_suffix.relative_to(_SHIPPED) if with_suffix.parts[0] == _SHIPPED else with_suffix
  if (folder / name).is_file():
    return str(folder / name)
  below = list(folder.rglob(name.name)) if len(path.parts) == 1 else []
  return str(below[0]) if len(below) == 1 else file


def missing(file: str) -> str:
  """What to say of a config file that `found` has not found: the nearest that there are."""
  path = pathlib.Path(file)
  folder = path.parent
  here = [str(path.with_name(other.name)) for other in folder.glob(f"*{_SUFFIX}")] if folder.is_dir() else []
  ours = [str(other.relative_to(shipped().parent)) for other in shipped().rglob(f"*{_SUFFIX}")]
  same = sorted(name for name in ours if pathlib.Path(name).stem == path.stem)
  if same:
    return f"there is no such file; did you mean {' or '.join(map(repr, same))}?"
  # Compared as they are written: with the folder, or by the name alone.
  names = {pathlib.Path(name).stem if file == path.stem else name: name for name in [*ours, *here]}
  if meant := [names[name] for name in near(file, names)]:
    return f"there is no such file; did you mean {' or '.join(map(repr, meant))}?"
  return "there is no such file; python -m mlrec.main --list names the configs that come with the package"


def from_file(file: str, function: str, wanted: str) -> Any:
  """What a function of a config file returns.

  Args:
    file: `FILE.py`, or `FILE.py:ARGUMENT` for a function that takes one.
    function: its name.
    wanted: what it is for, for the message where the file has none.

  Raises:
    ConfigError: there is no such function, or it fails.
  """
  path, _, argument = file.partition(":")
  spec = importlib.util.spec_from_file_location("config_file", path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  make = getattr(module, function, None)
  if make is None:
    raise ConfigError(f"{path} has no {function}(): {wanted}")
  try:
    return make(*([argument] if argument and inspect.signature(make).parameters else []))
  except Exception as error:  # a config file is code: it may raise anything
    raise ConfigError(f"{function}() of {path}: {type(error).__name__}: {error}") from error


def with_values(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
  """The config with other values of some keys; a section may be given as a whole.

  Raises:
    ConfigError: a value is none that the key can have.
  """
  plain = config.to_dict()
  for key, value in values.items():
    *sections, leaf = key.split(".")
    section = plain
    for name in sections:
      section = section.setdefault(name, {})
    section[leaf] = value
  return validate(ConfigDict(plain))


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """`(dotted key, value)` of every leaf."""
  for key, value in config.items():
    if isinstance(value, Mapping | ConfigDict):
      yield from flatten(value, f"{prefix}{key}.")
    else:
      yield prefix + key, value


def to_json(config: ConfigDict) -> dict[str, Any]:
  """Plain JSON types, tuples as lists."""
  return json.loads(json.dumps(config.to_dict()))


def config_hash(config: ConfigDict, data: str) -> str:
  """Twelve hexadecimal digits that two runs share if they train the same model in the same way.

  Args:
    config: of the run; keys that may change on resuming do not count, nor does the seed.
    data: a fingerprint of the data, which stands for wherever it was read from.
  """
  defaults = dict(flatten(to_json(default_config())))
  # Keys that have their defaults do not count either, so that a hash outlives keys that are added.
  fixed = {
    key: value
    for key, value in flatten(to_json(config))
    if key not in (*MUTABLE, "seed") and (key.split(".")[0] in _OPEN or value != defaults[key])
  }
  return hashlib.sha256(json.dumps([fixed, data], sort_keys=True).encode()).hexdigest()[:12]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, also: Collection[str] = ()) -> list[str]:
  """Why a run of config `old` (JSON) may not be resumed under `new`: a line for each key that may not change.

  Args:
    old: JSON of a config, as is `new`.
    new: of the continuation.
    also: mutable keys that may not change either.
  """
  # A config of another version may lack keys, or have some that are gone.
  defaults = {
    key: value for key, value in flatten(to_json(default_config())) if key.split(".")[0] not in _OPEN
  }  # fmt: skip
  old, new = ({**defaults, **dict(flatten(one))} for one in (old, new))
  absent = "(absent)"
  # A schedule that falls over the whole run depends on its length.
  fixed = {*also, *({"train.epochs"} if new.get("optimizer.schedule") != "constant" else ())}
  return [
    f"config.{key}: {old.get(key, absent)!r} there, {new.get(key, absent)!r} now"
    for key in sorted(old.keys() | new.keys())
    if (key not in MUTABLE or key in fixed) and old.get(key, absent) != new.get(key, absent)
  ]
