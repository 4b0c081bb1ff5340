"""Item tables of which a training step touches the rows that it reads, and no others.

Momentum, weight decay and a moving average of the parameters move every row in every step, those without a gradient
too. How, is known beforehand: in a step whose gradient is 0 a row's parameters `p`, their average `a` and the direction
of their moments, `u = mu / (sqrt(nu) + eps)`, become linear combinations of themselves, whose coefficients depend on
the step alone. So a row keeps the number of steps that it was last brought up to, a `Drift` holds the product of the
coefficients since each such step, and a step moves the rows of its batch by that product before it reads them. At an
epoch's end all are moved, so that what is evaluated is what a dense optimiser has.

The only difference to it, beside rounding: in steps that do not read a row, Adam's `eps` counts as in the first of
them, while the root beside it fades; that is nothing where gradients are far above `eps`.
"""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import optax

from mlrec import rows_in_lines
from mlrec.config import LAZY_ADAMW
from mlrec.models.layers import variables
from mlrec.train import table_rows
from mlrec.train.optimizer import make_schedule
from mlrec.train.optimizer import table_group
from mlrec.train.sharding import replicated


class Drift(NamedTuple):
  """How rows that were up to date at a step have moved since, `[K]` float32 each, at the place of that step modulo K.

  Attributes:
    kept: the share of the parameters that weight decay has left.
    faded: the share of Adam's direction that is left.
    moved: how far along that direction the parameters have gone.
    average_kept: the share of the average that is left.
    average_taken: what it has taken of the parameters.
    average_moved: how far it has gone along the direction.
  """

  kept: Array
  faded: Array
  moved: Array
  average_kept: Array
  average_taken: Array
  average_moved: Array


# A row that is up to date.
_NO_DRIFT = Drift(1.0, 1.0, 0.0, 1.0, 0.0, 0.0)  # type: ignore[arg-type]


class RowClock(NamedTuple):
  """What says how far behind each row is.

  Attributes:
    current: `[num_items + 1]` int32, the steps that had been taken when the row was last brought up to date.
    drift: since then.
  """

  current: Array
  drift: Drift


class Held(NamedTuple):
  """What has a row for each item beside other things: trees of arrays, of whole tables or of some of their rows.

  Attributes:
    params: of a training state.
    opt_state: of it.
    average: of it; None where there is none.
  """

  params: Any
  opt_state: optax.OptState
  average: Any


