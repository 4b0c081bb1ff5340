"""AdamW with a clipped global norm, and its learning-rate schedules."""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from mlrec.config import ConfigError
from mlrec.config import SCHEDULES
from mlrec.models.layers import variables
from mlrec.models.layers.variables import ENCODER
from mlrec.models.layers.variables import HEAD
from mlrec.registry import closest


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformationExtraArgs:
  """The optimiser of a run.

  AdamW with decoupled decay of every parameter (Loshchilov and Hutter, ICLR 2019), after scaling gradients so that
  their global L2 norm is at most `clip_norm` (0 for no clipping). Parameters of the group `encoder`
  (`mlrec.models.layers.variables`) have the learning rate `encoder_lr` and the decay `encoder_weight_decay`.

  Args:
    config: `lr`, `weight_decay`, `b1`, `b2`, `eps`, `clip_norm`, `schedule`, `warmup_steps`, `final_lr_fraction`,
      `encoder_lr`, `encoder_weight_decay`.
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
  }
  chain.append(adamw(make_schedule(config, num_steps), config.b1, config.b2, eps=config.eps, groups=groups))
  return optax.chain(*chain)


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
      say none are in `HEAD`.
  """

  def init(params: Any) -> AdamWState:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return AdamWState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

  def update(
    gradients: Any, state: AdamWState, params: Any = None, *, rows: Mapping[str, Array] = {}, **_: Any
  ) -> tuple[Any, AdamWState]:
    named = variables.groups(params)

    def averaged(moments: Any, power: int, decay: float) -> Any:
      def one(path: Any, moment: Array, gradient: Array) -> Array:
        new = (1 - decay) * gradient**power
        read = rows.get(_name(path))
        return decay * moment + new if read is None else (decay * moment).at[read].add(new)

      return jax.tree_util.tree_map_with_path(one, moments, gradients)

    mu, nu = averaged(state.mu, 1, b1), averaged(state.nu, 2, b2)
    step = optax.safe_increment(state.step)
    lr = schedule(state.step)
    # Reciprocals of scalars, so that a table's update divides once for each element.
    mu_scale, nu_scale = 1 / (1 - b1**step), 1 / (1 - b2**step)

    def change(path: Any, m: Array, v: Array, param: Array) -> Array:
      rate, weight_decay = groups[named.get(_name(path), HEAD)]
      return -lr * rate * (m * mu_scale / (jnp.sqrt(v * nu_scale) + eps) + weight_decay * param)

    return jax.tree_util.tree_map_with_path(change, mu, nu, params), AdamWState(step, mu, nu)

  return optax.GradientTransformationExtraArgs(init, update)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".")
