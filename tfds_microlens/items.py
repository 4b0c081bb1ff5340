"""What a release says about its items: titles, likes and views, tags, comments, how often each one is watched."""

from collections.abc import Iterator
import csv
import dataclasses
import os
import pathlib

from absl import logging
import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.interactions import iter_csv
from mlrec.data.interactions import iter_tsv

UNKNOWN = -1
Path = str | os.PathLike[str]
_HEADER = ["item", "title"]
_MAX_DIGITS = 18


@dataclasses.dataclass(frozen=True)
class Items:
  """Every item named in the titles or in the pairs, by ascending id.

  Attributes:
    ids: `[items]` int64.
    titles: a title for each, empty if there is none.
    likes, views: `[items]` int64, -1 where the release says nothing.
    counts: `[items]` int64, the interactions of each item in the pairs file.
    tags, comments: a list for each, in the order of their file; empty where it says nothing.
  """

  ids: np.ndarray
  titles: list[str]
  likes: np.ndarray
  views: np.ndarray
  counts: np.ndarray
  tags: list[list[str]]
  comments: list[list[str]]

  def first(self, count: int) -> "Items":
    """The first `count` of them."""
    return Items(**{field.name: getattr(self, field.name)[:count] for field in dataclasses.fields(self)})


def read_items(
  pairs: Path,
  titles: Path,
  likes: Path | None = None,
  tags: Path | None = None,
  comments: Path | None = None,
  *,
  quoted_titles: bool,
) -> Items:
  """Joins the files of a release; `likes`, `tags` and `comments` may be None.

  Raises:
    DataError: a file is missing, empty, or has a malformed line (its number is named).
  """
  watched, watched_counts = count_items(pairs)
  title_of = read_titles(titles, quoted=quoted_titles)
  likes_of = read_likes_and_views(likes) if likes else {}
  tags_of = read_tags(tags) if tags else {}
  comments_of = read_comments(comments) if comments else {}
  ids = np.union1d(watched, np.fromiter(title_of, np.int64, len(title_of)))
  counts = np.zeros(len(ids), np.int64)
  counts[np.searchsorted(ids, watched)] = watched_counts
  untitled = len(ids) - len(title_of)
  if untitled:
    logging.warning("%s: no title for %d of %d items.", titles, untitled, len(ids))
  named = ids.tolist()
  pairs_of_counts = [likes_of.get(item, (UNKNOWN, UNKNOWN)) for item in named]
  likes_and_views = np.array(pairs_of_counts, np.int64).reshape(-1, 2)
  likes_column, views_column = likes_and_views.T
  return Items(
    ids=ids,
    titles=[title_of.get(item, "") for item in named],
    likes=likes_column,
    views=views_column,
    counts=counts,
    tags=[tags_of.get(item, []) for item in named],
    comments=[comments_of.get(item, []) for item in named],
  )


def count_items(pairs: Path) -> tuple[np.ndarray, np.ndarray]:
  """`(ids [items], interactions of each [items])`, int64, ascending ids, over every line of a pairs file."""
  ids, counts = np.empty(0, np.int64), np.empty(0, np.int64)
  for items in _item_chunks(pairs):
    found, found_counts = np.unique(items, return_counts=True)
    merged, inverse = np.unique(np.concatenate([ids, found]), return_inverse=True)
    both = np.concatenate([counts, found_counts])
    totals = np.zeros(len(merged), np.int64)
    np.add.at(totals, inverse, both)
    ids, counts = merged, totals
  return ids, counts


def _item_chunks(pairs: Path) -> Iterator[np.ndarray]:
  if pathlib.Path(pairs).suffix == ".csv":
    yield from (items for _, items, _ in iter_csv(pairs))
  else:
    yield from (lines.values for _, lines, _ in iter_tsv(pairs))


def read_titles(path: Path, *, quoted: bool) -> dict[int, str]:
  """Reads a titles file: `item,title` a line, with or without the header `item,title`.

  Args:
    path: UTF-8 text; lines end in CRLF or LF.
    quoted: a title with a comma or a quote is quoted as CSV has it. Else each line is cut at its first comma and the
      rest is taken as it stands, unbalanced quotes and all.

  Returns:
    `{item: title}`; a title may be empty. Of an item named twice the later line counts, with a warning.

  Raises:
    DataError: the file is missing or empty, or a line is malformed (its number is named).
  """
  titles: dict[int, str] = {}
  repeats = 0
  for number, row in _quoted_rows(path, "item,title") if quoted else _plain_rows(path):
    if number == 1 and [field.strip().lower() for field in row] == _HEADER:
      continue
    if len(row) != 2:
      raise DataError(f"{path}:{number}: expected item,title; found {len(row)} fields: {_shown(','.join(row))}")
    item = _integer(row[0], path, number, least=1)
    repeats += item in titles
    titles[item] = row[1]
  if not titles:
    raise DataError(f"{path}: no titles in the file")
  if repeats:
    logging.warning("%s: %d lines name an item again; the later line of each counts.", path, repeats)
  return titles


