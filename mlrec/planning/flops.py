"""Counts the arithmetic of matrix products and convolutions in a traced function, whatever it is compiled for."""

import math
from typing import Any


def matmul_flops(jaxpr: Any, platform: str = "tpu") -> float:
  """Operations of all matrix products and convolutions of a jaxpr over all devices, two for each multiply-add.

  Loops of a known number of turns count as often as they turn, others (a group of training steps, whose number is an
  argument) once; what is computed again in a backward pass counts again. Elementwise work is not counted: rooflines
  take it from the bytes that it moves.

  Args:
    jaxpr: closed or open.
    platform: whose branch counts where the function has one for each (`jax.lax.platform_dependent`); a branch without
      products, whose kernel hides them, counts as the largest does.
  """
  total, branches = 0.0, dict[Any, int]()
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    name = equation.primitive.name
    if name == "platform_index":
      branches[equation.outvars[0]] = _branch(equation.params["platforms"], platform)
    elif name in ("clamp", "convert_element_type"):
      chosen = [branches[one] for one in equation.invars if _is_variable(one) and one in branches]
      branches.update({equation.outvars[0]: chosen[0]} if chosen else {})
    elif name == "cond":
      counts = [matmul_flops(branch, platform) for branch in equation.params["branches"]]
      index = equation.invars[0]
      chosen_count = counts[branches[index]] if _is_variable(index) and index in branches else 0.0
      total += chosen_count or max(counts)
    else:
      total += _of_equation(equation, platform)
  return total


def _branch(platforms: Any, platform: str) -> int:
  for place, names in enumerate(platforms):
    if names is None or platform in names:
      return place
  return len(platforms) - 1


def _is_variable(value: Any) -> bool:
  return not hasattr(value, "val")


def _of_equation(equation: Any, platform: str) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
  if name == "conv_general_dilated":
    return _of_convolution(equation)
  times = 1.0
  if name == "scan":
    times = params["length"]
  elif name == "shard_map":
    times = math.prod(params["mesh"].shape.values())
  inner = [value for value in _values(params) if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
  return times * sum(matmul_flops(value, platform) for value in inner)


def _of_convolution(equation: Any) -> float:
  """Every output sums over the kernel's window and its input channels; holes of dilated inputs are no arithmetic."""
  numbers, kernel = equation.params["dimension_numbers"], equation.invars[1].aval.shape
  _, inputs, *window = (kernel[axis] for axis in numbers.rhs_spec)
  holes = math.prod(equation.params["lhs_dilation"])
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * inputs * math.prod(window) / holes


def _values(params: dict[str, Any]) -> list[Any]:
  out = []
  for value in params.values():
    out += list(value) if isinstance(value, tuple | list) else [value]
  return out
