"""Networks whose signals take several paths: sums of paths, residual blocks, and paths side by side.

Signals of different paths are uncorrelated if all but one of the paths end in random weights of mean zero. Notebook 03
uses residual blocks.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from .. import checks
from ..pytrees import pytree
from .activations import Identity
from .kernel import Layer, through
from .layers import Sequential, check_layer, names_of, same_number
from .signals import Signals


@pytree
class Sum(Layer):
    """f(x) + g(x) + ..., where the `paths` f, g, ... have parameters of their own.

    Both kernels add: of the paths all but one end in random weights of mean zero, so that no two are correlated.
    LayerNorm and pooling may follow these weights.

    >>> from ntkbook import Dense, Relu, Sum, serial
    >>> len(Sum(Dense(8), serial(Dense(4), Relu(), Dense(8))).paths)
    2
    """

    paths: tuple[Layer, ...]

    @property
    def is_by_offset(self):
        return all(layer.is_by_offset for layer in self.paths)

    def __init__(self, *paths: Layer):
        for path in paths:
            check_layer(path)
        if len(paths) < 2:
            raise ValueError(
                f"Expected two or more paths in Sum, got {names_of(paths)}. Sum(Identity(), f) is x + f(x)."
            )
        object.__setattr__(self, "paths", paths)

    def init(self, key, input_shape):
        checks.one_key(key)
        input_shape = checks.input_shape(input_shape)
        keys = jax.random.split(key, len(self.paths))
        shapes, params = zip(*(path.init(key, input_shape) for path, key in zip(self.paths, keys)))
        if len({tuple(shape) for shape in shapes}) > 1:
            raise ValueError(
                f"Expected the paths of Sum to end in one shape, got {', '.join(map(str, shapes))} "
                f"from {input_shape}. Give their last layers one width, and pool or convolve alike."
            )
        return shapes[0], params

    def apply(self, params, x):
        same_number(params, self.paths, "Sum")
        outputs = [path.apply(path_params, x) for path, path_params in zip(self.paths, params)]
        return reduce(jnp.add, outputs)

    def kernel(self, k):
        return _kernel_of_sum(self.paths, k, "Sum")

    def requires(self, needs):
        return frozenset().union(*(path.requires(needs) for path in self.paths))

    def __repr__(self):
        return f"Sum({', '.join(map(repr, self.paths))})"


@pytree
class Concat(Layer):
    """f(x), g(x), ... side by side as channels, where the `paths` f, g, ... have parameters of their own.

    Both kernels are means over all channels. Its channels are no longer alike: put Dense or Conv after it.

    >>> import jax
    >>> from ntkbook import Concat, Dense
    >>> Concat(Dense(8), Dense(4)).init(jax.random.key(0), (1, 3))[0]
    (1, 12)
    """

    paths: tuple[Layer, ...]

    @property
    def is_by_offset(self):
        return all(layer.is_by_offset for layer in self.paths)

    def __init__(self, *paths: Layer):
        for path in paths:
            check_layer(path)
        if len(paths) < 2:
            raise ValueError(f"Expected two or more paths in Concat, got {names_of(paths)}.")
        object.__setattr__(self, "paths", paths)

    def init(self, key, input_shape):
        keys = jax.random.split(key, len(self.paths))
        shapes, params = zip(*(path.init(key, input_shape) for path, key in zip(self.paths, keys)))
        if len({tuple(shape[:-1]) for shape in shapes}) > 1:
            raise ValueError(
                f"Expected the paths of Concat to end in one shape but for channels, got {', '.join(map(str, shapes))} "
                f"from {input_shape}. Pool or convolve alike."
            )
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes)), params

    def apply(self, params, x):
        same_number(params, self.paths, "Concat")
        return jnp.concatenate([path.apply(one, x) for path, one in zip(self.paths, params)], axis=-1)

    def kernel(self, k):
        ends = [through(path, k) for path in self.paths]
        if len({(end.keep, end.nngp.shape) for end in ends}) > 1:
            raise ValueError(f"Expected the paths of Concat to keep the same positions, got {names_of(self.paths)}.")
        width = sum(end.width for end in ends)

        def mean(name: str) -> Any:
            arrays = [getattr(end, name) for end in ends]
            if any(array is None for array in arrays):
                return None
            return reduce(jnp.add, [array * (end.width / width) for array, end in zip(arrays, ends)])

        return ends[0].replace(
            **{name: mean(name) for name in ("nngp", "ntk", "var1", "var2", "distance")},
            width=width,
            is_gaussian=False,
            fresh=min(end.fresh for end in ends),
        )

    def requires(self, needs):
        return frozenset().union(*(path.requires(needs) for path in self.paths))

    def __repr__(self):
        return f"Concat({', '.join(map(repr, self.paths))})"


def _kernel_of_sum(paths: Sequence[Layer], k: Signals, name: str) -> Signals:
    level = k.level + 1
    ends = [through(path, k.replace(level=level)) for path in paths]
    if sum(end.fresh < level for end in ends) > 1:
        raise ValueError(
            f"Expected all paths of {name} but one to end in random weights, got {names_of(paths)}: "
            "sums of correlated signals have no kernel here. End them in Dense or Conv."
        )
    shapes = {(end.width, end.keep, end.nngp.shape) for end in ends}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected the paths of {name} to end in one width and shape, got "
            f"{', '.join(f'width {end.width} and kernel {end.nngp.shape}' for end in ends)}. "
            "Give their last layers one width, and pool or convolve alike."
        )
    add = lambda arrays: None if any(a is None for a in arrays) else reduce(jnp.add, arrays)
    names = ("nngp", "ntk", "var1", "var2", "distance")
    return ends[0].replace(
        **{name: add([getattr(end, name) for end in ends]) for name in names},
        is_gaussian=all(end.is_gaussian for end in ends),
        level=k.level,
        fresh=min(k.level, *(end.fresh for end in ends)),
    )


@pytree
class Residual(Layer):
    """x + f(x), where f is `layers` one after another and ends in random weights of the same width as x: see `Sum`.

    Its parameters are those of `serial(*layers)`.

    >>> from ntkbook import Dense, Relu, Residual
    >>> len(Residual(Relu(), Dense(8)).layers)
    2
    """

    layers: tuple[Layer, ...]

    @property
    def is_by_offset(self):
        return all(layer.is_by_offset for layer in self.layers)

    def __init__(self, *layers: Layer):
        for layer in layers:
            check_layer(layer)
        object.__setattr__(self, "layers", layers)

    def init(self, key, input_shape):
        checks.one_key(key)
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
        return _kernel_of_sum((Identity(), Sequential(self.layers)), k, "Residual")

    def requires(self, needs):
        return needs | Sequential(self.layers).requires(needs)

    def __repr__(self):
        return f"Residual({', '.join(map(repr, self.layers))})"
