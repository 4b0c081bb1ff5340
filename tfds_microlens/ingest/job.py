"""The whole work: a log, a table of items and media to a folder that is there whole or not at all."""

from collections.abc import Callable
from collections.abc import Iterator
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np

from mlrec import files
from mlrec.data import ingested
from mlrec.data.interactions import DataError
from mlrec.registry import near_file
from tfds_microlens import errors
from tfds_microlens import item_media
from tfds_microlens import locks
from tfds_microlens import media
from tfds_microlens import own
from tfds_microlens import sequences
from tfds_microlens import videos as videos_lib
from tfds_microlens.configs import MediaSettings
from tfds_microlens.configs import VIDEOS
from tfds_microlens.errors import PrepareError
from tfds_microlens.ingest import catalogue as catalogue_lib
from tfds_microlens.ingest import found_media
from tfds_microlens.ingest import histories as histories_lib
from tfds_microlens.ingest import log as log_lib
from tfds_microlens.ingest import report
from tfds_microlens.ingest.columns import ITEM
from tfds_microlens.ingest.ids import IdTable
from tfds_microlens.ingest.settings import NONE
from tfds_microlens.ingest.settings import Settings
from tfds_microlens.ingest.wording import Wording
from tfds_microlens.items import Items
from tfds_microlens.items import UNKNOWN
from tfds_microlens.releases import OWN
from tfds_microlens.tfds_microlens_dataset_builder import make_own

# In the unfinished folder: what it is made of, and files that are gone at the end.
_STATE, _WORK = "unfinished.json", "work"


def run(settings: Settings, to: pathlib.Path, say: Callable[[str], None]) -> dict[str, Any]:
  """Makes the folder `to`, or finds that the same command has made it.

  Args:
    settings: what is asked for.
    to: the folder; it may be there if it is empty, or if this was made of the same.
    say: prints a line.

  Returns:
    The report.

  Raises:
    DataError: something cannot be read or made, or `to` is something else.
  """
  try:
    files.check_name(to)
  except OSError as error:
    raise PrepareError(f"{settings.words.given('to', to)}: {error.strerror}") from error
  to = pathlib.Path(os.path.abspath(to.expanduser()))
  for folder in to.parents:
    if folder.exists() and not folder.is_dir():
      raise PrepareError(f"{settings.words.given('to', to)}: {folder} is no folder")
  unfinished, lock = (to.parent / f".{to.name}.{what}" for what in ("unfinished", "lock"))
  with (
    errors.full_disk_reported(to, "; what was decoded is taken up by the same call."),
    errors.local_files_reported(to),
    files.naming(to, unfinished, lock),
  ):
    made_of = _made_of(settings)
    if _is_there(to, made_of, settings.words):
      say(f"{to} is there already, made of the same by the same settings")
      return report.read(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(lock, f"{to} is being made"):
      _begin(unfinished, made_of)
      try:
        content, sets = _make(settings, unfinished, to, say)
      finally:
        # What can be resumed are media.
        if not (unfinished / own.FAMILY).exists():
          files.remove(unfinished)
      for name in (_WORK, _STATE, "downloads"):  # the last one TFDS makes, and nothing is in it
        files.remove(unfinished / name)
      report.write(unfinished, content)
      ingested.write(unfinished, ingested.Ingested(sets, _holds(content), made_of))
      files.sync_all(unfinished)
      unfinished.rename(to)
      files.sync_all(to.parent, below=False)
  return content


def _made_of(settings: Settings) -> dict[str, Any]:
  """Settings and inputs: equal ones give an equal folder."""
  stamps = {}
  for name in ("interactions", "items"):
    given = getattr(settings, name)
    if given:
      path = pathlib.Path(given).expanduser()
      if not path.is_file():
        what = "not a file" if path.exists() else f"no such file{near_file(path)}"
        raise PrepareError(f"{settings.words.given(name, given)}: {what}")
      stat = path.stat()
      stamps[name] = [stat.st_size, stat.st_mtime_ns]
  media_digest = found_media.digest(settings.media, settings.words)
  return {"settings": settings.as_json(), "files": stamps | {"media": media_digest}}


def _is_there(to: pathlib.Path, made_of: dict[str, Any], words: Wording) -> bool:
  """Whether `to` was made of the same; PrepareError if it is something else."""
  given = words.given("to", to)
  if not os.path.lexists(to):
    return False
  if to.is_dir() and not any(to.iterdir()):
    return False
  if not ingested.is_ingested(to):
    raise PrepareError(f"{given}: it is there already, and mlrec.ingest did not make it; name another folder")
  before = ingested.read(to).made_of
  if before == made_of:
    return True
  changed = {
    part: [words.name(name).rstrip("= ") for name, value in now.items() if before[part].get(name) != value]
    for part, now in made_of.items()
  }
  others = changed["settings"] + [f"the content of {name}" for name in changed["files"]]
  raise PrepareError(
    f"{given}: it was made of something else ({', '.join(others) or 'by another version'} differ); remove it or name "
    "another folder"
  )


def _begin(unfinished: pathlib.Path, made_of: dict[str, Any]) -> None:
  """Has the unfinished folder be there: what a run of the same that was killed has left, or an empty one."""
  state = unfinished / _STATE
  try:
    left = files.read_json(state)
  except (OSError, ValueError):
    left = None
  if left != made_of:
    files.remove(unfinished)
    unfinished.mkdir()
    files.write_json(state, made_of)
  files.remove(unfinished / _WORK)
  (unfinished / _WORK).mkdir()


def _make(
  settings: Settings, folder: pathlib.Path, to: pathlib.Path, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, str]]:
  """Fills the unfinished `folder`, which will be `to`: the report, and the data sets by kind."""
  log = log_lib.read(settings, folder / _WORK / "log", say)
  histories = histories_lib.make(log, settings, folder / _WORK)
  account = report.left_out_line(log, histories)
  if not histories.num_interactions:
    given = settings.words.given("core", settings.core)
    raise DataError(f"{given}: nothing of {settings.log} is left; a smaller one leaves more: {account}")
  for line in filter(None, (report.repeats_line(histories, settings), account)):
    say(line)
  if histories.twice and settings.repeats == "keep":
    logging.warning(
      "%s: %d rows are there twice: the same user, item and time%s", settings.log, histories.twice,
      settings.words.hint("repeats", "last", "; {} merges them, as all that a user has again"),
    )  # fmt: skip
  is_kept = histories.item_counts > 0
  catalogue = catalogue_lib.read(settings, log.items, is_kept, log.columns[ITEM], say)
  found = found_media.find(settings.media, log.items, is_kept, catalogue.paths, settings.words)
  material = _material(log, histories, catalogue, found)
  sets = {ingested.HISTORIES: f"{OWN}-histories"}
  if (histories.lengths >= sequences.MIN_LENGTH).any():
    sets[ingested.SEQUENCES] = f"{OWN}-sequences"
  else:
    say(f"no user has {sequences.MIN_LENGTH} interactions, one each to train, validate and test: no leave-one-out")
  asked = _media_of(settings, found)
  sets[ingested.ITEMS] = f"{OWN}-items{asked}"
  if found.videos and settings.frame_settings:
    sets[ingested.VIDEOS] = f"{OWN}-{VIDEOS}-{settings.frame_settings}"
  if found.audio_of_videos and asked.audio:
    say("there are no sound tracks by themselves: those of the videos are taken")
  made: dict[str, Any] = {}
  own_files = own.OwnFiles(material, root=to)
  for kind, config in sets.items():
    place = make_own(config, folder, own_files)
    made |= _media_made(kind, asked, place.folder, len(histories.items))
  for kind, config in sets.items():
    say(f"{kind}: microlens/{config}")
  result = (
    f"{len(histories.users):,} users, {len(histories.items):,} items, {histories.num_interactions:,} interactions"
  )
  say(f"{result}; rounds of the k-core: {histories.rounds}" if histories.rounds else result)
  names = {kind: f"microlens/{config}" for kind, config in sets.items()}
  return report.content(settings, log, histories, catalogue, found, made), names


