"""MicroLens (arXiv 2309.15379) as a TFDS data set: interactions, leave-one-out sequences, items, frames of videos."""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import difflib
import functools
import io
import os
import pathlib
import shutil
import tempfile
from typing import Any
from typing import ClassVar

from absl import logging
import numpy as np
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.core.utils import file_utils
import tensorflow_datasets.public_api as tfds

from mlrec import files
from mlrec.data.protocols.protocol import tell_of_skipped
from tfds_microlens import audio
from tfds_microlens import configs
from tfds_microlens import covers
from tfds_microlens import digests
from tfds_microlens import download_options
from tfds_microlens import earlier_versions
from tfds_microlens import errors
from tfds_microlens import fetch
from tfds_microlens import item_media
from tfds_microlens import items as items_lib
from tfds_microlens import locks
from tfds_microlens import media
from tfds_microlens import own
from tfds_microlens import prepared as prepared_lib
from tfds_microlens import records
from tfds_microlens import releases
from tfds_microlens import sequences
from tfds_microlens import tf_reader
from tfds_microlens import videos as videos_lib
from tfds_microlens.beam import Beam
from tfds_microlens.errors import DamagedError
from tfds_microlens.errors import PrepareError
from tfds_microlens.media_sources import MISSING
from tfds_microlens.sequence_lines import SequenceLines
from tfds_microlens.source_files import SourceFiles

# Of what is made meanwhile of a log in no order.
_LINES = "lines"
_VIDEO_SHARD_ROWS = 1 << 14  # about 1 GB of five frames of 224 x 224
_MEDIA_SHARD_ROWS = 1 << 12  # about 1 GB of sound tracks of 10 s
# A split's examples, and how many there are.
_Split = tuple[int, Iterable[dict[str, Any]] | Iterable[bytes]]


