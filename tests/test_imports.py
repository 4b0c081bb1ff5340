import ast
from collections.abc import Iterable
import functools
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGES = ("mlrec", "tfds_microlens")
_MODULES = {
  ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__"): path
  for package in _PACKAGES
  for path in sorted((_ROOT / package).rglob("*.py"))
}

_BASE = {"mlrec.registry", "mlrec.terminal", "mlrec.files", "mlrec.mapped", "mlrec.machine"}
_MODELS_BASE = _BASE | {"mlrec.config", "mlrec.data", "mlrec.content", "mlrec.models.layers", "mlrec.models.registry"}
# Layers, lowest first: a module imports from its own layer and from those named here, with what is below their names.
# What is in none of them is a command.
_MAY_IMPORT: dict[str, set[str]] = {
  "mlrec.registry": set(),
  "mlrec.terminal": set(),
  "mlrec.files": set(),
  "mlrec.mapped": {"mlrec.files"},
  "mlrec.machine": set(),
  "mlrec.compiled": {"mlrec.files", "mlrec.machine"},
  "mlrec.sharding_rules": _BASE,
  "mlrec.data": _BASE,
  "mlrec.config": _BASE | {"mlrec.data", "mlrec.sharding_rules"},
  "mlrec.cluster": _BASE | {"mlrec.data", "mlrec.config"},
  "mlrec.search_space": _BASE | {"mlrec.config"},
  "mlrec.losses": set(),
  "mlrec.rows_in_lines": set(),
  "mlrec.metrics": {"mlrec.rows_in_lines"},
  "mlrec.click_metrics": set(),
  "mlrec.metrics_on_host": {"mlrec.metrics"},
  "mlrec.metrics_by_user": {"mlrec.metrics"},
  "tfds_microlens": _BASE | {"mlrec.data"},
  "mlrec.content": _BASE | {"mlrec.config", "mlrec.data", "tfds_microlens"},
  "mlrec.sources": _BASE | {"mlrec.data", "tfds_microlens"},
  "mlrec.models.layers": _BASE,
  "mlrec.models.convert": _BASE,
  "mlrec.models.registry": _BASE,
  "mlrec.models.quantizers": _BASE | {"mlrec.models.layers", "mlrec.models.registry"},
  "mlrec.models.users": _BASE | {"mlrec.models.layers", "mlrec.models.registry"},
  "mlrec.models.items": _MODELS_BASE | {"mlrec.models.convert"},
  "mlrec.models.recommenders": _MODELS_BASE
  | {"mlrec.losses", "mlrec.models.items", "mlrec.models.users", "mlrec.rows_in_lines"},
  "mlrec.models": {"mlrec.models.registry"},
  "mlrec.train": _BASE
  | {"mlrec.config", "mlrec.losses", "mlrec.metrics", "mlrec.data", "mlrec.content", "mlrec.models"}
  | {"mlrec.click_metrics", "mlrec.compiled", "mlrec.metrics_by_user", "mlrec.sharding_rules"}
  | {"mlrec.rows_in_lines"},
  "mlrec.planning": _BASE
  | {"mlrec.config", "mlrec.metrics", "mlrec.data", "mlrec.sources", "mlrec.models", "mlrec.train"},
  "mlrec.runs": _BASE
  | {"mlrec.config", "mlrec.search_space", "mlrec.metrics", "mlrec.data", "mlrec.content", "mlrec.sources"}
  | {"mlrec.cluster", "mlrec.metrics_by_user", "mlrec.metrics_on_host", "mlrec.models", "mlrec.train"},
  "mlrec.inference": _BASE
  | {"mlrec.config", "mlrec.metrics", "mlrec.data", "mlrec.content", "mlrec.sources", "mlrec.models", "mlrec.train"}
  | {"mlrec.metrics_on_host", "mlrec.runs", "tfds_microlens"},
  "mlrec.serving": _BASE
  | {"mlrec.config", "mlrec.metrics", "mlrec.data", "mlrec.content", "mlrec.inference", "tfds_microlens"},
}
# SciPy comes with JAX.
_LIGHT = {"jax", "flax", "optax", "einops", "numpy", "scipy", "absl", "ml_collections"}


def _inside(module: str, layers: Iterable[str]) -> list[str]:
  return [layer for layer in layers if module == layer or module.startswith(layer + ".")]


def _layer(module: str) -> str | None:
  return max(_inside(module, _MAY_IMPORT), key=len, default=None)


def _named(node: ast.AST, module: str) -> set[str]:
  """What an import names, `from a import b` as `a.b` where that is a module."""
  if isinstance(node, ast.Import):
    return {alias.name for alias in node.names}
  if not isinstance(node, ast.ImportFrom):
    return set()
  assert node.level == 0, f"{module}: imports are absolute"
  whole = {f"{node.module}.{alias.name}" for alias in node.names}
  return {name if name in _MODULES else node.module for name in whole}


@functools.cache
def _imports(module: str) -> set[str]:
  """Modules that a file names in an import anywhere in it."""
  return {name for node in ast.walk(ast.parse(_MODULES[module].read_text())) for name in _named(node, module)}


@functools.cache
def _imports_at_head(module: str) -> set[str]:
  """Modules that are imported with the file; one inside a function is asked for by its caller."""
  return {name for node in ast.parse(_MODULES[module].read_text()).body for name in _named(node, module)}


