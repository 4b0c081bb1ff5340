"""Downloads: from a server on this machine that misbehaves as real ones do."""

import dataclasses
import errno
import gzip
import hashlib
import itertools
import os
import re
import subprocess
import sys
import time

import pytest

from support import servers
from tfds_microlens import fetch
from tfds_microlens import prepare
from tfds_microlens import transfer

BODY = bytes(range(256)) * 1200
NAME = "MicroLens-50k_pairs.tsv"
SHA256 = hashlib.sha256(BODY).hexdigest()
# As patient as on a machine of one's own.
LIMITS = transfer.Limits(
  timeout_s=0.3, answer_s=0.3, window_s=0.2, window_bytes=1 << 10, retry_delays_s=(0.0, 0.0), most_bytes=1 << 20
)


@pytest.fixture
def server():
  with servers.serving({NAME: BODY}) as running:
    yield running


@pytest.fixture
def folders(tmp_path):
  return {"download_dir": tmp_path / "downloads", "manual_dir": tmp_path / "manual"}


def _file(server, *, recorded=True):
  known = (len(BODY), SHA256) if recorded else ()
  return fetch.RemoteFile(NAME, f"{server.root}/{NAME}", *known)


def _fetched(file, folders):
  return fetch.find_or_download(file, **folders, limits=LIMITS)


def _left(folders):
  return sorted(path.name for path in folders["download_dir"].glob("*"))


def test_the_file_is_downloaded_once_under_our_own_user_agent(server, folders):
  path = _fetched(_file(server), folders)
  assert path.read_bytes() == BODY
  assert _fetched(_file(server), folders) == path
  assert [headers["User-Agent"] for _, headers in server.requests] == [transfer.USER_AGENT]
  assert _left(folders) == [NAME]


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_says_what_was_expected_and_where_to_put_the_file(server, folders, status):
  server.faults = [servers.status(status)]
  with pytest.raises(fetch.PrepareError) as caught:
    _fetched(_file(server), folders)
  message = str(caught.value)
  for part in (NAME, _file(server).url, f"HTTP {status}", f"{len(BODY):,}", SHA256, str(folders["manual_dir"] / NAME)):
    assert part in message
  assert len(server.requests) == 1
  assert _left(folders) == []


def test_a_passing_server_error_is_tried_again(server, folders):
  server.faults = [servers.status(503), servers.status(500)]
  assert _fetched(_file(server), folders).read_bytes() == BODY


def test_a_server_that_does_not_answer_is_tried_again(server, folders):
  server.faults = [servers.stall]
  assert _fetched(_file(server), folders).read_bytes() == BODY
  assert len(server.requests) == 2