class Builder(dataset_builder.FileReaderBuilder):
  """Builder of `microlens/{50k,100k,1m,full,demo}-{interactions,sequences,items…,videos-<frames>x<size>}`."""

  name = "microlens"
  VERSION = tfds.core.Version(fetch.VERSION)
  _source_files: SourceFiles | own.OwnFiles
  _beam: Beam | None
  RELEASE_NOTES: ClassVar = {
    "1.0.0": (
      "Interactions, leave-one-out sequences, items and videos of every release, and a demo; covers and sound tracks "
      "in items whose names ask for them. A config whose features have changed since has a version of its own."
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
  def builder_configs(cls) -> configs.Configs:
    return configs.Configs((config.name, config) for config in cls.BUILDER_CONFIGS)

  def __init__(self, *, file_format: str | tfds.core.FileFormat | None = None, **kwargs: Any):
    data_dir = os.fspath(kwargs.get("data_dir") or tfds.core.constants.DATA_DIR)
    if "://" in data_dir:
      raise PrepareError(
        f"data_dir={data_dir}: expected a local folder, for files are locked, compared and renamed there"
      )
    try:
      super().__init__(file_format=file_format, **kwargs)
    except Exception:
      # TFDS reads the data set's JSON unchecked: its errors do not say what to do.
      if os.path.lexists(getattr(self, "data_dir", "")):
        digests.Digests(self._place)
      raise
    # TFDS's own default, TFRecord, can be neither written nor read without TensorFlow.
    if file_format is None and not self.info.initialized:
      self.info.set_file_format("array_record", override=True)

  def download_and_prepare(
    self,
    *,
    download_dir: str | os.PathLike[str] | None = None,
    download_config: tfds.download.DownloadConfig | None = None,
    **kwargs: Any,
  ) -> None:
    """As every TFDS builder's. `download_options` says what of `download_config` has an effect.

    Raises:
      PrepareError: a file is not available or is wrong, the disk is full, another process is preparing the same, an
        option has no effect, or what is there already is damaged or holds fewer examples than are asked for.
      DataError: a line of a file is malformed (file and line number are named).
    """
    download_config = download_config or tfds.download.DownloadConfig()
    asked = download_options.extent(download_config)
    mode = download_config.download_mode
    kwargs |= {"download_dir": download_dir, "download_config": download_config}
    updates = mode == tfds.download.GenerateMode.UPDATE_DATASET_INFO
    if mode.overwrite_dataset or not self._is_there(asked):
      if updates:
        raise prepared_lib.not_prepared(self._place)
      if self.version != self.canonical_version:
        raise PrepareError(
          f"{self._place.name}:{self.version}: an earlier version is read where it was prepared, and no longer made; "
          f"expected {self.canonical_version}, or no version: {self._place.command}"
        )
      with _alone(self._place):
        # Another process may have made it meanwhile.
        if mode.overwrite_dataset or not self._is_there(asked):
          self._make(asked, **kwargs)
    elif updates:
      with _alone(self._place):
        super().download_and_prepare(**kwargs)
        digests.write(self._place)

  @property
  def _place(self) -> digests.Place:
    return prepared_lib.place_of(self)

  def _is_there(self, asked: download_options.Extent) -> bool:
    """Whether it is prepared already.

    Raises:
      PrepareError: it is damaged, or holds another number of examples.
    """
    if not self._place.folder.exists():
      return False
    digests.Digests(self._place)
    if not self.info.initialized:
      self.info.read_from_directory(self.data_dir)
    holds = dict(self.info.metadata.items()).get(prepared_lib.MOST_EXAMPLES)
    if holds is not None and holds != asked.most_examples:
      raise PrepareError(
        f"{self._place.folder}: it was made with max_examples_per_split={holds}, and {asked.most_examples} is asked "
        f"for; to prepare all of it: {self._place.command}"
      )
    return True

  def _make(
    self,
    asked: download_options.Extent,
    *,
    download_dir: str | os.PathLike[str] | None,
    download_config: tfds.download.DownloadConfig,
    own_files: own.OwnFiles | None = None,
    **kwargs: Any,
  ) -> None:
    """Makes the data set, with nobody else at it, of its release; or of `own_files`."""
    downloads = pathlib.Path(os.path.expanduser(download_dir or self.data_dir_root / "downloads"))
    manual_dir = pathlib.Path(os.path.expanduser(download_config.manual_dir or downloads / "manual"))
    if self.builder_config.release == releases.OWN:
      histories = f"{releases.OWN}-{configs.HISTORIES}"
      self._source_files = own_files or own.of_prepared(Builder(config=histories, data_dir=self.data_dir_root))
    else:
      self._source_files = SourceFiles(self.builder_config, download_dir=downloads / self.name, manual_dir=manual_dir)
    self._asked, self._beam = asked, download_options.beam(download_config)
    place = self._place  # TFDS has it elsewhere while it is being made
    self._final_dir = place.folder
    if own_files and own_files.root:
      self._final_dir = own_files.root / place.folder.relative_to(place.root)
    with errors.full_disk_reported(place.root), errors.local_files_reported(place.root):
      # What a run that was killed has left.
      for unfinished in place.folder.parent.glob(f"{tfds.core.constants.INCOMPLETE_PREFIX}*"):
        files.remove(unfinished)
      super().download_and_prepare(download_dir=download_dir, download_config=download_config, **kwargs)
      used = dict(self.info.metadata.items()).get("files", {})
      self.info.download_size = sum(int(file["bytes"]) for file in used.values())
      self.info.write_dataset_info_json(self.data_path)
      digests.write(place, self._described)
    # The records are packed and in place; their single files are no longer needed.
    for name in (_LINES, videos_lib.Frames.name, *item_media.NAMES):
      shutil.rmtree(self._cache(name), ignore_errors=True)
    files.remove(_aside(place.folder))

  def _log_download_bytes(self) -> None:
    # TFDS would print "Unknown size" for what it has no record of.
    print(f"Preparing {self._place.name} in {self.data_dir}", flush=True)

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(configs.features(self.builder_config, self.version)),
      supervised_keys=configs.SUPERVISED.get(self.builder_config.kind),
      homepage="https://github.com/westlake-repl/MicroLens",
      license=releases.terms(self.builder_config.release),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  def _download_and_prepare(
    self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig | None = None
  ) -> None:
    del dl_manager  # TFDS's downloader sends no headers, and the server refuses its user agent.
    again = download_config is not None and download_config.download_mode.overwrite_dataset
    before = earlier_versions.found(self)
    if before is None or again or any(self._asked) or not earlier_versions.take_over(before, self):
      self._make_records()
    # Now, and not when the data set has its name: there must be little time between that and the digests.
    self._described = digests.describe(pathlib.Path(self.data_dir))

  def _make_records(self) -> None:
    makers = {
      "interactions": self._interactions,
      "sequences": self._sequences,
      configs.HISTORIES: self._histories,
      "items": self._items,
      configs.VIDEOS: self._videos,
    }
    kind = self.builder_config.kind
    shard_rows = _MEDIA_SHARD_ROWS if any(self.builder_config.media) else None
    if kind == configs.VIDEOS:
      shard_rows = _VIDEO_SHARD_ROWS
    if self._asked.most_examples is not None:
      self.info.metadata[prepared_lib.MOST_EXAMPLES] = self._asked.most_examples
    infos = []
    with tempfile.TemporaryDirectory(prefix="microlens_demo_") as folder:
      if isinstance(self._source_files, own.OwnFiles):
        self._source_files.write_beside(self.data_path)
      else:
        self._source_files.write_demo(pathlib.Path(folder))
      for split, (count, examples) in makers[kind]().items():
        infos.append(
          records.write_split(
            split, count, examples, template=self._get_filename_template(split), file_format=self.info.file_format,
            shard_rows=shard_rows, num_shards=self._asked.num_shards, beam=self._beam,
          )
        )  # fmt: skip
    if self._source_files.used:
      self.info.metadata["files"] = self._source_files.used
    self.info.set_splits(tfds.core.SplitDict(infos))

  def _interactions(self) -> dict[str, _Split]:
    found = self._source_files.interactions()
    self.info.metadata["timestamps"] = sequences.TIMED if found.timed else sequences.PLACED
    return {"train": (self._limited(found.count), found)}

  def _histories(self) -> dict[str, _Split]:
    assert isinstance(self._source_files, own.OwnFiles)
    return self._source_files.histories(self.info.metadata, self._limited)

  def _sequences(self) -> dict[str, _Split]:
    if isinstance(self._source_files, own.OwnFiles):
      return self._source_files.sequences(self.info.metadata, self._limited)
    pairs = self._source_files.any_of("pairs_tsv", "pairs_csv")
    self._cache(_LINES).mkdir(exist_ok=True)
    lines = SequenceLines(pairs, self._cache(_LINES))
    tell_of_skipped(str(pairs), lines.skipped, len(lines.users) + lines.skipped, sequences.MIN_LENGTH)
    count = self._limited(len(lines.users))
    repeated = lines.repeats(count)
    # TFDS's viewer iterates over each value of the metadata, which a number does not let it.
    skipped_users = {f"fewer than {sequences.MIN_LENGTH} items": lines.skipped}
    self.info.metadata.update(repeated, skipped_users=skipped_users)
    return {
      split: (count, lines.rows(count, repeated, hidden, has_target=split != "train"))
      for split, hidden in (("train", 2), ("validation", 2), ("test", 1))
    }

  def _items(self) -> dict[str, _Split]:
    found, lists = self._source_files.items()
    found = found.first(self._limited(len(found.ids)))
    columns = self._source_files.item_columns() + self._media_columns(found.ids)
    return {"train": (len(found.ids), _item_examples(found, lists, columns))}

  def _media_columns(self, ids: np.ndarray) -> list[item_media.Column]:
    """The features of the covers and sound tracks that the name asks for."""
    asked = self.builder_config.media
    columns = []
    if asked.cover == configs.PATH:
      columns.append(item_media.path_column(covers.Covers.name, self._source_files.covers(), ids))
    elif asked.cover is not None:
      columns.append(self._media_column(covers.Covers(self._source_files.covers(), int(asked.cover)), ids))
    if asked.audio == configs.PATH:
      columns.append(item_media.path_column(audio.Audio.name, self._source_files.audio(), ids))
    elif asked.audio is not None:
      columns.append(self._media_column(audio.Audio(self._source_files.audio(), int(asked.audio)), ids))
    if columns:
      np.save(self.data_path / media.ITEMS, ids)
    return columns

  def _media_column(self, medium: media.Medium, ids: np.ndarray) -> item_media.Column:
    column = item_media.column(
      medium, ids, cache_dir=self._cache(medium.name), folder=self.data_path, report_at=self._final_dir,
      beam=self._beam,
    )  # fmt: skip
    made_of = pathlib.Path(str(medium.source)).name
    self.info.metadata.update({f"without_{medium.name}": column.without, f"{medium.name}_made_of": made_of})
    return column

  def _videos(self) -> dict[str, _Split]:
    source, settings = self._source_files.videos(), self.builder_config.frames
    frames = videos_lib.Frames(source, settings)
    prepared = media.prepare(
      frames, cache_dir=self._cache(frames.name), expected=self._source_files.expected_items(),
      most=self._asked.most_examples, beam=self._beam,
    )  # fmt: skip
    np.save(self.data_path / media.ITEMS, prepared.items)
    prepared.write_report(self.data_path / videos_lib.REPORT)
    self.info.metadata.update(
      frames=settings.number, size=settings.size, interval=settings.interval, reference=settings.reference,
      made_of=type(source).__name__.lower(), without_record=len(prepared.problems),
    )  # fmt: skip
    if prepared.problems:
      missing = sum(problem.reason == MISSING for problem in prepared.problems)
      logging.warning(
        "%s: %d items have a record; %d videos cannot be used and %d are missing: %s says which and why%s.",
        source, len(prepared.items), len(prepared.problems) - missing, missing, self._final_dir / videos_lib.REPORT,
        prepared.first_unusable,
      )  # fmt: skip
    return {"train": (len(prepared.items), prepared.records())}

  def _limited(self, count: int) -> int:
    return count if self._asked.most_examples is None else min(count, self._asked.most_examples)

  def _cache(self, name: str) -> pathlib.Path:
    """Single records while a data set is being made; by config, so that one can be removed without the other."""
    return pathlib.Path(self.data_dir_root) / self.name / f".{self.builder_config.name}.{name}"

  def _as_dataset(
    self,
    split: Any,
    decoders: Any = None,
    read_config: tfds.ReadConfig | None = None,
    shuffle_files: bool = False,
  ) -> Any:
    read_config = read_config or tfds.ReadConfig()
    if (read_config.file_format or self.info.file_format) != tfds.core.FileFormat.ARRAY_RECORD:
      return super()._as_dataset(split, decoders, read_config, shuffle_files)
    return tf_reader.as_dataset(self, split, decoders=decoders, read_config=read_config, shuffle_files=shuffle_files)


def prepare(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  manual_dir: str | os.PathLike[str] | None = None,
  beam: Beam | None = None,
) -> Builder:
  """The builder of `microlens/…` or of a bare config name, its data prepared.

  What is there already is compared with its digests, whole, and kept if it is what was written. Otherwise it is made
  again, which is logged, and the damaged one is removed once that has succeeded.

  Args:
    name: which.
    data_dir: where prepared data lies; None for TFDS's own folder.
    manual_dir: files put there by hand; None for `downloads/manual` there.
    beam: where it is made, by pipelines; None for this process.

  Raises:
    PrepareError: there is no such config (the nearest names are given), or its data is not available.
    DataError: a line of a source file is malformed.
  """
  config = Builder.builder_configs.get(name.removeprefix(f"{Builder.name}/"))
  if config is None:
    near = difflib.get_close_matches(name.removeprefix(f"{Builder.name}/"), Builder.builder_configs, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(Builder.builder_configs)}"
    raise PrepareError(f"{name}: no such data set; {hint}")
  runner, options = beam or Beam()
  download_config = tfds.download.DownloadConfig(manual_dir=manual_dir, beam_runner=runner, beam_options=options)
  place = _place(config, data_dir)
  if _problem(place):
    with _alone(place):
      # Another process may have made it again meanwhile.
      if problem := _problem(place):
        logging.warning("%s\nIt is made again.", problem)
        with _set_aside(place.folder):
          Builder(config=config.name, data_dir=data_dir)._make(
            download_options.Extent(), download_dir=None, download_config=download_config
          )
  builder = Builder(config=config.name, data_dir=data_dir)
  builder.download_and_prepare(download_config=download_config)
  return builder


def make_own(config: str, root: pathlib.Path, own_files: own.OwnFiles) -> digests.Place:
  """Makes a data set of `own`; one that is there and whole stays.

  Args:
    config: its name, `own-…`.
    root: `data_dir`.
    own_files: what it is made of.

  Returns:
    Where it lies.

  Raises:
    PrepareError: as `prepare`.
  """
  place = _place(Builder.builder_configs[config], root)
  with _alone(place):
    if os.path.lexists(place.folder) and _problem(place):
      files.remove(place.folder)
    if not place.folder.exists():
      # TFDS would say that it lies where it does not stay.
      with contextlib.redirect_stdout(io.StringIO()):
        Builder(config=config, data_dir=root)._make(
          download_options.Extent(), download_dir=None, download_config=tfds.download.DownloadConfig(),
          own_files=own_files,
        )  # fmt: skip
  return place


def _place(config: configs.MicroLensConfig, data_dir: str | os.PathLike[str] | None) -> digests.Place:
  """Where a config's data lies, or will; without reading anything there."""
  version = config.version or Builder.VERSION
  root, folder = file_utils.get_data_dir_and_dataset_dir(
    given_data_dir=os.fspath(data_dir) if data_dir else None,
    builder_name=Builder.name,
    config_name=config.name,
    version=tfds.core.Version(version),
  )
  return digests.Place(f"{Builder.name}/{config.name}", pathlib.Path(root), pathlib.Path(folder))


def _problem(place: digests.Place) -> str:
  """Why what is there cannot be kept, in a line; empty if it can, or nothing is there."""
  if not os.path.lexists(place.folder):
    return ""
  # It takes about a second a GB.
  print(f"Comparing {place.folder} with its digests", flush=True)
  try:
    digests.Digests(place).check_all()
    most = files.read_json(place.folder / "metadata.json").get(prepared_lib.MOST_EXAMPLES)
  except DamagedError as error:
    return str(error)
  return "" if most is None else f"{place.folder}: it was made with max_examples_per_split={most}"


@contextlib.contextmanager
def _alone(place: digests.Place) -> Iterator[None]:
  """Keeps other processes from making the same data set; the demo, which is made on first use, waits for them."""
  folder = place.root / Builder.name
  config = place.name.partition("/")[2]
  waits = config.startswith(f"{releases.DEMO}-")
  with contextlib.ExitStack() as stack:
    with errors.full_disk_reported(place.root), errors.local_files_reported(folder):
      folder.mkdir(parents=True, exist_ok=True)
      lock = (locks.waited_for if waits else locks.held)(folder / f".{config}.lock", f"{place.name} is being prepared")
      stack.enter_context(lock)
    yield


@contextlib.contextmanager
def _set_aside(folder: pathlib.Path) -> Iterator[None]:
  """Moves a damaged data set out of the way, for the block to make another; puts it back if that fails."""
  aside = _aside(folder)
  files.remove(aside)
  folder.rename(aside)
  try:
    yield
  except BaseException:
    if not folder.exists():
      aside.rename(folder)
    raise


def _aside(folder: pathlib.Path) -> pathlib.Path:
  return folder.with_name(f".{folder.name}.damaged")


def _item_examples(
  found: items_lib.Items, lists: list[str], columns: list[item_media.Column]
) -> Iterator[dict[str, Any]]:
  """Items with their figures, with those of their `lists` that the config has, and with their media."""
  plain = (found.ids.tolist(), found.titles, found.likes.tolist(), found.views.tolist(), found.counts.tolist())
  for place, row in enumerate(zip(*plain)):
    example = dict(zip(("item", "title", "likes", "views", "count"), row))
    example |= {name: [text.encode() for text in getattr(found, name)[place]] for name in lists}
    yield example | {column.feature: column.of(row[0]) for column in columns}
