"""Which column of a table is what: as it is said, or by the names that are usual."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import re

from mlrec.registry import near
from tfds_microlens.errors import PrepareError
from tfds_microlens.ingest.settings import NONE
from tfds_microlens.ingest.tables import Table
from tfds_microlens.ingest.wording import NEUTRAL
from tfds_microlens.ingest.wording import Wording

USER, ITEM, TIME, RATING, TITLE = "user", "item", "time", "rating", "title"
# Compared without case and without what is neither a letter nor a digit; those before come first.
USUAL = {
  USER: ("user", "userid", "uid", "useridx", "username", "customerid", "visitorid", "reviewerid", "memberid", "u"),
  ITEM: (
    "item", "itemid", "iid", "itemidx", "videoid", "video", "movieid", "movie", "productid", "asin", "sku", "photoid",
    "articleid", "newsid", "trackid", "songid", "bookid", "contentid", "i",
  ),
  TIME: (
    "timestamp", "time", "ts", "datetime", "date", "unixtime", "eventtime", "createdat", "created", "timems",
    "unixreviewtime", "t",
  ),
  RATING: ("rating", "score", "stars", "overall"),
  TITLE: ("title", "name", "titles", "itemtitle", "videotitle", "movietitle", "caption"),
}  # fmt: skip
# What RecBole's atomic files say of a column's type, after its name.
_TYPE = re.compile(r":(token|float)(_seq)?$")
# Of a log without a header, by its number of columns.
BY_PLACE = {2: (USER, ITEM), 3: (USER, ITEM, TIME), 4: (USER, ITEM, RATING, TIME)}
# Columns and usual names that a message shows.
_SHOWN, _SHOWN_USUAL = 30, 4


def usual(table: Table, role: str, others: Sequence[str] = ()) -> str:
  """The column of a usual name for a role, not among `others`; empty if there is none."""
  plain = {_plain(name): name for name in reversed(table.columns) if name not in others}
  return next((plain[name] for name in USUAL[role] if name in plain), "")


def _plain(name: str) -> str:
  return re.sub(r"[^a-z0-9]", "", _TYPE.sub("", name.lower()))


def of_log(table: Table, named: dict[str, str], *, by_place: bool, words: Wording = NEUTRAL) -> dict[str, str]:
  """The columns of a log by role.

  Args:
    table: the log.
    named: what was said of `user`, `item`, `time` and `rating`; empty for what is usual, "none" for no time.
    by_place: whether the table has no header, so that places say what is not said.
    words: of whoever said it.

  Raises:
    PrepareError: there is no column for users or for items, or one is named that is not there; all such are told.
  """
  said = {role: column for role, column in named.items() if column}
  if said.get(TIME) == NONE and NONE not in table.columns:
    said[TIME] = ""
  found = dict(said)
  for role in (USER, ITEM, TIME, RATING):
    if role not in found and not by_place:
      found[role] = usual(table, role, list(found.values()))
  if by_place and not said.get(USER) and not said.get(ITEM):
    for role, column in zip(BY_PLACE.get(len(table.columns), ()), table.columns):
      found.setdefault(role, column)
  unfound = {role: role for role in (USER, ITEM) if not found.get(role)}
  check(table, {role: column for role, column in found.items() if column}, unfound, words=words)
  if found[USER] == found[ITEM]:
    raise PrepareError(f"{words.given(USER, found[USER])} {words.given(ITEM, found[ITEM])}: expected two columns")
  return {role: found.get(role, "") for role in (USER, ITEM, TIME, RATING)}


def check(table: Table, named: Mapping[str, str], unfound: Mapping[str, str] = {}, *, words: Wording) -> None:
  """Compares what is said of a table with its columns.

  Args:
    table: of any sort.
    named: columns by the setting that names each, or that would.
    unfound: roles that no column has, by the setting that would name it.
    words: of whoever said it.

  Raises:
    PrepareError: there is no such column, or there are several, or there are `unfound` roles. All of them are told,
      with what may be meant, and the columns that there are.
  """
  problems = []
  for option, column in named.items():
    count = table.columns.count(column)
    if not count:
      meant = " or ".join(map(repr, near(column, set(table.columns))))
      problems.append(
        f"{words.given(option, column)} is none of its columns{f', did you mean {meant}?' if meant else ''}"
      )
    elif count > 1:
      problems.append(f"{words.given(option, column)}: {count} columns have that name, name each in its own way")
  for option, role in unfound.items():
    expected = f", expected {words.name(option)}COLUMN" if option in words.options else ""
    likely = ", ".join(map(repr, USUAL[role][:_SHOWN_USUAL]))
    problems.append(f"which column is the {role}? None has a usual name, such as {likely}{expected}")
  if not problems:
    return
  data = f"; or {table.without_header}, if these are data" if unfound and table.without_header else ""
  raise PrepareError(f"{table.name}: {'; '.join(problems)}; its columns are {listed(table.columns)}{data}")


def listed(names: Iterable[str]) -> str:
  """Names as a message shows them: the first ones, where there are many."""
  shown = list(map(repr, names))
  more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
  return ", ".join(shown[:_SHOWN]) + more


def described() -> dict[str, str]:
  """The usual names of each role, in the order in which they are looked for, in words."""
  return {role: ", ".join(names) for role, names in USUAL.items()}
