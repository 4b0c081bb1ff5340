import re
import time

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch

_NAMES = ("sasrec", "gru4rec", "nextitnet")
names = pytest.mark.parametrize("name", _NAMES)


def _sequential(user: str, num_items: int = 11, dim: int = 6, seed: int = 0):
  return models.create("sequential", num_items=num_items, dim=dim, user={"name": user}, rngs=nnx.Rngs(seed))


def _arrays(model, seed: int = 1):
  rng = np.random.default_rng(seed)
  return {key: rng.normal(size=value.shape).astype(np.float32) for key, value in to_torch(model).items()}


@names
def test_names_and_shapes_are_the_published_ones(golden_path, name):
  lines = (golden_path / "keys" / f"id-{name}-d512.txt").read_text().splitlines()
  wanted = dict(re.fullmatch(r"(\S+) \(([\d, ]*)\)", line).groups() for line in lines)
  wanted = {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in wanted.items()}
  # The reference holds a last layer that nothing uses; it is the one entry that is dropped.
  wanted = {key: shape for key, shape in wanted.items() if "final_layer" not in key}
  # One model of full size costs its zeros only; its values do not matter here.
  model = nnx.eval_shape(lambda: _sequential(name, 19_738, 512))
  graphdef, state = nnx.split(model)
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state)
  actual = {key: value.shape for key, value in to_torch(nnx.merge(graphdef, zeros)).items()}
  assert actual == wanted


@names
def test_what_is_loaded_comes_back(name):
  model = _sequential(name)
  arrays = _arrays(model)
  load_torch(model, arrays)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    assert back[key].dtype == np.float32
    np.testing.assert_array_equal(back[key], arrays[key])


@names
def test_user_encoders_convert_on_their_own(name):
  whole = _sequential(name)
  alone = models.create(name, dim=6, rngs=nnx.Rngs(5))
  prefix = "user_encoder."
  arrays = {key.removeprefix(prefix): value for key, value in _arrays(whole).items() if key.startswith(prefix)}
  load_torch(alone, arrays)
  for key, value in to_torch(alone).items():
    np.testing.assert_array_equal(value, arrays[key])


def test_safetensors_file_loads_as_its_arrays_do(tmp_path):
  model, other = _sequential("sasrec"), _sequential("sasrec", seed=3)
  arrays = _arrays(model)
  path = tmp_path / "model.safetensors"
  save_file(arrays, path)
  load_torch(model, path)
  load_torch(other, str(path))
  for key in arrays:
    np.testing.assert_array_equal(to_torch(model)[key], arrays[key])
    np.testing.assert_array_equal(to_torch(other)[key], arrays[key])


@names
@pytest.mark.parametrize("which", [0, -1])
def test_a_missing_entry_is_named(name, which):
  model = _sequential(name)
  arrays = _arrays(model)
  key = list(arrays)[which]
  del arrays[key]
  with pytest.raises(ValueError, match=f"missing.*{re.escape(repr(key))}"):
    load_torch(model, arrays)


@names
def test_unused_entries_are_named(name):
  model = _sequential(name)
  arrays = _arrays(model) | {"id_encoder.bias": np.zeros(6), "surplus.weight": np.zeros(3)}
  with pytest.raises(ValueError, match="unused") as error:
    load_torch(model, arrays)
  assert "'id_encoder.bias'" in str(error.value)
  assert "'surplus.weight'" in str(error.value)


@names
def test_wrongly_shaped_entries_are_named_with_both_shapes(name):
  model = _sequential(name)
  for key in to_torch(model):
    arrays = _arrays(model)
    arrays[key] = np.zeros((*arrays[key].shape[:-1], 77), np.float32)
    with pytest.raises(ValueError, match="shape") as error:
      load_torch(model, arrays)
    assert repr(key) in str(error.value)
    assert "77" in str(error.value)


def test_misfits_are_told_with_both_shapes_and_the_nearest_name():
  model = _sequential("sasrec")
  arrays = _arrays(model)
  arrays["id_encoder.weights"] = arrays.pop("id_encoder.weight")
  shape = arrays["id_encoder.weights"].shape
  expected = (
    f"missing entry 'id_encoder.weight' of shape {shape}; the nearest in the file is 'id_encoder.weights' of shape"
  )
  with pytest.raises(ValueError, match=re.escape(f"{expected} {shape}")):
    load_torch(model, arrays)
  del arrays["id_encoder.weights"]
  with pytest.raises(ValueError, match=re.escape(f"'id_encoder.weight' of shape {shape}") + "$"):
    load_torch(model, arrays)
  arrays = _arrays(model) | {f"id_encoder.bias{number:02}": np.zeros(number) for number in range(12)}
  with pytest.raises(ValueError, match="unused entries") as error:
    load_torch(model, arrays)
  said = str(error.value)
  assert "'id_encoder.bias00' of shape (0,), 'id_encoder.bias01' of shape (1,), " in said
  assert "'id_encoder.bias09' of shape (9,) and 2 more; the nearest to the first in the model is 'id_encoder." in said


def test_complex_numbers_are_refused():
  model = _sequential("sasrec")
  arrays = _arrays(model)
  arrays["id_encoder.weight"] = arrays["id_encoder.weight"].astype(np.complex64)
  with pytest.raises(ValueError, match=r"'id_encoder\.weight' of shape \(.*\) has dtype complex64; .* real numbers"):
    load_torch(model, arrays)


def test_names_without_end_are_not_compared(tmp_path):
  model = _sequential("sasrec")
  arrays = _arrays(model)
  del arrays["id_encoder.weight"]
  arrays |= {f"{number}{'id_encoder.' * 1000}": np.zeros(1) for number in range(200)}
  begin = time.process_time()
  with pytest.raises(ValueError, match=r"missing entry 'id_encoder\.weight' of shape \(\d+, \d+\)$"):
    load_torch(model, arrays)
  assert time.process_time() - begin < 4


def test_a_transposed_matrix_is_refused():
  model = _sequential("gru4rec")
  arrays = _arrays(model)
  key = "user_encoder.gru_layers.weight_ih_l0"
  arrays[key] = arrays[key].T
  with pytest.raises(ValueError, match=re.escape(key)):
    load_torch(model, arrays)


def test_a_refused_file_leaves_the_model_as_it_was():
  model = _sequential("sasrec")
  before = to_torch(model)
  arrays = _arrays(model)
  for bad in (
    {key: value for key, value in arrays.items() if key != "id_encoder.weight"},
    arrays | {"surplus": np.zeros(1)},
    arrays | {"id_encoder.weight": np.zeros((3, 3))},
  ):
    with pytest.raises(ValueError, match=r"id_encoder|surplus"):
      load_torch(model, bad)
  after = to_torch(model)
  assert all(np.array_equal(before[key], after[key]) for key in before)


def test_the_unused_last_layer_of_nextitnet_is_dropped_and_of_no_other():
  last = {"user_encoder.final_layer.weight": np.zeros((6, 6)), "user_encoder.final_layer.bias": np.zeros(6)}
  model = _sequential("nextitnet")
  load_torch(model, _arrays(model) | last)
  assert not any("final_layer" in key for key in to_torch(model))
  other = _sequential("sasrec")
  with pytest.raises(ValueError, match="final_layer"):
    load_torch(other, _arrays(other) | last)


def test_a_dropped_name_elsewhere_in_the_file_is_still_unused():
  model = _sequential("nextitnet")
  with pytest.raises(ValueError, match=r"other\.final_layer"):
    load_torch(model, _arrays(model) | {"other.final_layer.weight": np.zeros((6, 6))})
