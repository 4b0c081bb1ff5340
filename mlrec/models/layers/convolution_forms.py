"""Convolutions and their gradients in forms that are fast on a CPU; on other devices, XLA's own convolution.

XLA's CPU backend runs 2-D convolutions, their gradients and matrix products with fast kernels, but three-dimensional
and depthwise ones by plain loops: measured on one core, the gradients of a 1x7x7 stem took 31 s as a 3-D convolution
and 0.1 s as a 2-D one over the frames; a depthwise 3x3x3 one took 367 ms forward, and 3 ms as shifts. The form is
chosen from the shapes when a program is traced, and the device when it is lowered: a GPU or TPU never runs one of
these.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
import itertools
import math

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

_CANONICAL = ("NHWC", "HWIO", "NHWC")
# Of time, height and width.
Sizes = tuple[int, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  """Convolves `x [B, T, H, W, C]` with `kernel [k, k, k, C / groups, O]` to `[B, T', H', W', O]`.

  The gradients are given here too (so: reverse mode only), since each device's own form has to be differentiated; only
  `x` and `kernel` are kept for them.
  """
  return jax.lax.platform_dependent(
    x, kernel,
    cpu=functools.partial(_forward, form=_fast, geometry=(stride, padding, groups)),
    default=functools.partial(_forward, form=_general, geometry=(stride, padding, groups)),
  )  # fmt: skip


def _saving(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> tuple[Array, tuple[Array, Array]]:
  return convolve(x, kernel, stride, padding, groups), (x, kernel)


def _gradients(
  stride: Sizes, padding: Sizes, groups: int, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
  return jax.lax.platform_dependent(
    *saved, grad,
    cpu=functools.partial(_backward, form=_fast, geometry=(stride, padding, groups)),
    default=functools.partial(_backward, form=_general, geometry=(stride, padding, groups)),
  )  # fmt: skip


convolve.defvjp(_saving, _gradients)


# Compiled functions, so that a net's like layers are traced once.
@functools.partial(jax.jit, static_argnames=("form", "geometry"))
def _forward(x: Array, kernel: Array, *, form: Callable, geometry: tuple) -> Array:
  return form(x, kernel, *geometry)


@functools.partial(jax.jit, static_argnames=("form", "geometry"))
def _backward(x: Array, kernel: Array, grad: Array, *, form: Callable, geometry: tuple) -> tuple[Array, Array]:
  if form is _fast and _is_depthwise(x, kernel, geometry[2]):
    stride, padding, _ = geometry
    wide = (_wide(x), _wide(kernel), _wide(grad))
    by_input = _depthwise_input_gradient(*wide, stride, padding)
    return by_input.astype(x.dtype), _depthwise_kernel_gradient(*wide, stride, padding).astype(kernel.dtype)
  return jax.vjp(lambda x, kernel: form(x, kernel, *geometry), x, kernel)[1](grad)


def _general(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  return jax.lax.conv_general_dilated(
    x, kernel, stride, [(size, size) for size in padding], dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    feature_group_count=groups,
  )  # fmt: skip


def _fast(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  """Like `_general`; numbers narrower than float32 are computed in float32, which a CPU does faster too."""
  form = _depthwise if _is_depthwise(x, kernel, groups) else functools.partial(_dense, groups=groups)
  return form(_wide(x), _wide(kernel), stride, padding).astype(x.dtype)


def _is_depthwise(x: Array, kernel: Array, groups: int) -> bool:
  return groups == x.shape[-1] == kernel.shape[-1] and groups > 1


def _wide(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def lengths(sizes: Sequence[int], window: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Sizes:
  """How many places a window has along time, height and width."""
  places = zip(sizes, window, stride, padding)
  return tuple(max((size + 2 * pad - wide) // step + 1, 0) for size, wide, step, pad in places)


# --- Dense: matrix products, and 2-D convolutions over the frames -----------------------------------------------------


def _dense(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  window, outputs = kernel.shape[:3], kernel.shape[-1]
  out = lengths(x.shape[1:4], window, stride, padding)
  if window == stride and padding == (0, 0, 0) and groups == 1:
    return _patches(x, window, out) @ kernel.reshape(-1, outputs)
  if window[0] == 1 and not padding[0]:
    return _frames(x[:, :: stride[0]], kernel[0], stride, padding, groups)
  # A stem's few channels: all taps in time at once, by setting the frames side by side.
  if groups == 1 and window[0] * x.shape[-1] <= outputs:
    padded = _pad(x, (padding[0], 0, 0))
    taps = [padded[:, tap : tap + (out[0] - 1) * stride[0] + 1 : stride[0]] for tap in range(window[0])]
    beside = jnp.moveaxis(kernel, 0, 2).reshape(*window[1:], -1, outputs)
    return _frames(jnp.concatenate(taps, axis=-1), beside, stride, padding, groups)
  # One after the other; each convolves only frames that exist. With two frames and seven taps that is a quarter.
  total = jnp.zeros((x.shape[0], *out, outputs), x.dtype)
  for tap in range(window[0]):
    first = max(-(-(padding[0] - tap) // stride[0]), 0)
    end = min((x.shape[1] - 1 + padding[0] - tap) // stride[0] + 1, out[0])
    if first < end:
      start = first * stride[0] + tap - padding[0]
      frames = x[:, start : start + (end - first - 1) * stride[0] + 1 : stride[0]]
      part = _frames(frames, kernel[tap], stride, padding, groups)
      total = total + jnp.pad(part, ((0, 0), (first, out[0] - end), *[(0, 0)] * 3))
  return total


def _patches(x: Array, window: Sizes, out: Sizes) -> Array:
  """Windows that tile `x`, `[B, T', H', W', k * k * k * C]`."""
  if window == (1, 1, 1):
    return x
  (t, h, w), (i, j, k), channels = out, window, x.shape[-1]
  tiles = x[:, : t * i, : h * j, : w * k].reshape(-1, t, i, h, j, w, k, channels)
  return tiles.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, t, h, w, i * j * k * channels)


def _frames(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  """Convolves each frame of `x [B, T, H, W, C]` with `kernel [k, k, C / groups, O]`."""
  if kernel.shape[:2] == (1, 1) and padding[1:] == (0, 0) and groups == 1:
    return x[:, :, :: stride[1], :: stride[2]] @ kernel[0, 0]
  flat = x.reshape(-1, *x.shape[2:])
  geometry = stride[1:], padding[1:]
  y = _flat(flat, kernel, *geometry) if groups == 1 else _nhwc(flat, kernel, *geometry, groups)
  return y.reshape(*x.shape[:2], *y.shape[1:])


def _nhwc(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int = 1) -> Array:
  return jax.lax.conv_general_dilated(
    x, kernel, stride, [(size, size) for size in padding], dimension_numbers=_CANONICAL, feature_group_count=groups
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _flat(x: Array, kernel: Array, stride: Sizes, padding: Sizes) -> Array:
  """`x [N, H, W, C]` with `kernel [k, k, C, O]`, whose gradients are convolutions of that order of axes too.

  XLA's CPU backend has its fast kernel for this order alone. It brings other orders, as autodiff's gradients have, into
  it, but not inside a loop, where the kernel's gradient was 80 times slower so (2.2 s for 0.03), the input's 5 times.
  """
  return _nhwc(x, kernel, stride, padding)


def _flat_gradients(stride: Sizes, padding: Sizes, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  around_grad, around_x = [], []
  for size, wide, step, pad, places in zip(x.shape[1:3], kernel.shape[:2], stride, padding, grad.shape[1:3]):
    reach = (places - 1) * step + 1
    around_grad.append((wide - 1 - pad, size - reach + pad))
    around_x.append((pad, wide - 1 + reach - size - pad))
  by_input = jax.lax.conv_general_dilated(
    grad, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), around_grad, lhs_dilation=stride, dimension_numbers=_CANONICAL
  )
  by_kernel = jax.lax.conv_general_dilated(
    x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3), (1, 1), around_x, rhs_dilation=stride,
    dimension_numbers=_CANONICAL,
  )  # fmt: skip
  return by_input, by_kernel.transpose(1, 2, 0, 3)


_flat.defvjp(lambda x, kernel, *geometry: (_flat(x, kernel, *geometry), (x, kernel)), _flat_gradients)


# --- Depthwise: shift, multiply, add ----------------------------------------------------------------------------------


def _depthwise(x: Array, kernel: Array, stride: Sizes, padding: Sizes) -> Array:
  window = kernel.shape[:3]
  out = lengths(x.shape[1:4], window, stride, padding)
  total = jnp.zeros((x.shape[0], *out, x.shape[-1]), x.dtype)
  for tap, shifted in _shifts(_padded(x, padding), window, stride, out):
    if all(_meets(*axis) for axis in zip(tap, stride, padding, x.shape[1:4], out)):
      total = total + shifted * kernel[tap][0]
  return total


def _depthwise_input_gradient(x: Array, kernel: Array, grad: Array, stride: Sizes, padding: Sizes) -> Array:
  def term(tap: Sizes, grad: Array) -> Array:
    return grad * kernel[tap][0]

  return _to_inputs(term, [grad], kernel.shape[:3], stride, padding, x.shape[1:4])


def _depthwise_kernel_gradient(x: Array, kernel: Array, grad: Array, stride: Sizes, padding: Sizes) -> Array:
  """A row of all clips at a time: products are added elementwise while they are in the cache, and summed at the end.

  As one sum for each of 27 taps it took 5 to 16 times as long on a CPU. Clips stay apart until the end, so that devices
  that hold some each need to speak once.
  """
  window, (clips, time, height, width, channels) = kernel.shape[:3], grad.shape
  padded = _pad(x, padding)

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


def _meets(tap: int, step: int, pad: int, size: int, out: int) -> bool:
  """Whether a tap meets anything but padding."""
  return any(0 <= place * step + tap - pad < size for place in range(out))


def _pad(x: Array, padding: Sequence[int], value: float = 0.0) -> Array:
  return jnp.pad(x, ((0, 0), *[(size, size) for size in padding], (0, 0)), constant_values=value)


def _padded(x: Array, padding: Sequence[int], value: float = 0.0) -> Array:
  # Fused into what reads it, padding would be decided anew at each of the window's places.
  return jax.lax.optimization_barrier(_pad(x, padding, value)) if any(padding) else x


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


def _interleave(phases: dict[Sizes, Array], window: Sizes, stride: Sizes) -> Array:
  """`[B, T, H, W, C]` by phase to one array, `stride` times as large; phases that no tap reaches are zero."""
  for axis in (2, 1, 0):
    step, reached = stride[axis], min(stride[axis], window[axis])
    joined: dict[Sizes, Array] = {}
    for phase in {phase[:axis] for phase in phases}:
      parts = [phases[(*phase, offset)] for offset in range(reached)]
      parts += [jnp.zeros_like(parts[0])] * (step - reached)
      shape = list(parts[0].shape)
      shape[axis + 1] *= step
      joined[phase] = parts[0] if step == 1 else jnp.stack(parts, axis=axis + 2).reshape(shape)
    phases = joined
  (whole,) = phases.values()
  return whole


# --- Pools ------------------------------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def largest(x: Array, window: Sizes, stride: Sizes, padding: Sizes) -> Array:
  """The largest of each window of `x [B, T, H, W, C]` floats; the first of equal ones gets the gradient."""
  return jax.lax.platform_dependent(
    x,
    cpu=functools.partial(_largest_by_shifts, window=window, stride=stride, padding=padding),
    default=functools.partial(_largest_by_window, window=window, stride=stride, padding=padding),
  )


def _largest_gradient(window: Sizes, stride: Sizes, padding: Sizes, x: Array, grad: Array) -> tuple[Array]:
  by_window = functools.partial(_largest_by_window, window=window, stride=stride, padding=padding)
  by_shifts = functools.partial(_largest_gradient_by_shifts, window=window, stride=stride, padding=padding)
  gradient = jax.lax.platform_dependent(
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

  return _to_inputs(term, [place, _wide(grad)], window, stride, padding, x.shape[1:4]).astype(grad.dtype)