def test_a_dropped_connection_is_resumed_where_it_stopped(server, folders):
  server.faults = [servers.drop(100_000), servers.drop(50_000)]
  assert _fetched(_file(server), folders).read_bytes() == BODY
  assert [headers.get("Range") for _, headers in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_connection_that_is_reset_is_resumed(server, folders):
  server.faults = [servers.reset(100_000)]
  assert _fetched(_file(server), folders).read_bytes() == BODY
  assert len(server.requests) == 2


def test_half_a_file_is_an_error_and_the_next_run_resumes_it(server, folders):
  server.faults = [servers.drop(70_000), servers.drop(0), servers.drop(0)]
  with pytest.raises(fetch.PrepareError, match=r"broke off after 70,000 of 307,200 bytes"):
    _fetched(_file(server), folders)
  assert NAME not in _left(folders)
  assert _fetched(_file(server), folders).read_bytes() == BODY
  assert server.requests[-1][1]["Range"] == "bytes=70000-"
  assert _left(folders) == [NAME]


def test_a_server_that_never_gets_further_ends_in_an_error(server, folders):
  server.ranges = False
  server.faults = [servers.drop(count) for count in (70_000, 60_000, 70_000, 60_000, 70_000)]
  with pytest.raises(fetch.PrepareError, match="broke off"):
    _fetched(_file(server), folders)
  assert len(server.requests) == 3


@pytest.mark.parametrize("recorded", [True, False])
def test_a_server_that_gives_ten_bytes_a_request_is_given_up(server, folders, recorded):
  server.faults = [servers.slices(10)] * 1000
  with pytest.raises(fetch.PrepareError, match="broke off after 30 of 307,200 bytes"):
    _fetched(_file(server, recorded=recorded), folders)
  assert len(server.requests) == 3


def test_a_server_that_gives_the_file_in_large_slices_is_followed(server, folders):
  server.faults = [servers.slices(70_000)] * 5
  assert _fetched(_file(server), folders).read_bytes() == BODY
  assert len(server.requests) == 5


def test_a_trickling_body_is_given_up(server, folders):
  server.faults = [servers.trickle(0.02)] * 10
  with pytest.raises(fetch.PrepareError, match=r"only \d+ bytes came in 0.2 s, fewer than 1,024"):
    _fetched(_file(server), folders)
  assert len(server.requests) == 3


def test_a_trickling_head_is_given_up(server, folders):
  server.faults = [servers.trickle_head(0.02)] * 10
  with pytest.raises(fetch.PrepareError, match=r"the server's answer did not begin within 0.3 s"):
    _fetched(_file(server), folders)
  assert len(server.requests) == 3


@pytest.mark.parametrize(
  ("recorded", "reason"),
  [(True, "more bytes than the 307,200 recorded"), (False, "more bytes than 1,048,576, the most where no size is")],
)
def test_an_endless_body_is_cut_off(server, folders, recorded, reason):
  server.faults = [servers.endless] * 10
  with pytest.raises(fetch.PrepareError, match=reason):
    _fetched(_file(server, recorded=recorded), folders)
  assert len(server.requests) == 1
  assert _left(folders) == []


def test_a_file_that_is_said_to_be_too_large_is_not_begun(server, folders):
  server.faults = [servers.answer(200, b"x", Content_Length=str(1 << 59))]
  with pytest.raises(fetch.PrepareError, match="the most where no size is recorded"):
    _fetched(_file(server, recorded=False), folders)
  assert _left(folders) == []


@pytest.mark.parametrize("length", ["-5", "many", "9" * 5000])
def test_a_length_that_is_none_is_not_believed(server, folders, length):
  server.faults = [servers.answer(200, BODY, Content_Length=length, Connection="close")]
  assert _fetched(_file(server), folders).read_bytes() == BODY


@pytest.mark.parametrize("recorded", [True, False])
def test_a_length_beyond_the_body_ends_in_an_error(server, folders, recorded):
  server.faults = [servers.answer(200, BODY, Content_Length=str(len(BODY) + 9), Connection="close")] * 4
  with pytest.raises(fetch.PrepareError, match=r"has 307,209 bytes under this name|broke off after 307,200 of 307,209"):
    _fetched(_file(server, recorded=recorded), folders)
  assert NAME not in _left(folders)


def test_a_redirect_is_followed(server, folders):
  server.faults = [servers.answer(302, Location=f"/elsewhere/{NAME}")]
  assert _fetched(_file(server), folders).read_bytes() == BODY


@pytest.mark.parametrize(
  ("place", "reason"),
  [
    (f"/{NAME}", "HTTP 302 redirects in a loop"),
    ("file:///etc/passwd", "HTTP 302 Found - Redirection to url 'file:///etc/passwd' is not allowed"),
    ("ftp://127.0.0.1/x", "HTTP 302 redirects to 'ftp://127.0.0.1/x', where http was expected"),
  ],
)
def test_a_redirect_in_a_loop_or_to_another_scheme_is_refused(server, folders, place, reason):
  server.faults = [servers.answer(302, Location=place)] * 30
  with pytest.raises(fetch.PrepareError, match=reason) as caught:
    _fetched(_file(server), folders)
  assert str(caught.value).count("\n") == 1, "the reason is told in a line"
  assert len(server.requests) <= 11


def test_a_body_that_is_compressed_although_that_was_not_asked_for_is_refused(server, folders):
  server.faults = [servers.answer(200, gzip.compress(BODY), Content_Encoding="gzip")]
  with pytest.raises(fetch.PrepareError, match="coded as 'gzip', and was asked not to"):
    _fetched(_file(server, recorded=False), folders)
  assert server.requests[0][1]["Accept-Encoding"] == "identity"
  assert _left(folders) == []


@pytest.mark.parametrize("code", [202, 204, 206])
def test_another_status_of_success_is_none(server, folders, code):
  server.faults = [servers.answer(code)]
  with pytest.raises(fetch.PrepareError, match=f"HTTP {code}, where 200 was expected"):
    _fetched(_file(server, recorded=False), folders)


@pytest.mark.parametrize(
  "page",
  [b"<!DOCTYPE html>\n<html>Please log in</html>", b"\n <HTML>\x1b[2Jproxy", b'{"error": "quota"}', b"<?xml?><Error/>"],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_a_web_page_in_place_of_the_file_is_refused(server, folders, page, recorded):
  server.faults = [servers.answer(200, page)] * 2
  with pytest.raises(fetch.PrepareError) as caught:
    _fetched(_file(server, recorded=recorded), folders)
  if not recorded:
    assert "a web page or an error message, not a table" in str(caught.value)
  assert "\x1b" not in str(caught.value)
  assert _left(folders) == []


def test_a_web_page_put_there_by_hand_is_refused(folders):
  folders["manual_dir"].mkdir()
  (folders["manual_dir"] / NAME).write_text("<html>Save as…</html>")
  with pytest.raises(fetch.PrepareError, match=r"found a web page .* begins with '<html>Save as"):
    fetch.find(fetch.RemoteFile(NAME), **folders)


@pytest.mark.parametrize("address", ["ftp://x/y", "file:///etc/passwd", "pairs.tsv", "http://", "http://x:port/y", ""])
def test_an_address_that_is_none_is_refused(folders, address):
  with pytest.raises(fetch.PrepareError, match=r"expected an address that begins with http://|ask the authors"):
    _fetched(fetch.RemoteFile(NAME, address), folders)


def test_what_the_server_says_cannot_steer_the_terminal(server, folders):
  server.faults = [lambda handler, *_: handler.wfile.write(b"HTTP/1.1 403 \x1b[31mno\r\nContent-Length: 0\r\n\r\n")]
  with pytest.raises(fetch.PrepareError, match=r"HTTP 403 \\x1b\[31mno"):
    _fetched(_file(server), folders)


def test_a_part_of_an_older_version_is_thrown_away(server, folders):
  unrecorded = _file(server, recorded=False)
  server.faults = [servers.drop(70_000), servers.drop(0), servers.drop(0)]
  with pytest.raises(fetch.PrepareError):
    _fetched(unrecorded, folders)
  server.files[NAME], server.headers = BODY[::-1], {"ETag": '"v2"'}
  assert _fetched(unrecorded, folders).read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
  ("before", "after"),
  [
    ({"ETag": '"v1"'}, {"ETag": '"v2"'}),
    ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}),
    ({"ETag": '"v1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"ETag": '"v1"', "Last-Modified": "Tue"}),
  ],
)
def test_a_rest_of_another_version_starts_the_file_anew(server, folders, before, after):
  """From a server that does not heed `If-Range`."""
  unrecorded = _file(server, recorded=False)
  server.headers = before
  server.faults = [servers.drop(70_000), servers.drop(0), servers.drop(0)]
  with pytest.raises(fetch.PrepareError):
    _fetched(unrecorded, folders)
  server.files[NAME], server.headers = BODY[::-1], after
  server.faults = [lambda handler, body, first: servers.slices(1 << 20)(handler, body, 70_000)]
  assert _fetched(unrecorded, folders).read_bytes() == BODY[::-1]
  assert "Range" not in server.requests[-1][1]


def test_a_rest_of_a_file_of_another_length_starts_the_file_anew(server, folders):
  unrecorded = _file(server, recorded=False)
  server.faults = [servers.drop(70_000), servers.drop(0), servers.drop(0)]
  with pytest.raises(fetch.PrepareError):
    _fetched(unrecorded, folders)
  server.files[NAME] = BODY + b"more"
  assert _fetched(unrecorded, folders).read_bytes() == BODY + b"more"
  assert "Range" not in server.requests[-1][1]


def test_a_rest_that_begins_elsewhere_starts_the_file_anew(server, folders):
  def elsewhere(handler, body, first):
    handler.send_head(body, first, Content_Range=f"bytes 5-{len(body) - 1}/{len(body)}")
    handler.end()

  server.faults = [servers.drop(70_000), elsewhere]
  assert _fetched(_file(server), folders).read_bytes() == BODY
  assert "Range" not in server.requests[-1][1]


def test_a_part_without_anything_that_ties_it_to_a_version_is_not_resumed(server, folders):
  unrecorded = _file(server, recorded=False)
  for headers in ({}, {"ETag": 'W/"v1"'}):
    server.headers = headers
    server.faults = [servers.drop(70_000)]
    path = _fetched(unrecorded, folders)
    assert path.read_bytes() == BODY
    assert "Range" not in server.requests[-1][1]
    path.unlink()


def test_a_part_longer_than_what_the_server_has_now_is_thrown_away(server, folders):
  server.headers = {}
  folders["download_dir"].mkdir()
  (folders["download_dir"] / f"{NAME}.part").write_bytes(b"x" * (len(BODY) + 5))
  assert _fetched(_file(server), folders).read_bytes() == BODY


def test_a_part_longer_than_a_file_of_unrecorded_size_is_thrown_away(server, folders):
  server.faults = [servers.drop(70_000), servers.drop(0), servers.drop(0)]
  with pytest.raises(fetch.PrepareError):
    _fetched(_file(server, recorded=False), folders)
  with (folders["download_dir"] / f"{NAME}.part").open("ab") as part:
    part.write(bytes(len(BODY)))
  assert _fetched(_file(server, recorded=False), folders).read_bytes() == BODY


def test_a_part_that_was_whole_when_the_run_was_killed_is_kept(server, folders):
  folders["download_dir"].mkdir()
  (folders["download_dir"] / f"{NAME}.part").write_bytes(BODY)
  assert _fetched(_file(server), folders).read_bytes() == BODY
  assert len(server.requests) == 1


def test_a_part_that_does_not_fit_the_rest_is_fetched_anew(server, folders):
  folders["download_dir"].mkdir()
  (folders["download_dir"] / f"{NAME}.part").write_bytes(b"from elsewhere")
  assert _fetched(_file(server), folders).read_bytes() == BODY
  assert _left(folders) == [NAME]


@pytest.mark.parametrize("tag", [b"", b"{}", b'["v1"]', b"[1, 2, 3]", b"\xff"])
def test_a_damaged_tag_of_a_part_is_no_tag(server, folders, tag):
  folders["download_dir"].mkdir()
  (folders["download_dir"] / f"{NAME}.part").write_bytes(BODY[:1000])
  (folders["download_dir"] / f"{NAME}.part.tag").write_bytes(tag)
  assert _fetched(_file(server, recorded=False), folders).read_bytes() == BODY
  assert _left(folders) == [NAME]


@pytest.mark.parametrize("served", [BODY[:-1] + b"x", BODY[:1000], BODY + b"x"])
def test_wrong_bytes_are_refused_and_not_kept(server, folders, served):
  server.files[NAME] = served
  with pytest.raises(fetch.PrepareError) as caught:
    _fetched(_file(server), folders)
  assert SHA256 in str(caught.value)
  assert f"{len(served):,} bytes" in str(caught.value)
  assert str(folders["manual_dir"] / NAME) in str(caught.value)
  assert _left(folders) == []


def test_an_empty_answer_is_refused_even_if_nothing_is_recorded(server, folders):
  server.files[NAME] = b""
  with pytest.raises(fetch.PrepareError, match="empty file"):
    _fetched(_file(server, recorded=False), folders)


def test_a_damaged_earlier_download_is_replaced(server, folders):
  folders["download_dir"].mkdir()
  (folders["download_dir"] / NAME).write_bytes(BODY[:-1])
  assert _fetched(_file(server), folders).read_bytes() == BODY


def test_a_file_put_there_by_hand_comes_first(server, folders):
  folders["manual_dir"].mkdir()
  by_hand = folders["manual_dir"] / NAME
  by_hand.write_bytes(BODY)
  assert _fetched(_file(server), folders) == by_hand
  assert server.requests == []


def test_a_wrong_file_put_there_by_hand_is_refused_and_left_alone(server, folders):
  folders["manual_dir"].mkdir()
  by_hand = folders["manual_dir"] / NAME
  by_hand.write_bytes(b"something else")
  with pytest.raises(fetch.PrepareError) as caught:
    _fetched(_file(server), folders)
  for part in (str(by_hand), SHA256, "14 bytes", hashlib.sha256(b"something else").hexdigest()):
    assert part in str(caught.value)
  assert by_hand.read_bytes() == b"something else"
  assert server.requests == []


@pytest.mark.parametrize("place", [f"manual/{NAME}", f"downloads/{NAME}", f"downloads/{NAME}.part"])
def test_a_folder_under_the_name_of_the_file_is_named(server, folders, tmp_path, place):
  (tmp_path / place).mkdir(parents=True)
  with pytest.raises(fetch.PrepareError, match=rf"{re.escape(str(tmp_path / place))}: a folder under the name of"):
    _fetched(_file(server), folders)


def test_what_is_no_regular_file_is_named(server, folders):
  folders["manual_dir"].mkdir()
  by_hand = folders["manual_dir"] / NAME
  by_hand.symlink_to("nowhere")
  with pytest.raises(fetch.PrepareError, match=f"{NAME}: a broken link under the name of a file"):
    _fetched(_file(server), folders)
  by_hand.unlink()
  os.mkfifo(by_hand)
  with pytest.raises(fetch.PrepareError, match=f"{NAME}: no regular file under the name of a file"):
    _fetched(_file(server), folders)


def test_a_folder_for_downloads_that_cannot_be_made_is_named(server, folders):
  folders["download_dir"].write_text("a file")
  with pytest.raises(fetch.PrepareError, match=r"downloads: cannot be used: (File exists|Not a directory)"):
    _fetched(_file(server), folders)


def test_a_full_disk_is_named(server, folders, monkeypatch):
  def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(fetch.PrepareError, match="no space left on the disk"):
    _fetched(_file(server), folders)


def test_no_server_is_an_error_at_once(folders):
  started = time.monotonic()
  for url in ("http://127.0.0.1:9/x", "http://no-such-host.invalid/x"):
    with pytest.raises(fetch.PrepareError, match="cannot be downloaded"):
      fetch.find_or_download(fetch.RemoteFile(NAME, url, 1, "0" * 64), **folders)
  assert time.monotonic() - started < 10


# Without the imports of the package, which take longer than all else.
_HOLDER = """
import json, os, pathlib, sys
from mlrec import files
lock = files.try_lock(pathlib.Path(sys.argv[1]))
json.dump({"host": "elsewhere", "pid": os.getpid()}, lock)
lock.flush()
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_that_downloads_the_same_file_is_waited_for(server, folders, caplog):
  folders["download_dir"].mkdir()
  lock = folders["download_dir"] / f".{NAME}.lock"
  with subprocess.Popen(
    [sys.executable, "-c", _HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  ) as other:
    assert other.stdout.readline() == b"held\n"
    # It dies without a word once it is waited for, as `caplog` tells.
    seen = itertools.count()

    def die(record):
      if "is being downloaded by process" in record.getMessage() and next(seen) == 0:
        assert f"process {other.pid} on elsewhere" in record.getMessage()
        other.kill()
      return True

    caplog.handler.addFilter(die)
    assert _fetched(_file(server), folders).read_bytes() == BODY
  assert next(seen) == 1
  assert _left(folders) == [NAME]


def test_recorded_checksums_cover_the_text_files_of_50k():
  checksums = fetch.recorded_checksums()
  assert len(checksums) == 4
  for size, sha256 in checksums.values():
    assert size > 0
    assert re.fullmatch("[0-9a-f]{64}", sha256)


def test_limits_are_generous_by_default():
  limits = dataclasses.asdict(transfer.DEFAULT_LIMITS)
  assert limits["most_bytes"] >= 16 * 241_000_000
  assert limits["timeout_s"] >= 10
  assert limits["answer_s"] >= limits["timeout_s"]


def test_data_is_prepared_from_a_mirror(server, tmp_path, monkeypatch):
  server.files = {"MicroLens-100k_pairs.tsv": b"5\t1 2 3\r\n6\t3 2 1 9\r\n"}
  monkeypatch.setenv("MICROLENS_MIRROR", server.root)
  builder = prepare("100k-sequences", data_dir=tmp_path)
  assert server.requests[0][0] == "/MicroLens-100k-Dataset/MicroLens-100k_pairs.tsv"
  assert builder.info.splits["test"].num_examples == 2
  assert builder.info.metadata["files"]["MicroLens-100k_pairs.tsv"]["bytes"] == 20


def test_a_mirror_with_other_bytes_is_refused(server, tmp_path, monkeypatch):
  monkeypatch.setenv("MICROLENS_MIRROR", server.root)
  with pytest.raises(fetch.PrepareError, match="the server has 307,200 bytes under this name, not 2,295,542"):
    prepare("50k-sequences", data_dir=tmp_path)
  assert not list(tmp_path.rglob("*.array_record*"))


def test_the_full_release_says_to_ask_its_authors(tmp_path):
  with pytest.raises(fetch.PrepareError, match=r"ask the authors(.|\n)*manual/MicroLens_pairs.tsv"):
    prepare("full-sequences", data_dir=tmp_path)
