"""A page that shows what is recommended: one HTML file, with all its pictures in it."""

from collections.abc import Iterable
from collections.abc import Sequence
import html
from typing import NamedTuple

from mlrec.inference.catalogue import Catalogue
from mlrec.inference.original_ids import Id
from mlrec.inference.recommender import Recommender

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; }
@media (prefers-color-scheme: dark) { :root { --dim: #aaa; } }
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: .9rem; font-weight: 600; color: var(--dim); margin: 1rem 0 .4rem; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; }
.item { border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; font-size: .85rem; }
.item img, .item .none { width: 100%; aspect-ratio: 1; object-fit: cover; display: block; background: var(--line); }
.item .none { display: grid; place-items: center; font-size: 1.3rem; color: var(--dim); }
.item p { margin: .4rem .5rem; overflow-wrap: anywhere; } .dim { color: var(--dim); }
"""


class Shown(NamedTuple):
  """A user's part of a page.

  Attributes:
    name: of the user.
    history: original ids, oldest first.
    items: `(original id, score)`, best first.
    why: for each of `items`, `(original id, nearness)` of items of the history.
  """

  name: str
  history: Sequence[Id]
  items: Sequence[tuple[Id, float]]
  why: Sequence[Sequence[tuple[Id, float]]]


def near(recommender: Recommender, history: Sequence[Id], items: Sequence[Id]) -> list[list[tuple[Id, float]]]:
  """For each of `items` those of the history that are nearest to it, of these the ones that are near: maybe none."""
  why = recommender.why(history, items)
  return [[(other, nearness) for other, nearness in row if recommender.is_near(nearness)] for row in why]


def render(recommender: Recommender, catalogue: Catalogue, parts: Iterable[Shown]) -> str:
  """The page of some users."""
  title = f"Recommendations of {recommender.loaded.workdir.path.resolve().name}"
  body = [f"<h1>{html.escape(title)}</h1>"]
  for part in parts:
    body.append(f"<h2>{html.escape(part.name)}</h2>")
    body.append(f"<h3>The last {len(part.history)} items of the history, newest first</h3>")
    body.append(_row(_card(recommender, catalogue, item, "") for item in reversed(part.history)))
    body.append("<h3>Recommended</h3>")
    reasons = [" · ".join(f"{other} ({nearness:.2f})" for other, nearness in why) for why in part.why] or [""] * len(
      part.items
    )
    lines = [
      f"{place}. score {score:.3f}" + (f"; near {reason}" if reason else "")
      for place, ((_, score), reason) in enumerate(zip(part.items, reasons), start=1)
    ]
    body.append(
      _row(_card(recommender, catalogue, item, line) for (item, _), line in zip(part.items, lines))
    )  # fmt: skip
  return (
    f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
  )


def _row(cards: Iterable[str]) -> str:
  return f'<div class="row">{"".join(cards)}</div>'


def _card(recommender: Recommender, catalogue: Catalogue, item: Id, line: str) -> str:
  (dense,) = recommender.items.dense([item])
  key = int(recommender.items.values[dense])
  url, name, title = catalogue.picture_url(key), html.escape(str(item)), html.escape(catalogue.title(key))
  picture = f'<img alt="{title or name}" src="{url}">' if url else f'<div class="none">{name}</div>'
  text = f"<p><b>{name}</b>{f' {title}' if title else ''}</p>" + (
    f'<p class="dim">{html.escape(line)}</p>' if line else ""
  )
  return f'<div class="item">{picture}{text}</div>'
