"""The card of an exported model: what it is, what it was measured on, how it is used, and what it is not."""

from collections.abc import Mapping
import json
from typing import Any

from mlrec import config as config_lib
from mlrec.inference.recommender import Recommender
from mlrec.models.registry import models

_USE = '''
import json

import jax
import numpy as np


def read(path):
  """The arrays of a safetensors file."""
  raw = open(path, "rb").read()
  end = 8 + int.from_bytes(raw[:8], "little")
  kinds = {"F32": np.float32, "I64": np.int64, "U8": np.uint8}
  arrays = {}
  for name, at in json.loads(raw[8:end]).items():
    if name != "__metadata__":
      first, last = (end + offset for offset in at["data_offsets"])
      arrays[name] = np.frombuffer(raw[first:last], kinds[at["dtype"]]).reshape(at["shape"])
  return arrays


items = read("item_vectors.safetensors")  # row 0 of `vectors` and `ids` is padding
ids = items["ids"].tolist()
if "names/ids" in items:  # ids that are texts: integers stand for them
  ends = items["names/ends"].tolist()
  texts = items["names/text"].tobytes()
  names = {
    key: texts[start:end].decode(errors="surrogatepass")
    for key, start, end in zip(items["names/ids"].tolist(), [0, *ends], ends)
  }
  ids = [names.get(key, key) for key in ids]
places = {item: place for place, item in enumerate(ids) if place}
encode = jax.export.deserialize(bytearray(open("user_encoder.jax", "rb").read())).call


def recommend(history, k=10):
  """Original ids of the best items after a history, oldest first."""
  watched = [places[item] for item in history if item in places]
  newest = watched[-{max_length}:]
  rows = np.array([[0] * ({max_length} - len(newest)) + newest], np.int32)
  scores = items["vectors"] @ np.asarray(encode(items["vectors"], rows))[0]
  scores[[0, *watched]] = -np.inf
  return [ids[place] for place in np.argsort(-scores, kind="stable")[:k]]
'''


def render(recommender: Recommender, said: Mapping[str, Any]) -> str:
  """The card, Markdown, of what an export's manifest says."""
  loaded = recommender.loaded
  model = loaded.config.model
  lines = [
    f"# {model.name} on {_plain(loaded.config.data.source)}",
    "",
    f"Exported by mlrec. Config `{said['config_hash'] or 'of an unfinished run'}`, data `{said['data']}`.",
    "",
    "| | |",
    "|---|---|",
    f"| items | {said['items']:,}, of which {said['new_items']:,} by content alone |",
    f"| users it was trained on | {loaded.split.num_users:,} |",
    f"| a vector | {said['width']} float32 |",
    f"| a history | the newest {said['max_length']} items |",
    f"| ids | {said['ids']} |",
    f"| the user encoder runs on | {', '.join(said['platforms'])} |",
  ]
  if said["index"]:
    index = said["index"]
    lines.append(
      f"| the index | recall@10 {index['recall']:.4f} of {index['queries']:,} users' states; "
      f"{index['milliseconds']:.3f} ms a query, {index['exact_milliseconds']:.3f} ms exact |"
    )
  lines += ["", "## Metrics", "", *_metrics(said["metrics"])]
  lines += ["", "## Use", "", "With JAX, NumPy and flatbuffers alone, in this folder:", "", "```python"]
  lines += [_USE.replace("{max_length}", str(said["max_length"])).strip(), "```"]
  if said["ids"] == "texts":
    lines += ["", "`ids` are integers that stand for texts; row n of `item_vectors.parquet` is row n + 1 of `vectors`."]
  lines += [
    "",
    "`items.usearch` (`usearch.index.Index.restore`) has the same vectors by inner product; its keys are rows of "
    "`vectors`.",
    "",
    "## Limits",
    "",
    *[f"- {limit}" for limit in _limits(recommender)],
    "",
    "## Config",
    "",
    "```json",
    json.dumps(config_lib.to_json(loaded.config), indent=1, ensure_ascii=True),
    "```",
    "",
  ]
  return "\n".join(lines)


def _metrics(metrics: Mapping[str, Mapping[str, float | None]]) -> list[str]:
  if not metrics:
    return ["The run was not evaluated."]
  names = [name for name in next(iter(metrics.values())) if "/" not in name or name == "cold/hr@10"]
  lines = [f"| split | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
  for split, found in metrics.items():
    cells = ("" if found.get(name) is None else f"{found[name]:.4f}" for name in names)
    lines.append(f"| {split} | {' | '.join(cells)} |")
  return lines


def _limits(recommender: Recommender) -> list[str]:
  loaded = recommender.loaded
  limits = ["It recommends what users of its log would have watched next; it knows nothing of quality, safety or law."]
  if models.get(loaded.config.model.name).by_user:
    limits.append("The model has a row a user; the exported encoder takes the mean of the history's items instead.")
  counts = loaded.split.train_counts
  cold = int((counts[1:] == 0).sum())
  if cold:
    limits.append(
      f"{cold:,} of its items were never watched in training: to a model of IDs alone they are their random start."
    )
  limits.append("Metrics are of the log's own users, who were shown what an earlier recommender chose.")
  return limits


def _plain(text: str) -> str:
  return "".join(character if character.isprintable() else "?" for character in text).replace("`", "'")
