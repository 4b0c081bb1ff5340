"""Files that are damaged, or made to do harm: refused, with nothing run, in bounded time and memory."""

import os
import pathlib
import pickle
import resource
import socket
import struct
import zipfile

import numpy as np
import pytest

from mlrec.models.convert import read_torch
from mlrec.models.convert import torch_pickle
from support import torch_files as tf

ARRAY = np.arange(6, dtype=np.float32)
W = tf.whole("0", ARRAY)


class Forbidden(Exception):
  """Something that a file names was imported or run."""


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch, tmp_path):
  """Makes what the files below would run leave a trace."""
  ran = []

  def trap(*args, **kwargs):
    ran.append(args)
    raise Forbidden(args)

  for target in ("os.system", "os.popen", "subprocess.Popen", "subprocess.call", "shutil.rmtree"):
    monkeypatch.setattr(target, trap)
  monkeypatch.setattr("pickle.Unpickler", trap)
  monkeypatch.setattr("pickle.loads", trap)
  yield
  assert not ran
  monkeypatch.undo()


def refused(path: pathlib.Path, match: str) -> None:
  with pytest.raises(ValueError, match=match) as error:
    read_torch(path)
  assert str(path) in str(error.value)


def getattr_chain() -> bytes:
  loader = tf.call(tf.name("builtins", "getattr"), tf.name("collections", "OrderedDict"), tf.text("__init__"))
  return tf.call(loader, tf.text("x"))


