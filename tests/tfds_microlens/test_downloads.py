"""Downloads: from a server on this machine that misbehaves as real ones do."""

import errno
import hashlib
import http.server
import re
import threading
import time

import pytest

from tfds_microlens import fetch
from tfds_microlens import prepare

BODY = bytes(range(256)) * 1200
NAME = "MicroLens-50k_pairs.tsv"
SHA256 = hashlib.sha256(BODY).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def do_GET(self):
    server = self.server
    server.requests.append((self.path, dict(self.headers)))
    if self.headers["User-Agent"].startswith("Python-urllib"):
      return self.send_error(403)
    body = server.files.get(self.path.rpartition("/")[2])
    if body is None:
      return self.send_error(404)
    fault = server.faults.pop(0) if server.faults else None
    if isinstance(fault, tuple) and fault[0] == "status":
      return self.send_error(fault[1])
    if fault == "stall":
      server.released.wait(5)
      self.close_connection = True
      return None
    first = 0
    asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
    same = self.headers.get("If-Range") in (None, server.tag)
    if asked and same and server.ranges:
      first = int(asked[1])
      if first >= len(body):
        return self.send_error(416)
      self.send_response(206)
      self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
    else:
      self.send_response(200)
    self.send_header("Content-Length", str(len(body) - first))
    if server.tag:
      self.send_header("ETag", server.tag)
    self.end_headers()
    if isinstance(fault, tuple) and fault[0] == "drop":
      self.wfile.write(body[first : first + fault[1]])
      self.close_connection = True
      return None
    self.wfile.write(body[first:])
    return None

  def log_message(self, *args):
    pass


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setattr(fetch, "_RETRY_DELAYS_S", (0.0, 0.0))
  running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  running.files, running.faults, running.requests = {NAME: BODY}, [], []
  running.ranges, running.tag = True, '"v1"'
  running.released = threading.Event()
  thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
  thread.start()
  yield running
  running.released.set()
  running.shutdown()
  thread.join()
  running.server_close()


@pytest.fixture
def folders(tmp_path):
  return {"download_dir": tmp_path / "downloads", "manual_dir": tmp_path / "manual"}


def _file(server, *, recorded=True):
  known = (len(BODY), SHA256) if recorded else ()
  return fetch.RemoteFile(NAME, f"http://127.0.0.1:{server.server_address[1]}/{NAME}", *known)


def _left(folders):
  return sorted(path.name for path in folders["download_dir"].glob("*"))


def test_the_file_is_downloaded_once_under_our_own_user_agent(server, folders):
  path = fetch.find_or_download(_file(server), **folders)
  assert path.read_bytes() == BODY
  assert fetch.find_or_download(_file(server), **folders) == path
  assert [headers["User-Agent"] for _, headers in server.requests] == [fetch.USER_AGENT]
  assert _left(folders) == [NAME]


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_says_what_was_expected_and_where_to_put_the_file(server, folders, status):
  server.faults = [("status", status)]
  with pytest.raises(fetch.PrepareError) as caught:
    fetch.find_or_download(_file(server), **folders)
  message = str(caught.value)
  for part in (NAME, _file(server).url, f"HTTP {status}", f"{len(BODY):,}", SHA256, str(folders["manual_dir"] / NAME)):
    assert part in message
  assert len(server.requests) == 1
  assert _left(folders) == []


def test_a_passing_server_error_is_tried_again(server, folders):
  server.faults = [("status", 503), ("status", 500)]
  assert fetch.find_or_download(_file(server), **folders).read_bytes() == BODY


def test_a_server_that_does_not_answer_is_tried_again(server, folders, monkeypatch):
  monkeypatch.setattr(fetch, "_TIMEOUT_S", 0.3)
  server.faults = ["stall"]
  assert fetch.find_or_download(_file(server), **folders).read_bytes() == BODY
  assert len(server.requests) == 2


