"""The training state, and the compiled function that advances it by a group of steps."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from mlrec import rows_in_lines
from mlrec.data.batches import Batch
from mlrec.models.layers import variables
from mlrec.models.layers.tables import item_tables
from mlrec.sharding_rules import Rule
from mlrec.train import table_rows
from mlrec.train.lazy_tables import Held
from mlrec.train.lazy_tables import LazyTables
from mlrec.train.lazy_tables import RowClock
from mlrec.train.sharding import parts_of_rows
from mlrec.train.sharding import Placement
from mlrec.train.sharding import replicated
from mlrec.train.table_rows import Lines


class TrainState(NamedTuple):
  """All that training changes.

  Attributes:
    step: int32 scalar, steps taken.
    params: trainable parameters.
    rest: the model's other variables (batch statistics).
    opt_state: the optimiser's.
    average: the moving average of the parameters; None where a run keeps none.
    clock: how far behind rows of item tables are in all of these; None where steps move all rows.
  """

  step: Array
  params: nnx.State
  rest: nnx.State
  opt_state: optax.OptState
  average: nnx.State | None = None
  clock: RowClock | None = None

  @property
  def eval_params(self) -> nnx.State:
    """The parameters that are evaluated and kept: the average, where there is one."""
    return self.params if self.average is None else self.average

  @property
  def held(self) -> Held:
    """What has rows of item tables."""
    return Held(self.params, self.opt_state, self.average)


class StateSpec(NamedTuple):
  """A state that does not exist yet.

  Attributes:
    graphdef: the model's structure.
    create: makes it, sharded.
    abstract: each leaf's shape, dtype and sharding.
    parameters: how many numbers are trained; rows that only fill a table up are not counted.
    lines: which tables lie in lines while steps are taken.
    lazy: what steps leave some rows of item tables behind by; None where they move all.
  """

  graphdef: nnx.GraphDef
  create: Callable[[], TrainState]
  abstract: TrainState
  parameters: int
  lines: Lines
  lazy: LazyTables | None = None

  @property
  def in_training(self) -> TrainState:
    """`abstract`, with tables in lines."""
    shapes = jax.eval_shape(self.lines.laid, self.abstract)
    return jax.tree.map(
      lambda shape, like: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=like.sharding), shapes, self.abstract
    )


def state_spec(
  make_model: Callable[[nnx.Rngs], nnx.Module],
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  seed: int,
  rules: Sequence[Rule] = (),
  averaged: bool = False,
  lazy: LazyTables | None = None,
  lanes: int | None = None,
) -> StateSpec:
  """Plans a state by shapes alone; `create` then makes it in place, already sharded.

  `lanes` are the numbers in a line of tables (`mlrec.rows_in_lines`); None for those of the mesh's platform.

  Raises:
    ConfigError: one of the `rules` does not fit.
  """
  placement = Placement(mesh, rules)
  # What is no array leaves the traced function by the side.
  structure: list[tuple[nnx.GraphDef, int]] = []

  def build() -> TrainState:
    graphdef, params, rest = split_model(make_model(nnx.Rngs(seed)))
    structure.append((graphdef, sum(param.size for param in jax.tree.leaves(params))))
    params = placement.padded(params)
    average = jax.tree.map(jnp.copy, params) if averaged else None
    clock = lazy.clock(params) if lazy else None
    return TrainState(jnp.zeros((), jnp.int32), params, rest, optimizer.init(params), average, clock)

  shapes = jax.eval_shape(build)
  shardings = placement.shardings(shapes.params, shapes)
  abstract = jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, shardings)
  graphdef, parameters = structure[0]
  if lanes is None:
    lanes = rows_in_lines.lanes_of(mesh)
  # Where steps read all rows there is nothing to gain.
  whole = _scores_all_items(nnx.merge(graphdef, abstract.params, abstract.rest))
  lines = Lines.of(abstract.params, 0 if whole else lanes)
  return StateSpec(graphdef, jax.jit(build, out_shardings=shardings), abstract, parameters, lines, lazy)


def _scores_all_items(model: nnx.Module) -> bool:
  return getattr(model, "scores_all_items", False)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
  """Structure, parameters, and all other variables of a model."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
  return graphdef, params, rest


