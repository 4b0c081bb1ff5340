"""Source files: from `manual_dir`, from an earlier download, or from the MicroLens server, checked in each case.

The server answers 403 to the user agent of Python's own downloader, and large files break off: so every request
carries a user agent of ours, a broken transfer goes on where it stopped, and a file gets its name only when it is whole
and its recorded size and SHA-256 fit.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import http.client
import os
import pathlib
import socket
import time
import urllib.error
import urllib.request

from absl import logging
import tqdm

from mlrec.data.interactions import DataError

VERSION = "1.0.0"
USER_AGENT = f"tfds_microlens/{VERSION}"
_CHECKSUMS = pathlib.Path(__file__).with_name("checksums.tsv")
_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 15.0
_RETRY_DELAYS_S = (0.5, 2.0)
_TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_ASK_THE_AUTHORS = (
  "This release has no public download: ask the authors for it by e-mail "
  "(addresses in arXiv 2309.15379 and at https://github.com/westlake-repl/MicroLens)."
)


class PrepareError(DataError):
  """Data that cannot be had or prepared; the message says what was expected, what was found, and what to do."""


class UnavailableError(PrepareError):
  """A file that is nowhere to be had, as opposed to one that is wrong."""


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
      return "expected any bytes, for no checksum is recorded"
    return f"expected {self.size:,} bytes with sha256 {self.sha256}"


@functools.cache
def recorded_checksums() -> dict[str, tuple[int, str]]:
  """`{url: (bytes, sha256)}` of `checksums.tsv`."""
  rows = (line.split("\t") for line in _CHECKSUMS.read_text().splitlines() if line and not line.startswith("#"))
  return {url: (int(size), sha256) for url, size, sha256, *_ in rows}


def find_or_download(file: RemoteFile, *, download_dir, manual_dir) -> pathlib.Path:
  """The checked local path of `file`: in `manual_dir`, in `download_dir`, or downloaded there.

  Raises:
    PrepareError: it cannot be had, or its bytes are wrong; a wrong file in `manual_dir` is left as it is.
  """
  return find(file, download_dir=download_dir, manual_dir=manual_dir) or download(
    file, download_dir=download_dir, manual_dir=manual_dir
  )


def find(file: RemoteFile, *, download_dir, manual_dir) -> pathlib.Path | None:
  """The checked path of `file` if it is in `manual_dir` or `download_dir`.

  Raises:
    PrepareError: the one in `manual_dir` is wrong.
  """
  by_hand = pathlib.Path(manual_dir) / file.name
  if by_hand.exists():
    found = _mismatch(file, by_hand)
    if found:
      raise PrepareError(
        f"{by_hand}: this is not the published file: {file.expected}; found {found}.\n"
        "Replace it with the right one, or remove it to have it downloaded."
      )
    return by_hand
  earlier = pathlib.Path(download_dir) / file.name
  if earlier.exists():
    found = _mismatch(file, earlier)
    if not found:
      return earlier
    logging.warning("%s: damaged (%s; found %s); it is downloaded again.", earlier, file.expected, found)
    earlier.unlink()
  return None


def download(file: RemoteFile, *, download_dir, manual_dir) -> pathlib.Path:
  """Downloads `file` into `download_dir`; a broken transfer is resumed, now or by the next call.

  Raises:
    PrepareError: the server does not give it, gives the wrong bytes, or the disk is full.
  """
  by_hand = pathlib.Path(manual_dir) / file.name
  if not file.url:
    raise UnavailableError(f"{file.name}: {_ASK_THE_AUTHORS}\nThen put the file at {by_hand}")
  path = pathlib.Path(download_dir) / file.name
  with full_disk_reported(path.parent):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(path)
    resumed = part.size > 0
    found = _transfer_and_check(file, part, by_hand)
    if found and resumed:
      logging.warning("%s: an earlier part does not fit what %s has now; starting again.", path, file.url)
      part.remove()
      found = _transfer_and_check(file, part, by_hand)
    if found:
      part.remove()
      raise PrepareError(
        f"{file.name}: {file.url} gave the wrong bytes: {file.expected}; found {found}. The download was removed.\n"
        f"To go on by hand, put the right file at {by_hand}; it is checked the same way."
      )
    part.finish()
  return path


def describe(path) -> tuple[int, str]:
  """`(bytes, sha256)` of a file."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while block := file.read(_BLOCK_BYTES):
      digest.update(block)
    return file.tell(), digest.hexdigest()


@contextlib.contextmanager
def full_disk_reported(folder):
  """Turns "no space left on device" into a PrepareError that names `folder`."""
  try:
    yield
  except (OSError, RuntimeError) as error:
    if not _is_full_disk(error):
      raise
    raise PrepareError(
      f"{folder}: no space left on the disk. Free some, or name another disk with data_dir "
      "(TFDS_DATA_DIR, --data_dir); a download that was cut short is resumed."
    ) from error


def _is_full_disk(error: Exception) -> bool:
  # ArrayRecord's writer raises RuntimeError with the system's words in it.
  return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)


def _mismatch(file: RemoteFile, path: pathlib.Path) -> str:
  """What was found at `path` if it is not the recorded file, else an empty string."""
  size, sha256 = describe(path)
  found = f"{size:,} bytes with sha256 {sha256}"
  if file.size is None:
    if not size:
      return "an empty file"
    logging.info("%s: nothing is recorded to check it against; it has %s.", path, found)
    return ""
  return "" if (size, sha256) == (file.size, file.sha256) else found


