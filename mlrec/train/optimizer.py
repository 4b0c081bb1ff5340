"""AdamW with a clipped global norm, and its learning-rate schedules."""

from ml_collections import ConfigDict
import optax

from mlrec.registry import closest

SCHEDULES = ("constant", "cosine", "linear")


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
  """The optimiser of a run.

  AdamW with decoupled decay of every parameter (Loshchilov and Hutter, ICLR 2019), after scaling gradients so that
  their global L2 norm is at most `clip_norm` (0 for no clipping).

  Args:
    config: `lr`, `weight_decay`, `b1`, `b2`, `eps`, `clip_norm`, `schedule`, `warmup_steps`, `final_lr_fraction`.
    num_steps: steps of the whole run, for schedules that fall over it.

  Raises:
    ValueError: a value out of range or an unknown schedule.
  """
  if config.lr <= 0:
    raise ValueError(f"config.optimizer.lr must be positive, not {config.lr}")
  chain = [clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
  chain.append(
    optax.adamw(
      make_schedule(config, num_steps), config.b1, config.b2, eps=config.eps, weight_decay=config.weight_decay
    )
  )
  return optax.chain(*chain)


def make_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
  """Learning rate by step: a linear warm-up, then `constant`, or `cosine` or `linear` down to `final_lr_fraction`."""
  if config.schedule not in SCHEDULES:
    raise ValueError(f"config.optimizer.schedule {config.schedule!r}: {closest(config.schedule, SCHEDULES)}")
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

  def update(updates, state, params=None):
    del params
    scale = (max_norm / (optax.global_norm(updates) + 1e-6)).clip(max=1.0)
    return optax.tree.scale(scale, updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
