import argparse
import collections
import datetime
import pathlib
import pickle
import re
import tempfile
import typing
import zlib

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import read_torch
from mlrec.models.convert import to_torch
from support import torch_files as tf

WRITERS = {"zip": tf.write_zip, "legacy": tf.write_legacy}
formats = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def same(actual: np.ndarray, expected: np.ndarray) -> None:
  assert actual.shape == expected.shape
  assert actual.dtype == expected.dtype
  assert actual.tobytes() == expected.tobytes()


def random(dtype: np.dtype, size: int, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  if dtype.kind == "c":
    return (rng.normal(size=size) + 1j * rng.normal(size=size)).astype(dtype)
  return rng.integers(0, 2 if dtype.kind == "b" else 100, size).astype(dtype)


def state(**arrays: np.ndarray) -> tuple[bytes, dict[str, np.ndarray]]:
  """The pickle of a state dict of contiguous tensors, and its storages."""
  return tf.ordered({key: tf.whole(key, array) for key, array in arrays.items()}), arrays


@formats
@pytest.mark.parametrize("dtype", tf.STORAGES, ids=str)
def test_every_dtype_comes_back_to_the_bit(write, dtype, tmp_path):
  array = random(dtype, 12)
  path = write(tmp_path / "a.pt", tf.ordered({"x": tf.whole("0", array.reshape(3, 4))}), {"0": array})
  same(read_torch(path)["x"], array.reshape(3, 4))


@st.composite
def views(draw):
  """A storage, and the offset, shape and strides (in elements) of a view that lies inside it."""
  dtype = draw(st.sampled_from(list(tf.STORAGES)))
  shape = draw(st.lists(st.integers(0, 4), max_size=4))
  strides = draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=len(shape)))
  offset = draw(st.integers(0, 5))
  reach = offset + sum((n - 1) * stride for n, stride in zip(shape, strides)) + 1 if 0 not in shape else offset
  return random(dtype, max(reach, 0) + draw(st.integers(0, 3)), draw(st.integers(0, 99))), offset, shape, strides


@settings(max_examples=150, deadline=None)
@given(view=views(), form=st.sampled_from(["little", "big", None, "legacy"]))
def test_strided_views_are_rebuilt_as_numpy_strides_them(view, form):
  array, offset, shape, strides = view
  body = tf.mapping({"x": tf.tensor(tf.storage("0", array), offset, shape, strides), "all": tf.whole("0", array)})
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "a.pt"
    if form == "legacy":
      tf.write_legacy(path, body, {"0": array})
    else:
      tf.write_zip(path, body, {"0": array}, order=form)
    entries = read_torch(path)
  if 0 in shape:
    expected = np.empty(shape, array.dtype)
  else:
    steps = [stride * array.itemsize for stride in strides]
    expected = np.lib.stride_tricks.as_strided(array[offset:], shape, steps)
  same(entries["x"], expected)
  same(entries["all"], array)


@formats
def test_parameters_and_transposed_and_shared_tensors(write, tmp_path):
  array = random(np.dtype("f4"), 12)
  stored = tf.storage("7", array)
  body = tf.ordered(
    {
      "weight": tf.parameter(tf.whole("7", array.reshape(3, 4))),
      "transposed": tf.tensor(stored, 0, (4, 3), (1, 4)),
      "tied": tf.whole("7", array.reshape(3, 4)),
      "row": tf.tensor(stored, 4, (4,), (1,)),
      "scalar": tf.tensor(stored, 5, (), ()),
    }
  )
  entries = read_torch(write(tmp_path / "a.pth", body, {"7": array}))
  same(entries["weight"], array.reshape(3, 4))
  same(entries["transposed"], array.reshape(3, 4).T)
  same(entries["row"], array[4:8])
  same(entries["scalar"], array[5])
  assert np.shares_memory(entries["weight"], entries["tied"])
  assert not any(value.flags.writeable for value in entries.values())


def test_older_spellings_of_a_tensor(tmp_path):
  array = random(np.dtype("f4"), 6)
  view = tf.group(tf.text("view"), tf.number(2), tf.number(3))
  first = tf.call(
    tf.name("torch._utils", "_rebuild_tensor"),
    tf.storage("0", array), tf.number(1), tf.numbers([2]), tf.numbers([2]),
  )  # fmt: skip
  body = tf.mapping({"first": first, "view": tf.tensor(tf.storage("0", array, view=view), 1, (2,), (1,))})
  entries = read_torch(tf.write_legacy(tmp_path / "a.pth", body, {"0": array}))
  same(entries["first"], array[1:5:2])
  same(entries["view"], array[3:5])