def _transfer_and_check(file: RemoteFile, part: "_Part", by_hand: pathlib.Path) -> str:
  """Brings `part` to its full size; what was found if that is not the recorded file, else an empty string."""
  try:
    _transfer(file, part)
  except _TransferError as error:
    raise UnavailableError(
      f"{file.name}: cannot be downloaded from {file.url}: {error}; {file.expected}.\n"
      f"To go on by hand, put the file at {by_hand}; it is checked the same way."
    ) from None
  return _mismatch(file, part.path)


class _TransferError(Exception):
  """Why a file could not be transferred; `retry` if trying again may help."""

  def __init__(self, message: str, retry: bool):
    super().__init__(message)
    self.retry = retry


class _Part:
  """A download under way: `<name>.part`, and beside it the server's tag of the version that it is a part of."""

  def __init__(self, path: pathlib.Path):
    self._whole = path
    self.path = path.with_name(path.name + ".part")
    self._tag = path.with_name(path.name + ".part.tag")

  @property
  def size(self) -> int:
    return self.path.stat().st_size if self.path.exists() else 0

  @property
  def tag(self) -> str:
    return self._tag.read_text() if self._tag.exists() else ""

  def start(self, tag: str) -> None:
    self.path.write_bytes(b"")
    self._tag.write_text(tag)

  def remove(self) -> None:
    self.path.unlink(missing_ok=True)
    self._tag.unlink(missing_ok=True)

  def finish(self) -> None:
    os.replace(self.path, self._whole)
    self._tag.unlink(missing_ok=True)


def _transfer(file: RemoteFile, part: _Part) -> None:
  """Brings `part` to its full size, again and again while that helps."""
  failures, furthest = 0, part.size
  while True:
    try:
      return _transfer_once(file, part)
    except _TransferError as error:
      failures = 1 if part.size > furthest else failures + 1
      furthest = max(furthest, part.size)
      if not error.retry or failures > len(_RETRY_DELAYS_S):
        raise
      delay = _RETRY_DELAYS_S[failures - 1]
      logging.warning("%s: %s; trying again in %.1f s.", file.url, error, delay)
      time.sleep(delay)


def _transfer_once(file: RemoteFile, part: _Part) -> None:
  if file.size is not None and part.size > file.size:
    part.remove()
  headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
  # Without a tag only a recorded checksum can tell whether the rest belongs to the same version of the file.
  if part.size and (part.tag or file.sha256):
    headers["Range"] = f"bytes={part.size}-"
    if part.tag:
      headers["If-Range"] = part.tag
  try:
    with urllib.request.urlopen(urllib.request.Request(file.url, headers=headers), timeout=_TIMEOUT_S) as response:
      total = _start(file, part, response)
      _append(file, part, response, total)
  except urllib.error.HTTPError as error:
    error.close()
    if error.code == 416:  # the part is no beginning of what the server has now
      if part.size and part.size == file.size:
        return
      part.remove()
      raise _TransferError("HTTP 416: the server has a shorter file than the part at hand", retry=True) from error
    raise _TransferError(f"HTTP {error.code} {error.reason}", error.code in _TRANSIENT_STATUS) from error
  except (OSError, http.client.HTTPException) as error:
    if _is_full_disk(error):
      raise
    raise _TransferError(*_explain(error)) from error


def _start(file: RemoteFile, part: _Part, response) -> int | None:
  """Makes `part` ready for the body of `response`; the size that the whole file will have, None if not told."""
  length = response.headers.get("Content-Length")
  length = int(length) if length and length.isdigit() else None
  if response.status == 206:
    first, _, rest = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")
    if first != str(part.size):
      part.remove()
      raise _TransferError(f"the server gave bytes from {first or '?'} on, not those asked for", retry=True)
    total = rest.rpartition("/")[2]
    total = int(total) if total.isdigit() else None
  else:
    tag = response.headers.get("ETag", "")
    # A weak tag allows other bytes, so it cannot tie two parts together.
    part.start("" if tag.startswith("W/") else tag or response.headers.get("Last-Modified", ""))
    total = length
  if None not in (total, file.size) and total != file.size:
    part.remove()
    raise _TransferError(f"the server has {total:,} bytes under this name, not {file.size:,}", retry=False)
  return total


def _append(file: RemoteFile, part: _Part, response, total: int | None) -> None:
  progress = tqdm.tqdm(
    desc=file.name, total=total, initial=part.size, unit="B", unit_scale=True, leave=False, disable=None
  )
  with part.path.open("ab") as out, progress:
    # read1 hands over what has come, so that a connection that breaks off loses nothing.
    while block := response.read1(_BLOCK_BYTES):
      out.write(block)
      progress.update(len(block))
  whole = total if total is not None else file.size
  if whole is not None and part.size < whole:
    raise _TransferError(f"the transfer broke off after {part.size:,} of {whole:,} bytes", retry=True)


def _explain(error: Exception) -> tuple[str, bool]:
  """What a failed connection means, and whether to try again."""
  reason = getattr(error, "reason", error)
  if isinstance(reason, socket.gaierror):
    return f"the server's name is not known here ({reason.strerror}); is this machine online?", False
  if isinstance(reason, TimeoutError):
    return f"no answer within {_TIMEOUT_S:.0f} s", True
  if isinstance(reason, ConnectionRefusedError):
    return "the server refused the connection", False
  return f"{type(reason).__name__}: {reason}", isinstance(reason, (ConnectionError, http.client.HTTPException))
