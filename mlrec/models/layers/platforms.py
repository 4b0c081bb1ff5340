"""Functions that have a form of their own for a kind of device; which one runs is settled when a program is lowered."""

from collections.abc import Callable
from typing import Any

import jax

# What operations of forms for a CPU have in their names in a lowered program.
CPU_FORM = "cpu_form"


def by_platform(
  *arguments: Any, default: Callable[..., Any], cpu: Callable[..., Any] | None = None, **others: Callable[..., Any]
) -> Any:
  """What the form for the devices of the program gives, as of `jax.lax.platform_dependent`.

  Args:
    *arguments: of all forms.
    default: the form for devices that have none of their own.
    cpu: that for a CPU. Its operations are named `CPU_FORM`, so that a program for other devices can be seen to have
      none of them.
    **others: forms for other platforms, such as `cuda`, by their names.
  """

  def named(*arguments: Any) -> Any:
    assert cpu is not None
    with jax.named_scope(CPU_FORM):
      return cpu(*arguments)

  forms = others if cpu is None else {"cpu": named, **others}
  return jax.lax.platform_dependent(*arguments, default=default, **forms)
