"""Depthwise convolutions and pools as shifts, products and sums: for a CPU, where XLA runs windows by plain loops."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
import itertools
import math

from einops import rearrange
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.layers.platforms import by_platform

# Of time, height and width.
Sizes = tuple[int, ...]


def lengths(sizes: Sequence[int], window: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Sizes:
  """How many places a window has along time, height and width."""
  places = zip(sizes, window, stride, padding)
  return tuple(max((size + 2 * pad - wide) // step + 1, 0) for size, wide, step, pad in places)


def widened(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def span(tap: int, step: int, pad: int, size: int, out: int) -> tuple[int, int]:
  """The first and the end of the windows whose `tap` meets anything but padding."""
  first = max(-((tap - pad) // step), 0)
  return first, max(min((size - 1 + pad - tap) // step + 1, out), first)


# --- Depthwise: shift, multiply, add ----------------------------------------------------------------------------------


def depthwise(x: Array, kernel: Array, stride: Sizes, padding: Sizes) -> Array:
  window = kernel.shape[:3]
  out = lengths(x.shape[1:4], window, stride, padding)
  total = jnp.zeros((x.shape[0], *out, x.shape[-1]), x.dtype)
  for tap, shifted in _shifts(_padded(x, padding), window, stride, out):
    if all(first < end for first, end in map(span, tap, stride, padding, x.shape[1:4], out)):
      total = total + shifted * kernel[tap][0]
  return total


def depthwise_input_gradient(x: Array, kernel: Array, grad: Array, stride: Sizes, padding: Sizes) -> Array:
  def term(tap: Sizes, grad: Array) -> Array:
    return grad * kernel[tap][0]

  return _to_inputs(term, [grad], kernel.shape[:3], stride, padding, x.shape[1:4])


def depthwise_kernel_gradient(x: Array, kernel: Array, grad: Array, stride: Sizes, padding: Sizes) -> Array:
  """A row of all clips at a time: products are added elementwise while they are in the cache, and summed at the end.

  As one sum for each of 27 taps it took 5 to 16 times as long on a CPU. Clips stay apart until the end, so that devices
  that hold some each need to speak once.
  """
  window, (clips, time, height, width, channels) = kernel.shape[:3], grad.shape
  padded = pad_axes(x, padding)

  def add_row(number: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
    t, h = number // height, number % height
    row = jax.lax.dynamic_slice(grad, (0, t, h, 0, 0), (clips, 1, 1, width, channels))
    corner, extent = (0, t * stride[0], h * stride[1], 0, 0), (clips, *window[:2], padded.shape[3], channels)
    rows = jax.lax.dynamic_slice(padded, corner, extent)
    last = (width - 1) * stride[2] + 1
    return tuple(
      total + jax.lax.slice_in_dim(rows, tap, tap + last, stride[2], axis=3) * row for tap, total in enumerate(sums)
    )

  none = tuple(jnp.zeros((clips, *window[:2], width, channels), x.dtype) for _ in range(window[2]))
  sums = jax.lax.fori_loop(0, time * height, add_row, none) if width else none
  return jnp.stack([total.sum((0, 3)) for total in sums], axis=2)[..., None, :]


# --- Shifts, for depthwise convolutions and pools ---------------------------------------------------------------------


def pad_axes(x: Array, padding: Sequence[int], value: float = 0.0) -> Array:
  return jnp.pad(x, ((0, 0), *[(size, size) for size in padding], (0, 0)), constant_values=value)


def _padded(x: Array, padding: Sequence[int], value: float = 0.0) -> Array:
  # Fused into what reads it, padding would be decided again at each of the window's places.
  return jax.lax.optimization_barrier(pad_axes(x, padding, value)) if any(padding) else x


def _shifts(padded: Array, window: Sizes, stride: Sizes, out: Sizes) -> Iterator[tuple[Sizes, Array]]:
  """Each place in the window, and what all windows have there, `[B, T', H', W', C]`."""
  for i, j, k in itertools.product(*map(range, window)):
    ends = [tap + (size - 1) * step + 1 for tap, size, step in zip((i, j, k), out, stride)]
    starts, steps = (0, i, j, k, 0), (1, *stride, 1)
    yield (i, j, k), jax.lax.slice(padded, starts, (padded.shape[0], *ends, padded.shape[-1]), steps)


def _to_inputs(
  term: Callable[..., Array],
  arrays: Sequence[Array],
  window: Sizes,
  stride: Sizes,
  padding: Sizes,
  sizes: Sequence[int],
) -> Array:
  """Adds, for each input, what all windows that hold it send it; the transpose of reading by `_shifts`.

  Args:
    term: of a place in the window and `arrays`, shifted so that each input meets its window: what is sent. It has to
      be zero where the arrays are.
    arrays: `[B, T', H', W', C]`, by window.
    window: its sizes.
    stride: its steps.
    padding: on both sides of the inputs.
    sizes: of the inputs.

  Returns:
    `[B, *sizes, C]`.
  """
  # Along an axis, padded input u = step * n + phase is held at tap phase + step * j by window n - j. So inputs of one
  # phase are a sum of shifts, without the zeros between windows that a dilated convolution would multiply.
  firsts = [pad // step for pad, step in zip(padding, stride)]
  counts = [-(-(pad + size) // step) - first for pad, size, step, first in zip(padding, sizes, stride, firsts)]
  reaches = [(wide - 1) // step for wide, step in zip(window, stride)]
  margins = [
    (reach - first, first + count - size)
    for reach, first, count, size in zip(reaches, firsts, counts, arrays[0].shape[1:4])
  ]
  edges = [(0, 0, 0), *[(before, after, 0) for before, after in margins], (0, 0, 0)]
  around = jax.lax.optimization_barrier([jax.lax.pad(array, jnp.zeros((), array.dtype), edges) for array in arrays])
  phases: dict[Sizes, Array] = {}
  for phase in itertools.product(*[range(min(step, wide)) for step, wide in zip(stride, window)]):
    total = jnp.zeros((arrays[-1].shape[0], *counts, arrays[-1].shape[-1]), arrays[-1].dtype)
    steps = [range((wide - 1 - offset) // step + 1) for offset, wide, step in zip(phase, window, stride)]
    for back in itertools.product(*steps):
      i, j, k = (offset + step * n for offset, step, n in zip(phase, stride, back))
      starts = (0, *[reach - n for reach, n in zip(reaches, back)], 0)
      ends = [start + count for start, count in zip(starts[1:4], counts)]
      shifted = [jax.lax.slice(a, starts, (a.shape[0], *ends, a.shape[-1])) for a in around]
      total = total + term((i, j, k), *shifted)
    phases[phase] = total
  whole = _interleave(phases, window, stride)
  offsets = [pad - first * step for pad, first, step in zip(padding, firsts, stride)]
  return whole[:, *[slice(offset, offset + size) for offset, size in zip(offsets, sizes)]]


# Places of one phase, along time, height or width, and then the phases.
_INTERLEAVED = (
  "b t phase h w c -> b (t phase) h w c",
  "b t h phase w c -> b t (h phase) w c",
  "b t h w phase c -> b t h (w phase) c",
)


def _interleave(phases: dict[Sizes, Array], window: Sizes, stride: Sizes) -> Array:
  """`[B, T, H, W, C]` by phase to one array, `stride` times as large; phases that no tap reaches are zero."""
  for axis in (2, 1, 0):
    step, reached = stride[axis], min(stride[axis], window[axis])
    joined: dict[Sizes, Array] = {}
    for phase in {phase[:axis] for phase in phases}:
      parts = [phases[(*phase, offset)] for offset in range(reached)]
      parts += [jnp.zeros_like(parts[0])] * (step - reached)
      joined[phase] = parts[0] if step == 1 else rearrange(jnp.stack(parts, axis=axis + 2), _INTERLEAVED[axis])
    phases = joined
  (whole,) = phases.values()
  return whole


# --- Pools ------------------------------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def largest(x: Array, window: Sizes, stride: Sizes, padding: Sizes) -> Array:
  """The largest of each window of `x [B, T, H, W, C]` floats; the first of equal ones gets the gradient."""
  return by_platform(
    x,
    cpu=functools.partial(_largest_by_shifts, window=window, stride=stride, padding=padding),
    default=functools.partial(_largest_by_window, window=window, stride=stride, padding=padding),
  )


def _largest_gradient(window: Sizes, stride: Sizes, padding: Sizes, x: Array, grad: Array) -> tuple[Array]:
  by_window = functools.partial(_largest_by_window, window=window, stride=stride, padding=padding)
  by_shifts = functools.partial(_largest_gradient_by_shifts, window=window, stride=stride, padding=padding)
  gradient = by_platform(
    x, grad, cpu=by_shifts, default=lambda x, grad: jax.vjp(by_window, x)[1](grad)[0]
  )  # fmt: skip
  return (gradient,)


largest.defvjp(lambda x, *geometry: (largest(x, *geometry), x), _largest_gradient)


def _largest_by_window(x: Array, *, window: Sizes, stride: Sizes, padding: Sizes) -> Array:
  pads = [(0, 0), *[(size, size) for size in padding], (0, 0)]
  # A NumPy constant: traced, it would no longer be recognised as the start of a maximum, which alone has a gradient.
  return jax.lax.reduce_window(x, np.array(-np.inf, x.dtype), jax.lax.max, (1, *window, 1), (1, *stride, 1), pads)


@functools.partial(jax.jit, static_argnames=("window", "stride", "padding"))
def _largest_by_shifts(x: Array, *, window: Sizes, stride: Sizes, padding: Sizes) -> Array:
  # Padding by the lowest number, and windows of height and width one after the other: 6 comparisons for 9.
  for axis in range(3):
    if window[axis] > 1 or stride[axis] > 1 or padding[axis]:
      one, step, pad = [1, 1, 1], [1, 1, 1], [0, 0, 0]
      one[axis], step[axis], pad[axis] = window[axis], stride[axis], padding[axis]
      out = lengths(x.shape[1:4], one, step, pad)
      slices = _shifts(_padded(x, pad, -math.inf), tuple(one), tuple(step), out)
      x = functools.reduce(jnp.maximum, (shifted for _, shifted in slices))
  return x


@functools.partial(jax.jit, static_argnames=("window", "stride", "padding"))
def _largest_gradient_by_shifts(x: Array, grad: Array, *, window: Sizes, stride: Sizes, padding: Sizes) -> Array:
  """Where each window's largest is, then to each input what the windows that it is largest of send it."""
  out = grad.shape[1:4]
  best = jnp.full(grad.shape, -math.inf, x.dtype)
  place = jnp.zeros(grad.shape, jnp.int32)
  for (i, j, k), shifted in _shifts(_padded(x, padding, -math.inf), window, stride, out):
    number = (i * window[1] + j) * window[2] + k
    place = jnp.where(shifted > best, number, place)
    best = jnp.maximum(best, shifted)

  def term(tap: Sizes, place: Array, grad: Array) -> Array:
    number = (tap[0] * window[1] + tap[1]) * window[2] + tap[2]
    return jnp.where(place == number, grad, 0)

  return _to_inputs(term, [place, widened(grad)], window, stride, padding, x.shape[1:4]).astype(grad.dtype)
