"""Source files: from `manual_dir`, from an earlier download, or from the MicroLens server, checked in each case.

The server answers 403 to the user agent of Python's own downloader, and transfers of large files are interrupted: so
every request has a user agent of ours, an interrupted transfer is resumed, and a file gets its name only when it is
whole and its recorded size and SHA-256 are right.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import re

from absl import logging

from mlrec import files
from mlrec.terminal import one_line
from tfds_microlens import locks
from tfds_microlens import transfer
from tfds_microlens.errors import full_disk_reported
from tfds_microlens.errors import local_files_reported
from tfds_microlens.errors import PrepareError
from tfds_microlens.errors import UnavailableError

VERSION = "1.0.0"
_CHECKSUMS = pathlib.Path(__file__).with_name("checksums.tsv")
_BLOCK_BYTES = 1 << 20
# What no file of MicroLens begins with, and web pages and error messages do.
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*[<{]")
_HEAD_BYTES = 1 << 10
_ASK_THE_AUTHORS = (
  "This release has no public download: ask the authors for it by e-mail "
  "(addresses in arXiv 2309.15379 and at https://github.com/westlake-repl/MicroLens)."
)


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """A file and what is known of it.

  Attributes:
    name: file name, on the server and in `manual_dir`.
    url: where to download it; empty if nowhere.
    size: bytes, None if not recorded.
    sha256: hex digits, None if not recorded.
  """

  name: str
  url: str = ""
  size: int | None = None
  sha256: str | None = None

  @property
  def expected(self) -> str:
    """What the file must be, for messages."""
    if self.size is None:
      return "expected any text, for no checksum is recorded"
    return f"expected {self.size:,} bytes with sha256 {self.sha256}"


@functools.cache
def recorded_checksums() -> dict[str, tuple[int, str]]:
  """`{url: (bytes, sha256)}` of `checksums.tsv`."""
  rows = (line.split("\t") for line in _CHECKSUMS.read_text().splitlines() if line and not line.startswith("#"))
  return {url: (int(size), sha256) for url, size, sha256, *_ in rows}


def find_or_download(
  file: RemoteFile,
  *,
  download_dir: str | os.PathLike[str],
  manual_dir: str | os.PathLike[str],
  limits: transfer.Limits = transfer.DEFAULT_LIMITS,
) -> pathlib.Path:
  """The checked local path of `file`: in `manual_dir`, in `download_dir`, or downloaded there.

  Raises:
    PrepareError: it is not available, or its bytes are wrong; a wrong file in `manual_dir` is left as it is.
  """
  return find(file, download_dir=download_dir, manual_dir=manual_dir) or download(
    file, download_dir=download_dir, manual_dir=manual_dir, limits=limits
  )


def find(
  file: RemoteFile, *, download_dir: str | os.PathLike[str], manual_dir: str | os.PathLike[str]
) -> pathlib.Path | None:
  """The checked path of `file` if it is in `manual_dir` or `download_dir`.

  Raises:
    PrepareError: the one in `manual_dir` is wrong, or something else than a file lies under its name.
  """
  by_hand = pathlib.Path(manual_dir) / file.name
  if _exists(by_hand, file):
    found = _mismatch(file, by_hand)
    if found:
      raise PrepareError(
        f"{by_hand}: this is not the published file: {file.expected}; found {found}.\n"
        "Replace it with the right one, or remove it to have it downloaded."
      )
    return by_hand
  earlier = pathlib.Path(download_dir) / file.name
  if _exists(earlier, file):
    found = _mismatch(file, earlier)
    if not found:
      return earlier
    logging.warning("%s: damaged (%s; found %s); it is downloaded again.", earlier, file.expected, found)
    with local_files_reported(earlier):
      earlier.unlink()
  return None


def download(
  file: RemoteFile,
  *,
  download_dir: str | os.PathLike[str],
  manual_dir: str | os.PathLike[str],
  limits: transfer.Limits = transfer.DEFAULT_LIMITS,
) -> pathlib.Path:
  """Downloads `file` into `download_dir`; an interrupted transfer is resumed, now or by the next call.

  Another process that is downloading the same file is waited for.

  Raises:
    PrepareError: the server does not provide it, sends the wrong bytes, or the disk is full.
  """
  by_hand = pathlib.Path(manual_dir) / file.name
  if not file.url:
    raise UnavailableError(f"{file.name}: {_ASK_THE_AUTHORS}\nThen put the file at {by_hand}")
  path = pathlib.Path(download_dir) / file.name
  with contextlib.ExitStack() as stack:
    stack.enter_context(full_disk_reported(path.parent))
    with local_files_reported(path.parent):
      path.parent.mkdir(parents=True, exist_ok=True)
      stack.enter_context(locks.waited_for(path.with_name(f".{path.name}.lock"), f"{path} is being downloaded"))
    finished_meanwhile = find(file, download_dir=download_dir, manual_dir=manual_dir)
    return finished_meanwhile or _download(file, path, by_hand, limits)


def describe(path: str | os.PathLike[str]) -> tuple[int, str]:
  """`(bytes, sha256)` of a file.

  Raises:
    PrepareError: it cannot be read.
  """
  digest = hashlib.sha256()
  path = pathlib.Path(path)
  with local_files_reported(path), files.open_regular(path) as file:
    while block := file.read(_BLOCK_BYTES):
      digest.update(block)
    return file.tell(), digest.hexdigest()


def _exists(path: pathlib.Path, file: RemoteFile) -> bool:
  """Whether there is a file of that name; PrepareError for anything else."""
  with local_files_reported(path):
    if not os.path.lexists(path):
      return False
    if path.is_file():
      return True
  kind = "a folder" if path.is_dir() else "a broken link" if path.is_symlink() else "no regular file"
  raise PrepareError(f"{path}: {kind} under the name of a file, {file.expected}; remove or rename it")


def _download(file: RemoteFile, path: pathlib.Path, by_hand: pathlib.Path, limits: transfer.Limits) -> pathlib.Path:
  part = transfer.Part(path)
  resumed = part.size > 0
  found = _transfer_and_check(file, part, by_hand, limits)
  if found and resumed:
    logging.warning("%s: an earlier part does not fit what %s has now; starting again.", path, file.url)
    part.remove()
    found = _transfer_and_check(file, part, by_hand, limits)
  if found:
    part.remove()
    raise PrepareError(
      f"{file.name}: {file.url} sent the wrong bytes: {file.expected}; found {found}. The download was removed.\n"
      f"To provide it by hand, put the right file at {by_hand}; it is checked the same way."
    )
  with local_files_reported(path):
    part.finish()
  return path


def _transfer_and_check(file: RemoteFile, part: transfer.Part, by_hand: pathlib.Path, limits: transfer.Limits) -> str:
  """Brings `part` to its full size; what was found if that is not the recorded file, else an empty string."""
  try:
    transfer.transfer(file.url, part, file.size, verified=bool(file.sha256), limits=limits)
  except transfer.TransferError as error:
    raise UnavailableError(
      f"{file.name}: cannot be downloaded from {file.url}: {error}; {file.expected}.\n"
      f"To provide it by hand, put the file at {by_hand}; it is checked the same way."
    ) from None
  return _mismatch(file, part.path)


def _mismatch(file: RemoteFile, path: pathlib.Path) -> str:
  """What was found at `path` if it is not the recorded file, else an empty string."""
  size, sha256 = describe(path)
  found = f"{size:,} bytes with sha256 {sha256}"
  with local_files_reported(path), files.open_regular(path) as opened:
    head = opened.read(_HEAD_BYTES)
  if _MARKUP.match(head):
    begins = one_line(head[:60].decode("utf-8", "replace"))
    found = f"a web page or an error message, not a table: {found}, which begins with {begins!r}"
  elif file.size is None:
    if not size:
      return "an empty file"
    logging.info("%s: nothing is recorded to check it against; it has %s.", path, found)
    return ""
  return "" if (size, sha256) == (file.size, file.sha256) else found
