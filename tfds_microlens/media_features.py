"""Frames, covers and sound tracks as TFDS's features of pictures and sound, over the coded bytes that records hold.

They are classes of their own because TFDS's, as of 4.9.10, do not do for them:

* `tfds.features.Video` and `tfds.features.Audio` cannot be made without TensorFlow, and TFDS's decoder of FLAC,
  `tensorflow_io`, is not made for today's versions of it;
* without TensorFlow, `tfds.decode.SkipDecoding` raises an AttributeError on a `tfds.features.Sequence`;
* an empty byte string stands for a cover or a sound that an item does not have, which no decoder of pictures reads.

A picture is decoded by Pillow, or in a `tf.data.Dataset` by `tf.io.decode_jpeg` with exact arithmetic, to the same
pixels; frames that are coded together, and sound, by PyAV in either case. `features.json` beside the records names
these classes, so TFDS imports this package to read it.
"""

import os
from typing import Any

import numpy as np
from tensorflow_datasets.core.features import feature as feature_lib
from tensorflow_datasets.core.proto import feature_pb2
import tensorflow_datasets.public_api as tfds

from tfds_microlens import audio
from tfds_microlens import frame_codecs
from tfds_microlens import video_frames

_JPEG = frame_codecs.JPEG
_FLAC = "flac"


class Cover(tfds.features.Image):
  """A JPEG, decoded to `[side, side, 3]` uint8; black if the item has none.

  `tfds.decode.SkipDecoding()` gives the bytes of the file, of which there are none then.
  """

  def __init__(self, *, shape: tuple[int, int, int], doc: feature_lib.DocArg = None):
    super().__init__(shape=shape, encoding_format=_JPEG, doc=doc)

  def decode_example(self, example: Any) -> Any:
    import tensorflow as tf

    return tf.cond(
      tf.equal(tf.strings.length(example), 0),
      lambda: tf.zeros(self.shape, tf.uint8),
      lambda: _tf_decode_jpeg(example, self.shape),
    )

  def decode_example_np(self, example: bytes) -> np.ndarray:
    return np.array(video_frames.decode_jpeg(example)) if example else np.zeros(self.shape, np.uint8)

  @classmethod
  def from_json_content(cls, value: Any) -> "Cover":
    return cls(shape=feature_lib.from_shape_proto(value.shape))


class Frames(tfds.features.Video, tfds.features.Image):
  """Frames of one video, decoded to `[frames, side, side, 3]` uint8; `tfds.decode.SkipDecoding()` gives their bytes.

  It is a `Video`, and so a `Sequence` of `Image`; an `Image` too, because `tfds.show_examples` looks for one. Unlike
  other sequences it is decoded as one value: so decoders, which TFDS applies to the parts of sequences, get all frames,
  and frames that are coded together can be.
  """

  def __init__(self, *, shape: tuple[int, int, int, int], encoding_format: str = _JPEG, doc: feature_lib.DocArg = None):
    """`encoding_format` is one of `frame_codecs.FORMS`."""
    # Not that of Video, which needs TensorFlow.
    self._encoding_format = encoding_format
    self._extra_ffmpeg_args: list[str] = []
    self._use_colormap = False
    picture = tfds.features.Image(shape=shape[1:], encoding_format=_JPEG)
    tfds.features.Sequence.__init__(self, picture, length=shape[0], doc=doc)

  def get_serialized_info(self) -> feature_lib.TensorInfo:
    return feature_lib.TensorInfo(shape=(self._length,), dtype=np.object_)

  def get_tensor_info(self) -> feature_lib.TensorInfo:
    return feature_lib.TensorInfo(shape=(self._length, *self.feature.shape), dtype=np.uint8)

  def decode_example(self, serialized_example: Any, *, decoders: Any = None) -> Any:
    import tensorflow as tf

    del decoders
    if self._encoding_format != _JPEG:
      decode = lambda coded: frame_codecs.decode(list(coded))  # noqa: E731
      decoded = tf.numpy_function(decode, [serialized_example], tf.uint8, stateful=False)
      return tf.ensure_shape(decoded, (self._length, *self.feature.shape))
    frames = tf.unstack(serialized_example, num=self._length)
    return tf.stack([_tf_decode_jpeg(frame, self.feature.shape) for frame in frames])

  def decode_example_np(self, serialized_example: Any, *, decoders: Any = None) -> np.ndarray:
    del decoders
    return frame_codecs.decode(list(serialized_example))

  def _flatten(self, x: Any) -> list[Any]:
    return [x]

  def _nest(self, list_x: list[Any]) -> Any:
    return list_x[0]

  def to_json_content(self) -> feature_pb2.VideoFeature:
    return feature_pb2.VideoFeature(
      shape=feature_lib.to_shape_proto(self.shape),
      dtype=feature_lib.dtype_to_str(self.np_dtype),
      encoding_format=self._encoding_format,
    )

  @classmethod
  def from_json_content(cls, value: Any) -> "Frames":
    return cls(shape=feature_lib.from_shape_proto(value.shape), encoding_format=value.encoding_format or _JPEG)


class Sound(tfds.features.Audio):
  """A FLAC file, decoded to `[samples]` int16, mono; of no samples if the item has none.

  `tfds.decode.SkipDecoding()` gives the bytes of the file, of which there are none then.
  """

  def __init__(self, *, sample_rate: int, doc: feature_lib.DocArg = None):
    # Not that of Audio, which needs TensorFlow.
    self._file_format, self._sample_rate, self._lazy_decode = _FLAC, sample_rate, True
    tfds.features.Tensor.__init__(
      self, shape=(None,), dtype=np.int16, doc=doc, serialized_dtype=np.object_, serialized_shape=()
    )

  def encode_example(self, audio_or_path_or_fobj: Any) -> bytes:
    """The bytes of a FLAC file, given as such, by its path or as an open file."""
    if isinstance(audio_or_path_or_fobj, bytes):
      return audio_or_path_or_fobj
    if isinstance(audio_or_path_or_fobj, str | os.PathLike):
      with open(audio_or_path_or_fobj, "rb") as file:
        return file.read()
    return audio_or_path_or_fobj.read()

  def decode_example(self, tfexample_data: Any) -> Any:
    import tensorflow as tf

    samples = tf.numpy_function(self.decode_example_np, [tfexample_data], tf.int16, stateful=False)
    samples.set_shape(self.shape)
    return samples

  def decode_example_np(self, example_data: bytes) -> np.ndarray:
    return audio.decode_flac(example_data) if example_data else np.zeros(0, np.int16)

  def repr_html(self, ex: np.ndarray) -> str:
    """A player, or what there is instead: TFDS scales by the loudest sample."""
    return super().repr_html(ex) if np.any(ex) else "silence" if len(ex) else "no sound"

  def to_json_content(self) -> feature_pb2.AudioFeature:
    return feature_pb2.AudioFeature(
      shape=feature_lib.to_shape_proto(self.shape),
      dtype=feature_lib.dtype_to_str(self.np_dtype),
      file_format=self._file_format,
      sample_rate=self._sample_rate,
      encoding=self._encoding.name,
      lazy_decode=self._lazy_decode,
    )

  @classmethod
  def from_json_content(cls, value: Any) -> "Sound":
    return cls(sample_rate=value.sample_rate)


def _tf_decode_jpeg(coded: Any, shape: tuple[int, ...]) -> Any:
  import tensorflow as tf

  return tf.ensure_shape(tf.io.decode_jpeg(coded, channels=3, dct_method="INTEGER_ACCURATE"), shape)
