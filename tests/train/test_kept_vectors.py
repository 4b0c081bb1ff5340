"""Vectors of a frozen encoder on disk: what is damaged is made again, and said."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from mlrec.content.base import Source
from mlrec.train import frozen_vectors

_RECIPE = frozen_vectors.recipe_of({
  "name": "video", "encoder": "r3d_r18", "mode": "frozen", "weights": "random", "frames": 1, "size": 8,
  "options": {"stem": 1, "depths": (1, 1, 1, 1)},
})  # fmt: skip
_IDS = np.array([0, 3, 5, 8])


class _Clips(Source):
  items = _IDS[1:]
  fingerprint = "0123456789abcdef"

  def read(self, ids: np.ndarray, **reading: int) -> np.ndarray:
    clips = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8, 3), np.uint8)
    return clips[ids]


def _load(folder: pathlib.Path) -> tuple[np.ndarray, list[str]]:
  said: list[str] = []
  vectors = frozen_vectors.load_or_make(_RECIPE, _Clips(), _IDS, folder=str(folder), batch_size=2, say=said.append)
  return vectors.vectors, said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("vectors")
  vectors, said = _load(folder)
  assert said[-1].startswith("r3d_r18: 3 of 3 items encoded")
  return folder, vectors


def _flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[-2] ^= 8
  path.write_bytes(data)


def _empty(path: pathlib.Path) -> None:
  path.write_bytes(b"")


def _zero(path: pathlib.Path) -> None:
  path.write_bytes(bytes(path.stat().st_size))


def _swap_rows(path: pathlib.Path) -> None:
  array = np.load(path)
  np.save(path, array[::-1])


def _change_recipe(path: pathlib.Path) -> None:
  recipe = json.loads(path.read_text())
  path.write_text(json.dumps(recipe | {"source": "fedcba9876543210"}))


def _make_folder(path: pathlib.Path) -> None:
  path.unlink()
  path.mkdir()
  (path / "something").touch()


@pytest.mark.parametrize("name", ["vectors.npy", "items.npy", "recipe.json"])
@pytest.mark.parametrize("damage", [_flip, pathlib.Path.unlink, _make_folder, _empty, _zero])
def test_what_is_damaged_is_made_again(made, name, damage, tmp_path):
  _check_damage(made, name, damage, tmp_path)


@pytest.mark.parametrize(("name", "damage"), [("vectors.npy", _swap_rows), ("recipe.json", _change_recipe)])
def test_a_whole_file_of_other_content_is_made_again(made, name, damage, tmp_path):
  _check_damage(made, name, damage, tmp_path)


def _check_damage(made, name, damage, tmp_path) -> None:
  folder, wanted = made
  kept = tmp_path / "kept"
  shutil.copytree(folder, kept)
  (inside,) = kept.iterdir()
  damage(inside / name)
  vectors, said = _load(kept)
  np.testing.assert_array_equal(vectors, wanted)
  assert said[-1].startswith("r3d_r18: 3 of 3"), "they are made again"
  if name != "recipe.json" or damage is not pathlib.Path.unlink:
    assert "damaged" in said[0]
  vectors, said = _load(kept)
  np.testing.assert_array_equal(vectors, wanted)
  assert not said


@pytest.mark.parametrize("damage", [_flip, _make_folder, _swap_rows])
def test_a_damaged_part_of_a_killed_run_is_made_again(made, damage, tmp_path, monkeypatch):
  _, wanted = made
  kept = tmp_path / "kept"
  with monkeypatch.context() as patched:
    patched.setattr(frozen_vectors._Parts, "joined", _killed)
    with pytest.raises(InterruptedError):
      _load(kept)
  damage(next(kept.glob("*/part-000000000-*.npy")))
  vectors, said = _load(kept)
  np.testing.assert_array_equal(vectors, wanted)
  assert "is damaged and is made again" in said[0]
  assert {path.name for path in next(kept.iterdir()).iterdir()} == {"vectors.npy", "items.npy", "recipe.json"}


def _killed(parts) -> None:
  raise InterruptedError
