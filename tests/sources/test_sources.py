"""Data sources: a pairs file and prepared TFDS data of the same content are one and the same to training."""

import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.sources import load_interactions
from tfds_microlens import demo


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("tfds")


@pytest.mark.parametrize(("max_length", "min_length"), [(10, 5), (4, 3)])
def test_a_pairs_file_and_the_prepared_data_make_equal_splits(data_dir, tmp_path, max_length, min_length):
  files = demo.generate().write(tmp_path)
  from_file = read_pairs(files["pairs_tsv"])
  prepared = load_interactions("microlens/demo-sequences", str(data_dir))
  lengths = {"max_length": max_length, "min_length": min_length}
  assert leave_one_out(prepared, **lengths) == leave_one_out(from_file, **lengths)
  assert leave_one_out(prepared, **lengths).fingerprint == leave_one_out(from_file, **lengths).fingerprint


def test_both_forms_of_a_pairs_file_make_equal_splits(tmp_path):
  files = demo.generate().write(tmp_path)
  assert leave_one_out(load_interactions(str(files["pairs_csv"]))) == leave_one_out(read_pairs(files["pairs_tsv"]))


def test_interactions_that_are_prepared_with_timestamps_are_those_of_the_file(data_dir, tmp_path):
  files = demo.generate().write(tmp_path)
  read, prepared = read_pairs(files["pairs_csv"]), load_interactions("microlens/demo-interactions", str(data_dir))
  assert np.array_equal(prepared.line_users, read.line_users)
  assert prepared.lines == read.lines
  assert prepared.history_times == read.history_times
  assert leave_one_out(prepared) == leave_one_out(read)


def test_data_that_is_not_prepared_is_refused_with_the_command_that_prepares_it(data_dir):
  with pytest.raises(DataError, match=r"not prepared.*python -m tfds_microlens"):
    load_interactions("microlens/50k-sequences", str(data_dir))


def test_a_form_that_holds_no_sequences_is_refused(data_dir):
  with pytest.raises(DataError, match="demo-sequences"):
    load_interactions("microlens/demo-items", str(data_dir))
