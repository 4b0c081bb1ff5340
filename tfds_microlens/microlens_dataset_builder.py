"""MicroLens (arXiv 2309.15379) as a TFDS data set: interactions, leave-one-out sequences, items, frames of videos."""

from collections.abc import Iterator
import difflib
import functools
import itertools
import os
import pathlib
import shutil
import tempfile
from typing import ClassVar

from absl import logging
import numpy as np
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.core import writer as writer_lib
import tensorflow_datasets.public_api as tfds

from mlrec.data.interactions import DataError
from mlrec.data.interactions import iter_csv
from mlrec.data.interactions import iter_tsv
from mlrec.data.interactions import read_pairs
from tfds_microlens import audio
from tfds_microlens import configs
from tfds_microlens import covers
from tfds_microlens import demo
from tfds_microlens import demo_tones
from tfds_microlens import demo_videos
from tfds_microlens import fetch
from tfds_microlens import item_media
from tfds_microlens import items as items_lib
from tfds_microlens import media
from tfds_microlens import records
from tfds_microlens import releases
from tfds_microlens import sequences
from tfds_microlens import tf_reader
from tfds_microlens import video_sources
from tfds_microlens import videos as videos_lib
from tfds_microlens.media_sources import FileSource
from tfds_microlens.media_sources import Folder
from tfds_microlens.media_sources import MISSING

_VIDEO_SHARD_ROWS = 1 << 14  # about 1 GB of five frames of 224 x 224
_MEDIA_SHARD_ROWS = 1 << 12  # about 1 GB of sound tracks of 10 s
# A split's examples, and how many there are.
_Split = tuple[int, Iterator[dict] | Iterator[bytes]]


