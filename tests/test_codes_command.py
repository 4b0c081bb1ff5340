"""python -m mlrec.codes: codes of vectors, what they are worth, and what is refused."""

import numpy as np
import pytest

from mlrec.content import codes
from support import tiny_runs


@pytest.fixture(scope="module")
def vectors_file(tmp_path_factory):
  rng = np.random.default_rng(0)
  vectors = np.repeat(rng.standard_normal((10, 6)), 4, axis=0)
  vectors[::4] += 0.5
  np.save(path := tmp_path_factory.mktemp("vectors") / "vectors.npy", vectors.astype(np.float32))
  return path


@pytest.fixture
def made(forked, tmp_path):
  """Runs the command: `made("--size=4")`."""

  def run(*arguments):
    return forked.run("mlrec.codes", [*map(str, arguments)], cwd=tmp_path, env=tiny_runs.environment())

  return run


def test_codes_of_a_file_of_vectors_are_unique_and_told_of(made, vectors_file, tmp_path):
  done = made(f"--features={vectors_file}", "--levels=2", "--size=8", "--seed=5", "--to=codes.safetensors")
  assert done.returncode == 0, done.stderr
  found = codes.read(str(tmp_path / "codes.safetensors"), np.arange(41)).codes
  assert found.shape == (41, 3)
  assert len(np.unique(found[1:], axis=0)) == 40
  recipe = codes.read_recipe(tmp_path / "codes.safetensors")
  # Three of each four vectors are the same.
  assert found[:, 2].max() == recipe["most_alike"] - 1 >= 2
  assert recipe["shared"] >= 0.75
  assert [recipe[key] for key in ("quantizer", "levels", "size", "seed")] == ["residual_kmeans", 2, 8, 5]
  lines = done.stdout.splitlines()
  assert lines[-1] == "codes.safetensors"
  assert f"at most {recipe['most_alike']} the same" in lines[-2]
  assert f"{recipe['errors'][1]:.4f}" in lines[-3]


@pytest.mark.slow
def test_rq_vae_takes_options_and_whitened_vectors(made, vectors_file, tmp_path):
  options = "--options=hidden=(8,),latent=4,steps=100,batch_size=16"
  done = made(f"--features={vectors_file}", "--whiten", "--quantizer=rq_vae", "--size=4", options, "--to=a.safetensors")
  assert done.returncode == 0, done.stderr
  assert codes.read_recipe(tmp_path / "a.safetensors")["hidden"] == [8]
  assert len(codes.read(str(tmp_path / "a.safetensors"), np.arange(41)).codes) == 41


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--features="], "--features is required"),
    (["--to="], "--to is required"),
    (["--features=none.npy"], "--features=none.npy: no such file"),
    (["--quantizer=rq_vee"], "--quantizer=rq_vee: unknown quantizer 'rq_vee': did you mean 'rq_vae'?"),
    (["--levels=0"], "--levels = 0 must be at least 1"),
    (["--options=step=3"], "--options: step = 3: 'residual_kmeans' has no such option; did you mean 'steps'?"),
    (["--to=nowhere/codes.safetensors"], "--to=nowhere/codes.safetensors: there is no folder nowhere"),
    (["--most_alike=2"], "--most_alike=2: "),
    (["codes"], "unexpected argument 'codes'"),
  ],
)
def test_what_cannot_be_done_is_told_in_a_line(arguments, message, made, vectors_file, tmp_path):
  done = made(f"--features={vectors_file}", "--size=8", "--to=codes.safetensors", *arguments)
  assert done.returncode == 2
  assert f"error: {message}" in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert not list(tmp_path.iterdir())
