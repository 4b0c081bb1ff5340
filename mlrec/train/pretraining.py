"""Pre-training of an encoder on labels of items: the loop, with the state, optimiser and checkpoints of every run."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import pathlib
import time
from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np

from mlrec import compiled
from mlrec import config as config_lib
from mlrec import files as files_lib
from mlrec import sharding_rules
from mlrec.content import open_source
from mlrec.content.base import Source
from mlrec.content.base import SourceContent
from mlrec.data.cold_start import cold_items
from mlrec.data.interactions import DataError
from mlrec.data.item_labels import Labels
from mlrec.data.permutation import KeyedPermutation
from mlrec.data.pipeline import ahead
from mlrec.data.static_shapes import round_up
from mlrec.data.static_shapes import stacked
from mlrec.models import convert
from mlrec.models.items.classifier import Classifier
from mlrec.models.items.classifier import LabelBatch
from mlrec.registry import options_of
from mlrec.train import pretrained
from mlrec.train.batch_stream import Groups
from mlrec.train.batch_stream import placed
from mlrec.train.checkpoint import Checkpoints
from mlrec.train.item_content import reading_options
from mlrec.train.optimizer import make_optimizer
from mlrec.train.record import Record
from mlrec.train.run_files import RunFiles
from mlrec.train.session import Clock
from mlrec.train.session import Session
from mlrec.train.sharding import make_mesh
from mlrec.train.sharding import put
from mlrec.train.sharding import Shares
from mlrec.train.state import make_train_steps
from mlrec.train.state import state_spec
from mlrec.train.stop import StopSignal

ACCURACY = "accuracy"
_NO_IDS = "none"  # no table has a row for an item


class Pretrained(NamedTuple):
  """What pre-training came to.

  Attributes:
    accuracy: on held-out items, the mean over labels and that of each, by name; empty where none are held out.
    best_step: the step that the parameters come from.
    trained: items that training sees.
    held_out: those that it does not.
    seconds: wall time, over all continuations.
    cpu_seconds: CPU time in them.
    parameters: numbers trained.
  """

  accuracy: dict[str, float]
  best_step: int
  trained: int
  held_out: int
  seconds: float
  cpu_seconds: float
  parameters: int


@dataclasses.dataclass(frozen=True, eq=False)
class LabelBatches:
  """The endless stream of batches of items; an epoch has each of them once, in a new order. Picklable.

  Attributes:
    items: `[n]` int32, the dense ids that training sees.
    codes: `[N, L]` int32, of all items; that of dense id d is row d - 1.
    batch_size: items in a global batch.
    seed: of the order.
  """

  items: np.ndarray
  codes: np.ndarray
  batch_size: int
  seed: int

  @property
  def steps_per_epoch(self) -> int:
    return -(-len(self.items) // self.batch_size)

  def batch(self, step: int) -> LabelBatch:
    """What step `step` trains on; the last batch of an epoch is filled up with the padding item."""
    epoch, number = divmod(step, self.steps_per_epoch)
    places = np.arange(number * self.batch_size, min((number + 1) * self.batch_size, len(self.items)))
    return label_batch(self.items[KeyedPermutation(len(self.items), (self.seed, epoch))(places)], self)

  def stack(self, first: int, count: int, size: int) -> LabelBatch:
    """The batches of `count` steps from `first` on, stacked on a leading axis of `size`."""
    return stacked([self.batch(step) for step in range(first, first + count)], size)


def label_batch(items: np.ndarray, batches: LabelBatches) -> LabelBatch:
  """Items, at most a batch of them, and their labels."""
  filled = np.zeros(batches.batch_size, np.int32)
  filled[: len(items)] = items
  return LabelBatch(filled, batches.codes[np.maximum(filled - 1, 0)])


class Pretraining:
  """A run that trains the encoder of `config.model.item` to tell labels: `plan`, `prepare`, `train`, `weights`."""

  def __init__(self, config: ConfigDict, labels: Labels, files: RunFiles, *, source: Source | None = None):
    """Keeps what the run is of; nothing is computed or read.

    Args:
      config: validated; its data are the content, and the share of the items that is held out (`cold_share`).
      labels: of the items.
      files: where checkpoints and metrics go.
      source: content that is open already, in place of what the config names.
    """
    self.config, self.labels, self._files, self._source = config, labels, files, source
    self._clock = Clock()

  def plan(self) -> None:
    """Plans model and state by shapes.

    Raises:
      ConfigError, OptionError: an option is wrong; the message names it.
    """
    config = self.config
    compiled.keep(config.compiled_mib)
    self.mesh = make_mesh(model=config.sharding.model)
    classes = [len(found) for found in self.labels.classes.values()]
    dim = config.model.get("dim", config_lib.default_config().model.dim)

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
      with options_of("config.model"):
        return Classifier(config.model.item.to_dict(), dim, classes, rngs=rngs)

    self._make_model = make_model
    described: Any = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    (self.recipe,) = described.items.recipes.values()

  def prepare(self) -> None:
    """Opens the content, and draws which of the labelled items that have it are held out.

    Raises:
      ConfigError, DataError: content cannot be had, or no labelled item has it, or none is left to train on.
    """
    config, recipe = self.config, self.recipe
    source = self._source or open_source(recipe.content, config.data, recipe.opening())
    known = self.labels.kept(np.asarray(source.items))
    if not len(known.items):
      raise DataError(
        f"none of the {len(self.labels.items):,} labelled items is among the {len(source.items):,} that have a "
        f"{source.noun}: labels go by the ids of the content"
      )
    ids = np.concatenate([[0], known.items])
    self.content = SourceContent(recipe.content, source, ids, recipe.need(), recipe.reading())
    share, seed = config.data.cold_share, config.data.cold_seed
    self.held_out = np.sort(cold_items(len(known.items), share=share, seed=seed)).astype(np.int32)
    trained = np.setdiff1d(np.arange(1, len(ids), dtype=np.int32), self.held_out)
    if not len(trained):
      raise DataError(f"config.data.cold_share = {share} leaves none of {len(known.items)} items to train on")
    size = round_up(config.train.batch_size, self.mesh.size)
    self.batches = LabelBatches(trained, known.codes, size, config.seed)
    self._optimizer = make_optimizer(config.optimizer, config.train.epochs * self.steps_per_epoch)
    self.spec = state_spec(
      self._make_model, self._optimizer, self.mesh, seed=config.seed,
      rules=sharding_rules.parse(config.sharding.rules), averaged=config.train.ema_decay > 0,
    )  # fmt: skip
    self.fingerprint = f"{known.fingerprint}-{source.fingerprint}"

  @property
  def steps_per_epoch(self) -> int:
    return self.config.train.steps_per_epoch or self.batches.steps_per_epoch

  def train(self, stop: StopSignal, *, started: Callable[[], None] = lambda: None) -> Pretrained:
    """Trains, or resumes, until the epochs are done or patience is out.

    Where no item is held out, the last parameters are the best.

    Args:
      stop: asked between groups of steps.
      started: called before anything of the run is written.

    Raises:
      ConfigError: the checkpoints are of other labels or other content.
      TrainingDiverged: a loss is not finite.
      Interrupted: `stop` was set; the state has been saved.
      CheckpointError: checkpoints cannot be read.
    """
    config = self.config
    with contextlib.closing(Checkpoints(self._files.checkpoints)) as checkpoints:
      restored = checkpoints.restore_latest(self.spec.abstract)
      if restored:
        state, record = restored
        self._check_data(record)
      else:
        state = pretrained.load(self.spec, self.spec.create())
        record = Record(self.fingerprint, _NO_IDS, config_lib.to_json(config))
      started()
      steps = make_train_steps(
        self.spec, self._optimizer, self.mesh, seed=config.seed, ema_decay=config.train.ema_decay
      )  # fmt: skip
      session = Session(
        config, self._files, state, record, checkpoints, stop, self._clock, steps_per_epoch=self.steps_per_epoch,
        monitor=ACCURACY, counted="items",
      )  # fmt: skip
      with session:
        while not session.done:
          self._train_epoch(session, steps)
      checkpoints.wait()
      best = checkpoints.best_step(session.record)
      self._best = checkpoints.restore_model(best, self.spec.abstract)
    used = self._clock.added_to(session.record)
    return Pretrained(
      self.accuracy(*self._best), best, len(self.batches.items), len(self.held_out), used.seconds, used.cpu_seconds,
      self.spec.parameters,
    )  # fmt: skip

  def write_weights(self, path: pathlib.Path) -> None:
    """Writes the trained encoder as safetensors under its PyTorch names, for `config.model.item.weights`."""
    model: Any = nnx.merge(self.spec.graphdef, *self._best)
    files_lib.write_safetensors(path, convert.to_torch(model.items.encoder))

  def accuracy(self, params: Any, rest: Any) -> dict[str, float]:
    """The share of held-out items of which a label is told right: the mean over labels, and that of each by name."""
    if not len(self.held_out):
      return {}
    sums = np.zeros((2, len(self.labels.classes)))
    for batch in self._held_out_batches():
      sums += np.asarray(self._right(params, rest, batch))
    # A label may be one that no held-out item has.
    shares = {name: float(right / there) for name, right, there in zip(self.labels.classes, *sums) if there}
    return {ACCURACY: float(np.mean(list(shares.values())))} | {
      f"{ACCURACY} {name}": share for name, share in shares.items()
    }

  @functools.cached_property
  def _right(self) -> Callable[[Any, Any, LabelBatch], Any]:
    def right(params: Any, rest: Any, batch: LabelBatch) -> Any:
      model: Any = nnx.merge(self.spec.graphdef, params, rest, copy=True)
      return model.right(batch)

    return jax.jit(right)

  def _held_out_batches(self) -> Iterator[LabelBatch]:
    size = self.batches.batch_size
    for start in range(0, len(self.held_out), size):
      batch = label_batch(self.held_out[start : start + size], self.batches)
      yield batch._replace(content=put(self.mesh, self.content.read(np.asarray(batch.items))))

  def _check_data(self, record: Record) -> None:
    if record.data != self.fingerprint:
      raise config_lib.ConfigError(
        f"{self._files.checkpoints.parent}: its run read other labels or content (fingerprint {record.data}, now "
        f"{self.fingerprint}); name another --workdir"
      )

  def _train_epoch(self, session: Session, steps: Callable[..., Any]) -> None:
    """Trains up to the end of the epoch under way, judges it on what is held out, and saves."""
    size, end = self.config.train.steps_per_dispatch, (session.epoch + 1) * self.steps_per_epoch
    first = session.epoch * self.steps_per_epoch
    bounds = [session.step, *(step for step in range(first + size, end, size) if step > session.step), end]
    groups = Groups(self.batches, bounds, size, self.content, Shares.of(self.mesh), parts=1)
    place = functools.partial(placed, self.mesh, 1)
    options = reading_options(self.content, self.config.data.workers)
    for count, batches in ahead(groups, len(bounds) - 1, place, **options):
      state, losses = steps(session.state, batches, count)
      session.took(state, count, losses)
      if session.step < end:
        session.end_group(save=session.passed(self.config.checkpoint.every_steps))
    session.flush()
    if len(self.held_out):
      start = time.monotonic()
      metrics = self.accuracy(session.state.eval_params, session.state.rest)
      session.validated(metrics, time.monotonic() - start)
    else:
      session.not_validated()
    session.end_epoch()