def _holds(content: dict[str, Any]) -> list[str]:
  """What at least one item has, by the names that readers have for it."""
  nouns = {"cover": "cover", "audio": "sound track", "videos": "video"}
  return [noun for kind, noun in nouns.items() if kind in content["media"]["made"]] + (
    ["title"] if content["items"]["titles"] else []
  )


def _media_of(settings: Settings, found: found_media.Found) -> MediaSettings:
  """The covers and sound that are made: of what there is, and of videos' sound only if it is asked for."""
  asked = settings.media_settings
  has_audio = found.audio is not None and (not found.audio_of_videos or settings.audio not in ("", NONE))
  return MediaSettings(asked.cover if found.covers else None, asked.audio if has_audio else None)


def _media_made(kind: str, asked: MediaSettings, folder: pathlib.Path, num_items: int) -> dict[str, Any]:
  """What became of the media of a data set, by kind."""
  listed = {}
  if kind == ingested.VIDEOS:
    listed["videos"] = (media.ITEMS, videos_lib.REPORT)
  elif kind == ingested.ITEMS:
    listed = {
      name: (item_media.items_file(name), item_media.report(name)) for name in item_media.NAMES if getattr(asked, name)
    }
  found = {}
  for name, (items, listing) in listed.items():
    there = len(np.load(folder / items))
    where = folder.relative_to(folder.parents[2]) / listing
    first = media.first_listed(folder / listing)
    found[name] = {"with": there, "without": num_items - there, "report": str(where), "first_unusable": first}
  return found


def _material(
  log: log_lib.Log, histories: histories_lib.Histories, catalogue: catalogue_lib.Catalogue, found: found_media.Found
) -> own.Material:
  codes = histories.items
  codes = codes[np.argsort(log.items.ids(codes))]
  unknown = np.full(len(codes), UNKNOWN, np.int64)
  nothing: list[list[str]] = [[] for _ in codes]
  return own.Material(
    histories=_OfIds(histories, log.users, log.items),
    num_users=len(histories.users),
    timed=histories.timed,
    user_names=log.users.names(histories.users),
    item_names=log.items.names(codes),
    items=Items(
      log.items.ids(codes), [catalogue.titles.get(code, "") for code in codes.tolist()], unknown, unknown,
      histories.item_counts[codes], nothing, nothing,
    ),
    originals=log.items.originals(codes),
    covers=found.covers,
    audio=found.audio,
    videos=found.videos,
  )  # fmt: skip


class _OfIds:
  """Histories under the ids that stand for users and items."""

  def __init__(self, histories: histories_lib.Histories, users: IdTable, items: IdTable):
    self._histories = histories
    self._users, self._items = users.ids(np.arange(len(users))), items.ids(np.arange(len(items)))

  def __iter__(self) -> Iterator[own.History]:
    for user, records in self._histories:
      times = np.arange(len(records))
      if self._histories.timed:
        times = records["time"] // self._histories.ticks_per_ms
      yield int(self._users[user]), self._items[records["item"]], times
