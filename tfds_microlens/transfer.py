"""A file over HTTP to a part of it on disk: resumed, and bounded in time and size for any server."""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import http.client
import os
import pathlib
import re
import socket
import threading
import time
from typing import Any
from typing import IO
from typing import NamedTuple
import urllib.error
import urllib.parse
import urllib.request

from absl import logging
import tqdm

from mlrec import files
from mlrec.terminal import one_line
from tfds_microlens import errors

USER_AGENT = "tfds_microlens/1.0.0"
_BLOCK_BYTES = 1 << 20
_TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_SCHEMES = ("http", "https")


@dataclasses.dataclass(frozen=True)
class Limits:
  """How long and how much a server may send.

  Attributes:
    timeout_s: seconds without a single byte.
    answer_s: seconds until the status and all headers have come.
    window_s, window_bytes: a transfer that brings fewer bytes in so many seconds is broken off.
    progress_bytes: an attempt that brings as many is a success of sorts: earlier failures no longer count. So there
      are at most `len(retry_delays_s) + 1` attempts for each `progress_bytes` of the file.
    retry_delays_s: seconds before each further attempt; there are no more.
    most_bytes: of a file whose size is not recorded. The largest that MicroLens publishes for download, the pairs of
      1M, has 241 MB.
  """

  timeout_s: float = 15.0
  answer_s: float = 60.0
  window_s: float = 30.0
  window_bytes: int = 30 << 10
  progress_bytes: int = 64 << 10
  retry_delays_s: tuple[float, ...] = (0.5, 2.0)
  most_bytes: int = 4 << 30


DEFAULT_LIMITS = Limits()


class TransferError(Exception):
  """Why a file could not be transferred, in one line; `retry` if trying again may help."""

  def __init__(self, message: str, retry: bool):
    super().__init__(one_line(message))
    self.retry = retry


class Version(NamedTuple):
  """What a server says of the file that it has under a name; None for what it does not say."""

  etag: str | None = None
  last_modified: str | None = None
  total: int | None = None

  @property
  def validator(self) -> str:
    """What ties two parts together; empty if nothing does: a weak tag allows other bytes."""
    if self.etag:
      return "" if self.etag.startswith("W/") else self.etag
    return self.last_modified or ""

  def contradicts(self, other: "Version") -> bool:
    return any(mine != theirs for mine, theirs in zip(self, other) if None not in (mine, theirs))


class Part:
  """A download in progress: `<name>.part`, and beside it the version that it is a part of."""

  def __init__(self, path: pathlib.Path):
    self._whole = path
    self.path = path.with_name(path.name + ".part")
    self._version = path.with_name(path.name + ".part.tag")

  @property
  def size(self) -> int:
    """Bytes so far.

    Raises:
      PrepareError: something else lies under its name.
    """
    if self.path.is_dir():
      raise errors.PrepareError(f"{self.path}: a folder under the name of a download in progress; remove it")
    return self.path.stat().st_size if self.path.exists() else 0

  @property
  def version(self) -> Version:
    try:
      found = Version(*files.read_json(self._version))
    except (OSError, ValueError, TypeError):
      return Version()
    texts = all(text is None or isinstance(text, str) for text in (found.etag, found.last_modified))
    return found if texts and (found.total is None or type(found.total) is int) else Version()

  def start(self, version: Version) -> None:
    with errors.local_files_reported(self.path):
      self.path.write_bytes(b"")
      files.write_json(self._version, version)

  @contextlib.contextmanager
  def appended(self) -> Iterator[IO[bytes]]:
    """The file, open for writing at its end."""
    with errors.local_files_reported(self.path):
      out = self.path.open("ab")
    with out:
      yield out

  def remove(self) -> None:
    self.path.unlink(missing_ok=True)
    self._version.unlink(missing_ok=True)

  def finish(self) -> None:
    """Gives the whole file its name, once its bytes are on the disk."""
    with self.path.open("rb") as file:
      os.fsync(file.fileno())
    os.replace(self.path, self._whole)
    self._version.unlink(missing_ok=True)


def check_url(url: str) -> None:
  """Raises a TransferError for what is no `http://` or `https://` address."""
  try:
    parts = urllib.parse.urlsplit(url)
    valid = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
  except ValueError:
    valid = False
  if not valid:
    raise TransferError("expected an address that begins with http:// or https:// and names a host", retry=False)