class Builder(dataset_builder.FileReaderBuilder):
  """Builder of `microlens/{50k,100k,1m,full,demo}-{interactions,sequences,items…,videos-<frames>x<size>}`."""

  name = "microlens"
  VERSION = tfds.core.Version(fetch.VERSION)
  RELEASE_NOTES: ClassVar = {
    "1.0.0": (
      "Interactions, leave-one-out sequences, items and videos of every release, and a demo; covers and sound tracks "
      "in items whose names ask for them. A config that got features since has a version of its own."
    )
  }
  BUILDER_CONFIGS = configs.listed()
  DEFAULT_BUILDER_CONFIG_NAME = "50k-sequences"
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Files that cannot be downloaded are taken from manual_dir (<data_dir>/downloads/manual) under the names that the "
    "MicroLens server gives them. The full release is by e-mail from its authors only."
  )

  @tfds.core.utils.classproperty
  @classmethod
  @functools.cache
  def builder_configs(cls):
    return configs.Configs((config.name, config) for config in cls.BUILDER_CONFIGS)

  def __init__(self, *, file_format=None, **kwargs):
    super().__init__(file_format=file_format, **kwargs)
    # TFDS's own default, TFRecord, can be neither written nor read without TensorFlow.
    if file_format is None and not self.info.initialized:
      self.info.set_file_format("array_record", override=True)

  def download_and_prepare(self, *, download_dir=None, download_config=None, **kwargs) -> None:
    """As every TFDS builder's.

    Raises:
      PrepareError: a file cannot be had or is wrong, or the disk is full.
      DataError: a line of a file is malformed (file and line number are named).
    """
    downloads = pathlib.Path(os.path.expanduser(download_dir or self.data_dir_root / "downloads"))
    manual_dir = download_config.manual_dir if download_config else None
    self._folders = {
      "download_dir": downloads / self.name,
      "manual_dir": pathlib.Path(os.path.expanduser(manual_dir or downloads / "manual")),
    }
    self._final_dir = self.data_path  # TFDS has it elsewhere while it is being made
    with fetch.full_disk_reported(self.data_dir_root):
      super().download_and_prepare(download_dir=download_dir, download_config=download_config, **kwargs)
    # The records are packed and in place; their single files have done their work.
    for name in (videos_lib.Frames.name, *item_media.NAMES):
      shutil.rmtree(self._cache(name), ignore_errors=True)

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(configs.features(self.builder_config)),
      homepage="https://github.com/westlake-repl/MicroLens",
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _download_and_prepare(self, dl_manager, download_config=None) -> None:
    del dl_manager, download_config  # TFDS's downloader sends no headers, and the server refuses its user agent.
    kind = self.builder_config.kind
    makers = {
      "interactions": self._interactions,
      "sequences": self._sequences,
      "items": self._items,
      configs.VIDEOS: self._videos,
    }
    writer = writer_lib.ExampleWriter(self.info.file_format)
    infos = []
    with tempfile.TemporaryDirectory(prefix="microlens_demo_") as folder:
      self._demo_files = self._write_demo(folder) if self._is_demo else {}
      for split, (count, examples) in makers[kind]().items():
        template = self._get_filename_template(split)
        shard_rows = _MEDIA_SHARD_ROWS if any(self.builder_config.media) else None
        if kind == configs.VIDEOS:
          shard_rows = _VIDEO_SHARD_ROWS
        infos.append(
          records.write_split(split, count, examples, template=template, writer=writer, shard_rows=shard_rows)
        )
    self.info.set_splits(tfds.core.SplitDict(infos))

  def _interactions(self) -> dict[str, _Split]:
    pairs = self._any_of("pairs_csv", "pairs_tsv")
    timed = pairs.suffix == ".csv"
    self.info.metadata["timestamps"] = "milliseconds" if timed else "place in the sequence"
    chunks = functools.partial(iter_csv if timed else _placed_chunks, pairs)
    count = sum(len(users) for users, _, _ in chunks())
    return {"train": (count, _interaction_examples(chunks()))}

  def _sequences(self) -> dict[str, _Split]:
    interactions = read_pairs(self._any_of("pairs_tsv", "pairs_csv"))
    lines = sequences.without_short_lines(interactions)
    users, histories = lines.users, lines.histories
    if not len(users):
      raise DataError(f"{interactions.source}: no user has {sequences.MIN_LENGTH} items")
    skipped = len(interactions.users) - len(users)
    if skipped:
      logging.warning(
        "%s: skipped %d of %d users, who have fewer than %d items.",
        interactions.source, skipped, len(interactions.users), sequences.MIN_LENGTH,
      )  # fmt: skip
    self.info.metadata.update(sequences.repeats(lines), skipped_users=skipped)
    return {
      split: (len(users), _sequence_examples(users, histories, hidden, split != "train"))
      for split, hidden in (("train", 2), ("validation", 2), ("test", 1))
    }

  def _items(self) -> dict[str, _Split]:
    pairs = self._any_of("pairs_tsv", "pairs_csv")
    titles = self._file("titles")
    likes = self._likes(optional=self._folders["manual_dir"] in (pairs.parent, titles.parent))
    more = {kind: self._if_there(kind) for kind in ("tags", "comments")} if self.builder_config.tells_more else {}
    found = items_lib.read_items(pairs, titles, likes, **more, quoted_titles=self._quoted_titles)
    columns = self._media_columns(found.ids)
    return {"train": (len(found.ids), _item_examples(found, list(more), columns))}

  def _media_columns(self, ids: np.ndarray) -> list[item_media.Column]:
    """The features of the covers and sound tracks that the name asks for."""
    asked = self.builder_config.media
    columns = []
    if asked.cover == configs.PATH:
      columns.append(item_media.path_column(covers.Covers.name, self._cover_source(), ids))
    elif asked.cover is not None:
      columns.append(self._media_column(covers.Covers(self._cover_source(), int(asked.cover)), ids))
    if asked.audio == configs.PATH:
      columns.append(item_media.path_column(audio.Audio.name, self._audio_source(), ids))
    elif asked.audio is not None:
      columns.append(self._media_column(audio.Audio(self._audio_source(), int(asked.audio)), ids))
    if columns:
      np.save(self.data_path / media.ITEMS, ids)
    return columns

  def _media_column(self, medium: media.Medium, ids: np.ndarray) -> item_media.Column:
    column = item_media.column(
      medium, ids, cache_dir=self._cache(medium.name), folder=self.data_path, report_at=self._final_dir
    )
    made_of = pathlib.Path(str(medium.source)).name
    self.info.metadata.update({f"without_{medium.name}": column.without, f"{medium.name}_made_of": made_of})
    return column

  def _videos(self) -> dict[str, _Split]:
    source, settings = self._video_source(), self.builder_config.frames
    frames = videos_lib.Frames(source, settings)
    prepared = media.prepare(frames, cache_dir=self._cache(frames.name), expected=self._expected_items())
    np.save(self.data_path / media.ITEMS, prepared.items)
    prepared.write_report(self.data_path / videos_lib.REPORT)
    self.info.metadata.update(
      frames=settings.number, size=settings.size, interval=settings.interval, reference=settings.reference,
      made_of=type(source).__name__.lower(), without_record=len(prepared.problems),
    )  # fmt: skip
    if prepared.problems:
      missing = sum(problem.reason == MISSING for problem in prepared.problems)
      logging.warning(
        "%s: %d items have a record; %d videos cannot be used and %d are missing: %s says which and why.",
        source, len(prepared.items), len(prepared.problems) - missing, missing, self._final_dir / videos_lib.REPORT,
      )  # fmt: skip
    return {"train": (len(prepared.items), prepared.records())}

  def _video_source(self) -> video_sources.VideoSource:
    """The published archive of frames, where it is there and has those wanted; else the folder of videos."""
    if self._is_demo:
      return video_sources.Folder(self._demo_files["videos"])
    settings = self.builder_config.frames
    published = (settings.number, settings.interval) == (video_sources.ARCHIVE_NUMBER, video_sources.ARCHIVE_INTERVAL)
    archive = self._release.frames if published else ""
    places = self._places
    for place in places:
      if archive and (place / archive).is_file():
        logging.info("Frames are taken from %s.", place / archive)
        return video_sources.Archive(place / archive)
    name = self._release.videos
    for place in places:
      if (place / name).is_dir():
        return video_sources.Folder(place / name)
    raise fetch.PrepareError(
      f"{name}: no such folder; expected <item>.mp4 files in {places[0] / name} (or in {places[1] / name})"
      + (f", or the archive {archive} beside it" if archive else "")
      + ".\nThe README of tfds_microlens says how to get the videos."
    )

  def _cover_source(self) -> FileSource:
    if self._is_demo:
      return Folder(self._demo_files["covers"], covers.SUFFIXES, covers.Covers.files)
    return item_media.cover_source(self._release.covers, self._places)

  def _audio_source(self) -> Folder:
    if self._is_demo:
      return Folder(self._demo_files["audio"], audio.SUFFIXES, audio.Audio.files)
    return item_media.audio_source(self._release.audio, self._release.videos, self._places)

  @property
  def _places(self) -> list[pathlib.Path]:
    """Where files may have been put."""
    return [self._folders["manual_dir"], self._folders["download_dir"]]

  def _expected_items(self) -> list[int]:
    """Items that should have a video: those of the pairs; none if these cannot be had."""
    try:
      pairs = self._any_of("pairs_tsv", "pairs_csv")
    except fetch.UnavailableError as error:
      logging.warning("%s\nGoing on without it: only videos that are there can be reported.", error)
      return []
    return items_lib.count_items(pairs)[0].tolist()

  def _cache(self, name: str) -> pathlib.Path:
    """Single records while a data set is being made; by config, so that one can be removed without the other."""
    return pathlib.Path(self.data_dir_root) / self.name / f".{self.builder_config.name}.{name}"

  def _write_demo(self, folder) -> dict[str, pathlib.Path]:
    made = demo.generate()
    files = made.write(folder)
    asked = self.builder_config.media
    for kind, setting, write in (
      ("videos", self.builder_config.frames, demo_videos.write),
      ("covers", asked.cover, demo_videos.write_covers),
      ("audio", asked.audio, demo_tones.write),
    ):
      if setting is not None:
        # Paths are to lead somewhere when all is done.
        lasting = setting == configs.PATH
        files[kind] = write(
          made, self._folders["download_dir"] / f"demo_{kind}" if lasting else pathlib.Path(folder) / kind
        )
    return files

  @property
  def _release(self) -> releases.Release:
    return releases.RELEASES[self.builder_config.release]

  @property
  def _is_demo(self) -> bool:
    return self.builder_config.release == releases.DEMO

  @property
  def _quoted_titles(self) -> bool:
    return self._is_demo or self._release.quoted_titles

  def _file(self, kind: str) -> pathlib.Path:
    """The checked file of a `kind`, had from wherever it can be."""
    if self._is_demo:
      return self._demo_files[kind]
    return self._record(fetch.find_or_download(self._release.file(kind), **self._folders))

  def _any_of(self, preferred: str, other: str) -> pathlib.Path:
    """The `preferred` file; or, if that is nowhere to be had, the `other` one, with a warning."""
    try:
      return self._file(preferred)
    except fetch.UnavailableError as error:
      unavailable = error
    try:
      found = self._file(other)
    except fetch.UnavailableError:
      raise unavailable from None
    logging.warning("%s\nGoing on with %s instead.", unavailable, found)
    return found

  def _likes(self, optional: bool) -> pathlib.Path | None:
    """The likes and views; None if the release has none, or if they are `optional` and not to be had."""
    if not self._is_demo and not self._release.likes:
      return None
    try:
      return self._file("likes")
    except fetch.UnavailableError as error:
      if not optional:
        raise
      logging.warning("%s\nGoing on without it: likes and views are -1.", error)
      return None

  def _if_there(self, kind: str) -> pathlib.Path | None:
    """The file of a `kind`; None, with a warning, if it is nowhere to be had."""
    try:
      return self._file(kind)
    except fetch.UnavailableError as error:
      logging.warning("%s\nGoing on without it: %s are empty.", error, kind)
      return None

  def _record(self, path: pathlib.Path) -> pathlib.Path:
    """Notes in the metadata which file was used."""
    size, sha256 = fetch.describe(path)
    self.info.metadata.setdefault("files", {})[path.name] = {"bytes": size, "sha256": sha256}
    return path

  def _as_dataset(self, split, decoders=None, read_config=None, shuffle_files=False):
    read_config = read_config or tfds.ReadConfig()
    if (read_config.file_format or self.info.file_format) != tfds.core.FileFormat.ARRAY_RECORD:
      return super()._as_dataset(split, decoders, read_config, shuffle_files)
    return tf_reader.as_dataset(self, split, decoders=decoders, read_config=read_config, shuffle_files=shuffle_files)


