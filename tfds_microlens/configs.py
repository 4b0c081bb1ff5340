"""The names of the data sets, what each is, and the features that its examples have."""

import dataclasses
import functools
import re
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow_datasets.public_api as tfds

from tfds_microlens import audio
from tfds_microlens import frame_codecs
from tfds_microlens import media_features
from tfds_microlens import releases
from tfds_microlens import video_sources

VIDEOS = "videos"
ITEMS = "items"
# Input and target for `as_supervised=True`, by kind.
SUPERVISED = {"sequences": ("items", "target")}
HISTORIES = "histories"
# In place of a number: where the file lies, and nothing of what is in it.
PATH = "path"
_KINDS = {
  "interactions": "Every interaction, in the order of the pairs file",
  "sequences": "A history a user, split leave-one-out",
  ITEMS: "Titles, likes, views and interaction counts",
}
_SUMMARIES = {name: release.summary for name, release in releases.RELEASES.items()} | {
  releases.DEMO: "a synthetic stand-in (2,000 users, 400 items), made on the spot"
}
_OWN_SUMMARY = "interactions of your own, as python -m mlrec.ingest has read them"
_OWN_KINDS = _KINDS | {HISTORIES: "A user's whole history, with times"}
_COVER_SIZE, _AUDIO_SECONDS = 224, 10
_MEDIA = re.compile(r"(?:-cover(path|[1-9]\d{0,3}|))?(?:-audio(path|[1-9]\d{0,3}s|))?")
_FIRST = "1.0.0"
# Version and news of `items` of the releases that have tags and comments.
_WITH_TAGS = ("1.1.0", "Tags and comments.")
# Of what holds frames, covers or sound. Its records are those of the version before, which can still be named.
_DECODED = (
  "2.0.0",
  "Frames, covers and sound are pictures and samples, no longer bytes; the records are the same.",
)


class MediaSettings(NamedTuple):
  """What an `items` data set has of covers and sound tracks.

  Attributes:
    cover: the side of square JPEGs, `PATH`, or None for nothing.
    audio: seconds of sound at most, `PATH`, or None for nothing.
  """

  cover: int | str | None = None
  audio: int | str | None = None

  @classmethod
  def parse(cls, text: str) -> "MediaSettings | None":
    """What `-cover224-audio10s` says, or a part of it; `path` may stand for a number. None if it is none of these."""
    found = _MEDIA.fullmatch(text)
    if not found:
      return None
    cover, audio = found.groups()
    return cls(
      cover if cover in (None, PATH) else int(cover or _COVER_SIZE),
      audio if audio in (None, PATH) else int(audio.removesuffix("s") or _AUDIO_SECONDS),
    )

  def __str__(self) -> str:
    cover = "" if self.cover is None else f"-cover{self.cover}"
    audio = "" if self.audio is None else f"-audio{self.audio}" + "s" * (self.audio != PATH)
    return cover + audio


@dataclasses.dataclass(eq=False, kw_only=True)
class MicroLensConfig(tfds.core.BuilderConfig):
  """One release seen in one way.

  Attributes:
    release: `50k`, `100k`, `1m`, `full`, `demo` or `own`.
    kind: `interactions`, `sequences`, `items`, `videos` or, of `own`, `histories`.
    frames: which frames of its videos, if it is one of `videos`.
    media: what it has of covers and sound, if it is one of `items`.
  """

  release: str = ""
  kind: str = ""
  frames: video_sources.FrameSettings | None = None
  media: MediaSettings = dataclasses.field(default_factory=MediaSettings)

  @property
  def has_tags(self) -> bool:
    """Whether the release has tags and comments of its items."""
    return self.release in releases.RELEASES and bool(releases.RELEASES[self.release].comments)

  @property
  def has_media(self) -> bool:
    """Whether its examples hold frames, covers or sound, and not only where they lie."""
    return self.frames is not None or any(type(setting) is int for setting in self.media)


