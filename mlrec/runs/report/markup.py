"""HTML and SVG put together from elements: what is not made here is text, and is escaped."""

import html
from typing import Self

from mlrec.terminal import one_line

# Elements of HTML that have no end.
_VOID = ("meta", "wbr")


class Markup(str):
  """Text that is HTML already, made by `element` and `joined` alone."""

  __slots__ = ()

  def __new__(cls, text: str = "") -> Self:
    return super().__new__(cls, text)


def escaped(text: object) -> Markup:
  """Plain text, on one line: none of it is markup, and control characters are written out. Markup stays what it is."""
  return text if isinstance(text, Markup) else Markup(html.escape(one_line(str(text)), quote=True))


def joined(*parts: object, between: object = "") -> Markup:
  """Parts one after another, with `between` each two, text escaped."""
  return Markup(escaped(between).join(map(escaped, parts)))


def element(tag: str, *children: object, **attributes: object) -> Markup:
  """An element with its attributes; None leaves one out.

  Args:
    tag: its name.
    *children: text, which is escaped, or markup.
    **attributes: `class_` is `class`, and other underscores are hyphens.
  """
  named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
  opened = "".join(f' {name}="{escaped(value)}"' for name, value in named)
  if tag in _VOID:
    return Markup(f"<{tag}{opened}>")
  return Markup(f"<{tag}{opened}>{joined(*children)}</{tag}>")
