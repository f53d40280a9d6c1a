"""Networks whose signals take several paths: sums of paths, residual blocks, and paths side by side.

Signals of different paths are uncorrelated if all but one of the paths end in random weights of mean zero. Notebook 03
uses residual blocks.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import checks
from ..pytrees import pytree
from .activations import Identity
from .in_turn import through
from .kernel import Layer
from .layers import Compound, Sequential, checked_layers, names_of, same_number
from .signals import Signals


class Paths(Compound):
    """Several `paths` from one place, each with parameters of its own; a subclass says how their ends are joined."""

    paths: tuple[Layer, ...]

    def init(self, key, input_shape):
        input_shape = checks.init_arguments(key, input_shape)
        keys = jax.random.split(key, len(self.paths))
        shapes, params = zip(*(path.init(key, input_shape) for path, key in zip(self.paths, keys)))
        return self.shape(shapes, f"got {', '.join(map(str, shapes))} from {input_shape}"), params

    def shape(self, shapes: Sequence[tuple[int, ...]], got: str) -> tuple[int, ...]:
        """Of the joined ends; raises ValueError for ends that do not fit, which `got` describes."""
        raise NotImplementedError

    def apply(self, params, x):
        same_number(params, self.paths, type(self).__name__)
        return self.joined([path.apply(path_params, x) for path, path_params in zip(self.paths, params)])

    def joined(self, outputs: list[Array]) -> Array:
        """The outputs of all paths as one."""
        raise NotImplementedError

    def requires(self, needs):
        return frozenset().union(*(path.requires(needs) for path in self.paths))

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(map(repr, self.inner))})"


def _two_or_more(paths: tuple[Any, ...], name: str, hint: str = "") -> tuple[Layer, ...]:
    if len(checked_layers(paths)) < 2:
        raise ValueError(f"Expected two or more paths in {name}, got {names_of(paths)}.{hint}")
    return paths


@pytree
class Sum(Paths):
    """f(x) + g(x) + ..., where the `paths` f, g, ... have parameters of their own.

    Both kernels add: of the paths all but one end in random weights of mean zero, so that no two are correlated.
    LayerNorm and pooling may follow these weights.

    >>> from ntkbook import Dense, Relu, Sum, serial
    >>> len(Sum(Dense(8), serial(Dense(4), Relu(), Dense(8))).paths)
    2
    """

    paths: tuple[Layer, ...]

    def __init__(self, *paths: Layer):
        object.__setattr__(self, "paths", _two_or_more(paths, "Sum", " Sum(Identity(), f) is x + f(x)."))

    def shape(self, shapes, got):
        if len(set(map(tuple, shapes))) > 1:
            raise ValueError(
                f"Expected the paths of Sum to end in one shape, {got}. "
                "Give their last layers one width, and pool or convolve alike."
            )
        return shapes[0]

    def joined(self, outputs):
        return reduce(jnp.add, outputs)

    def kernel(self, k):
        return _sum_of_uncorrelated(self, k)


@pytree
class Concat(Paths):
    """f(x), g(x), ... side by side as channels, where the `paths` f, g, ... have parameters of their own.

    Both kernels are means over all channels. Its channels are no longer alike: put Dense or Conv after it.

    >>> import jax
    >>> from ntkbook import Concat, Dense
    >>> Concat(Dense(8), Dense(4)).init(jax.random.key(0), (1, 3))[0]
    (1, 12)
    """

    paths: tuple[Layer, ...]

    def __init__(self, *paths: Layer):
        object.__setattr__(self, "paths", _two_or_more(paths, "Concat"))

    def shape(self, shapes, got):
        if len({tuple(shape[:-1]) for shape in shapes}) > 1:
            raise ValueError(
                f"Expected the paths of Concat to end in one shape but for channels, {got}. Pool or convolve alike."
            )
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def joined(self, outputs):
        return jnp.concatenate(outputs, axis=-1)

    def kernel(self, k):
        ends = [through(path, k) for path in self.paths]
        if len({(end.keep, end.nngp.shape) for end in ends}) > 1:
            raise ValueError(f"Expected the paths of Concat to keep the same positions, got {names_of(self.paths)}.")
        width = sum(end.width for end in ends)
        return ends[0].replace(
            **_weighted(ends, [end.width / width for end in ends]),
            width=width,
            is_gaussian=False,
            fresh=min(end.fresh for end in ends),
        )


def _weighted(ends: Sequence[Signals], weights: Sequence[float]) -> dict[str, Any]:
    """The weighted sum of each array, and None for what one of the ends does not hold."""

    def total(name: str) -> Any:
        arrays = [getattr(end, name) for end in ends]
        if any(array is None for array in arrays):
            return None
        return reduce(jnp.add, [array * weight for array, weight in zip(arrays, weights)])

    return {name: total(name) for name in ("nngp", "ntk", "var1", "var2", "distance")}


def _sum_of_uncorrelated(layer: Paths, k: Signals) -> Signals:
    level, name = k.level + 1, type(layer).__name__
    ends = [through(path, k.replace(level=level)) for path in layer.paths]
    if sum(end.fresh < level for end in ends) > 1:
        raise ValueError(
            f"Expected all paths of {name} but one to end in random weights, got {names_of(layer.paths)}: "
            "sums of correlated signals have no kernel here. End them in Dense or Conv."
        )
    shapes = {(end.width, end.keep, end.nngp.shape) for end in ends}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected the paths of {name} to end in one width and shape, got "
            f"{', '.join(f'width {end.width} and kernel {end.nngp.shape}' for end in ends)}. "
            "Give their last layers one width, and pool or convolve alike."
        )
    return ends[0].replace(
        **_weighted(ends, [1.0] * len(ends)),
        is_gaussian=all(end.is_gaussian for end in ends),
        level=k.level,
        fresh=min(k.level, *(end.fresh for end in ends)),
    )


@pytree
class Residual(Paths):
    """x + f(x), where f is `layers` one after another and ends in random weights of the same width as x: see `Sum`.

    Its parameters are those of `serial(*layers)`.

    >>> from ntkbook import Dense, Relu, Residual
    >>> len(Residual(Relu(), Dense(8)).layers)
    2
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer):
        object.__setattr__(self, "layers", checked_layers(layers))

    @property
    def paths(self):
        return Identity(), Sequential(self.layers)

    def init(self, key, input_shape):
        input_shape = checks.input_shape(input_shape)
        output_shape, params = Sequential(self.layers).init(key, input_shape)
        if tuple(output_shape) != tuple(input_shape):
            raise ValueError(
                f"Expected the layers of Residual to keep the shape {input_shape}, got {output_shape}. "
                "Give its last layer the width of its input."
            )
        return output_shape, params

    def apply(self, params, x):
        return x + Sequential(self.layers).apply(params, x)

    def kernel(self, k):
        return _sum_of_uncorrelated(self, k)
