"""MicroLens (arXiv 2309.15379) as a TFDS data set: interactions, leave-one-out sequences, items, frames of videos."""

from collections.abc import Iterator
import dataclasses
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
from tfds_microlens import demo
from tfds_microlens import demo_videos
from tfds_microlens import fetch
from tfds_microlens import items as items_lib
from tfds_microlens import records
from tfds_microlens import releases
from tfds_microlens import sequences
from tfds_microlens import tf_reader
from tfds_microlens import video_sources
from tfds_microlens import videos as videos_lib

_VIDEOS = "videos"
_KINDS = {
  "interactions": "Every interaction, in the order of the pairs file",
  "sequences": "A history a user, split leave-one-out",
  "items": "Titles, likes, views and interaction counts",
}
_SUMMARIES = {name: release.summary for name, release in releases.RELEASES.items()} | {
  releases.DEMO: "a synthetic stand-in (2,000 users, 400 items), made on the spot"
}
_VIDEO_SHARD_ROWS = 1 << 14  # about 1 GB of five frames of 224 x 224
# A split's examples, and how many there are.
_Split = tuple[int, Iterator[dict] | Iterator[bytes]]


@dataclasses.dataclass(eq=False, kw_only=True)
class MicroLensConfig(tfds.core.BuilderConfig):
  """One release seen in one way.

  Attributes:
    release: `50k`, `100k`, `1m`, `full` or `demo`.
    kind: `interactions`, `sequences`, `items` or `videos`.
    frames: which frames of its videos, if it is one of `videos`.
  """

  release: str = ""
  kind: str = ""
  frames: video_sources.FrameSettings | None = None


def _configs() -> list[MicroLensConfig]:
  plain = [
    MicroLensConfig(name=f"{release}-{kind}", description=f"{_KINDS[kind]}; {summary}.", release=release, kind=kind)
    for release, summary in _SUMMARIES.items()
    for kind in _KINDS
  ]
  return plain + [_videos_config(release, video_sources.FrameSettings()) for release in _SUMMARIES]


@functools.cache
def _videos_config(release: str, frames: video_sources.FrameSettings) -> MicroLensConfig:
  apart = f", {frames.interval} apart," if frames.interval > 1 else ""
  chosen = " as the benchmark's released code finds them" if frames.reference else ""
  return MicroLensConfig(
    name=f"{release}-{_VIDEOS}-{frames}",
    description=(
      f"{frames.number} frames{apart} around the middle of every video{chosen}, {frames.size} x {frames.size}; "
      f"{_SUMMARIES[release]}."
    ),
    release=release,
    kind=_VIDEOS,
    frames=frames,
  )


class _Configs(dict[str, MicroLensConfig]):
  """The configs by name; beside those listed it has `…-videos-<frames>x<size>[-i<interval>][-reference]` for any
  numbers.

  TFDS asks `in` and `get`, and iterates to list what there is.
  """

  def get(self, name, default=None):
    if name in self.keys():
      return super().__getitem__(name)
    release, _, rest = str(name).partition("-")
    kind, _, settings = rest.partition("-")
    if release not in _SUMMARIES or kind != _VIDEOS:
      return default
    frames = video_sources.FrameSettings() if rest == _VIDEOS else video_sources.FrameSettings.parse(settings)
    return _videos_config(release, frames) if frames else default

  def __contains__(self, name):
    return self.get(name) is not None

  def __missing__(self, name):
    found = self.get(name)
    if found is None:
      raise KeyError(name)
    return found


