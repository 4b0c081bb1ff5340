"""Item vectors for TensorBoard's projector: points with ids and titles, in which what is alike lies together."""

import pathlib

import numpy as np

from mlrec.inference.catalogue import Catalogue
from mlrec.inference.recommender import Recommender

# The projector works in a browser: with more points it hardly moves.
MOST = 10_000
_SHOWN = 80


def write(recommender: Recommender, folder: pathlib.Path, *, catalogue: Catalogue, most: int = MOST) -> int:
  """Writes the vectors of the items that training watched most often; `tensorboard --logdir=folder` shows them.

  Args:
    recommender: of a model with item vectors.
    folder: to be written; made where it is missing.
    catalogue: titles.
    most: how many items at most.

  Returns:
    The number of items.

  Raises:
    ConfigError: the model has no item vectors.
  """
  import tensorboardX  # imports protobuf: only who wants it pays for it

  vectors = recommender.item_vectors
  counts = recommender.loaded.split.train_counts[1:]
  # New items have no count.
  counts = np.pad(counts, (0, len(vectors) - len(counts)))
  chosen = np.sort(np.argsort(-counts, kind="stable")[:most])
  rows = [
    [_cell(str(item)), _cell(catalogue.title(int(key))), int(count)]
    for item, key, count in zip(
      recommender.items.original(chosen + 1), recommender.items.values[chosen + 1], counts[chosen]
    )
  ]
  with tensorboardX.SummaryWriter(str(folder)) as writer:
    writer.add_embedding(
      vectors[chosen], metadata=rows, metadata_header=["item", "title", "watched in training"], tag="items"
    )
  return len(chosen)


def _cell(text: str) -> str:
  """An id or a title in a cell of a table that is separated by tabs."""
  return " ".join("".join(character if character.isprintable() else " " for character in text).split())[:_SHOWN]
