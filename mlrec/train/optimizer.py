"""AdamW with a clipped global norm, what else may train item tables, and learning-rate schedules."""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from mlrec import rows_in_lines
from mlrec.config import ADAGRAD
from mlrec.config import ConfigError
from mlrec.config import SCHEDULES
from mlrec.config import SGD
from mlrec.models.layers import variables
from mlrec.models.layers.variables import ENCODER
from mlrec.models.layers.variables import HEAD
from mlrec.registry import closest

# Item tables, as a group of parameters.
ITEM_TABLES = "item_tables"


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformationExtraArgs:
  """The optimiser of a run.

  AdamW with decoupled decay of every parameter (Loshchilov and Hutter, ICLR 2019), after scaling gradients so that
  their global L2 norm is at most `clip_norm` (0 for no clipping). Parameters of the group `encoder`
  (`mlrec.models.layers.variables`) have the learning rate `encoder_lr` and the decay `encoder_weight_decay`. Item
  tables have `item_tables_lr` and the optimiser `item_tables`, after the same clipping and with decoupled decay too,
  whatever it is; `mlrec.train.lazy_tables` has it run on the rows that a step reads alone.

  Args:
    config: `lr`, `weight_decay`, `b1`, `b2`, `eps`, `clip_norm`, `schedule`, `warmup_steps`, `final_lr_fraction`,
      `encoder_lr`, `encoder_weight_decay`, `item_tables`, `item_tables_lr`.
    num_steps: steps of the whole run, for schedules that fall over it.

  Raises:
    ConfigError: a value out of range or an unknown schedule.
  """
  if config.lr <= 0:
    raise ConfigError(f"config.optimizer.lr must be positive, not {config.lr}")
  chain = [clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
  groups = {
    HEAD: Group(1.0, config.weight_decay),
    ENCODER: Group((config.encoder_lr or config.lr) / config.lr, config.encoder_weight_decay),
    ITEM_TABLES: table_group(config),
  }
  schedule = make_schedule(config, num_steps)
  others = adamw(schedule, config.b1, config.b2, eps=config.eps, groups=groups)
  if config.item_tables in (SGD, ADAGRAD):
    of_tables = {SGD: sgd(schedule, groups[ITEM_TABLES]), ADAGRAD: adagrad(schedule, config.eps, groups[ITEM_TABLES])}
    chain.append(optax.partition({HEAD: others, ITEM_TABLES: of_tables[config.item_tables]}, _table_or_not))
  else:
    chain.append(others)
  return optax.chain(*chain)


def table_group(config: ConfigDict) -> "Group":
  """What item tables have of their own."""
  return Group((config.item_tables_lr or config.lr) / config.lr, config.weight_decay)


def make_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
  """Learning rate by step: a linear warm-up, then `constant`, or `cosine` or `linear` down to `final_lr_fraction`."""
  if config.schedule not in SCHEDULES:
    raise ConfigError(f"config.optimizer.schedule {config.schedule!r}: {closest(config.schedule, SCHEDULES)}")
  falling = max(num_steps - config.warmup_steps, 1)
  end = config.lr * config.final_lr_fraction
  main = {
    "constant": lambda: optax.constant_schedule(config.lr),
    "cosine": lambda: optax.cosine_decay_schedule(config.lr, falling, config.final_lr_fraction),
    "linear": lambda: optax.linear_schedule(config.lr, end, falling),
  }[config.schedule]()
  if not config.warmup_steps:
    return main
  warmup = optax.linear_schedule(0.0, config.lr, config.warmup_steps)
  return optax.join_schedules([warmup, main], [config.warmup_steps])


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """g · min(1, max_norm / (‖g‖ + 1e-6)), PyTorch's form, which MicroLens trained with."""

  def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
    del params
    scale = (max_norm / (optax.global_norm(updates) + 1e-6)).clip(max=1.0)
    return optax.tree.scale(scale, updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class Group(NamedTuple):
  """What parameters of one kind have of their own: a factor of the learning rate, and the weight decay."""

  rate: float
  weight_decay: float


class AdamWState(NamedTuple):
  """Steps taken, and the moving averages of the gradients and of their squares."""

  step: Array
  mu: Any
  nu: Any


def adamw(
  schedule: optax.Schedule, b1: float, b2: float, *, eps: float, groups: Mapping[str, Group]
) -> optax.GradientTransformationExtraArgs:
  """`optax.adamw` for gradients of which some are given by the rows that a step has read.

  `update(gradients, state, params, rows={name: [U] int})`: the gradient of the parameter of that name (its path, as
  `jax.tree_util.keystr` writes it) is `[U, D]`, for those of its rows, and 0 for all others; a row named twice counts
  twice in the first moment and adds squares in the second, so only rows of gradient 0 may be. The result is that of
  the whole gradient: moments of rows that were not read still fade, and still move their parameters.

  Args:
    schedule: the learning rate by step.
    b1: decay of the gradients' average.
    b2: decay of the squares' average.
    eps: added to the root of the latter.
    groups: factors of the learning rate and weight decays by the group that a parameter says it is in; parameters that
      say none are in `HEAD`. Item tables are in `ITEM_TABLES`, where there is such a group.
  """

  def init(params: Any) -> AdamWState:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return AdamWState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

  def update(
    gradients: Any, state: AdamWState, params: Any = None, *, rows: Mapping[str, Array] = {}, **_: Any
  ) -> tuple[Any, AdamWState]:
    named = variables.groups(params)
    if ITEM_TABLES in groups:
      named |= dict.fromkeys(variables.tables_in_batches(params), ITEM_TABLES)

    def averaged(moments: Any, power: int, decay: float) -> Any:
      def one(path: Any, moment: Array, gradient: Array) -> Array:
        new = (1 - decay) * gradient**power
        read = rows.get(variables.name_of(path))
        return decay * moment + new if read is None else rows_in_lines.add(decay * moment, read, new)

      return jax.tree_util.tree_map_with_path(one, moments, gradients)

    mu, nu = averaged(state.mu, 1, b1), averaged(state.nu, 2, b2)
    step = optax.safe_increment(state.step)
    lr = schedule(state.step)
    # Reciprocals of scalars, so that a table's update divides once for each element.
    mu_scale, nu_scale = 1 / (1 - b1**step), 1 / (1 - b2**step)

    def change(path: Any, m: Array, v: Array, param: Array) -> Array:
      rate, weight_decay = groups[named.get(variables.name_of(path), HEAD)]
      return -lr * rate * (m * mu_scale / (jnp.sqrt(v * nu_scale) + eps) + weight_decay * param)

    return jax.tree_util.tree_map_with_path(change, mu, nu, params), AdamWState(step, mu, nu)

  return optax.GradientTransformationExtraArgs(init, update)


def sgd(schedule: optax.Schedule, group: Group) -> optax.GradientTransformationExtraArgs:
  """Plain stochastic gradient descent: a step of -lr (g + weight_decay p)."""

  def update(gradients: Any, step: Array, params: Any = None, **_: Any) -> tuple[Any, Array]:
    lr = schedule(step) * group.rate
    changes = jax.tree.map(lambda g, p: -lr * (g + group.weight_decay * p), gradients, params)
    return changes, optax.safe_increment(step)

  return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros((), jnp.int32), update)


class AdagradState(NamedTuple):
  """Steps taken, and the sums of the gradients' squares."""

  step: Array
  squares: Any


def adagrad(schedule: optax.Schedule, eps: float, group: Group) -> optax.GradientTransformationExtraArgs:
  """Adagrad (Duchi et al., JMLR 2011) with decoupled decay: -lr (g / (root of the sum of squares + eps) + decay p).

  Sums begin at 0, as PyTorch's do, so that an element's first step is of the size lr.
  """

  def init(params: Any) -> AdagradState:
    return AdagradState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

  def update(gradients: Any, state: AdagradState, params: Any = None, **_: Any) -> tuple[Any, AdagradState]:
    lr = schedule(state.step) * group.rate
    squares = jax.tree.map(lambda s, g: s + g**2, state.squares, gradients)
    changes = jax.tree.map(
      lambda g, s, p: -lr * (g / (jnp.sqrt(s) + eps) + group.weight_decay * p), gradients, squares, params
    )
    return changes, AdagradState(optax.safe_increment(state.step), squares)

  return optax.GradientTransformationExtraArgs(init, update)


def _table_or_not(params: Any) -> Any:
  """The group of each parameter by whose optimiser it is trained."""
  tables = variables.tables_in_batches(params)
  return jax.tree_util.tree_map_with_path(
    lambda path, _: ITEM_TABLES if variables.name_of(path) in tables else HEAD, params
  )
