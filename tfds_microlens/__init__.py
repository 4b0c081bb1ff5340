"""MicroLens for TFDS: importing this package registers the builder `microlens`."""

from tfds_microlens.errors import PrepareError
from tfds_microlens.sequences import read_interactions
from tfds_microlens.tfds_microlens_dataset_builder import Builder
from tfds_microlens.tfds_microlens_dataset_builder import prepare

__all__ = ["Builder", "PrepareError", "prepare", "read_interactions"]