BUILD_TRICK = (
  tf.name("argparse", "Namespace") + tf.EMPTY + tf.NEWOBJ
  + tf.mapping({"__setstate__": tf.name("some.package", "run")}) + tf.BUILD + tf.text("id") + tf.BUILD
)  # fmt: skip
HARMFUL = {
  "os.system": (tf.call(tf.name("os", "system"), tf.text("touch /tmp/x")), "names 'os.system'"),
  "posix.system": (tf.call(tf.name("posix", "system"), tf.text("id")), "names 'posix.system'"),
  "nt.system": (tf.call(tf.name("nt", "system"), tf.text("id")), "names 'nt.system'"),
  "subprocess": (tf.call(tf.name("subprocess", "Popen"), tf.text("id")), r"names 'subprocess\.Popen'"),
  "eval": (tf.call(tf.name("builtins", "eval"), tf.text("1")), "names 'builtins.eval'"),
  "Python 2": (tf.call(tf.name("__builtin__", "eval"), tf.text("1")), "names 'builtins.eval'"),
  "stack name": (tf.text("os") + tf.text("system") + b"\x93", "names 'os.system'"),
  "getattr": (getattr_chain(), "names 'builtins.getattr'"),
  "dunder": (tf.name("numpy", "ndarray.__class__"), "names 'numpy.ndarray.__class__'"),
  "pickle": (tf.call(tf.name("pickle", "loads"), tf.text("x")), "names 'pickle.loads'"),
  "operator": (tf.name("operator", "attrgetter"), "names 'operator.attrgetter'"),
  "state": (BUILD_TRICK, r"replaces \['__setstate__'\]"),
  "state of a name": (tf.name("some.package", "Class") + tf.mapping({"x": tf.NONE}) + tf.BUILD, "sets the state of a"),
  "state of a list": (b"]" + tf.mapping({"x": tf.NONE}) + tf.BUILD, "sets the state of a list"),
  "call of a text": (tf.text("os.system") + tf.EMPTY + tf.REDUCE, "calls a str"),
  "call of an object": (
    tf.name("some.package", "f") + tf.EMPTY + tf.REDUCE + tf.EMPTY + tf.REDUCE, "calls a Foreign"
  ),
  "extension": (b"\x82\x01", "operation EXT1"),
  "INST": (b"(" + tf.text("id") + b"ios\nsystem\n", "operation INST"),
  "OBJ": (b"(" + tf.name("some", "Class") + b"o", "operation OBJ"),
  "buffer": (b"\x97", "operation NEXT_BUFFER"),
  "persistent text": (b"Pos.system\n", "operation PERSID"),
  "no such operation": (b"\xff", "damaged|opcode"),
  "memo": (b"h\x07", "damaged"),
  "too little": (b"(" + tf.REDUCE, "damaged.*unexpected MARK found"),
  "behind a mark": (b"]" + b"(" + tf.text("x") + b"\x86", "damaged.*unexpected MARK found"),
  "protocol": (b"\x80\x09", "pickle protocol: 9"),
  "long line": (b"c" + b"x" * 9000, "newline|no text|not"),
  "huge text": (b"X\xff\xff\xff\x7f", "expected 2147483647 bytes"),
  "huge bytes": (b"\x8e" + b"\xff" * 7 + b"\x7f", "expected 9223372036854775807 bytes"),
  "huge number": (b"I" + b"9" * 4000 + b"0" * 4000 + b"\n", "limit|digits|newline"),
  "unhashable": (b"}" + b"](" + tf.text("a") + b"e" + tf.NONE + b"s", "no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("write", [tf.write_zip, tf.write_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("which", HARMFUL)
def test_a_pickle_made_to_do_harm_is_refused(which, write, tmp_path):
  body, match = HARMFUL[which]
  # It lies beside tensors that could be read.
  wrapped = body if which == "unhashable" else tf.mapping([(tf.text("w"), W), (tf.text("x"), body)])
  refused(write(tmp_path / "a.pt", wrapped, {} if which == "unhashable" else {"0": ARRAY}), match)


def test_a_refusal_names_the_class_and_the_way_out(tmp_path):
  class_ = tf.name("my.models", "Net") + tf.EMPTY + tf.NEWOBJ + tf.mapping({"w": W}) + tf.BUILD
  refused(tf.write_zip(tmp_path / "a.pt", class_, {"0": ARRAY}), r"object of my\.models\.Net.*as safetensors")


def stored(**options) -> bytes:
  return tf.tensor(tf.storage("0", ARRAY, **options), 0, (6,), (1,))


@pytest.mark.parametrize(
  ("entry", "match"),
  [
    (
      tf.tensor(tf.storage("0", ARRAY), 1, (6,), (1,)),
      r"shape \(6,\) and strides \(1,\) at 1 exceeds its storage of 6",
    ),
    (tf.tensor(tf.storage("0", ARRAY), 0, (3, 3), (2, 1)), "exceeds its storage"),
    (tf.tensor(tf.storage("0", ARRAY), 0, (2,), (-1,)), "not a whole number"),
    (tf.tensor(tf.storage("0", ARRAY), -1, (2,), (1,)), "not a whole number"),
    (tf.tensor(tf.storage("0", ARRAY), 0, (2,), (1, 1)), "1 sizes and 2 strides"),
    (tf.tensor(tf.storage("0", ARRAY), 0, (1,) * 65, (1,) * 65), "at most 64"),
    (tf.tensor(tf.storage("0", ARRAY), 0, (2**63,), (0,)), "not a whole number"),
    (tf.tensor(tf.storage("0", ARRAY), 0, (2**40, 2**40), (0, 0)), "repeat their elements"),
    (tf.tensor(tf.text("0"), 0, (1,), (1,)), "lies in a str"),
    (tf.parameter(tf.number(1)), "made of a int"),
    (stored(total=2**61), "storage '0'"),
    (stored(total=7), "storage '0'"),
    (stored(view=tf.group(tf.text("v"), tf.number(4), tf.number(9))), "elements 4 to 13 of a storage of 6"),
  ],
)
@pytest.mark.parametrize("write", [tf.write_zip, tf.write_legacy], ids=["zip", "legacy"])
def test_tensors_outside_their_storage_are_refused(write, entry, match, tmp_path):
  refused(write(tmp_path / "a.pt", tf.mapping({"x": entry}), {"0": ARRAY}), match)


def test_a_tower_of_references_costs_no_more_than_its_file(tmp_path):
  laughs = tf.text("lol") + b"q\x000"
  for level in range(1, 60):
    laughs += b"(" + bytes([ord("h"), level - 1]) * 10 + b"tq" + bytes([level]) + b"0"
  laughs += b"h" + bytes([59])
  as_key = tf.mapping([(laughs, tf.NONE), (tf.text("w"), W)])  # where it would be hashed
  assert read_torch(tf.write_zip(tmp_path / "a.pt", as_key, {"0": ARRAY})).keys() == {"w"}
  for body in (
    tf.mapping([(tf.text("w"), W), (tf.text("x"), laughs)]),  # where a tensor is wanted
    tf.tensor(laughs, 0, (1,), (1,)),
    tf.group(tf.text("storage"), laughs, tf.text("0"), tf.text("cpu"), tf.number(6)) + b"Q",
    tf.call(laughs, tf.NONE),
  ):
    with pytest.raises(ValueError, match=r"a\.pt: ") as error:
      read_torch(tf.write_zip(tmp_path / "a.pt", body, {"0": ARRAY}))
    assert len(str(error.value)) < 2000


def test_deep_nesting_is_no_recursion(tmp_path):
  nested = b"]" * 200_000 + b"a" * 199_999
  typed = tf.name("torch._tensor", "_rebuild_from_type_v2")
  deep = b"(" + typed + tf.name("torch", "Tensor")
  calls = deep * 5000 + tf.EMPTY + (tf.NONE + b"t") * 5000
  for body in (nested, b")" + b"\x85" * 200_000, typed + calls + tf.REDUCE):
    path = tf.write_zip(tmp_path / "a.pt", tf.mapping([(tf.text("w"), W), (tf.text("x"), body)]), {"0": ARRAY})
    refused(path, "a.pt: ")


def test_endless_pickles_are_cut_short(tmp_path, monkeypatch):
  monkeypatch.setattr(torch_pickle, "_MOST_OPERATIONS", 1000)
  refused(tf.write_zip(tmp_path / "a.pt", b"N" * 2000), "more than 1000 operations")


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"more": {"archive/../../evil": b"x"}}, "names must be plain"),
    ({"more": {"/etc/evil": b"x"}}, "names must be plain"),
    ({"more": {"archive\\evil": b"x"}}, "names must be plain"),
    ({"more": {"archive/version": b"x"}}, "each there once"),
    ({"more": {"other/data.pkl": b"x"}}, "2 files FOLDER/data.pkl"),
    ({"folder": "a/b"}, "0 files FOLDER/data.pkl"),
    ({"more": {"archive/code/net.py": b"x"}}, "TorchScript"),
    ({"compression": zipfile.ZIP_DEFLATED}, "compressed or encrypted"),
    ({"order": "middle"}, "byte order is b'middle'"),
  ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_torch_does_not_write_are_refused(options, match, tmp_path):
  refused(tf.write_zip(tmp_path / "a.pt", tf.mapping({"w": W}), {"0": ARRAY}, **options), match)


