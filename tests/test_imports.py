import ast
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_MODULES = {
  ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__"): path
  for path in sorted((_ROOT / "mlrec").rglob("*.py"))
}

# Layers, lowest first: a module imports from its own layer and from those named here.
_MAY_IMPORT = {
  "mlrec.registry": set(),
  "mlrec.config": {"mlrec.registry"},
  "mlrec.losses": set(),
  "mlrec.metrics": set(),
  "mlrec.data": {"mlrec.registry"},
  "mlrec.models.registry": {"mlrec.registry"},
  "mlrec.models.layers": set(),
  "mlrec.models.convert": set(),
  "mlrec.models.items": {
    "mlrec.models.layers",
    "mlrec.models.convert",
    "mlrec.models.registry",
    "mlrec.models",
    "mlrec.data",
    "mlrec.registry",
  },
  "mlrec.models.users": {"mlrec.models.layers", "mlrec.models.registry"},
  "mlrec.models.recommenders": {
    "mlrec.models.items",
    "mlrec.models.users",
    "mlrec.models.layers",
    "mlrec.models.registry",
    "mlrec.losses",
    "mlrec.data",
    "mlrec.registry",
  },
  "mlrec.models": {"mlrec.models.registry"},
  "mlrec.train": {"mlrec.models", "mlrec.data", "mlrec.losses", "mlrec.metrics", "mlrec.config", "mlrec.registry"},
}
# SciPy comes with JAX.
_LIGHT = {"jax", "flax", "optax", "einops", "numpy", "scipy", "absl", "ml_collections"}


def _layer(module: str) -> str | None:
  inside = [layer for layer in _MAY_IMPORT if module == layer or module.startswith(layer + ".")]
  return max(inside, key=len, default=None)


def _imports(module: str) -> set[str]:
  """Modules that a file names in an import anywhere in it, `from a import b` as `a.b` where that is a module."""
  named = set()
  for node in ast.walk(ast.parse(_MODULES[module].read_text())):
    if isinstance(node, ast.Import):
      named |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{module}: imports are absolute"
      for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        named.add(whole if whole in _MODULES else node.module)
  return named


def _allowed(importer: str, imported: str) -> bool:
  if importer == "mlrec.data.microlens" or not imported.startswith("mlrec"):
    return True
  layer, other = _layer(importer), _layer(imported)
  if layer is None or layer == other:  # main and other commands stand above all layers
    return True
  return other is not None and any(
    other == below or (layer == "mlrec.train" and other.startswith(below + ".")) for below in _MAY_IMPORT[layer]
  )


def test_every_module_has_its_place():
  above = {module for module in _MODULES if _layer(module) is None}
  assert "mlrec.main" in above
  # Modules above the layers are commands: nothing below imports one.
  for module in _MODULES.keys() - above:
    assert not _imports(module) & (above - {"mlrec"}), module


@pytest.mark.parametrize("module", _MODULES)
def test_imports_point_one_way(module):
  wrong = [name for name in _imports(module) if not _allowed(module, name)]
  assert wrong == []


def test_the_rule_refuses_what_points_the_other_way():
  for importer, imported in (
    ("mlrec.losses", "mlrec.models"),
    ("mlrec.metrics", "mlrec.data.batches"),
    ("mlrec.data.batches", "mlrec.models.layers.dropout"),
    ("mlrec.models.layers.dropout", "mlrec.models.users.sasrec"),
    ("mlrec.models.users.sasrec", "mlrec.models.items.id"),
    ("mlrec.models.users.sasrec", "mlrec.models.recommenders.sequential"),
    ("mlrec.models.recommenders.sequential", "mlrec.train.state"),
    ("mlrec.train.loop", "mlrec.main"),
  ):
    assert not _allowed(importer, imported), (importer, imported)


@pytest.mark.parametrize("module", _MODULES)
def test_only_the_microlens_source_knows_the_data_set_package(module):
  roots = {name.partition(".")[0] for name in _imports(module)}
  if module == "mlrec.data.microlens":
    assert {"tfds_microlens", "tensorflow_datasets"} <= roots
  else:
    assert not roots & {"tfds_microlens", "tensorflow_datasets"}


@pytest.mark.parametrize(
  "module",
  [m for m in _MODULES if m.startswith("mlrec.models") or m in ("mlrec.losses", "mlrec.metrics", "mlrec.train.state")],
)
def test_models_name_only_light_libraries_at_their_head(module):
  """Imports at the head of a module; one inside a function is asked for by its caller."""
  roots = set()
  for node in ast.parse(_MODULES[module].read_text()).body:
    if isinstance(node, ast.Import):
      roots |= {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      roots.add(node.module.partition(".")[0])
  assert roots - _LIGHT - {"mlrec"} <= set(sys.stdlib_module_names)


_HEAVY = ("tensorflow", "tensorflow_datasets", "grain", "av", "orbax", "tensorboardX", "array_record", "tqdm", "torch")
_IMPORTED = """
import sys
import mlrec.models, mlrec.losses, mlrec.metrics, mlrec.train.state, mlrec.train.optimizer, mlrec.data
import mlrec.data.sources, mlrec.data.batches, mlrec.models.convert
from flax import nnx
before = set(sys.modules)
mlrec.models.names()
mlrec.models.create("sequential", num_items=3, dim=4, rngs=nnx.Rngs(0))
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_models_data_and_the_training_step_stay_light():
  heavy = _new_modules("import jax, flax.nnx, optax, numpy, absl.logging, ml_collections") & set(_HEAVY)
  loaded = _new_modules(_IMPORTED)
  assert "mlrec" in loaded
  # What flax itself brings is not ours to judge.
  assert loaded & set(_HEAVY) <= heavy
  assert "tfds_microlens" not in loaded


def _new_modules(code: str) -> set[str]:
  code += "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
  environment = os.environ | {"PYTHONPATH": str(_ROOT), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  return set(done.stdout.split())
