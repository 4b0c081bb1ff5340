from collections.abc import Callable
from collections.abc import Iterator
import gc
import os
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from mlrec.data.batches import Batch
from mlrec.data.batches import History
from support import compilation
from support.eight_devices import EightDevices

# A failure in shared assertions shows the values, as one in a test does.
pytest.register_assert_rewrite(
  "support.convolutions", "support.dense_tower", "support.encoder_checks", "support.tiny_runs"
)
pytest_plugins = ["support.run_fixtures"]

_GOLDEN = pathlib.Path(__file__).parent / "golden"


def pytest_configure() -> None:
  compilation.set_flags()
  # What libraries have built by now stays: looking through it again and again takes a tenth of the tests' time.
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
  """Neighbouring tests share fixtures and programs: a worker without any takes half of another's, not a few of all."""
  if config.getoption("dist") != "load":
    return None
  from xdist.scheduler import WorkStealingScheduling

  return WorkStealingScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory) -> Iterator[None]:
  """Programs are compiled once a session, for its worker processes and the commands they start, and not optimised.

  Tiny ones take longer to compile than to run, and the tiniest longer to compile than to read.
  """
  folder = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    folder = folder.parent
  settings = {
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(folder / "compiled"),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: os.environ.get(name.upper()) for name in settings}
  for name, value in settings.items():
    os.environ[name.upper()] = str(value)
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    if value is None:
      del os.environ[name.upper()]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
  """Loads the arrays of a file in `tests/golden` by its name without the suffix."""

  def load(name: str) -> dict[str, np.ndarray]:
    with np.load(_GOLDEN / f"{name}.npz", allow_pickle=False) as file:
      return dict(file)

  return load


@pytest.fixture(scope="session")
def eight_devices() -> Iterator[EightDevices]:
  """Calls functions of `support` where there are eight devices."""
  devices = EightDevices()
  yield devices
  devices.close()


@pytest.fixture(scope="session")
def golden_path() -> pathlib.Path:
  return _GOLDEN


@pytest.fixture(scope="session")
def padded_batch() -> Callable[..., Batch]:
  """Makes a batch of left-padded rows, a user a row, from `rows [B, L + 1]` of item ids, by plain loops."""

  def make(rows: np.ndarray, log_popularity: np.ndarray, groups: int = 1) -> Batch:
    num_users, slots = rows.shape
    items = [0] + sorted({int(item) for item in rows.ravel()} - {0})
    column = {item: n for n, item in enumerate(items)}
    table = np.array([[column[int(item)] for item in row] for row in rows], np.int32)
    counts = np.zeros((groups, len(items)), np.int32)
    for user, row in enumerate(table):
      for c in row:
        counts[user * groups // num_users, c] += c != 0
    real = table[:, :-1] != 0
    places = np.tile(np.arange(slots - 1, dtype=np.int32), (num_users, 1))
    users = np.tile(np.arange(num_users, dtype=np.int32)[:, None], (1, slots - 1))
    return Batch(
      items=np.array(items, np.int32),
      counts=counts,
      log_popularity=np.asarray(log_popularity, np.float32)[items],
      slots=table,
      history=History(table[:, :-1], places, real.astype(np.int32)),
      targets=np.where(real, table[:, 1:], 0).astype(np.int32),
      users=np.where(real, users, 0).astype(np.int32),
      weights=real.astype(np.float32),
    )

  return make
