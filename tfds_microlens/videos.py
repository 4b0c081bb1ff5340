"""Videos to records of a few frames."""

from typing import ClassVar

from tfds_microlens import frame_codecs
from tfds_microlens import media
from tfds_microlens import records
from tfds_microlens.video_sources import FrameSettings
from tfds_microlens.video_sources import VideoSource

REPORT = "videos_without_record.tsv"


class Frames:
  """A few frames of each video: the medium of a data set of its own (`media.Medium`)."""

  name: ClassVar = "frames"
  files: ClassVar = "videos"
  mark: ClassVar = b"MLV2"

  def __init__(self, source: VideoSource, settings: FrameSettings):
    self.source, self._settings = source, settings

  def keep(self, item: int) -> media.Kept:
    pixels, num_frames = self.source.read(item, self._settings)
    frames = frame_codecs.encode(pixels, self._settings.form)
    return media.Kept(records.serialize({"item": item, "frames": frames, "num_frames": num_frames}))
