"""Users ranked by a table in lines, as on a TPU."""

from flax import nnx
import numpy as np
import pytest

from mlrec import rows_in_lines
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.batches import Layout
from mlrec.models.registry import models
from mlrec.rows_in_lines import RowsInLines
from mlrec.train.evaluator import Evaluator
from mlrec.train.sharding import make_mesh

DIM = 8
MODELS = {
  "sequential": {},
  "sequential of two members": {"members": 2},
  "bert4rec": {"blocks": 1},
  "youtube": {},
  "lightgcn": {},
}


@pytest.fixture(scope="module")
def split(pairs_file):
  return leave_one_out(read_pairs(pairs_file))


@pytest.mark.parametrize("case", MODELS)
def test_ranks_are_those_by_a_table_as_it_is(case, split, monkeypatch):
  name = case.partition(" ")[0]
  data = {"num_items": split.num_items, "num_users": split.num_users, "max_length": 10, "train": split.train}
  known = {key: value for key, value in data.items() if key in models.options(name)}
  model = models.create(name, section={"dim": DIM, **MODELS[case]}, **known, rngs=nnx.Rngs(0))
  assert model.reads_lines
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  # Users of whom the model knows nothing but their histories are among them.
  monkeypatch.setitem(split.__dict__, "trained", np.arange(split.num_users) % 3 != 0)
  layout = Layout.of(10, packed=not model.reads_padding)

  def evaluator() -> Evaluator:
    return Evaluator(graphdef, split, layout, make_mesh(), 128, 512)

  wanted = evaluator().ranks(params, rest, "test")
  monkeypatch.setitem(rows_in_lines.LANES, "cpu", 4 * DIM)
  in_lines = evaluator()
  assert isinstance(in_lines.laid(params, rest, in_lines.item_table(params, rest)), RowsInLines)
  found = in_lines.ranks(params, rest, "test")
  np.testing.assert_array_equal(found.ranks, wanted.ranks)
  np.testing.assert_array_equal(found.recommended, wanted.recommended)
  assert len(np.unique(found.ranks)) > 50


def test_a_model_that_reads_its_table_otherwise_is_given_it_as_it_is(split, monkeypatch):
  model = models.create("sequential", num_items=split.num_items, max_length=10, dim=DIM, rngs=nnx.Rngs(0))
  model.reads_lines = False
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  monkeypatch.setitem(rows_in_lines.LANES, "cpu", 4 * DIM)
  evaluator = Evaluator(graphdef, split, Layout.of(10, packed=True), make_mesh(), 128, 512)
  table = evaluator.item_table(params, rest)
  assert evaluator.laid(params, rest, table) is table