def test_newer_spellings_of_a_tensor(tmp_path):
  array = random(np.dtype("u2"), 6)
  stored = (
    tf.group(
      tf.text("storage"), tf.name("torch.storage", "UntypedStorage"), tf.text("0"), tf.text("cpu"), tf.number(12)
    )
    + b"Q"
  )
  third = tf.call(
    tf.name("torch._utils", "_rebuild_tensor_v3"),
    stored, tf.number(2), tf.numbers([2, 2]), tf.numbers([2, 1]), tf.FALSE, tf.NONE, tf.name("torch", "uint16"),
  )  # fmt: skip
  other = random(np.dtype("f4"), 3)
  kept = tf.group(*_arguments("1", other))
  typed = tf.call(
    tf.name("torch._tensor", "_rebuild_from_type_v2"),
    tf.name("torch._utils", "_rebuild_tensor_v2"), tf.name("torch.nn.parameter", "Parameter"), kept, tf.mapping({}),
  )  # fmt: skip
  entries = read_torch(tf.write_zip(tmp_path / "a.pt", tf.mapping({"x": third, "y": typed}), {"0": array, "1": other}))
  same(entries["x"], array[2:].reshape(2, 2))
  same(entries["y"], other)


def _arguments(key, array):
  return tf.storage(key, array), tf.number(0), tf.numbers([array.size]), tf.numbers([1]), tf.FALSE, tf.NONE


def test_bytes_that_are_no_truth_value_become_one(tmp_path):
  array = np.array([0, 1, 7], np.uint8)
  body = tf.mapping({"x": tf.whole("0", array.astype(bool))})
  entries = read_torch(tf.write_zip(tmp_path / "a.pt", body, {"0": array}))
  assert entries["x"].view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize("key", ["state_dict", "model_state", "model", "module"])
@formats
def test_the_usual_keys_are_found_beside_what_training_leaves(write, key, tmp_path):
  body, storages = state(w=np.arange(3.0), num_batches_tracked=np.array([5]))
  namespace = tf.name("argparse", "Namespace") + tf.EMPTY + tf.NEWOBJ + tf.mapping({"lr": tf.number(1)}) + tf.BUILD
  config = tf.name("fvcore.common.config", "CfgNode") + tf.EMPTY + tf.NEWOBJ
  config += b"(" + tf.text("SOLVER") + namespace + b"u" + tf.mapping({"__immutable__": tf.TRUE}) + tf.BUILD
  scalar = tf.call(tf.name("numpy.core.multiarray", "scalar"), tf.call(tf.name("numpy", "dtype"), tf.text("f8")))
  other = {"epoch": tf.number(3), "args": namespace, "cfg": config, "best": scalar, "optimizer": tf.mapping({})}
  odd_keys = tf.mapping([(tf.number(2**70), tf.NONE), (tf.numbers([1, 2]), tf.NONE), (tf.number(1), tf.NONE)])
  path = write(tmp_path / "a.pyth", tf.mapping({**other, "odd": odd_keys, key: body}), storages)
  for entries in (read_torch(path), read_torch(path, key=key)):
    assert entries.keys() == {"w", "num_batches_tracked"}
    same(entries["w"], np.arange(3.0))
  with pytest.raises(ValueError, match=rf"'lr': there is no such key; it has 'epoch' \(a int\), 'args' .*'{key}'"):
    read_torch(path, key="lr")
  with pytest.raises(ValueError, match=r"object of argparse\.Namespace under 'args' is no dict of tensors"):
    read_torch(path, key="args")


class Settings(list):
  """Neither of the standard library nor of PyTorch, and with a state, items and arguments."""

  def __reduce_ex__(self, protocol):
    return Settings, (1, 2), {"lr": 0.1}, iter([1, 2]), iter([("a", 1)])


@formats
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_of_every_protocol_may_lie_beside_tensors(write, protocol, tmp_path):
  ordered = collections.OrderedDict([("a", [1, 300, 70_000, -1, 2**40, 2**70, 1 << 1000, 2.5, True, False, None])])
  plain = {"text": ["a" * 300, "ü"], b"bytes": bytearray(b"x"), 3: {4, "x"}, (1, ("x",)): frozenset([1]), 1.5: ordered}
  types = [int, str, range, typing.Any, argparse.Namespace, collections.defaultdict, Settings]
  objects = [
    argparse.Namespace(lr=1), Settings(), collections.defaultdict(list, a=[1]), collections.Counter("aa"), range(3),
    collections.deque([1]), datetime.timedelta(1), pathlib.PurePosixPath("a"), np.float64(1), np.arange(3), 1j,
  ]  # fmt: skip
  recursive = [plain]
  recursive.append(recursive)
  beside = pickle.dumps([plain, types, objects, recursive], protocol)[:-1]
  body, storages = state(w=np.arange(3.0))
  path = write(tmp_path / "a.pt", tf.mapping({"x": beside, "model": body}), storages)
  entries = read_torch(path)
  assert entries.keys() == {"w"}
  same(entries["w"], np.arange(3.0))


