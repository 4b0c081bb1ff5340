from collections.abc import Callable
import pathlib

import numpy as np
import pytest

from mlrec.data.batches import Batch
from mlrec.data.batches import History

# A failure in shared assertions shows the values, as one in a test does.
pytest.register_assert_rewrite("encoder_checks")

_GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
  """Loads the arrays of a file in `tests/golden` by its name without the suffix."""

  def load(name: str) -> dict[str, np.ndarray]:
    with np.load(_GOLDEN / f"{name}.npz", allow_pickle=False) as file:
      return dict(file)

  return load


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
