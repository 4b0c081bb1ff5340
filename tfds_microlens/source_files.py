"""The source files of a data set: those of a release, checked, from wherever they are available; or the demo's."""

from collections.abc import Callable
import pathlib

from absl import logging

from tfds_microlens import audio
from tfds_microlens import covers
from tfds_microlens import demo
from tfds_microlens import demo_tones
from tfds_microlens import demo_videos
from tfds_microlens import fetch
from tfds_microlens import item_media
from tfds_microlens import items as items_lib
from tfds_microlens import releases
from tfds_microlens import video_sources
from tfds_microlens.configs import MicroLensConfig
from tfds_microlens.configs import PATH
from tfds_microlens.errors import PrepareError
from tfds_microlens.errors import UnavailableError
from tfds_microlens.interaction_rows import InteractionRows
from tfds_microlens.media_sources import FileSource
from tfds_microlens.media_sources import Folder


class SourceFiles:
  """The files that a config is made of.

  Attributes:
    used: `{file name: {"bytes": …, "sha256": …}}` of the files of a release that were asked for so far.
  """

  def __init__(self, config: MicroLensConfig, *, download_dir: pathlib.Path, manual_dir: pathlib.Path):
    """Finds nothing yet.

    Args:
      config: what is prepared.
      download_dir: where downloads go.
      manual_dir: files put there by hand, which come first.
    """
    self._config, self._download_dir, self._manual_dir = config, download_dir, manual_dir
    self._demo_files: dict[str, pathlib.Path] = {}
    self.used: dict[str, dict[str, int | str]] = {}

  def write_demo(self, folder: pathlib.Path) -> None:
    """Makes the demo's files in `folder`, if it is the demo that is prepared."""
    if not self._is_demo:
      return
    made = demo.generate()
    self._demo_files = made.write(folder)
    media = self._config.media
    writers: tuple[tuple[str, object, Callable[[demo.Demo, pathlib.Path], pathlib.Path]], ...] = (
      ("videos", self._config.frames, demo_videos.write),
      ("covers", media.cover, demo_videos.write_covers),
      ("audio", media.audio, demo_tones.write),
    )
    for kind, setting, write in writers:
      if setting is not None:
        # A path must lead somewhere when all is done.
        lasting = setting == PATH
        self._demo_files[kind] = write(made, self._download_dir / f"demo_{kind}" if lasting else folder / kind)

  @property
  def quoted_titles(self) -> bool:
    return self._is_demo or self._release.quoted_titles

  def file(self, kind: str) -> pathlib.Path:
    """The checked file of a `kind`, as of `Release.file`.

    Raises:
      UnavailableError: it is available nowhere.
      PrepareError: it is wrong.
    """
    if self._is_demo:
      return self._demo_files[kind]
    path = fetch.find_or_download(
      self._release.file(kind), download_dir=self._download_dir, manual_dir=self._manual_dir
    )
    size, sha256 = fetch.describe(path)
    self.used[path.name] = {"bytes": size, "sha256": sha256}
    return path

  def any_of(self, preferred: str, other: str) -> pathlib.Path:
    """The `preferred` file; or, if that is available nowhere, the `other` one, with a warning."""
    try:
      return self.file(preferred)
    except UnavailableError as error:
      unavailable = error
    try:
      found = self.file(other)
    except UnavailableError:
      raise unavailable from None
    logging.warning("%s\nContinuing with %s instead.", unavailable, found)
    return found

  def optional(self, kind: str, without: str) -> pathlib.Path | None:
    """The file of a `kind`; None, with a warning that says what it is like `without`, if it is available nowhere."""
    try:
      return self.file(kind)
    except UnavailableError as error:
      logging.warning("%s\nContinuing without it: %s.", error, without)
      return None

  def likes(self, *, beside: list[pathlib.Path]) -> pathlib.Path | None:
    """The likes and views; None if the release has none, or none are available and files `beside` were put by hand."""
    if not self._is_demo and not self._release.likes:
      return None
    if self._manual_dir in [path.parent for path in beside]:
      return self.optional("likes", "likes and views are -1")
    return self.file("likes")

  def interactions(self) -> InteractionRows:
    """All interactions in the order of the file."""
    return InteractionRows.of(self.any_of("pairs_csv", "pairs_tsv"))

  def items(self) -> tuple[items_lib.Items, list[str]]:
    """All items, and which lists of them the release has."""
    pairs, titles = self.any_of("pairs_tsv", "pairs_csv"), self.file("titles")
    likes = self.likes(beside=[pairs, titles])
    more = {}
    if self._config.has_tags:
      more = {kind: self.optional(kind, f"{kind} are empty") for kind in ("tags", "comments")}
    return items_lib.read_items(pairs, titles, likes, **more, quoted_titles=self.quoted_titles), list(more)

  def item_columns(self) -> list[item_media.Column]:
    """Features of items that only some releases have."""
    return []

  def expected_items(self) -> list[int]:
    """Items that should have a video: those of the pairs; none if the pairs are not available."""
    try:
      pairs = self.any_of("pairs_tsv", "pairs_csv")
    except UnavailableError as error:
      logging.warning("%s\nContinuing without it: videos that are missing cannot be reported.", error)
      return []
    return items_lib.count_items(pairs)[0].tolist()

  def videos(self) -> video_sources.VideoSource:
    """The published archive of frames, where it is there and has those wanted; else the folder of videos.

    Raises:
      PrepareError: neither is there.
    """
    if self._is_demo:
      return video_sources.Folder(self._demo_files["videos"])
    settings = self._config.frames
    assert settings is not None
    published = (settings.number, settings.interval) == (video_sources.ARCHIVE_NUMBER, video_sources.ARCHIVE_INTERVAL)
    archive = self._release.frames if published else ""
    for place in self._places:
      if archive and (place / archive).is_file():
        logging.info("Frames are taken from %s.", place / archive)
        return video_sources.Archive(place / archive)
    name = self._release.videos
    for place in self._places:
      if (place / name).is_dir():
        return video_sources.Folder(place / name)
    first, second = self._places
    raise PrepareError(
      f"{name}: no such folder; expected <item>.mp4 files in {first / name} (or in {second / name})"
      + (f", or the archive {archive} beside it" if archive else "")
      + ".\nThe README of tfds_microlens says how to get the videos."
    )

  def covers(self) -> FileSource:
    """The covers; PrepareError if there are none."""
    if self._is_demo:
      return Folder(self._demo_files["covers"], covers.SUFFIXES, covers.Covers.files)
    return item_media.cover_source(self._release.covers, self._places)

  def audio(self) -> Folder:
    """The sound tracks; PrepareError if there are none."""
    if self._is_demo:
      return Folder(self._demo_files["audio"], audio.SUFFIXES, audio.Audio.files)
    return item_media.audio_source(self._release.audio, self._release.videos, self._places)

  @property
  def _is_demo(self) -> bool:
    return self._config.release == releases.DEMO

  @property
  def _release(self) -> releases.Release:
    return releases.RELEASES[self._config.release]

  @property
  def _places(self) -> list[pathlib.Path]:
    """Where files may have been put."""
    return [self._manual_dir, self._download_dir]
