"""Convolution and pooling: layers for images (n, h, w, channels) and sequences (n, s, channels).

Their kernels carry position axes in front (positions.py): each position with itself is enough before `Flatten`;
pooling and attention mix positions, and need all pairs, the 8 x 8 x 8 x 8 of a small image. Convolution moves both
positions of a pair together: its rule is a mean over shifts along diagonals, one direction at a time.

Arora et al. 2019 (CNTK), section 4 and appendix; Novak et al. 2019, section 2.
"""

# pyright: reportGeneralTypeIssues=false

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import checks
from ..pytrees import number, pytree, static
from .kernel import Layer
from .layers import affine_kernel, affine_params, affine_weights, check_parameterization, plus_bias
from .offsets import mean_at_offset
from .positions import diagonal, mean_of_shifts, one_sided
from .signals import Signals, own_variances

Axes = list[tuple[int, ...]]
MOST_SHIFTS = 1024  # a filter with more positions along one direction is a slip


@pytree
class Conv(Layer):
    """A convolution to `channels`, with scales as in `Dense`; the fan-in is channels times filter size.

    nngp' = W_std^2 mean of nngp over the filter + b_std^2, for pairs of positions shifted together.

    padding: "SAME" (zeros, as XLA pads), "VALID", or "CIRCULAR" (the size of SAME, wrapped around).
    """

    channels: int = static(least=1)
    filter_shape: tuple[int, ...] = static()
    strides: tuple[int, ...] = static(default=(1, 1))
    padding: str = static(default="SAME")
    W_std: Any = number(default=1.0)
    b_std: Any = number(default=0.0, is_optional=True)
    parameterization: str = static(default="ntk", kw_only=True)

    def __post_init__(self):
        n = len(_window(self.filter_shape, "filter_shape"))
        strides = _window(self.strides, "strides")
        _set_sizes(self, "filter_shape", (1,) * n if set(strides) == {1} else strides)
        checks.one_of(self.padding, "padding", ("SAME", "VALID", "CIRCULAR"))
        check_parameterization(self)

    @property
    def width(self) -> int:
        """The number of channels, under the name that it has in `Dense`."""
        return self.channels

    @property
    def is_by_offset(self):
        return self.strides[0] == 1 and self.padding != "VALID"

    def init(self, key, input_shape):
        input_shape = checks.init_arguments(key, input_shape)
        _check_positions(len(input_shape) - 2, self.filter_shape, "Conv")
        sizes = input_shape[1:-1]
        out = [
            (size + sum(pad) - window) // stride + 1
            for size, pad, window, stride in zip(sizes, self._pads(sizes), self.filter_shape, self.strides)
        ]
        params = affine_params(self, key, (*self.filter_shape, input_shape[-1], self.channels))
        return (input_shape[0], *out, self.channels), params

    def apply(self, params, x):
        W, b = affine_weights(self, params, x)
        _check_positions(x.ndim - 2, self.filter_shape, "Conv")
        pads = self._pads(x.shape[1:-1])
        if self.padding == "CIRCULAR":
            x = jnp.pad(x, [(0, 0), *pads, (0, 0)], mode="wrap")
            pads = [(0, 0) for _ in pads]
        d = "HWD"[: x.ndim - 2]
        layout = (f"N{d}C", f"{d}IO", f"N{d}C")
        return plus_bias(jax.lax.conv_general_dilated(x, W, self.strides, pads, dimension_numbers=layout), b)

    def kernel(self, k):
        _check_positions(len(k.axes), self.filter_shape, "Conv")
        wrap, keep, offset = self.padding == "CIRCULAR", k.keep, k.offset

        def mean(i, pad, window, stride, array, axes, sides):
            if keep == "offset" and i == 0:
                return mean_at_offset(array, offset, sides, pad, window, wrap=wrap)
            return mean_of_shifts(array, axes[i], pad, window, stride, wrap=wrap)

        sizes = [k.nngp.shape[axes[0]] for axes in k.axes]
        for direction in zip(range(len(sizes)), self._pads(sizes), self.filter_shape, self.strides):
            k = _over_positions(k, partial(mean, *direction))
        return affine_kernel(self, k, k.width * prod(self.filter_shape))

    def requires(self, needs):
        return needs

    def _pads(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        return _pads(sizes, self.filter_shape, self.strides, self.padding)


class Pooling(Layer):
    """Means or sums that mix positions: a subclass says how to take them, of signals as of their kernels."""

    def pooled(self, array: Array, axes: Axes) -> Array:
        """What becomes of an array with these position axes, by direction; two of one direction move apart."""
        raise NotImplementedError

    def init(self, key, input_shape):
        input_shape = checks.input_shape(input_shape)
        out = jax.eval_shape(lambda: self.apply((), jnp.zeros((1, *input_shape[1:])))).shape
        return (input_shape[0], *out[1:]), ()

    def apply(self, params, x):
        checks.layer_inputs(x, type(self).__name__)
        return self.pooled(x, [(axis,) for axis in range(1, x.ndim - 1)])

    def kernel(self, k):
        mean = partial(self.pooled, axes=k.axes)
        nngp = mean(k.nngp)
        var1, var2 = own_variances(k, nngp, lambda inside: mean(inside.nngp))
        return k.without_distance().replace(nngp=nngp, ntk=mean(k.ntk), var1=var1, var2=var2)

    def requires(self, needs):
        return needs | {"all"} | ({"inside"} if "variances" in needs else set())


@pytree
class AvgPool(Pooling):
    """The mean over windows of positions; strides default to the window.

    padding: "VALID" (none), "CIRCULAR" (wrapped around), or "SAME": zeros, which count in a mean unless
    `normalize_edges`. `is_sum` makes it the sum.
    """

    window_shape: tuple[int, ...] = static()
    strides: tuple[int, ...] | None = static(default=None)
    padding: str = static(default="VALID")
    normalize_edges: bool = static(default=False, kw_only=True)
    is_sum: bool = static(default=False, kw_only=True)

    def __post_init__(self):
        checks.one_of(self.padding, "padding", ("VALID", "SAME", "CIRCULAR"))
        _set_sizes(self, "window_shape", self.window_shape if self.strides is None else self.strides)

    def pooled(self, array, axes):
        _check_positions(len(axes), self.window_shape, "AvgPool")
        for i, of_direction in enumerate(axes):
            for axis in of_direction:
                array = self._along(array, axis, i)
        return array

    def _along(self, array: Array, axis: int, i: int) -> Array:
        """The mean or sum over the windows of direction i, along one axis."""
        window, stride, size = self.window_shape[i], (self.strides or self.window_shape)[i], array.shape[axis]
        (pad,) = _pads((size,), (window,), (stride,), self.padding)
        out = mean_of_shifts(array, (axis,), pad, window, stride, wrap=self.padding == "CIRCULAR")
        if self.is_sum:
            return out * window
        if self.normalize_edges and self.padding == "SAME":
            share = mean_of_shifts(jnp.ones(size, out.dtype), (0,), pad, window, stride, wrap=False)
            out = out / share.reshape([-1 if other == axis else 1 for other in range(out.ndim)])
        return out


@pytree
class GlobalAvgPool(Pooling):
    """The mean over all positions, or with `is_sum` the sum: flat data from here on."""

    is_sum: bool = static(default=False, kw_only=True)

    @property
    def is_global_mean(self):
        return not self.is_sum

    def pooled(self, array, axes):
        return (jnp.sum if self.is_sum else jnp.mean)(array, sum(axes, ()))

    def kernel(self, k):
        return k if k.keep == "none" else _flat(super().kernel(k))


@pytree
class Flatten(Layer):
    """All positions and channels as the channels of flat data."""

    def init(self, key, input_shape):
        input_shape = checks.input_shape(input_shape)
        return (input_shape[0], prod(input_shape[1:])), ()

    def apply(self, params, x):
        checks.layer_inputs(x, "Flatten")
        return x.reshape(x.shape[0], -1)

    def kernel(self, k):
        if k.keep == "none":
            return k
        n = len(k.axes)

        def mean(array: Array, axes: Axes, sides: tuple[int, ...]) -> Array:
            if len(axes[0]) == 2:  # all pairs were kept for a layer before: flat data need each with itself
                return diagonal(array, n).mean(tuple(range(n)))
            return array.mean(sum(k.axes, ()))  # axes of length 1 go too

        return _flat(_over_positions(k, mean)).replace(width=k.width * prod(k.nngp.shape[axes[0]] for axes in k.axes))

    def requires(self, needs):
        return needs - {"all", "inside"}


def _pads(sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: str) -> list[tuple[int, int]]:
    """What is added before and behind along each direction."""
    padding = "VALID" if padding == "VALID" else "SAME"
    return [(int(a), int(b)) for a, b in jax.lax.padtype_to_pads(sizes, window, strides, padding)]


def _over_positions(k: Signals, f: Callable[[Array, Axes, tuple[int, ...]], Array]) -> Signals:
    """`f(array, axes, sides)` of all kernels; `axes` are those of each direction along which the array varies.

    `sides` says whose positions these are, of x1 (0), of x2 (1) or of both (0, 1).

    Distances follow from these: a mean of distances of its own would cost as much as both kernels.
    """
    axes = k.axes
    return k.without_distance().replace(
        nngp=f(k.nngp, axes, (0, 1)),
        ntk=f(k.ntk, axes, (0, 1)),
        var1=None if k.var1 is None else f(k.var1, one_sided(axes, 0), (0,)),
        var2=None if k.var2 is None else f(k.var2, one_sided(axes, 1), (1,)),
    )


def _flat(k: Signals) -> Signals:
    return k.replace(keep="none", inside1=None, inside2=None)


def _check_positions(n: int, window: tuple[int, ...], name: str) -> None:
    if n != len(window):
        what = {0: "flat data (n, features)", 1: "sequences (n, s, channels)", 2: "images (n, h, w, channels)"}
        raise ValueError(
            f"Expected data with {len(window)} position axes for {name} with a window {window}, "
            f"got {what.get(n, f'{n} position axes')}. Reshape the inputs, or put {name} before Flatten and pooling."
        )


def _set_sizes(layer: Any, name: str, strides: Any) -> None:
    """Makes tuples of the window, which has this `name`, and of the strides; raises for what is no whole number."""
    window, strides = _window(getattr(layer, name), name), _window(strides, "strides")
    if len(window) != len(strides):
        raise ValueError(f"Expected strides with {len(window)} numbers, one per direction, got {strides}.")
    object.__setattr__(layer, name, window)
    object.__setattr__(layer, "strides", strides)


def _window(value: Any, name: str) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for size in sizes:
        checks.whole_number(size, name, 1, MOST_SHIFTS if name == "filter_shape" else checks.MOST)
    return sizes
