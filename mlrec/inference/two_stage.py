"""Retrieval, then ranking: a recommender's best items for a user, put in order by a ranker."""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlrec import metrics
from mlrec.config import ConfigError
from mlrec.data.impression_batches import IMPRESSIONS
from mlrec.data.interactions import Rows
from mlrec.data.splits import VALID
from mlrec.inference.loading import Loaded
from mlrec.inference.original_ids import Id
from mlrec.inference.recommender import Recommendations
from mlrec.inference.recommender import Recommender
from mlrec.inference.scorers import TrainedScorer
from mlrec.inference.scorers import UNKNOWN
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER

# Users whose candidates exist at once where there are many.
_AT_ONCE = 1 << 14
# Of the ranker, among which validation chooses.
WEIGHTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


class Evaluation(NamedTuple):
  """What ranking made of retrieval.

  Attributes:
    users: how many were evaluated.
    among: the share of them whose target is among the candidates: no order of those finds more.
    before: metrics of retrieval alone, as of `metrics.ranking_metrics`.
    after: of both stages.
  """

  users: int
  among: float
  before: dict[str, float]
  after: dict[str, float]


class TwoStage:
  """A retriever, and a ranker of what it finds.

  Attributes:
    retriever: any recommender.
    ranker: one that predicts clicks.
    candidates: items of the retriever that are ranked, at most.
    weight: of the ranker in the order of candidates: 1 for its logits alone; below that they are mixed with the scores
      of the retriever, each of mean 0 and variance 1 over the candidates of a user, weighted by `weight` and the rest.
  """

  def __init__(self, retriever: Recommender, ranker: Recommender, candidates: int):
    """Looks whether the two fit.

    Raises:
      ConfigError: the ranker predicts no clicks, or they are of different users or items.
    """
    name = ranker.loaded.config.model.name
    rankers = [one for one in models.names(RECOMMENDER) if getattr(models.get(one), "batches_of", "") == IMPRESSIONS]
    if name not in rankers:
      raise ConfigError(
        f"{ranker.loaded.workdir}: config.model.name = {name!r} predicts no clicks; name a run of "
        f"{', '.join(map(repr, rankers[:-1]))} or {rankers[-1]!r}"
      )
    ours, theirs = retriever.loaded.split, ranker.loaded.split
    for what, one, other in (("users", ours.users, theirs.users), ("items", ours.item_ids, theirs.item_ids)):
      if not np.array_equal(one, other):
        raise ConfigError(
          f"{retriever.loaded.workdir} and {ranker.loaded.workdir} are of different {what}: train both on one "
          "config.data.source, with one config.data.split"
        )
    self.retriever, self.ranker, self.candidates = retriever, ranker, min(candidates, retriever.num_items)
    self.weight = 1.0

  def choose_weight(self) -> None:
    """Sets `weight` to that of `WEIGHTS` whose NDCG@10 on validation is the best; of equal ones the largest.

    Raises:
      ConfigError, ScoresNotFinite: as of `evaluate`.
    """
    _, after, _ = self._ranks(VALID, WEIGHTS)
    self.weight = WEIGHTS[int(np.argmax([metrics.ndcg(ranks, 10) for ranks in after]))]

  def evaluate(self, name: str) -> Evaluation:
    """Metrics of the targets of split `name`, each among all items, before and after candidates are ranked.

    What the user has seen is left out, as in the evaluation of a run. Candidates come first, in the ranker's order,
    ties counting against the target, and then all other items in the retriever's: so ranks are exact, and a target that
    is not among the candidates keeps its own.

    Args:
      name: `valid` or `test`.

    Raises:
      ConfigError: the two runs have other targets: what tests one may have trained the other.
      ScoresNotFinite: a score is NaN or infinite.
    """
    before, (after,), among = self._ranks(name, (self.weight,))
    found = [metrics.ranking_metrics(ranks) for ranks in (before, after)]
    return Evaluation(len(before), float(among.mean()), *found)

  def _ranks(self, name: str, weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks of targets before, `[n]`, and after, `[len(weights), n]`, and which are among the candidates, `[n]`."""
    split, other = self.retriever.loaded.split, self.ranker.loaded.split
    whom, targets = _evaluated(self.retriever.loaded, name), split.targets(name)
    same_users = np.array_equal(whom, _evaluated(self.ranker.loaded, name))
    if not same_users or not np.array_equal(targets, other.targets(name)):
      raise ConfigError(
        f"{self.retriever.loaded.workdir} and {self.ranker.loaded.workdir} have different targets for {name}: train "
        "both with one config.data.split"
      )
    scorer, everything = self.retriever.loaded.scorer, np.arange(split.num_items + 1) > 0
    before, among = np.empty(len(whom), np.int32), np.empty(len(whom), bool)
    after = np.empty((len(weights), len(whom)), np.int32)
    for first in range(0, len(whom), _AT_ONCE):
      part = slice(first, first + _AT_ONCE)
      some, wanted = whom[part], targets[part]
      inputs, seen = split.inputs(name, some), split.seen(name, some)
      users = np.where(split.trained[some], some, UNKNOWN)
      before[part], _ = scorer.ranks(inputs, users, seen, wanted)
      retrieved, found = scorer.best(inputs, users, seen, everything, self.candidates)
      clicked = self._logits(other.inputs(name, some), found)
      is_target = found == wanted[:, None]
      among[part] = is_target.any(1)
      for ranks, weight in zip(after, weights):
        scores = _mixed(retrieved, clicked, weight)
        own = np.where(is_target, scores, -np.inf).max(1)
        # The target is among those that reach its score.
        ranks[part] = np.where(among[part], (scores >= own[:, None]).sum(1), before[part])
    return before, after, among

  def recommend_users(self, users: Iterable[Id], k: int = 10) -> tuple[Recommendations, np.ndarray]:
    """The best `k` of the candidates for users, after all that is known of them.

    Args:
      users: original ids.
      k: how many items.

    Returns:
      The items with the scores that order them; and `[B, k]` int, each one's place in retrieval from 1.

    Raises:
      DataError: a user is not known.
    """
    rows, whom = self.retriever.known_users(self.retriever.users.dense(users))
    found = self.retriever.recommend_dense(rows, whom, self.candidates)
    clicked = self._logits(rows.last(self.ranker.loaded.scorer.max_length), found.dense)
    scores = _mixed(found.scores, clicked, self.weight)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    items, scores = (np.take_along_axis(x, order, axis=1) for x in (found.dense, scores))
    return Recommendations(items, scores.astype(np.float32), found.ids), order + 1

  def _logits(self, histories: Rows, items: np.ndarray) -> np.ndarray:
    """Logits `[B, K]` of dense ids `[B, K]`, -inf where there is none."""
    scorer = self.ranker.loaded.scorer
    assert isinstance(scorer, TrainedScorer)
    return np.where(items > 0, scorer.pair_scores(histories, items), -np.inf)


def _mixed(retrieved: np.ndarray, clicked: np.ndarray, weight: float) -> np.ndarray:
  """Scores `[B, K]` by both, -inf where there is no candidate."""
  if weight == 1:
    return clicked
  there = np.isfinite(clicked)
  parts = []
  for scores in (clicked, retrieved):
    scores = np.where(there, scores, 0)
    number = np.maximum(there.sum(1, keepdims=True), 1)
    centred = np.where(there, scores - scores.sum(1, keepdims=True) / number, 0)
    deviation = np.sqrt((centred**2).sum(1, keepdims=True) / number)
    parts.append(centred / np.maximum(deviation, 1e-12))
  return np.where(there, weight * parts[0] + (1 - weight) * parts[1], -np.inf)


def _evaluated(loaded: Loaded, name: str) -> np.ndarray:
  if name not in loaded.split.cuts.targets or not len(loaded.split.evaluated(name)):
    raise ConfigError(
      f"{loaded.workdir}: there are no targets for {name} to be ranked, with config.data.source = "
      f"{loaded.config.data.source!r} and config.data.split = {loaded.split.protocol!r}"
    )
  return loaded.split.evaluated(name)
