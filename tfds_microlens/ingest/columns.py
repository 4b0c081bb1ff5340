"""Which column of a table is what: as it is said, or by the names that are usual."""

from collections.abc import Sequence
import re

from tfds_microlens.errors import PrepareError
from tfds_microlens.ingest.settings import NONE
from tfds_microlens.ingest.tables import Table

USER, ITEM, TIME, RATING = "user", "item", "time", "rating"
# Compared without case and without what is neither a letter nor a digit; those before come first.
_USUAL = {
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
  "title": ("title", "name", "titles", "itemtitle", "videotitle", "movietitle", "caption"),
}  # fmt: skip
# Of a log without a header, by its number of columns.
_BY_PLACE = {2: (USER, ITEM), 3: (USER, ITEM, TIME), 4: (USER, ITEM, RATING, TIME)}


def usual(table: Table, role: str, others: Sequence[str] = ()) -> str:
  """The column of a usual name for a role, not among `others`; empty if there is none."""
  plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(table.columns) if name not in others}
  return next((plain[name] for name in _USUAL[role] if name in plain), "")


def of_log(table: Table, named: dict[str, str], *, by_place: bool) -> dict[str, str]:
  """The columns of a log by role.

  Args:
    table: the log.
    named: what was said of `user`, `item`, `time` and `rating`; empty for what is usual, "none" for no time.
    by_place: whether the table has no header, so that places say what is not said.

  Raises:
    PrepareError: there is no column for users or for items.
    DataError: one is named that is not there.
  """
  said = {role: column for role, column in named.items() if column}
  if said.get(TIME) == NONE and NONE not in table.columns:
    said[TIME] = ""
  for role, column in said.items():
    if column:
      table.check(column, role)
  found = dict(said)
  for role in (USER, ITEM, TIME, RATING):
    if role not in found and not by_place:
      found[role] = usual(table, role, list(found.values()))
  if by_place and not said.get(USER) and not said.get(ITEM):
    for role, column in zip(_BY_PLACE.get(len(table.columns), ()), table.columns):
      found.setdefault(role, column)
  for role in (USER, ITEM):
    if not found.get(role):
      raise PrepareError(
        f"{table.path}: which column is the {role}? None is named as usual; expected --{role}=COLUMN, one of "
        f"{', '.join(map(repr, table.columns))}"
        + ("; or --no_header, if these are data" if table.form.startswith("text") and not by_place else "")
      )
  if found[USER] == found[ITEM]:
    raise PrepareError(f"--user={found[USER]} --item={found[ITEM]}: expected two columns")
  return {role: found.get(role, "") for role in (USER, ITEM, TIME, RATING)}
