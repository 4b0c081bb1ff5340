"""When items were watched, told from the order of items in histories alone."""

import numpy as np

from mlrec.data.interactions import Rows

# Weight of the prior that draws an item with few neighbours to the middle.
_PRIOR = 0.5
_TOLERANCE = 1e-4
_MOST_STEPS = 2000
# Items that training never names are as new as this quantile of the interactions.
_NEWEST = 0.99


def item_ages(rows: Rows, num_items: int) -> np.ndarray:
  """A place in time for each item, higher for newer ones.

  Histories are ordered, but say no times. Items of micro-video platforms live for days, so whoever watches i and then j
  says that j is newer, or was watched later in its life. The ages t minimise the sum over all adjacent pairs (i, j) of
  (t_j - t_i - 1)^2, plus a weak pull to 0: least squares on the graph of pairs, as ratings are made of the outcomes of
  games (HodgeRank, Jiang et al., Mathematical Programming 2011, equation 4, with all flows 1). They are then scaled to
  mean 0 and variance 1 over the interactions.

  Args:
    rows: training rows, oldest first.
    num_items: items that exist, padding not counted.

  Returns:
    `[num_items + 1]` float32. Items that no row names are given the 0.99 quantile of the interactions': what comes
    after the end of training was not there before. Place 0, the padding's, is 0.
  """
  # Runs that ask for no ages do without it.
  from scipy import sparse
  from scipy.sparse import linalg

  ages = np.zeros(num_items + 1, np.float32)
  counts = np.bincount(rows.values, minlength=num_items + 1)
  if not counts.any():
    return ages
  users = np.repeat(np.arange(len(rows)), rows.lengths)
  adjacent = users[:-1] == users[1:]
  before, after = rows.values[:-1][adjacent], rows.values[1:][adjacent]
  pairs = sparse.coo_matrix((np.ones(len(before)), (before, after)), shape=(num_items + 1,) * 2).tocsr()
  both = pairs + pairs.T
  degrees = np.asarray(both.sum(1)).ravel()
  flow = np.asarray(pairs.sum(0)).ravel() - np.asarray(pairs.sum(1)).ravel()
  # Scaled by its diagonal: degrees differ by orders of magnitude.
  system = sparse.diags(degrees + _PRIOR) - both
  inverse = sparse.diags(1 / (degrees + _PRIOR))
  solved, _ = linalg.cg(system, flow, rtol=_TOLERANCE, maxiter=_MOST_STEPS, M=inverse)
  watched = solved[rows.values]
  solved = (solved - watched.mean()) / max(watched.std(), np.finfo(np.float32).tiny)
  ages[:] = np.where(counts > 0, solved, np.quantile(solved[rows.values], _NEWEST))
  ages[0] = 0
  return ages