def test_an_ordered_dict_of_python_2_is_one_of_pairs(tmp_path):
  array = np.arange(3.0)
  pairs = b"](" + b"](" + tf.text("w") + tf.whole("0", array) + b"e" + b"](" + tf.text("b") + tf.number(1) + b"ee"
  body = tf.call(tf.name("collections", "OrderedDict"), pairs)
  entries = read_torch(tf.write_zip(tmp_path / "a.pt", body, {"0": array}))
  assert entries.keys() == {"w"}
  same(entries["w"], array)


def test_checksums_may_be_left_out(tmp_path):
  body, storages = state(w=np.arange(3.0))
  path = tf.write_zip(tmp_path / "a.pt", body, storages)
  checksum = zlib.crc32(storages["w"].tobytes()).to_bytes(4, "little")
  path.write_bytes(path.read_bytes().replace(checksum, bytes(4)))
  same(read_torch(path)["w"], np.arange(3.0))


def test_an_unusual_or_ambiguous_key_must_be_said(tmp_path):
  body, storages = state(w=np.arange(3.0))
  unusual = tf.write_zip(tmp_path / "a.pt", tf.mapping({"net": body, "epoch": tf.number(1)}), storages)
  with pytest.raises(ValueError, match=r"no tensors under the usual keys .*say which key.*'net' \(a dict\)"):
    read_torch(unusual)
  same(read_torch(unusual, key="net")["w"], np.arange(3.0))
  ambiguous = tf.write_zip(tmp_path / "b.pt", tf.mapping({"model": body, "state_dict": body}), storages)
  with pytest.raises(ValueError, match=r"more than one of the usual keys.*'model' \(a dict\), 'state_dict'"):
    read_torch(ambiguous)
  mixed = tf.write_zip(tmp_path / "c.pt", tf.mapping({"best": tf.whole("w", np.arange(3.0)), "model": body}), storages)
  with pytest.raises(ValueError, match=r"entry 'model' is a dict.*say which key"):
    read_torch(mixed)
  same(read_torch(mixed, key="model")["w"], np.arange(3.0))


def test_the_prefix_of_data_parallel_goes_only_if_all_have_it(tmp_path):
  for names, expected in (
    (("module.a", "module.b.c"), {"a", "b.c"}),
    (("module.a", "b"), {"module.a", "b"}),
    (("module.", "module.b"), {"module.", "module.b"}),
  ):
    body, storages = state(**{key: np.arange(2.0) for key in names})
    assert read_torch(tf.write_zip(tmp_path / "a.pt", body, storages)).keys() == expected


def test_safetensors_by_content_or_by_suffix(tmp_path):
  arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3).astype(ml_dtypes.bfloat16)}
  for name in ("a.safetensors", "pytorch_model.bin"):
    save_file(arrays, tmp_path / name)
    entries = read_torch(tmp_path / name)
    for key in arrays:
      same(entries[key], arrays[key])
    with pytest.raises(ValueError, match="no keys above them"):
      read_torch(tmp_path / name, key="model")
  data = (tmp_path / "a.safetensors").read_bytes()
  (tmp_path / "a.safetensors").write_bytes(data[:-3])
  with pytest.raises(ValueError, match=r"a\.safetensors: it is no whole safetensors file"):
    read_torch(tmp_path / "a.safetensors")


@formats
def test_a_model_is_filled_from_a_torch_file(write, tmp_path):
  from flax import nnx

  model = models.create("sasrec", dim=6, rngs=nnx.Rngs(0))
  rng = np.random.default_rng(1)
  arrays = {key: rng.normal(size=value.shape).astype(np.float32) for key, value in to_torch(model).items()}
  body, storages = state(**{f"module.{key}": value for key, value in arrays.items()})
  path = write(tmp_path / "a.bin", tf.mapping({"model_state": body}), storages)
  load_torch(model, path)
  for key, value in to_torch(model).items():
    np.testing.assert_array_equal(value, arrays[key])
  del arrays[next(iter(arrays))]
  body, storages = state(**arrays)
  with pytest.raises(ValueError, match="missing entry"):
    load_torch(model, write(tmp_path / "b.bin", body, storages))


def test_numbers_and_text_beside_tensors_are_left_out_and_objects_are_refused(tmp_path):
  array = np.arange(2.0)
  body = tf.mapping({"w": tf.whole("0", array), "epoch": tf.number(3), "name": tf.text("x"), "none": tf.NONE})
  assert read_torch(tf.write_zip(tmp_path / "a.pt", body, {"0": array})).keys() == {"w"}
  foreign = tf.call(tf.name("torch._utils", "_rebuild_sparse_tensor"), tf.NONE)
  body = tf.mapping({"w": tf.whole("0", array), "s": foreign})
  with pytest.raises(ValueError, match=re.escape("'s' is an object of torch._utils._rebuild_sparse_tensor")) as error:
    read_torch(tf.write_zip(tmp_path / "b.pt", body, {"0": array}))
  assert "safetensors" in str(error.value)
