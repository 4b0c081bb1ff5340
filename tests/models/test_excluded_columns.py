"""Which columns of a batch are no negatives of a place: the two forms that devices have of it say the same."""

import jax
import jax.numpy as jnp
import numpy as np

from mlrec.models.recommenders.sequential import excluded_columns

_COLUMNS = 23


def _places(seed: int):
  random = np.random.default_rng(seed)
  return jnp.asarray(random.integers(0, _COLUMNS, (7, 5)), jnp.int32), jnp.asarray(random.integers(0, 7, 40), jnp.int32)


def _wanted(slots, users):
  return np.array([[column in np.asarray(slots[user]) for column in range(_COLUMNS)] for user in np.asarray(users)])


def test_excluded_are_the_columns_of_the_places_own_user():
  slots, users = _places(0)
  np.testing.assert_array_equal(excluded_columns(slots, users, _COLUMNS), _wanted(slots, users))


def test_the_form_of_other_devices_says_the_same_as_a_cpus():
  slots, users = _places(1)
  traced = jax.jit(lambda slots, users: excluded_columns(slots, users, _COLUMNS)).trace(slots, users)
  (choice,) = [one for one in traced.jaxpr.jaxpr.eqns if one.primitive.name == "cond"]
  forms = [jax.extend.core.jaxpr_as_fun(branch)(slots, users)[0] for branch in choice.params["branches"]]
  assert len(forms) == 2
  for form in forms:
    np.testing.assert_array_equal(form, _wanted(slots, users))
