"""MicroLens for TFDS: importing this package registers the builder `microlens`, and how TensorFlow reads its files."""

from tfds_microlens import tf_reader
from tfds_microlens.errors import PrepareError
from tfds_microlens.sequences import read_interactions
from tfds_microlens.tfds_microlens_dataset_builder import Builder
from tfds_microlens.tfds_microlens_dataset_builder import prepare

tf_reader.register()

__all__ = ["Builder", "PrepareError", "prepare", "read_interactions"]
