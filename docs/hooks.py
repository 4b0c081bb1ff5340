"""What MkDocs runs while it builds the site: pages, and parts of pages, made of the source, not copied from it.

A line `<!-- make: NAME ARGUMENT … -->` of a page becomes what the maker of that name returns. Pages that are files of
the repository as they are have the names that `nav` of mkdocs.yml gives them.
"""

import re
import shlex

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from makers import commands
from makers import config_keys
from makers import models
from makers import parts
from makers import usual_columns

_LINE = re.compile(r"^<!-- make: (.*?) -->$", re.MULTILINE)
_MAKERS = {
  "config": config_keys.page,
  "commands": commands.page,
  "models": models.page,
  "model-classes": models.classes,
  "part": parts.part,
  "table": parts.table,
  "drawing": parts.drawing,
  "usual-columns": usual_columns.table,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds pages that are files of the repository."""
  for uri, content in parts.pages().items():
    files.append(File.generated(config, uri, content=content))
  return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Puts what is made in the place of each line that asks for it."""

  def made(match: re.Match[str]) -> str:
    name, *arguments = shlex.split(match[1])
    if name not in _MAKERS:
      raise PluginError(f"{page.file.src_uri}: {match[0]}: there is no such maker among {', '.join(_MAKERS)}")
    try:
      return _MAKERS[name](*arguments)
    except ValueError as error:
      raise PluginError(f"{page.file.src_uri}: {match[0]}: {error}") from error

  return _LINE.sub(made, markdown)