def _allowed(importer: str, imported: str) -> bool:
  if imported.partition(".")[0] not in _PACKAGES:
    return True
  layer = _layer(importer)
  if layer is None or layer == _layer(imported):  # main and other commands stand above all layers
    return True
  # The package itself, which imports nothing until it is asked, is in no layer.
  return bool(_inside(imported, _MAY_IMPORT[layer])) or imported == "mlrec"


def test_every_module_has_its_place():
  above = {module for module in _MODULES if _layer(module) is None}
  commands = (
    "__main__",
    "codes",
    "command_line",
    "convert",
    "export",
    "features",
    "ingest",
    "listing",
    "main",
    "plan",
    "pretrain",
    "recommend",
    "report",
    "rerank",
    "run_flags",
    "serve",
    "startup",
    "study",
    "sweep",
  )
  assert above == {"mlrec"} | {f"mlrec.{command}" for command in commands}
  # Modules above the layers are commands: nothing below imports one.
  for module in _MODULES.keys() - above:
    assert not _imports(module) & (above - {"mlrec"}), module


def test_layers_that_are_named_exist_and_stand_in_their_order():
  order = list(_MAY_IMPORT)
  for place, (layer, below) in enumerate(_MAY_IMPORT.items()):
    assert _inside(layer, _MODULES) or any(module.startswith(f"{layer}.") for module in _MODULES), layer
    assert below <= set(order[:place]), layer


@pytest.mark.parametrize("module", _MODULES)
def test_imports_point_one_way(module):
  wrong = [name for name in _imports(module) if not _allowed(module, name)]
  assert wrong == []


def test_the_rule_refuses_what_points_the_other_way():
  for importer, imported in (
    ("mlrec.registry", "mlrec.config"),
    ("mlrec.files", "mlrec.machine"),
    ("mlrec.losses", "mlrec.models"),
    ("mlrec.metrics", "mlrec.data.batches"),
    ("mlrec.data.batches", "mlrec.models.layers.dropout"),
    ("mlrec.data.splits", "mlrec.config"),
    ("mlrec.data.interactions", "tfds_microlens.reading"),
    ("tfds_microlens.reading", "mlrec.content.base"),
    ("tfds_microlens.demo", "mlrec.config"),
    ("mlrec.content.vectors", "mlrec.models.registry"),
    ("mlrec.content.base", "mlrec.sources"),
    ("mlrec.models.layers.dropout", "mlrec.models.users.sasrec"),
    ("mlrec.models.layers.dropout", "mlrec.models.registry"),
    ("mlrec.models.items.id", "tfds_microlens"),
    ("mlrec.models.users.sasrec", "mlrec.models.items.id"),
    ("mlrec.models.users.sasrec", "mlrec.models.recommenders.sequential"),
    ("mlrec.models.recommenders.sequential", "mlrec.train.state"),
    ("mlrec.train.loop", "mlrec.runs.workdir"),
    ("mlrec.train.loop", "mlrec.sources"),
    ("mlrec.train.loop", "mlrec.main"),
    ("mlrec.runs.experiment", "mlrec.command_line"),
    ("mlrec.train.loop", "mlrec.planning.program"),
    ("mlrec.planning.program", "mlrec.runs.experiment"),
    ("mlrec.planning.estimate", "mlrec.plan"),
  ):
    assert not _allowed(importer, imported), (importer, imported)


@pytest.mark.parametrize("module", _MODULES)
def test_only_the_data_sets_package_knows_tfds(module):
  roots = {name.partition(".")[0] for name in _imports(module)}
  if _layer(module) != "tfds_microlens":
    assert "tensorflow_datasets" not in roots
    # It brings TFDS in with it.
    assert "tfds_microlens" not in {name.partition(".")[0] for name in _imports_at_head(module)}


def _brought_in(modules: Iterable[str]) -> set[str]:
  """Modules that are imported with these, themselves and the packages that they lie in included."""
  found: set[str] = set()
  waiting = list(modules)
  while waiting:
    module = waiting.pop()
    if module in _MODULES and module not in found:
      found.add(module)
      waiting += [*_imports_at_head(module), *([module.rpartition(".")[0]] if "." in module else [])]
  return found


_NEED_LITTLE = [m for m in _MODULES if m.startswith("mlrec.models")] + [
  "mlrec.losses", "mlrec.metrics", "mlrec.train.state", "mlrec.train.optimizer",
]  # fmt: skip


@pytest.mark.parametrize("module", sorted(_brought_in(_NEED_LITTLE)))
def test_models_and_what_they_import_name_only_light_libraries_at_their_head(module):
  roots = {name.partition(".")[0] for name in _imports_at_head(module)}
  assert roots - _LIGHT - {"mlrec"} <= set(sys.stdlib_module_names)


_HEAVY = (
  "tensorflow", "tensorflow_datasets", "grain", "av", "PIL", "orbax", "tensorboardX", "array_record", "tqdm", "torch",
  "safetensors", "tokenizers", "optuna", "matplotlib", "fastapi", "uvicorn",
)  # fmt: skip
_IMPORTED = """
import mlrec.models, mlrec.losses, mlrec.metrics, mlrec.train.state, mlrec.train.optimizer, mlrec.data
import mlrec.sources, mlrec.content, mlrec.data.batches, mlrec.data.pipeline, mlrec.models.convert
from flax import nnx
mlrec.models.names()
mlrec.content.modalities.names()
mlrec.sources.sources.names()
mlrec.models.create("sequential", num_items=3, dim=4, rngs=nnx.Rngs(0))
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
