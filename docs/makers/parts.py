"""Pages and parts of pages that are files of the repository, or parts of them."""

import pathlib
import re

_ROOT = pathlib.Path(__file__).parents[2]
_DRAWINGS = _ROOT / "docs" / "images"
_STUDIES = _ROOT / "benchmarks" / "results" / "studies"


def pages() -> dict[str, str | bytes]:
  """What is added to the site under which name."""
  benchmarks = _read("benchmarks/README.md").replace("(results/studies/", "(studies/")
  found: dict[str, str | bytes] = {
    "results/benchmarks.md": benchmarks,
    "reference/data-sets.md": "# Data sets\n\n" + _raised(_read("tfds_microlens/README.md")),
    "changelog.md": _read("CHANGELOG.md"),
  }
  for path in sorted(_STUDIES.glob("*.md")):
    found[f"results/studies/{path.name}"] = path.read_text(encoding="utf-8") + f"\n![The plot]({path.stem}.svg)\n"
    found[f"results/studies/{path.stem}.svg"] = path.with_suffix(".svg").read_bytes()
  return found


def part(path: str, heading: str) -> str:
  """What is below a heading of a Markdown file, the heading itself left out.

  Raises:
    ValueError: the file has no such heading.
  """
  match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", _read(path), re.MULTILINE | re.DOTALL)
  if match is None:
    raise ValueError(f"{path} has no heading {heading!r}")
  return match[2].strip()


def table(path: str, name: str) -> str:
  """The table between the marks of that name.

  Raises:
    ValueError: the file has no such marks.
  """
  match = re.search(rf"<!-- {re.escape(name)} -->\n(.*?)<!-- /{re.escape(name)} -->", _read(path), re.DOTALL)
  if match is None:
    raise ValueError(f"{path} has no marks <!-- {name} --> and <!-- /{name} -->")
  # A figure and its spread stay in one line.
  return match[1].strip().replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def drawing(name: str) -> str:
  """A drawing that takes the colours of the page, which one in a file of its own cannot."""
  svg = (_DRAWINGS / name).read_text(encoding="utf-8")
  return f"<figure>\n{svg.strip()}\n</figure>"


def _read(path: str) -> str:
  return (_ROOT / path).read_text(encoding="utf-8")


def _raised(text: str) -> str:
  """Headings one level higher, which in a part of a larger page are a level too low."""
  return re.sub(r"^##(#+ )", r"#\1", text, flags=re.MULTILINE)