def transfer(url: str, part: Part, size: int | None, *, verified: bool, limits: Limits = DEFAULT_LIMITS) -> None:
  """Brings `part` to its full size, in as many attempts as the limits allow.

  Args:
    url: `http://` or `https://`.
    part: where to; what it has is kept where it is of the version that the server has now.
    size: recorded bytes of the file; None if they are not known.
    verified: whether the caller compares a digest, so that a part without a version may be resumed.
    limits: of time and size.

  Raises:
    TransferError: why it did not succeed.
    PrepareError: the part cannot be written.
  """
  check_url(url)
  failures, furthest = 0, part.size
  while True:
    try:
      return _attempt(url, part, size, verified, limits)
    except TransferError as error:
      failures = 1 if part.size >= furthest + limits.progress_bytes else failures + 1
      furthest = max(furthest, part.size)
      if not error.retry or failures > len(limits.retry_delays_s):
        raise
      delay = limits.retry_delays_s[failures - 1]
      logging.warning("%s: %s; trying again in %.1f s.", url, error, delay)
      time.sleep(delay)


def _attempt(url: str, part: Part, size: int | None, verified: bool, limits: Limits) -> None:
  if size is not None and part.size > size:
    part.remove()
  headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
  validator = part.version.validator
  # Without a validator only a recorded digest can tell whether the rest belongs to the same version of the file.
  resumed = part.size > 0 and bool(validator or verified)
  if resumed:
    headers["Range"] = f"bytes={part.size}-"
    if validator:
      headers["If-Range"] = validator
  try:
    opener = urllib.request.build_opener(_Redirects, _Http(limits.answer_s), _Https(limits.answer_s))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=limits.timeout_s) as response:
      total = _begin(part, response, resumed, size, limits)
      _receive(part, response, total, size, limits)
  except urllib.error.HTTPError as error:
    error.close()
    if error.code == 416 and resumed:  # the part is no beginning of what the server has now
      if part.size == size:
        return
      part.remove()
      raise TransferError("HTTP 416: the server has a shorter file than the part on disk", retry=True) from error
    raise TransferError(f"HTTP {error.code} {error.reason}", error.code in _TRANSIENT_STATUS) from error
  except (OSError, http.client.HTTPException, UnicodeError) as error:
    if files.is_disk_full(error):
      raise
    raise TransferError(*_explain(error, limits)) from error


def _begin(part: Part, response: Any, resumed: bool, size: int | None, limits: Limits) -> int | None:
  """Prepares `part` for the body of `response`; the size of the whole file, None if the server does not say.

  Raises:
    TransferError: it is not what was asked for.
  """
  headers = response.headers
  coding = headers.get("Content-Encoding", "").strip().lower()
  if coding not in ("", "identity"):
    raise TransferError(f"the server sends it coded as {coding[:40]!r}, and was asked not to", retry=False)
  if response.status == 206 and resumed:
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if not found or int(found[1]) != part.size:
      part.remove()
      raise TransferError(f"the server gave bytes from {found[1] if found else '?'}, not those asked for", retry=True)
    version = _version(headers, int(found[3]) if found[3] != "*" else None)
    if version.contradicts(part.version):
      part.remove()
      raise TransferError("the server has another version of the file than the part on disk is of", retry=True)
  elif response.status == 200:
    length = headers.get("Content-Length", "").strip()
    version = _version(headers, int(length) if length.isdecimal() and len(length) <= 18 else None)
    part.start(version)
  else:
    raise TransferError(f"HTTP {response.status}, where 200 was expected", retry=False)
  total = version.total
  if None not in (total, size) and total != size:
    part.remove()
    raise TransferError(f"the server has {total:,} bytes under this name, not {size:,}", retry=False)
  _check_size(part, total or 0, size, limits)
  return total if total is not None else size