def prepare(name: str, *, data_dir=None, manual_dir=None) -> Builder:
  """The builder of `microlens/…` or of a bare config name, its data prepared (files that are there are kept).

  Raises:
    PrepareError: there is no such config (the nearest names are given), or its data cannot be had.
    DataError: a line of a source file is malformed.
  """
  config = name.removeprefix(f"{Builder.name}/")
  if config not in Builder.builder_configs:
    near = difflib.get_close_matches(config, Builder.builder_configs, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(Builder.builder_configs)}"
    raise fetch.PrepareError(f"{name}: no such data set; {hint}")
  builder = Builder(config=config, data_dir=data_dir)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
  return builder


def _placed_chunks(path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """As `iter_csv`, of a TSV file: each item's place in its line takes the place of the time."""
  for users, lines in iter_tsv(path):
    places = np.arange(len(lines.values)) - np.repeat(lines.offsets[:-1], lines.lengths)
    yield np.repeat(users, lines.lengths), lines.values, places


def _interaction_examples(chunks) -> Iterator[dict]:
  rows = itertools.chain.from_iterable(zip(*(part.tolist() for part in chunk)) for chunk in chunks)
  for user, item, timestamp in rows:
    yield {"user": user, "item": item, "timestamp": timestamp}


def _sequence_examples(users: np.ndarray, histories, hidden: int, has_target: bool) -> Iterator[dict]:
  """Rows without their last `hidden` items, of which the first is the target."""
  for row, user in enumerate(users.tolist()):
    history = histories[row]
    target = int(history[-hidden]) if has_target else 0
    yield {"user": user, "items": history[:-hidden], "target": target}


def _item_examples(found: items_lib.Items, lists: list[str], columns: list[item_media.Column]) -> Iterator[dict]:
  """Items with their figures, with those of their `lists` that the config has, and with their media."""
  plain = (found.ids.tolist(), found.titles, found.likes.tolist(), found.views.tolist(), found.counts.tolist())
  for place, row in enumerate(zip(*plain)):
    example = dict(zip(("item", "title", "likes", "views", "count"), row))
    example |= {name: [text.encode() for text in getattr(found, name)[place]] for name in lists}
    yield example | {column.feature: column.of(row[0]) for column in columns}