class Builder(dataset_builder.FileReaderBuilder):
  """Builder of `microlens/{50k,100k,1m,full,demo}-{interactions,sequences,items,videos-<frames>x<size>}`."""

  name = "microlens"
  VERSION = tfds.core.Version(fetch.VERSION)
  RELEASE_NOTES: ClassVar = {
    "1.0.0": "Interactions, leave-one-out sequences, items and videos of every release, and a demo."
  }
  BUILDER_CONFIGS = _configs()
  DEFAULT_BUILDER_CONFIG_NAME = "50k-sequences"
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Files that cannot be downloaded are taken from manual_dir (<data_dir>/downloads/manual) under the names that the "
    "MicroLens server gives them. The full release is by e-mail from its authors only."
  )

  @tfds.core.utils.classproperty
  @classmethod
  @functools.cache
  def builder_configs(cls):
    return _Configs((config.name, config) for config in cls.BUILDER_CONFIGS)

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
    if self.builder_config.kind == _VIDEOS:
      # The records are packed and in place; their single files have done their work.
      shutil.rmtree(self._frame_cache, ignore_errors=True)

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(_features(self.builder_config)),
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
      _VIDEOS: self._videos,
    }
    writer = writer_lib.ExampleWriter(self.info.file_format)
    infos = []
    with tempfile.TemporaryDirectory(prefix="microlens_demo_") as folder:
      self._demo_files = self._write_demo(folder) if self._is_demo else {}
      for split, (count, examples) in makers[kind]().items():
        template = self._get_filename_template(split)
        shard_rows = _VIDEO_SHARD_ROWS if kind == _VIDEOS else None
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
    found = items_lib.read_items(pairs, titles, likes, quoted_titles=self._quoted_titles)
    return {"train": (len(found.ids), _item_examples(found))}

  def _videos(self) -> dict[str, _Split]:
    source, settings = self._video_source(), self.builder_config.frames
    prepared = videos_lib.prepare(source, settings, cache_dir=self._frame_cache, expected=self._expected_items())
    prepared.write_tables(self.data_path)
    self.info.metadata.update(
      frames=settings.number, size=settings.size, interval=settings.interval, reference=settings.reference,
      made_of=type(source).__name__.lower(), without_record=len(prepared.problems),
    )  # fmt: skip
    if prepared.problems:
      missing = sum(problem.reason == video_sources.MISSING for problem in prepared.problems)
      logging.warning(
        "%s: %d items have a record; %d videos cannot be used and %d are missing: %s says which and why.",
        source, len(prepared.items), len(prepared.problems) - missing, missing, self._final_dir / videos_lib.REPORT,
      )  # fmt: skip
    return {"train": (len(prepared.items), prepared.records())}

  def _video_source(self) -> video_sources.Source:
    """The published archive of frames, where it is there and has those wanted; else the folder of videos."""
    if self._is_demo:
      return video_sources.Folder(self._demo_files[_VIDEOS])
    settings = self.builder_config.frames
    published = (settings.number, settings.interval) == (video_sources.ARCHIVE_NUMBER, video_sources.ARCHIVE_INTERVAL)
    archive = self._release.frames if published else ""
    places = [self._folders["manual_dir"], self._folders["download_dir"]]
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

  def _expected_items(self) -> list[int]:
    """Items that should have a video: those of the pairs; none if these cannot be had."""
    try:
      pairs = self._any_of("pairs_tsv", "pairs_csv")
    except fetch.UnavailableError as error:
      logging.warning("%s\nGoing on without it: only videos that are there can be reported.", error)
      return []
    return items_lib.count_items(pairs)[0].tolist()

  @property
  def _frame_cache(self) -> pathlib.Path:
    """Single records while a data set is being made; by config, so that one can be removed without the other."""
    return pathlib.Path(self.data_dir_root) / self.name / f".{self.builder_config.name}.frames"

  def _write_demo(self, folder) -> dict[str, pathlib.Path]:
    made = demo.generate()
    files = made.write(folder)
    if self.builder_config.kind == _VIDEOS:
      files[_VIDEOS] = demo_videos.write(made, pathlib.Path(folder) / "videos")
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


def _features(config: MicroLensConfig) -> dict:
  kind = config.kind
  scalar = functools.partial(tfds.features.Scalar, np.int64)
  user, item = scalar(doc="Original user id."), scalar(doc="Original item id.")
  if kind == "interactions":
    time = "Milliseconds since 1970; of a release without times the place in the user's sequence, from 0."
    return {"user": user, "item": item, "timestamp": scalar(doc=time)}
  if kind == "sequences":
    return {
      "user": user,
      "items": tfds.features.Tensor(
        shape=(None,), dtype=np.int64, doc="Original ids of the whole history that the split may see, oldest first."
      ),
      "target": scalar(doc="The item to predict; 0 in train, where every next item is one."),
    }
  if config.frames:
    jpeg = tfds.features.Scalar(np.object_, doc="JPEG, RGB.")
    return {
      "item": item,
      "frames": tfds.features.Sequence(jpeg, length=config.frames.number, doc="In order of showing."),
      "num_frames": scalar(doc="Frames in the whole video; -1 where only an archive of frames was there."),
    }
  return {
    "item": item,
    "title": tfds.features.Text(doc="May be empty."),
    "likes": scalar(doc="-1 if the release does not tell."),
    "views": scalar(doc="-1 if the release does not tell."),
    "count": scalar(doc="Interactions in the pairs file."),
  }


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


def _item_examples(found: items_lib.Items) -> Iterator[dict]:
  columns = (found.ids.tolist(), found.titles, found.likes.tolist(), found.views.tolist(), found.counts.tolist())
  for row in zip(*columns):
    yield dict(zip(("item", "title", "likes", "views", "count"), row))
