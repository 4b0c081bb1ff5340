"""Interactions → sequences → batches. No model is known here."""

from mlrec.data.interactions import DataError
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import read_pairs
from mlrec.data.interactions import Rows
from mlrec.data.protocols.leave_one_out import leave_one_out
from mlrec.data.splits import Split

__all__ = ["DataError", "Interactions", "Rows", "Split", "leave_one_out", "read_pairs"]
