"""Labels of items: what a file says, and what is refused."""

import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.data.item_labels import Labels
from mlrec.data.item_labels import NONE
from mlrec.data.item_labels import read_labels


def test_a_file_is_read_in_the_order_of_ids_with_classes_sorted(tmp_path):
  path = tmp_path / "labels.csv"
  path.write_text("\ufeffitem, shape,colour\n23,star,\n\n7,circle,red\n11, star ,blue\n", encoding="utf-8")
  found = read_labels(path)
  assert found.items.tolist() == [7, 11, 23]
  assert {name: list(classes) for name, classes in found.classes.items()} == {
    "shape": ["circle", "star"], "colour": ["blue", "red"],
  }  # fmt: skip
  assert found.codes.tolist() == [[0, 1], [1, 0], [1, NONE]]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", r"line 1 must be a header of distinct names, 'item' first, not \[\]"),
    ("id,shape\n1,a\n", r"'item' first, not \['id', 'shape'\]"),
    ("item,shape,shape\n1,a,b\n", r"a header of distinct names"),
    ("item,shape\n1,a\n2\n", r"line 3 has 1 cells, and the header has 2"),
    ("item,shape\n0,a\n", r"line 2: an item is a whole number from 1 on, not '0'"),
    ("item,shape\n9223372036854775808,a\n", r"line 2: an item is a whole number"),
    ("item,shape\nx,a\n", r"line 2: an item is a whole number from 1 on, not 'x'"),
    ("item,shape\n1,a\n2,b\n1,b\n", r"item 1 is named twice"),
    ("item\n1\n", r"there is no label: expected a column for each beside 'item'"),
    ("item,shape\n1,a\n2,a\n3,\n", r"the label 'shape' has 1 classes, and there is nothing to tell apart"),
  ],
)
def test_what_is_no_file_of_labels_is_refused_with_its_line(text, message, tmp_path):
  (tmp_path / "labels.csv").write_text(text)
  with pytest.raises(DataError, match=message):
    read_labels(tmp_path / "labels.csv")


def test_a_missing_file_is_told_with_what_may_be_meant(tmp_path):
  (tmp_path / "labels.csv").write_text("item,a\n")
  with pytest.raises(DataError, match=r"no such file; did you mean '.*labels\.csv'"):
    read_labels(tmp_path / "label.csv")


def test_the_fingerprint_is_of_items_classes_and_codes():
  def labels(items=(3, 1), **values):
    return Labels.of(items, values or {"a": ["x", "y"]}).fingerprint

  assert labels() == labels((1, 3), a=["y", "x"])
  assert len({labels(), labels((2, 1)), labels(a=["y", "x"]), labels(b=["x", "y"]), labels(a=["x", "z"])}) == 5


def test_items_without_content_or_without_any_label_are_left_out():
  found = Labels.of([1, 2, 3, 4], {"a": ["x", "", "y", "x"], "b": ["p", "", "", "q"]})
  kept = found.kept(np.array([2, 3, 4, 9]))
  assert kept.items.tolist() == [3, 4]
  assert kept.codes.tolist() == [[1, NONE], [0, 1]]
