"""Convolutions and their gradients in forms that are fast on a CPU; on other devices, XLA's own convolution.

XLA's CPU backend runs 2-D convolutions, their gradients and matrix products with fast kernels, but three-dimensional
and depthwise ones by plain loops: measured on one core, the gradients of a 1x7x7 stem took 31 s as a 3-D convolution
and 0.1 s as a 2-D one over the frames; a depthwise 3x3x3 one took 367 ms forward, and 3 ms as shifts. The form is
chosen from the shapes when a program is traced, and the device when it is lowered: a GPU or TPU never runs one of
these.
"""

from collections.abc import Callable
import functools

from einops import rearrange
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.convolution_shifts import depthwise
from mlrec.models.layers.convolution_shifts import depthwise_input_gradient
from mlrec.models.layers.convolution_shifts import depthwise_kernel_gradient
from mlrec.models.layers.convolution_shifts import lengths
from mlrec.models.layers.convolution_shifts import pad_axes
from mlrec.models.layers.convolution_shifts import Sizes
from mlrec.models.layers.convolution_shifts import span
from mlrec.models.layers.convolution_shifts import widened
from mlrec.models.layers.platforms import by_platform
from mlrec.models.layers.products import product

# Outputs of all frames together up to which they are computed at once.
_FEW = 64
_CANONICAL = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  """Convolves `x [B, T, H, W, C]` with `kernel [k, k, k, C / groups, O]` to `[B, T', H', W', O]`.

  The gradients are given here too (so: reverse mode only), since each device's own form has to be differentiated; only
  `x` and `kernel` are kept for them.
  """
  return by_platform(
    x, kernel,
    cpu=functools.partial(_forward, form=_fast, geometry=(stride, padding, groups)),
    default=functools.partial(_forward, form=_general, geometry=(stride, padding, groups)),
  )  # fmt: skip