def test_storages_that_are_missing_short_or_changed_are_refused(tmp_path):
  path = tmp_path / "a.pt"
  refused(tf.write_zip(path, tf.mapping({"w": W}), {}), "no entry 'data/0'")
  refused(tf.write_zip(path, tf.mapping({"w": W}), {"0": ARRAY[:5]}), r"has 20 bytes; its 6 elements need more")
  refused(tf.write_legacy(path, tf.mapping({"w": W}), {}), "a.pt: ")
  refused(tf.write_legacy(path, tf.mapping({"w": W}), {"0": ARRAY[:5]}), "should have 24 bytes")
  refused(tf.write_legacy(path, tf.mapping({"w": W}), {"0": ARRAY, "1": ARRAY}), "one that no tensor uses")
  data = tf.write_zip(path, tf.mapping({"w": W}), {"0": ARRAY}).read_bytes()
  at = data.index(ARRAY.tobytes())
  path.write_bytes(data[:at] + b"\x01" + data[at + 1 :])
  refused(path, "damaged.*Bad CRC-32 for file 'archive/data/0'")


@pytest.mark.parametrize("write", [tf.write_zip, tf.write_legacy], ids=["zip", "legacy"])
def test_a_file_cut_off_anywhere_is_refused(write, tmp_path):
  path = write(tmp_path / "a.pt", tf.mapping({"w": W}), {"0": ARRAY})
  data = path.read_bytes()
  for length in range(len(data) - 1):
    path.write_bytes(data[:length])
    refused(path, "a.pt: ")


