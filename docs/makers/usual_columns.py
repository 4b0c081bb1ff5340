"""The names of columns that `mlrec.ingest` finds without being told."""

from makers import markdown
from tfds_microlens.ingest import columns


def table() -> str:
  """A row for each role of a column, its names in the order in which they are looked for."""
  rows = [(role, ", ".join(map(markdown.code, names))) for role, names in columns.USUAL.items()]
  return markdown.table(("a column of", "is named"), rows)
