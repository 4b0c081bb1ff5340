"""What there is to choose from, for `python -m mlrec.main --list`.

To know the models is to import them, and JAX with them, which takes ten times as long as all else. So the text is kept
in the user's cache folder for as long as the files of the package are what they were.
"""

import contextlib
import hashlib
import pathlib

from mlrec import config as config_lib
from mlrec import files
from mlrec import machine

_PACKAGE = pathlib.Path(__file__).parent
# Of the file that is kept: what the text is of, the text, and a digest of both.
_OF, _TEXT, _DIGEST = "of", "text", "digest"


def listing() -> str:
  """Models by kind, data sources, splits, shipped configs: a line for each."""
  of = _files()
  # It may be that there is no home, nothing in it, or something else.
  with contextlib.suppress(OSError, ValueError, RuntimeError, KeyError, TypeError):
    kept = files.read_json(_path())
    if kept[_OF] == of and kept[_DIGEST] == _digest(of, kept[_TEXT]):
      return kept[_TEXT]
  text = _text()
  with contextlib.suppress(OSError, RuntimeError):
    _path().parent.mkdir(parents=True, exist_ok=True)
    files.write_json(_path(), {_OF: of, _TEXT: text, _DIGEST: _digest(of, text)})
  return text


def _text() -> str:
  from mlrec.data.protocols import protocols
  from mlrec.models.registry import models
  from mlrec.sources import sources

  lines = [f"{kind}s: {', '.join(models.names(kind))}" for kind in models.kinds()]
  prepared = ", ".join(f"{name}/…" for name in sources.names())
  files = "*_pairs.tsv, *_pairs.csv, *.inter"
  lines.append(f"data sources: {files}, folders of mlrec.ingest or of impressions, {prepared}")
  lines.append(f"splits: {', '.join(protocols.names())}")
  folder = config_lib.shipped()
  configs = sorted(str(path.relative_to(folder.parent)) for path in folder.rglob("*.py"))
  lines.append(f"configs: {', '.join(configs)}")
  return "\n".join(lines)


def _files() -> str:
  """What tells the files of the package from others: names, sizes and when they were changed."""
  digest = hashlib.sha256()
  for folder in (_PACKAGE, config_lib.shipped()):
    for path in sorted(folder.rglob("*.py")):
      said = path.stat()
      digest.update(f"{path}\0{said.st_size}\0{said.st_mtime_ns}\n".encode())
  return digest.hexdigest()


def _path() -> pathlib.Path:
  return machine.cache_folder("listing") / "list.json"


def _digest(of: str, text: str) -> str:
  return hashlib.sha256(f"{of}\n{text}".encode()).hexdigest()
