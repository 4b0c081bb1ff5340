"""The data set package stands below the recommenders: it imports little of them, and no TensorFlow."""

import ast
import pathlib

import pytest

import tfds_microlens

_MODULES = sorted(pathlib.Path(tfds_microlens.__file__).parent.glob("*.py"))
_BELOW = ("mlrec.data", "mlrec.files", "mlrec.machine", "mlrec.registry", "mlrec.terminal")


def _imports(tree: ast.AST) -> set[str]:
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_what_lies_below(path):
  named = _imports(ast.parse(path.read_text()))
  above = [
    name for name in named if name.startswith("mlrec") and not f"{name}.".startswith(tuple(f"{b}." for b in _BELOW))
  ]
  assert above == []
  at_the_head = {
    name
    for node in ast.parse(path.read_text()).body
    for name in _imports(ast.Module([node], []))
    if isinstance(node, ast.Import | ast.ImportFrom)
  }
  assert not [name for name in at_the_head if name.partition(".")[0] in ("tensorflow", "jax", "av", "PIL")]