def test_a_dropped_connection_goes_on_where_it_stopped(server, folders):
  server.faults = [("drop", 100_000), ("drop", 50_000)]
  assert fetch.find_or_download(_file(server), **folders).read_bytes() == BODY
  assert [headers.get("Range") for _, headers in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_half_a_file_is_an_error_and_the_next_run_resumes_it(server, folders):
  server.faults = [("drop", 70_000), ("drop", 0), ("drop", 0)]
  with pytest.raises(fetch.PrepareError, match=r"broke off after 70,000 of 307,200 bytes"):
    fetch.find_or_download(_file(server), **folders)
  assert NAME not in _left(folders)
  assert fetch.find_or_download(_file(server), **folders).read_bytes() == BODY
  assert server.requests[-1][1]["Range"] == "bytes=70000-"
  assert _left(folders) == [NAME]


def test_a_server_that_never_gets_further_ends_in_an_error(server, folders):
  server.ranges = False
  server.faults = [("drop", 70_000), ("drop", 60_000), ("drop", 70_000), ("drop", 60_000), ("drop", 70_000)]
  with pytest.raises(fetch.PrepareError, match="broke off"):
    fetch.find_or_download(_file(server), **folders)


def test_a_part_of_an_older_version_is_thrown_away(server, folders):
  unrecorded = _file(server, recorded=False)
  server.faults = [("drop", 70_000), ("drop", 0), ("drop", 0)]
  with pytest.raises(fetch.PrepareError):
    fetch.find_or_download(unrecorded, **folders)
  server.files[NAME], server.tag = BODY[::-1], '"v2"'
  assert fetch.find_or_download(unrecorded, **folders).read_bytes() == BODY[::-1]


def test_a_part_longer_than_what_the_server_has_now_is_thrown_away(server, folders):
  server.tag = ""
  folders["download_dir"].mkdir()
  (folders["download_dir"] / f"{NAME}.part").write_bytes(b"x" * (len(BODY) + 5))
  assert fetch.find_or_download(_file(server), **folders).read_bytes() == BODY


def test_a_part_that_was_whole_when_the_run_was_killed_is_kept(server, folders):
  folders["download_dir"].mkdir()
  (folders["download_dir"] / f"{NAME}.part").write_bytes(BODY)
  assert fetch.find_or_download(_file(server), **folders).read_bytes() == BODY
  assert len(server.requests) == 1


def test_a_part_that_does_not_fit_the_rest_is_fetched_anew(server, folders):
  folders["download_dir"].mkdir()
  (folders["download_dir"] / f"{NAME}.part").write_bytes(b"from elsewhere")
  assert fetch.find_or_download(_file(server), **folders).read_bytes() == BODY
  assert _left(folders) == [NAME]


@pytest.mark.parametrize("served", [BODY[:-1] + b"x", BODY[:1000], BODY + b"x"])
def test_wrong_bytes_are_refused_and_not_kept(server, folders, served):
  server.files[NAME] = served
  with pytest.raises(fetch.PrepareError) as caught:
    fetch.find_or_download(_file(server), **folders)
  assert SHA256 in str(caught.value)
  assert f"{len(served):,} bytes" in str(caught.value)
  assert str(folders["manual_dir"] / NAME) in str(caught.value)
  assert _left(folders) == []


def test_an_empty_answer_is_refused_even_if_nothing_is_recorded(server, folders):
  server.files[NAME] = b""
  with pytest.raises(fetch.PrepareError, match="empty file"):
    fetch.find_or_download(_file(server, recorded=False), **folders)


def test_a_damaged_earlier_download_is_replaced(server, folders):
  folders["download_dir"].mkdir()
  (folders["download_dir"] / NAME).write_bytes(BODY[:-1])
  assert fetch.find_or_download(_file(server), **folders).read_bytes() == BODY


def test_a_file_put_there_by_hand_comes_first(server, folders):
  folders["manual_dir"].mkdir()
  by_hand = folders["manual_dir"] / NAME
  by_hand.write_bytes(BODY)
  assert fetch.find_or_download(_file(server), **folders) == by_hand
  assert server.requests == []


def test_a_wrong_file_put_there_by_hand_is_refused_and_left_alone(server, folders):
  folders["manual_dir"].mkdir()
  by_hand = folders["manual_dir"] / NAME
  by_hand.write_bytes(b"something else")
  with pytest.raises(fetch.PrepareError) as caught:
    fetch.find_or_download(_file(server), **folders)
  for part in (str(by_hand), SHA256, "14 bytes", hashlib.sha256(b"something else").hexdigest()):
    assert part in str(caught.value)
  assert by_hand.read_bytes() == b"something else"
  assert server.requests == []


def test_a_full_disk_is_named(server, folders, monkeypatch):
  def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(fetch, "_append", full)
  with pytest.raises(fetch.PrepareError, match="no space left on the disk"):
    fetch.find_or_download(_file(server), **folders)


def test_no_server_is_an_error_at_once(folders):
  started = time.monotonic()
  for url in ("http://127.0.0.1:9/x", "http://no-such-host.invalid/x"):
    with pytest.raises(fetch.PrepareError, match="cannot be downloaded"):
      fetch.find_or_download(fetch.RemoteFile(NAME, url, 1, "0" * 64), **folders)
  assert time.monotonic() - started < 10


def test_recorded_checksums_cover_the_text_files_of_50k():
  checksums = fetch.recorded_checksums()
  assert len(checksums) == 4
  for size, sha256 in checksums.values():
    assert size > 0
    assert re.fullmatch("[0-9a-f]{64}", sha256)


def test_data_is_prepared_from_a_mirror(server, tmp_path, monkeypatch):
  server.files = {"MicroLens-100k_pairs.tsv": b"5\t1 2 3\r\n6\t3 2 1 9\r\n"}
  monkeypatch.setenv("MICROLENS_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
  builder = prepare("100k-sequences", data_dir=tmp_path)
  assert server.requests[0][0] == "/MicroLens-100k-Dataset/MicroLens-100k_pairs.tsv"
  assert builder.info.splits["test"].num_examples == 2
  assert builder.info.metadata["files"]["MicroLens-100k_pairs.tsv"]["bytes"] == 20


def test_a_mirror_with_other_bytes_is_refused(server, tmp_path, monkeypatch):
  monkeypatch.setenv("MICROLENS_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
  with pytest.raises(fetch.PrepareError, match="the server has 307,200 bytes under this name, not 2,295,542"):
    prepare("50k-sequences", data_dir=tmp_path)
  assert not list(tmp_path.rglob("*.array_record*"))


def test_the_full_release_says_to_ask_its_authors(tmp_path):
  with pytest.raises(fetch.PrepareError, match=r"ask the authors(.|\n)*manual/MicroLens_pairs.tsv"):
    prepare("full-sequences", data_dir=tmp_path)