def make_train_steps(
  spec: StateSpec, optimizer: optax.GradientTransformation, mesh: Mesh, *, seed: int, ema_decay: float = 0.0
) -> Callable[[TrainState, Batch, int], tuple[TrainState, Array]]:
  """Compiles `(state, batches, count) -> (state, losses)`: `count` steps over batches stacked on a leading axis.

  The number of steps is a traced value, so that the shorter group at an epoch's end runs the same program. Dropout at
  step n is drawn from (seed, n). The state is donated; losses are `[size of the stack]`, 0 after `count`.
  """
  key = jax.random.key(seed)
  optimizer = optax.with_extra_args_support(optimizer)
  lazy = spec.lazy
  described: Any = nnx.merge(spec.graphdef, spec.abstract.params, spec.abstract.rest)
  whole_tables = _scores_all_items(described)
  tables = set() if whole_tables else {name for name, _ in item_tables(described)}
  leaves = {variables.name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(spec.abstract.params)}
  parts = {name: parts_of_rows(leaf.sharding) for name, leaf in leaves.items()}
  widths = {name: leaves[name].shape[1] for name in tables}

  def everywhere(array: Array) -> Array:
    return jax.lax.with_sharding_constraint(array, replicated(mesh))

  def built(params: Any, rest: nnx.State) -> Any:
    model: Any = nnx.merge(spec.graphdef, params, rest, copy=True)
    for name, table in item_tables(model):
      table.gathered, table.parts = not whole_tables, parts[name]
    return model

  def loss_fn(params: Any, rest: nnx.State, batch: Batch, columns: Array, step: Array) -> tuple[Array, nnx.State]:
    dropout = jax.random.fold_in(key, step)
    if batch.items.ndim == 1:
      model = built(params, rest)
      return model.loss(batch, rngs=nnx.Rngs(dropout=dropout)), split_model(model)[2]

    def of_part(batch: Batch, columns: Array, number: Array) -> tuple[Array, Array, nnx.State]:
      model = built(table_rows.rows_of(params, columns, widths), rest)
      rngs = nnx.Rngs(dropout=jax.random.fold_in(dropout, number))
      return *model.loss_sums(batch, rngs=rngs), split_model(model)[2]

    totals, weights, rests = jax.vmap(of_part)(batch, columns, jnp.arange(len(batch.items)))
    # Each part has statistics of its own, as a device of several has where they are not synchronised.
    rest = jax.tree.map(lambda x: x.mean(0).astype(x.dtype), rests)
    return totals.sum() / jnp.maximum(weights.sum(), 1.0), rest

  def step(batches: Batch, n: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
    whole, losses = carry
    batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, n, keepdims=False), batches)
    items, columns = batch.items, jnp.zeros(0, jnp.int32)
    if items.ndim > 1:
      # Parts may have an item in common, whose row is read, and moved, once.
      items, columns = jnp.unique(items, size=items.size, fill_value=0, return_inverse=True)
    state = whole if lazy is None else _rows_of(whole, lazy, items, widths)
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    params = state.params if lazy else table_rows.rows_of(state.params, items, widths)
    (loss, rest), grads = gradient(params, state.rest, batch, columns, state.step)
    # A gradient that is not finite spoils the parameters a step before the loss shows it.
    loss = jnp.where(jnp.isfinite(optax.global_norm(grads)), loss, jnp.nan)
    rows = {} if lazy else dict.fromkeys(tables, everywhere(items))
    if rows:
      # What is added to whole tables is whole on each device: cut over them, each would add its part, and whole tables
      # of sums would be sent in place of a batch's rows.
      grads = jax.tree_util.tree_map_with_path(
        lambda path, g: everywhere(g) if variables.name_of(path) in tables else g, grads
      )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, rows=rows)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
      decay = average_decay(ema_decay, state.step)
      average = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), average, params)
    state = TrainState(state.step + 1, params, rest, opt_state, average, state.clock)
    return state if lazy is None else _put_back(whole, state, lazy, items, mesh), losses.at[n].set(loss)

  def steps(state: TrainState, batches: Batch, count: Array) -> tuple[TrainState, Array]:
    losses = jnp.zeros(batches.items.shape[0], jnp.float32)
    if len(losses) == 1:
      # Not within a loop: there a convolution takes ten times as long on a CPU.
      return step(batches, jnp.zeros((), jnp.int32), (state, losses))
    return jax.lax.fori_loop(0, count, lambda n, carry: step(batches, n, carry), (state, losses))

  shardings = jax.tree.map(lambda leaf: leaf.sharding, spec.abstract)
  return jax.jit(steps, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))


def make_settle(spec: StateSpec) -> Callable[[TrainState], TrainState]:
  """Compiles what brings all rows of item tables up to date, where steps leave some behind; the state is donated."""
  lazy = spec.lazy
  if lazy is None:
    return lambda state: state

  def settle(state: TrainState) -> TrainState:
    assert state.clock is not None
    held, clock = lazy.settled(spec.lines.taken(state.held), state.clock, state.step)
    return spec.lines.laid(state._replace(**held._asdict(), clock=clock))

  shardings = jax.tree.map(lambda leaf: leaf.sharding, spec.abstract)
  return jax.jit(settle, donate_argnums=0, out_shardings=shardings)


def average_decay(ema_decay: float, step: Array) -> Array:
  """The share of the parameters' average that a step keeps: early on it reaches back over the steps so far alone."""
  return jnp.minimum(ema_decay, (1 + step) / (10 + step))


def _rows_of(whole: TrainState, lazy: LazyTables, items: Array, widths: Mapping[str, int]) -> TrainState:
  """The state with the rows of a batch's items in place of item tables, wherever it has any, up to date."""
  assert whole.clock is not None
  return whole._replace(**lazy.rows(whole.held, whole.clock, whole.step, items, widths)._asdict())


def _put_back(whole: TrainState, after: TrainState, lazy: LazyTables, items: Array, mesh: Mesh) -> TrainState:
  """`after`, a state of those rows that a step has moved, with whole tables again."""
  assert whole.clock is not None
  held = lazy.put_back(whole.held, after.held, items, mesh)
  return after._replace(**held._asdict(), clock=lazy.ticked(whole.clock, whole.step, items))