def _receive(part: Part, response: Any, total: int | None, size: int | None, limits: Limits) -> None:
  have = part.size
  started, brought = time.monotonic(), 0
  name = part.path.name.removesuffix(".part")
  with (
    tqdm.tqdm(desc=name, total=total, initial=have, unit="B", unit_scale=True, leave=False, disable=None) as progress,
    part.appended() as out,
  ):
    # read1 returns what has come, so that a connection that breaks off loses nothing.
    while block := response.read1(_BLOCK_BYTES):
      have += len(block)
      _check_size(part, have, size, limits)
      with errors.local_files_reported(part.path):
        out.write(block)
      progress.update(len(block))
      brought += len(block)
      if time.monotonic() - started > limits.window_s:
        if brought < limits.window_bytes:
          raise TransferError(
            f"only {brought:,} bytes came in {limits.window_s:g} s, fewer than {limits.window_bytes:,}", retry=True
          )
        started, brought = time.monotonic(), 0
  if total is not None and have < total:
    raise TransferError(f"the transfer broke off after {have:,} of {total:,} bytes", retry=True)


def _check_size(part: Part, have: int, size: int | None, limits: Limits) -> None:
  if have > (limits.most_bytes if size is None else size):
    part.remove()
    most = f"{limits.most_bytes:,}, the most where no size is recorded" if size is None else f"the {size:,} recorded"
    raise TransferError(f"the server sends more bytes than {most}", retry=False)


def _version(headers: Any, total: int | None) -> Version:
  return Version(headers.get("ETag") or None, headers.get("Last-Modified") or None, total)


def _explain(error: Exception, limits: Limits) -> tuple[str, bool]:
  """What a failed connection means, and whether to try again."""
  reason = getattr(error, "reason", error)
  if isinstance(reason, socket.gaierror):
    return f"the server's name is not known here ({reason.strerror}); is this machine online?", False
  if isinstance(reason, _NoAnswer):
    return f"the server's answer did not begin within {limits.answer_s:g} s", True
  if isinstance(reason, TimeoutError):
    return f"no answer within {limits.timeout_s:g} s", True
  if isinstance(reason, ConnectionRefusedError):
    return "the server refused the connection", False
  retry = isinstance(reason, (ConnectionError, http.client.HTTPException))
  return f"{type(reason).__name__}: {str(reason)[:200]}", retry


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows at most ten, to no other scheme than HTTP, and from HTTPS to HTTPS alone."""

  inf_msg = "redirects in a loop: "

  def redirect_request(
    self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
  ) -> urllib.request.Request | None:
    scheme = urllib.parse.urlsplit(newurl).scheme
    if scheme not in _SCHEMES or (req.type == "https" and scheme != "https"):
      raise TransferError(f"HTTP {code} redirects to {newurl[:200]!r}, where {req.type} was expected", retry=False)
    return super().redirect_request(req, fp, code, msg, headers, newurl)


class _NoAnswer(OSError):
  """The status and the headers did not come in time."""


class _Answering(http.client.HTTPConnection):
  """A connection that is broken off where an answer's status and headers trickle in for too long."""

  def __init__(self, *args: Any, answer_s: float, **options: Any):
    super().__init__(*args, **options)
    self._answer_s = answer_s

  def getresponse(self) -> http.client.HTTPResponse:
    late = threading.Event()
    connection = self.sock

    def break_off() -> None:
      late.set()
      with contextlib.suppress(OSError):
        # The socket's own method: that of a TLS socket is not for other threads.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(self._answer_s, break_off)
    timer.daemon = True
    timer.start()
    try:
      response = super().getresponse()
    except (OSError, http.client.HTTPException) as error:
      if late.is_set():
        raise _NoAnswer from error
      raise
    finally:
      timer.cancel()
    # To the standard library the end of a connection ends the headers too.
    if late.is_set():
      response.close()
      raise _NoAnswer
    return response


class _AnsweringTls(_Answering, http.client.HTTPSConnection):
  """The same over TLS."""


class _Http(urllib.request.HTTPHandler):
  def __init__(self, answer_s: float):
    super().__init__()
    self._connection = functools.partial(_Answering, answer_s=answer_s)

  def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
    return self.do_open(self._connection, req)  # type: ignore[arg-type]


class _Https(urllib.request.HTTPSHandler):
  def __init__(self, answer_s: float):
    super().__init__()
    self._connection = functools.partial(_AnsweringTls, answer_s=answer_s)

  def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
    return self.do_open(self._connection, req)  # type: ignore[arg-type]