class LazyTables:
  """Brings rows of item tables up to date, and takes the rows of a batch out of a state and puts them back."""

  def __init__(
    self, config: ConfigDict, num_steps: int, *, steps_per_epoch: int, average_decay: Callable[[Array], Array]
  ):
    """Plans.

    Args:
      config: `config.optimizer`, of `make_optimizer`.
      num_steps: likewise.
      steps_per_epoch: the most steps that a row may be behind.
      average_decay: of the parameters' moving average, by step.
    """
    self._schedule, self._group = make_schedule(config, num_steps), table_group(config)
    self._b1, self._b2, self._eps = config.b1, config.b2, config.eps
    self._adam = config.item_tables == LAZY_ADAMW
    self._span, self._average_decay = steps_per_epoch + 1, average_decay

  def clock(self, params: Any) -> RowClock | None:
    """Of parameters that are up to date at step 0; None where they have no item table."""
    named = variables.tables_in_batches(params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sizes = {leaf.shape[0] for path, leaf in leaves if variables.name_of(path) in named}
    if not sizes:
      return None
    (size,) = sizes
    return RowClock(jnp.zeros(size, jnp.int32), Drift(*(jnp.full(self._span, value) for value in _NO_DRIFT)))

  def rows(self, held: Held, clock: RowClock, step: Array, items: Array, widths: Mapping[str, int]) -> Held:
    """`held` with the rows of `items [U]` in place of whole tables, brought up to `step`; `widths` are the tables'."""
    rows = table_rows.rows_of(held, items, widths)
    return self._moved(rows, jnp.take(clock.current, items, mode="clip"), clock.drift, step)

  def put_back(self, held: Held, rows: Held, items: Array, mesh: Mesh) -> Held:
    """`held` with the tables' rows of `items` as they are in `rows`, and everything else of `rows`."""
    named = variables.tables_in_batches(held.params)

    def put(new: Array, table: Array) -> Array:
      # Else devices would each put their own rows, and add up whole tables.
      new = jax.lax.with_sharding_constraint(new, replicated(mesh))
      return rows_in_lines.put(table, places(items, rows_in_lines.number(table, new.shape[1])), new)

    return _on_tables(named, put, rows, held)

  def ticked(self, clock: RowClock, step: Array, items: Array) -> RowClock:
    """The clock after the step of that number, from 0, which has read `items`."""
    now = step + 1
    # This is `now` whatever they were. Were it not made of them, XLA could set the clock before its last reader, and
    # would copy it for that one.
    new = jnp.maximum(jnp.take(clock.current, items, mode="clip"), now)
    current = clock.current.at[places(items, len(clock.current))].set(new, mode="drop", unique_indices=True)
    after = self._after(clock.drift, step)
    drift = Drift(*(values.at[now % self._span].set(start) for values, start in zip(after, _NO_DRIFT)))
    return RowClock(current, drift)

  def settled(self, held: Held, clock: RowClock, step: Array) -> tuple[Held, RowClock]:
    """All rows brought up to `step`."""
    moved = self._moved(held, clock.current, clock.drift, step)
    return moved, clock._replace(current=jnp.full_like(clock.current, step))

  def _after(self, drift: Drift, step: Array) -> Drift:
    """The drift after one more step, of that number from 0."""
    lr = self._schedule(step) * self._group.rate
    left = 1 - lr * self._group.weight_decay
    kept, faded, moved = left * drift.kept, drift.faded, left * drift.moved
    if self._adam:
      faded = faded * (self._b1 / self._b2**0.5)
      moved = moved + lr * jnp.sqrt(1 - self._b2 ** (step + 1)) / (1 - self._b1 ** (step + 1)) * faded
    decay = self._average_decay(step)
    return Drift(
      kept, faded, moved, decay * drift.average_kept, decay * drift.average_taken + (1 - decay) * kept,
      decay * drift.average_moved + (1 - decay) * moved,
    )  # fmt: skip

  def _moved(self, held: Held, current: Array, drift: Drift, step: Array) -> Held:
    """`held`, whose tables, or some of their rows, `[R, D]`, were up to date at `current [R]`, brought up to `step`."""
    named = variables.tables_in_batches(held.params)
    since = Drift(*(values[current % self._span][:, None] for values in drift))
    params, opt_state, average = held
    on_tables = functools.partial(_on_tables, named)
    if not self._adam:
      if average is not None:
        average = on_tables(lambda a, p: since.average_kept * a + since.average_taken * p, average, params)
      return Held(on_tables(lambda p: since.kept * p, params), opt_state, average)
    *before, adam = opt_state
    eps = self._eps * jnp.sqrt(1 - self._b2 ** (current + 1))[:, None]
    directions = on_tables(lambda m, v: m / (jnp.sqrt(v) + eps), adam.mu, adam.nu)
    if average is not None:
      average = on_tables(
        lambda a, p, u: since.average_kept * a + since.average_taken * p - since.average_moved * u,
        average, params, directions,
      )  # fmt: skip
    params = on_tables(lambda p, u: since.kept * p - since.moved * u, params, directions)
    behind = (step - current)[:, None]
    mu = on_tables(lambda m: self._b1**behind * m, adam.mu)
    nu = on_tables(lambda v: self._b2**behind * v, adam.nu)
    return Held(params, (*before, adam._replace(mu=mu, nu=nu)), average)


def _on_tables(named: Collection[str], change: Callable[..., Array], tree: Any, *others: Any) -> Any:
  """`tree` with its item tables changed, given those of the `others`; an optimiser's arrays have their names too."""

  def one(path: Any, leaf: Array, *further: Array) -> Array:
    return change(leaf, *further) if variables.parameter_of(variables.name_of(path), named) else leaf

  return jax.tree_util.tree_map_with_path(one, tree, *others)


def places(items: Array, size: int) -> Array:
  """Where rows of `items [U]` are put, each once: filler, which repeats the padding's column, is put nowhere."""
  columns = jnp.arange(len(items), dtype=items.dtype)
  return jnp.where((items == 0) & (columns > 0), size + columns, items)
