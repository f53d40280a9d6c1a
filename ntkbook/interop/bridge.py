"""What the doors share: matrices in the other library's precision, rows as images, a network's numbers by name.

scikit-learn and its solvers count on float64. JAX computes in it only if it is told to; here that is switched on for
the call alone, in this thread alone, so that importing or using a door changes no setting.
"""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..networks.activations import Relu
from ..networks.kernel import Layer
from ..networks.layers import Dense, serial
from ..pytrees import tunable, with_tunable
from ..scale.gram import gram

ENTRIES = 2**22  # of one matrix that is made in one piece; images count each pair of positions


def precision(is_double: bool = True) -> Any:
    """A context in which JAX keeps float64 (or not), whatever its setting outside."""
    home: Any = jax if hasattr(jax, "enable_x64") else import_module("jax.experimental")  # before jax 0.8
    return home.enable_x64(is_double)


def default_network() -> Layer:
    """Two hidden layers of ReLU, with biases: the network of who names none."""
    hidden = lambda: Dense(512, 2.0**0.5, 0.1)
    return serial(hidden(), Relu(), hidden(), Relu(), Dense(1, 1.0, 0.1))


def network_of(net: Any) -> Layer:
    """`net`, or the default for None. Raises TypeError for what is no network."""
    if net is None:
        return default_network()
    if not isinstance(net, Layer):
        raise TypeError(f"Expected net to be a network made by serial(...), got {type(net).__name__}.")
    return net


def as_images(x: np.ndarray, input_shape: Any) -> np.ndarray:
    """Rows (n, d) as (n, *input_shape), for networks of images; unchanged for None."""
    if input_shape is None:
        return x
    shape = tuple(input_shape)
    if prod(shape) != x.shape[1]:
        raise ValueError(f"Expected rows of {prod(shape)} numbers for input_shape={shape}, got {x.shape[1]}.")
    return x.reshape(len(x), *shape)


def matrices(net: Layer, words: tuple[str, ...], x1: np.ndarray, x2: np.ndarray | None = None) -> list[np.ndarray]:
    """The kernels named by `words`, "nngp" and "ntk", each (n1, n2), float64, as arrays that may be written to."""
    same, rows, columns = x2 is None, x1, x1 if x2 is None else x2
    side = max(4, int(ENTRIES**0.5 / prod(x1.shape[1:-1])))
    results = [np.empty((len(rows), len(columns))) for _ in words]
    with precision():
        for i in range(0, len(rows), side):
            for j in range(i if same else 0, len(columns), side):
                x = jnp.asarray(rows[i : i + side])
                y = None if same and i == j else jnp.asarray(columns[j : j + side])
                for result, block in zip(results, gram(net, x, y, get=words, tile=side)):
                    result[i : i + side, j : j + side] = block
                    if same and i != j:
                        result[j : j + side, i : i + side] = np.asarray(block).T
    return results


class Free(NamedTuple):
    """A number of a network that another library may tune: its place in `tunable(net)`, and what that says."""

    index: int
    path: str
    value: float
    low: float
    high: float

    @property
    def is_scale(self) -> bool:
        """Does only its square matter, as that of W_std and b_std?"""
        return self.path.endswith("_std")


def numbers_of(net: Layer) -> list[Free]:
    """All that `tunable(net)` lists, scales by their magnitude, as Python floats."""
    found = [Free(i, *number) for i, number in enumerate(tunable(net))]
    return [n._replace(value=abs(float(n.value)) if n.is_scale else float(n.value)) for n in found]


def with_numbers(net: Layer, indices: Sequence[int], values: Sequence[Any]) -> Layer:
    """`net` with the `values` at these places of `tunable(net)`; they may be tracers."""
    all_values = [number.value for number in tunable(net)]
    for index, value in zip(indices, values):
        all_values[index] = value
    return with_tunable(net, all_values)


def diagonal(net: Layer, x: np.ndarray, get: str) -> np.ndarray:
    """k(x_i, x_i) for each example, (n,), float64."""
    with precision():
        return np.array(_diagonal(net, x, get))


@partial(jax.jit, static_argnames="get")
def _diagonal(net, x, get):
    return jax.vmap(lambda one: gram(net, one[None], get=(get,))[0][0, 0])(x)