def _saving(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> tuple[Array, tuple[Array, Array]]:
  return convolve(x, kernel, stride, padding, groups), (x, kernel)


def _gradients(
  stride: Sizes, padding: Sizes, groups: int, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
  return by_platform(
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
    numbers = (widened(x), widened(kernel), widened(grad))
    by_input = depthwise_input_gradient(*numbers, stride, padding)
    return by_input.astype(x.dtype), depthwise_kernel_gradient(*numbers, stride, padding).astype(kernel.dtype)
  return jax.vjp(lambda x, kernel: form(x, kernel, *geometry), x, kernel)[1](grad)


def _general(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  return jax.lax.conv_general_dilated(
    x, kernel, stride, [(size, size) for size in padding], dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    feature_group_count=groups,
  )  # fmt: skip


def _fast(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  """Like `_general`; numbers narrower than float32 are computed in float32, which a CPU does faster too."""
  form = depthwise if _is_depthwise(x, kernel, groups) else functools.partial(_dense, groups=groups)
  return form(widened(x), widened(kernel), stride, padding).astype(x.dtype)


def _is_depthwise(x: Array, kernel: Array, groups: int) -> bool:
  return groups == x.shape[-1] == kernel.shape[-1] and groups > 1


# --- Dense: matrix products, and 2-D convolutions over the frames -----------------------------------------------------


def _dense(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  window, inputs, outputs = kernel.shape[:3], x.shape[-1], kernel.shape[-1]
  out = lengths(x.shape[1:4], window, stride, padding)
  if window == stride and padding == (0, 0, 0) and groups == 1:
    return product(_patches(x, window, out), rearrange(kernel, "i j k c o -> (i j k c) o"))
  if window[0] == 1 and not padding[0]:
    return _frames(x[:, :: stride[0]], kernel[0], stride, padding, groups)
  if groups == 1 and window[0] > 1 and inputs * x.shape[1] <= outputs * out[0] <= _FEW:
    return _all_frames_at_once(x, kernel, stride, padding, out)
  # A stem's few channels: all taps in time at once, by setting the frames side by side.
  if groups == 1 and window[0] * inputs <= outputs:
    padded = pad_axes(x, (padding[0], 0, 0))
    taps = [padded[:, tap : tap + (out[0] - 1) * stride[0] + 1 : stride[0]] for tap in range(window[0])]
    beside = rearrange(kernel, "i j k c o -> j k (i c) o")
    return _frames(jnp.concatenate(taps, axis=-1), beside, stride, padding, groups)
  spans = [span(tap, stride[0], padding[0], x.shape[1], out[0]) for tap in range(window[0])]
  met = sum(end - first for first, end in spans)
  pointwise = window[1:] == (1, 1) and padding[1:] == (0, 0) and stride == (1, 1, 1) and groups == 1
  if pointwise and window[0] * x.shape[1] <= 1.25 * met:
    return _one_product(x, kernel, padding, out)
  # One after the other; each convolves only frames that exist. With two frames and seven taps that is a quarter.
  total = jnp.zeros((x.shape[0], *out, outputs), x.dtype)
  for tap, (first, end) in enumerate(spans):
    if first < end:
      start = first * stride[0] + tap - padding[0]
      frames = x[:, start : start + (end - first - 1) * stride[0] + 1 : stride[0]]
      part = _frames(frames, kernel[tap], stride, padding, groups)
      total = total + jnp.pad(part, ((0, 0), (first, out[0] - end), *[(0, 0)] * 3))
  return total


def _all_frames_at_once(x: Array, kernel: Array, stride: Sizes, padding: Sizes, out: Sizes) -> Array:
  """Frames as channels of one 2-D convolution, with zeros where a frame does not reach another.

  For a stem of 8 outputs and five frames 51 ms for 90, and its gradient 42 for 198; with many outputs it is slower.
  """
  none, blocks = jnp.zeros_like(kernel[0]), []
  for frame in range(x.shape[1]):
    taps = [frame + padding[0] - stride[0] * number for number in range(out[0])]
    blocks.append(jnp.concatenate([kernel[tap] if 0 <= tap < len(kernel) else none for tap in taps], axis=-1))
  flat = rearrange(x, "b t h w c -> b h w (t c)")
  y = _flat(flat, jnp.concatenate(blocks, axis=2), stride[1:], padding[1:])
  return rearrange(y, "b h w (t o) -> b t h w o", t=out[0])


def _one_product(x: Array, kernel: Array, padding: Sizes, out: Sizes) -> Array:
  """All taps in time by one matrix product, whose parts are then shifted: 42 ms for 84 where frames are many enough."""
  parts = jnp.split(product(x, jnp.concatenate(list(kernel[:, 0, 0]), axis=-1)), len(kernel), axis=-1)
  total = jnp.zeros((x.shape[0], *out, kernel.shape[-1]), x.dtype)
  for tap, part in enumerate(parts):
    after = out[0] + tap - padding[0] - x.shape[1]
    total = total + jax.lax.pad(
      part, jnp.zeros((), x.dtype), [(0, 0, 0), (padding[0] - tap, after, 0), *[(0, 0, 0)] * 3]
    )
  return total


def _patches(x: Array, window: Sizes, out: Sizes) -> Array:
  """Windows that tile `x`, `[B, T', H', W', k * k * k * C]`."""
  if window == (1, 1, 1):
    return x
  (t, h, w), (i, j, k) = out, window
  whole = x[:, : t * i, : h * j, : w * k]
  return rearrange(whole, "b (t i) (h j) (w k) c -> b t h w (i j k c)", i=i, j=j, k=k)


def _frames(x: Array, kernel: Array, stride: Sizes, padding: Sizes, groups: int) -> Array:
  """Convolves each frame of `x [B, T, H, W, C]` with `kernel [k, k, C / groups, O]`."""
  if kernel.shape[:2] == (1, 1) and padding[1:] == (0, 0) and groups == 1:
    return product(x[:, :, :: stride[1], :: stride[2]], kernel[0, 0])
  flat = rearrange(x, "b t h w c -> (b t) h w c")
  geometry = stride[1:], padding[1:]
  y = _flat(flat, kernel, *geometry) if groups == 1 else _nhwc(flat, kernel, *geometry, groups)
  return rearrange(y, "(b t) h w o -> b t h w o", t=x.shape[1])


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
  turned = rearrange(kernel[::-1, ::-1], "j k c o -> j k o c")
  by_input = jax.lax.conv_general_dilated(
    grad, turned, (1, 1), around_grad, lhs_dilation=stride, dimension_numbers=_CANONICAL
  )
  by_kernel = jax.lax.conv_general_dilated(
    rearrange(x, "n h w c -> c h w n"), rearrange(grad, "n h w o -> h w n o"), (1, 1), around_x, rhs_dilation=stride,
    dimension_numbers=_CANONICAL,
  )  # fmt: skip
  return by_input, rearrange(by_kernel, "c j k o -> j k c o")


_flat.defvjp(lambda x, kernel, *geometry: (_flat(x, kernel, *geometry), (x, kernel)), _flat_gradients)
