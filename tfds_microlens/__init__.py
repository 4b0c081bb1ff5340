"""MicroLens for TFDS: importing this package registers the builder `microlens`."""

from tfds_microlens.fetch import PrepareError
from tfds_microlens.microlens_dataset_builder import Builder
from tfds_microlens.microlens_dataset_builder import prepare
from tfds_microlens.sequences import read_interactions

__all__ = ["Builder", "PrepareError", "prepare", "read_interactions"]