def listed() -> list[MicroLensConfig]:
  """The configs that are shown in lists; there are others of other settings."""
  plain = [
    MicroLensConfig(name=f"{release}-{kind}", description=f"{_KINDS[kind]}; {summary}.", release=release, kind=kind)
    for release, summary in _SUMMARIES.items()
    for kind in _KINDS
    if kind != ITEMS
  ]
  items = [
    _items_config(release, media)
    for release in _SUMMARIES
    for media in (MediaSettings(), MediaSettings(_COVER_SIZE, _AUDIO_SECONDS))
  ]
  return plain + items + [_videos_config(release, video_sources.FrameSettings()) for release in _SUMMARIES]


@functools.cache
def _items_config(release: str, media: MediaSettings) -> MicroLensConfig:
  parts = [_KINDS[ITEMS]]
  for what, setting, kept in (
    ("covers", media.cover, f"JPEGs of {media.cover} x {media.cover}"),
    ("sound tracks", media.audio, f"FLAC, mono, 16 kHz, {media.audio} s at most"),
  ):
    if setting is not None:
      parts.append(f"paths of {what}" if setting == PATH else f"{what} ({kept})")
  return _versioned(
    "Titles, likes, views and interaction counts.",
    name=f"{release}-{ITEMS}{media}",
    description=f"{'; '.join(parts)}; {_summary(release)}.",
    release=release,
    kind=ITEMS,
    media=media,
  )


@functools.cache
def _videos_config(release: str, frames: video_sources.FrameSettings) -> MicroLensConfig:
  apart = f", {frames.interval} apart," if frames.interval > 1 else ""
  chosen = " as the benchmark's released code finds them" if frames.reference else ""
  together = ", coded together" if frames.form == frame_codecs.H264 else ""
  return _versioned(
    "Frames of videos.",
    name=f"{release}-{VIDEOS}-{frames}",
    description=(
      f"{frames.number} frames{apart} around the middle of every video{chosen}, {frames.size} x {frames.size}"
      f"{together}; {_summary(release)}."
    ),
    release=release,
    kind=VIDEOS,
    frames=frames,
  )


def _versioned(first: str, **settings: Any) -> MicroLensConfig:
  """A config, with a version of its own if its features are not those of the first; `first` says what those were."""
  config = MicroLensConfig(**settings)
  news = dict([_DECODED]) if config.has_media else {}
  if config.kind == ITEMS and config.has_tags:
    news |= dict([_WITH_TAGS])
  if news:
    config.release_notes = news | {_FIRST: first}
    config.version, before, *_ = config.release_notes
    config.supported_versions = [before] if config.has_media else []
  return config


@functools.cache
def _own_config(kind: str) -> MicroLensConfig:
  name = f"{releases.OWN}-{kind}"
  description = f"{_OWN_KINDS[kind]}; {_OWN_SUMMARY}."
  return MicroLensConfig(name=name, description=description, release=releases.OWN, kind=kind)


def _summary(release: str) -> str:
  return _OWN_SUMMARY if release == releases.OWN else _SUMMARIES[release]


class Configs(dict[str, MicroLensConfig]):
  """The configs by name.

  Beside those listed it has `…-videos-<frames>x<side>[-i<interval>][-reference][-h264]` and
  `…-items[-cover<side>|-coverpath][-audio<seconds>s|-audiopath]` for any numbers, and those of `own`. TFDS asks `in`
  and `get`, and iterates to list what there is.
  """

  def get(self, name: object, default: Any = None) -> Any:
    if isinstance(name, str) and name in self.keys():
      return super().__getitem__(name)
    release, _, rest = str(name).partition("-")
    if release == releases.OWN and rest in _OWN_KINDS:
      return _items_config(release, MediaSettings()) if rest == ITEMS else _own_config(rest)
    if release not in _SUMMARIES and release != releases.OWN:
      return default
    if rest == VIDEOS:
      return _videos_config(release, video_sources.FrameSettings())
    if rest.startswith(f"{VIDEOS}-"):
      frames = video_sources.FrameSettings.parse(rest.removeprefix(f"{VIDEOS}-"))
      return _videos_config(release, frames) if frames else default
    media = MediaSettings.parse(rest.removeprefix(ITEMS)) if rest.startswith(f"{ITEMS}-") else None
    return _items_config(release, media) if media and any(media) else default

  def __contains__(self, name: object) -> bool:
    return self.get(name) is not None

  def __missing__(self, name: str) -> MicroLensConfig:
    found = self.get(name)
    if found is None:
      raise KeyError(name)
    return found


