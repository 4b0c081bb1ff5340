"""ArrayRecord files as a `tf.data.Dataset`; TensorFlow is imported when one is asked for, not before.

The builder of this package has `as_dataset`. What TFDS opens by its files alone (`microlens/…:1.0.0`, and
`tfds.builder_from_directory`) has a builder of TFDS's own, which asks `register`'s adapter.
"""

import os
from typing import Any

from array_record.python.array_record_data_source import ArrayRecordDataSource
import numpy as np
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.core import decode
from tensorflow_datasets.core import file_adapters
import tensorflow_datasets.public_api as tfds

_CHUNK = 1024


def as_dataset(
  builder: dataset_builder.DatasetBuilder,
  split: Any,
  *,
  decoders: Any,
  read_config: tfds.ReadConfig,
  shuffle_files: bool,
) -> Any:
  """The examples of `split` in file order, parsed and decoded by TensorFlow.

  Args:
    builder: a prepared builder with ArrayRecord files.
    split: a split, or a part of one (`train[:10%]`).
    decoders: as for `tfds.load`.
    read_config: `tfds.ReadConfig`; its `options`, `input_context`, `assert_cardinality`, `add_tfds_id`, `shuffle_seed`
      and `shuffle_reshuffle_each_iteration` have an effect.
    shuffle_files: chunks of 1,024 examples come in random order.

  Returns:
    A `tf.data.Dataset` of feature dictionaries: int64 scalars, strings, and vectors of varying length.
  """
  import tensorflow as tf

  features = builder.info.features
  if isinstance(decoders, decode.PartialDecoding):
    features, decoders = decoders.extract_features(features), decoders.decoders
  records = builder.as_data_source(split, deserialize_method=decode.DeserializeMethod.RAW_BYTES)
  count = len(records)

  def read(start: int) -> np.ndarray:
    return np.array(records.__getitems__(range(start, min(start + _CHUNK, count))), object)

  def read_chunk(start: Any) -> Any:
    chunk = tf.numpy_function(read, [start], tf.string, stateful=False)
    chunk.set_shape([None])
    return tf.data.Dataset.from_tensor_slices((tf.range(start, start + tf.size(chunk, tf.int64)), chunk))

  def parse(place: Any, record: Any) -> Any:
    example = features.deserialize_example(record, decoders=decoders)
    if read_config.add_tfds_id:
      example["tfds_id"] = tf.strings.join([f"{builder.info.full_name}/{split}__", tf.strings.as_string(place)])
    return example

  starts = tf.data.Dataset.range(0, count, _CHUNK)
  if read_config.input_context:
    context = read_config.input_context
    starts = starts.shard(context.num_input_pipelines, context.input_pipeline_id)
  if shuffle_files:
    starts = starts.shuffle(
      max(-(-count // _CHUNK), 1),
      seed=read_config.shuffle_seed,
      reshuffle_each_iteration=read_config.shuffle_reshuffle_each_iteration,
    )
  dataset = starts.flat_map(read_chunk).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
  if read_config.assert_cardinality and not read_config.input_context:
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
  return dataset.with_options(read_config.options)


class _ArrayRecordAdapter(file_adapters.ArrayRecordFileAdapter):
  """TFDS's adapter of ArrayRecord files, which raises NotImplementedError for a `tf.data.Dataset`, with one."""

  SUPPORTS_TF_DATA = True

  @classmethod
  def make_tf_data(cls, filename: Any, buffer_size: int | None = None) -> Any:
    """The records of a file, in order, as a `tf.data.Dataset` of strings; `filename` may be a tensor."""
    import tensorflow as tf

    del buffer_size

    def count(path: bytes) -> np.int64:
      return np.int64(cls.num_examples(os.fsdecode(path)))

    def read(path: bytes, start: int, stop: int) -> np.ndarray:
      with ArrayRecordDataSource([os.fsdecode(path)]) as records:
        return np.array(records.__getitems__(range(start, stop)), object)

    def read_chunk(start: Any) -> Any:
      chunk = tf.numpy_function(read, [filename, start, tf.minimum(start + _CHUNK, total)], tf.string, stateful=False)
      chunk.set_shape([None])
      return tf.data.Dataset.from_tensor_slices(chunk)

    total = tf.numpy_function(count, [filename], tf.int64, stateful=False)
    total.set_shape([])
    return tf.data.Dataset.range(0, total, _CHUNK).flat_map(read_chunk)


def register() -> None:
  """Has TFDS read ArrayRecord files as a `tf.data.Dataset`, unless it can do so by itself."""
  adapters = file_adapters.ADAPTER_FOR_FORMAT
  if not adapters[tfds.core.FileFormat.ARRAY_RECORD].SUPPORTS_TF_DATA:
    adapters[tfds.core.FileFormat.ARRAY_RECORD] = _ArrayRecordAdapter
