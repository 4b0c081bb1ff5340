"""Metrics of click-through predictions: how well scores order impressions, and how far they are probabilities.

Pure functions of NumPy arrays on the host, in float64. A score is a logit: the predicted probability of a click is
sigmoid(score). What is not defined, such as an AUC without clicks, is NaN, which JSON never holds.
"""

import numpy as np

# Bins of equal width that predictions are put into, as in Guo et al. (ICML 2017, arXiv 1706.04599, section 3).
BINS = 15


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
  """The area under the ROC curve: the chance that a click scores higher than a non-click, a tie being worth 1/2.

  By the ranks of the clicks (Mann and Whitney, 1947; Fawcett, 2006, section 7), exactly, in O(n log n).

  Args:
    scores: `[n]` float.
    labels: `[n]`, 1 for a click, 0 for none.

  Returns:
    From 0 to 1; NaN where there are no clicks, or nothing else.
  """
  return grouped_auc(scores, labels, np.zeros(len(labels), np.int64))


def grouped_auc(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
  """The mean AUC within groups, weighted by their impressions: GAUC (Zhou et al., KDD 2018, arXiv 1706.06978).

  With users as groups it is blind to how likely a user is to click at all, which orders nobody's list.

  Args:
    scores: `[n]` float.
    labels: `[n]`, 1 for a click, 0 for none.
    groups: `[n]` int, whose impression each is.

  Returns:
    From 0 to 1, over the groups that have both clicks and others; NaN where none has.
  """
  scores, labels = np.asarray(scores), np.asarray(labels, bool)
  _, group = np.unique(groups, return_inverse=True)
  number = group.max(initial=-1) + 1
  impressions, clicks = np.bincount(group, minlength=number), np.bincount(group[labels], minlength=number)
  # A click's rank within its group less those of the clicks are the others below it, ties being worth 1/2.
  above = np.bincount(group[labels], _ranks(scores, group)[labels], minlength=number) - clicks * (clicks + 1) / 2
  pairs = clicks * (impressions - clicks)
  both = pairs > 0
  if not both.any():
    return float("nan")
  return float(np.average(above[both] / pairs[both], weights=impressions[both]))


def _ranks(scores: np.ndarray, group: np.ndarray) -> np.ndarray:
  """`[n]` float64: places from 1 within a group by ascending score, tied ones sharing the mean of theirs."""
  order = np.lexsort((scores, group))
  sorted_scores, sorted_group = scores[order], group[order]
  starts_group = np.ones(len(order), bool)
  starts_group[1:] = sorted_group[1:] != sorted_group[:-1]
  starts = starts_group.copy()
  starts[1:] |= sorted_scores[1:] != sorted_scores[:-1]
  first = np.flatnonzero(starts)
  last = np.append(first[1:], len(order)) - 1
  group_start = np.flatnonzero(starts_group)[np.cumsum(starts_group) - 1]
  tie = np.cumsum(starts) - 1
  ranks = np.empty(len(order))
  ranks[order] = (first + last)[tie] / 2 - group_start + 1
  return ranks


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
  """The mean cross-entropy of clicks, in nats: log(1 + exp(score)) - label * score; NaN of nothing.

  Args:
    scores: `[n]` float, logits.
    labels: `[n]`, 1 for a click, 0 for none.
  """
  scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
  return float((np.logaddexp(0, scores) - labels * scores).mean()) if len(labels) else float("nan")


def expected_calibration_error(scores: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
  """The mean distance of predicted from found click rates, over bins of predictions (Guo et al., 2017, equation 3).

  Args:
    scores: `[n]` float, logits.
    labels: `[n]`, 1 for a click, 0 for none.
    bins: how many, of equal width between the probabilities 0 and 1; of those at a border the lower one counts.

  Returns:
    From 0 to 1, each bin weighted by its impressions; NaN of nothing.
  """
  if not len(labels):
    return float("nan")
  predicted = probabilities(scores)
  place = np.clip(np.ceil(predicted * bins).astype(np.int64) - 1, 0, bins - 1)
  gaps = np.bincount(place, predicted - np.asarray(labels, np.float64), minlength=bins)
  return float(np.abs(gaps).sum() / len(labels))


def calibration(scores: np.ndarray, labels: np.ndarray) -> float:
  """Expected clicks to those there were (He et al., ADKDD 2014, section 2): 1 is right, more promises too much.

  Args:
    scores: `[n]` float, logits.
    labels: `[n]`, 1 for a click, 0 for none.

  Returns:
    At least 0; NaN without clicks.
  """
  clicks = float(np.asarray(labels, np.float64).sum())
  return float(probabilities(scores).sum() / clicks) if clicks else float("nan")


def probabilities(scores: np.ndarray) -> np.ndarray:
  """`[n]` float64: sigmoid(score), without overflow."""
  return np.exp(-np.logaddexp(0, -np.asarray(scores, np.float64)))


def all_metrics(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, float]:
  """All that is reported of predictions.

  Args:
    scores: `[n]` float, logits.
    labels: `[n]`, 1 for a click, 0 for none.
    groups: `[n]` int, the user of each impression.

  Returns:
    `auc`, `gauc` (over users), `log_loss` (nats), `ece`, `calibration` (a ratio), `click_rate` (found) and
    `impressions` (how many).
  """
  number = len(labels)
  return {
    "auc": auc(scores, labels),
    "gauc": grouped_auc(scores, labels, groups),
    "log_loss": log_loss(scores, labels),
    "ece": expected_calibration_error(scores, labels),
    "calibration": calibration(scores, labels),
    "click_rate": float(np.asarray(labels, np.float64).mean()) if number else float("nan"),
    "impressions": float(number),
  }