def read_likes_and_views(path: Path) -> dict[int, tuple[int, int]]:
  """Reads a likes and views file: item, likes and views a line, separated by tabs; `{item: (likes, views)}`.

  Raises:
    DataError: the file is missing or empty, or a line is malformed (its number is named).
  """
  counts: dict[int, tuple[int, int]] = {}
  repeats = 0
  for number, line in _lines(path):
    fields = line.split("\t")
    if len(fields) != 3:
      raise DataError(f"{path}:{number}: expected an item, a tab, likes, a tab, views; found {_shown(line)}")
    item = _integer(fields[0], path, number, least=1)
    repeats += item in counts
    counts[item] = (_integer(fields[1], path, number), _integer(fields[2], path, number))
  if not counts:
    raise DataError(f"{path}: the file is empty")
  if repeats:
    logging.warning("%s: %d lines name an item again; the later line of each counts.", path, repeats)
  return counts


def read_tags(path: Path) -> dict[int, list[str]]:
  """Reads a file of tags: `item,tag` a line, quoted as CSV has it; `{item: tags}`, in the order of the file.

  An item may have several tags, on one line or on several. A first line that names no item is a header.

  Raises:
    DataError: the file is missing or empty, or a line is malformed (its number is named).
  """
  tags: dict[int, list[str]] = {}
  for number, row in _quoted_rows(path, "item,tag"):
    if number == 1 and not row[0].strip().isdigit():
      continue
    if len(row) < 2:
      raise DataError(f"{path}:{number}: expected item,tag; found {_shown(','.join(row))}")
    of_item = tags.setdefault(_integer(row[0].strip(), path, number, least=1), [])
    of_item += [tag.strip() for tag in row[1:] if tag.strip() and tag.strip() not in of_item]
  if not tags:
    raise DataError(f"{path}: no tags in the file")
  return tags


def read_comments(path: Path) -> dict[int, list[str]]:
  """Reads a file of comments: user, item and text a line, separated by tabs; `{item: texts}`, in the order of the file.

  Comments are what people typed. So bytes that are not UTF-8 are replaced, an empty text is ignored, and so is, with a
  warning, a line of another form (the rest of a text with a line break in it).

  Raises:
    DataError: the file is missing, or no line of it has this form.
  """
  comments: dict[int, list[str]] = {}
  odd: list[int] = []
  with _existing(path).open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
    for number, line in enumerate(file, 1):
      user, item, text = [*line.rstrip("\r\n").split("\t", 2), "", "", ""][:3]
      if not (_is_integer(user) and _is_integer(item) and int(item)):
        odd.append(number)
      elif text.strip():
        comments.setdefault(int(item), []).append(text.strip())
  if not comments:
    raise DataError(f"{path}: expected a user, a tab, an item, a tab and a comment a line; no line is of this form")
  if odd:
    logging.warning("%s: %d lines that hold no user and item are ignored (line %d first).", path, len(odd), odd[0])
  return comments


def _quoted_rows(path: Path, form: str) -> Iterator[tuple[int, list[str]]]:
  """`(number of the row's first line, fields)` of a CSV file with quoting."""
  reader = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
  number = 1
  try:
    for row in reader:
      yield number, row
      number = reader.line_num + 1
  except csv.Error as error:
    raise DataError(f"{path}:{number}: expected {form} with balanced quotes; {error}") from error


def _plain_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
  for number, line in _lines(path):
    yield number, line.split(",", 1)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
  """`(number, line)` without line ends; blank lines at the end of the file are ignored."""
  blank = []
  with _existing(path).open("rb") as file:
    for number, raw in enumerate(file, 1):
      try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
      except UnicodeDecodeError as error:
        raise DataError(
          f"{path}:{number}: not UTF-8 text ({error.reason} at byte {error.start} of the line)"
        ) from error
      if not line.strip():
        blank.append((number, line))
        continue
      yield from blank
      blank.clear()
      yield number, line


def _existing(path: Path) -> pathlib.Path:
  path = pathlib.Path(path)
  if not path.is_file():
    raise DataError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
  return path


def _integer(text: str, path: Path, number: int, *, least: int = 0) -> int:
  if not (_is_integer(text) and int(text) >= least):
    kind = "a positive integer" if least else "an integer, 0 or more"
    raise DataError(f"{path}:{number}: expected {kind}, found {_shown(text)}")
  return int(text)


def _is_integer(text: str) -> bool:
  return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _shown(text: str) -> str:
  return repr(text[:60] + ("…" if len(text) > 60 else ""))