def test_other_files_are_named_for_what_they_are(tmp_path):
  path = tmp_path / "a.pt"
  path.write_bytes(b"")
  refused(path, "begins with b''")
  path.write_text("<html>not found</html>")
  refused(path, "begins with b'<html>")
  path.write_bytes(pickle.dumps({"w": 1}, protocol=2))
  refused(path, "pickle that torch.save did not write")
  path.write_bytes(tf.MAGIC + b"\x80\x02" + tf.number(7) + b".")
  refused(path, "version 1001")
  refused(tf.write_zip(path, b"]"), "holds a list, not a dict")
  refused(tf.write_zip(path, b"}"), "it has no keys")
  with pytest.raises(FileNotFoundError):
    read_torch(tmp_path / "nothing.pt")


@pytest.mark.parametrize("write", [tf.write_zip, tf.write_legacy], ids=["zip", "legacy"])
def test_flipped_bytes_give_tensors_or_a_refusal(write, tmp_path):
  rng = np.random.default_rng(0)
  half = np.arange(4, dtype=np.float16)
  namespace = tf.name("argparse", "Namespace") + tf.EMPTY + tf.NEWOBJ + tf.mapping({"lr": tf.number(1)}) + tf.BUILD
  weights = tf.ordered({"w": W, "p": tf.parameter(tf.tensor(tf.storage("1", half), 1, (2,), (1,)))})
  path = write(tmp_path / "a.pt", tf.mapping({"model": weights, "args": namespace}), {"0": ARRAY, "1": half})
  data = np.frombuffer(path.read_bytes(), np.uint8)
  limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 512 * 1024
  refusals = 0
  for _ in range(1000):
    changed = data.copy()
    for at in rng.integers(0, data.size, rng.integers(1, 5)):
      changed[at] = rng.integers(256)
    path.write_bytes(changed.tobytes())
    try:
      for array in read_torch(path).values():
        assert array.nbytes < 2**20
        array.tobytes()
    except ValueError:
      refusals += 1
  assert refusals > 500
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < limit


def test_a_count_that_a_legacy_file_claims_is_not_allocated(tmp_path):
  path = tf.write_legacy(tmp_path / "a.pt", tf.mapping({"w": stored(total=2**40)}), {"0": ARRAY})
  data = path.read_bytes()
  path.write_bytes(data.replace(struct.pack("<q", 6) + ARRAY.tobytes(), struct.pack("<q", 2**40) + ARRAY.tobytes()))
  refused(path, "should have 4398046511104 bytes")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch):
  os.mkfifo(tmp_path / "pipe.pt")
  refused(tmp_path / "pipe.pt", "it is a named pipe; expected a regular file")
  with socket.socket(socket.AF_UNIX) as server:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    server.bind("socket.pt")
    refused(tmp_path / "socket.pt", "it is a socket; expected a regular file")
  refused(pathlib.Path("/dev/zero"), "it is a device; expected a regular file")
  refused(tmp_path, "it is a directory; expected a regular file")


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
  path, stat = tf.write_zip(tmp_path / "a.pt", tf.mapping({"w": W}), {"0": ARRAY}), os.stat

  def replaced(*arguments, **options):
    monkeypatch.setattr(os, "stat", stat)
    found = stat(*arguments, **options)
    path.unlink()
    os.mkfifo(path)
    return found

  monkeypatch.setattr(os, "stat", replaced)
  refused(path, "it is a named pipe; expected a regular file")