def features(config: MicroLensConfig, version: tfds.core.Version) -> dict[str, Any]:
  """The features of a config's examples, by name, as that version of it has them."""
  kind, coded = config.kind, version < _DECODED[0]
  scalar = functools.partial(tfds.features.Scalar, np.int64)
  user, item = scalar(doc="Original user id."), scalar(doc="Original item id.")
  if kind == "interactions":
    time = "Milliseconds since 1970; of a release without times the place in the user's sequence, from 0."
    return {"user": user, "item": item, "timestamp": scalar(doc=time)}
  if kind == HISTORIES:
    whole = functools.partial(tfds.features.Tensor, shape=(None,), dtype=np.int64)
    return {
      "user": user,
      "items": whole(doc="Original ids, oldest first."),
      "timestamps": whole(doc="Milliseconds since 1970; of a log without times the places, from 0."),
    }
  if kind == "sequences":
    return {
      "user": user,
      "items": tfds.features.Tensor(
        shape=(None,), dtype=np.int64, doc="Original ids of the whole history that the split may see, oldest first."
      ),
      "target": scalar(doc="The item to predict; 0 in train, where every next item is one."),
    }
  if config.frames:
    number, size = config.frames.number, config.frames.size
    form, doc = config.frames.form, "RGB, in order of showing."
    frames = media_features.Frames(shape=(number, size, size, 3), encoding_format=form, doc=doc)
    if coded:
      frames = tfds.features.Sequence(tfds.features.Scalar(np.object_, doc="JPEG, RGB."), length=number, doc=frames.doc)
    return {
      "item": item,
      "frames": frames,
      "num_frames": scalar(doc="Frames in the whole video; -1 where only an archive of frames was there."),
    }
  found = {
    "item": item,
    "title": tfds.features.Text(doc="May be empty."),
    "likes": scalar(doc="-1 if the release does not tell."),
    "views": scalar(doc="-1 if the release does not tell."),
    "count": scalar(doc="Interactions in the pairs file."),
  }
  if config.release == releases.OWN:
    found["original_id"] = tfds.features.Text(doc="The item's id in the log, which may be a text.")
  if config.has_tags:
    found["tags"] = tfds.features.Sequence(tfds.features.Text(), doc="Categories; there may be none.")
    found["comments"] = tfds.features.Sequence(tfds.features.Text(), doc="In the order of the file; may be none.")
  return found | _media_features(config.media, coded)


def _media_features(media: MediaSettings, coded: bool) -> dict[str, Any]:
  where = functools.partial(tfds.features.Text, doc="Where the file lies; empty if there is none.")
  found: dict[str, Any] = {}
  if media.cover == PATH:
    found["cover_path"] = where()
  elif media.cover is not None:
    doc = "RGB; black, and of no bytes, if there is no usable cover."
    found["cover"] = media_features.Cover(shape=(int(media.cover), int(media.cover), 3), doc=doc)
  if media.audio == PATH:
    found["audio_path"] = where()
  elif media.audio is not None:
    doc = "Mono, 16,000 samples a second; of no samples, and of no bytes, if there is no usable sound track."
    found["audio"] = media_features.Sound(sample_rate=audio.RATE, doc=doc)
  if coded:
    found |= {name: tfds.features.Scalar(np.object_, doc=found[name].doc) for name in found.keys() & {"cover", "audio"}}
  return found
