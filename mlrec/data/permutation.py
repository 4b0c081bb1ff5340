"""Permutations by a key, of which any part is computed alone: the order of an epoch of more rows than are looked at."""

import numpy as np

# Rounds of the network: from four on it cannot be told from chance (Luby and Rackoff, SIAM J. Comput. 1988).
_ROUNDS = 6
# Multipliers of MurmurHash3's 64-bit finaliser (Appleby, public domain).
_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_SHIFT = np.uint64(33)


class KeyedPermutation:
  """A permutation of 0 to `size` - 1, chosen by a key.

  A balanced Feistel network permutes the least power of four that holds `size`; what falls outside goes through it
  again until it falls inside (cycle walking: Black and Rogaway, CT-RSA 2002), 4 times at the most on average.
  """

  def __init__(self, size: int, key: tuple[int, ...]):
    """Derives the keys of the rounds; `size` is at least 1 and below 2**62.

    The key's numbers are not negative; a key is the same as one with zeros after it.
    """
    self._size = size
    self._half = np.uint64(max(((size - 1).bit_length() + 1) // 2, 1))
    self._mask = np.uint64((1 << int(self._half)) - 1)
    self._keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)

  def __call__(self, places: np.ndarray) -> np.ndarray:
    """Where `places [n]` (int, 0 to `size` - 1) go: `[n]` int64."""
    found = self._network(places.astype(np.uint64))
    while len(outside := np.flatnonzero(found >= self._size)):
      found[outside] = self._network(found[outside])
    return found.astype(np.int64)

  def _network(self, places: np.ndarray) -> np.ndarray:
    left, right = places >> self._half, places & self._mask
    for key in self._keys:
      mixed = right + key
      for factor in _MIX:
        mixed = (mixed ^ (mixed >> _SHIFT)) * factor
      left, right = right, left ^ ((mixed ^ (mixed >> _SHIFT)) & self._mask)
    return (left << self._half) | right
