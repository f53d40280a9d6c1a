"""The kernel of an infinitely wide network as one of scikit-learn's: for its Gaussian processes, SVC, KernelRidge.

What may be tuned is declared by the layers: each positive W_std, b_std, slope and so on is a hyperparameter, in log
space as there, with derivatives by JAX. The page "Kernels in scikit-learn" uses it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

from .. import checks
from ..scale.gram import gram
from . import bridge


class NTKKernel(Kernel):
    """The NNGP or NTK of `net` as a kernel of `sklearn.gaussian_process`.

    Args:
        net: a network whose kernel is one number for a pair of examples; None is two hidden ReLU layers.
        get: "nngp", the prior of random networks, or "ntk".
        net_bounds: (low, high) for every hyperparameter, "fixed" for none to be tuned, or a dict from names, as
            `hyperparameters` shows them, to one of these; the others then keep (1e-3, 1e3).
        input_shape: (height, width, channels), say, if the rows of X are images that were flattened.

    Hyperparameters are the numbers that the layers declare tunable. scikit-learn tunes logarithms, so a number that is
    zero or negative is fixed: give `b_std` a positive start for it to be tuned. The kernel is computed in float64,
    whatever the setting of JAX. Add a `WhiteKernel` for noise.

    >>> kernel = NTKKernel(nb.serial(nb.Dense(1, 1.5), nb.Relu(), nb.Dense(1, 2.0)))
    >>> [h.name for h in kernel.hyperparameters if not h.fixed], np.exp(kernel.theta).round(3)
    (['layers[0].W_std', 'layers[2].W_std'], array([1.5, 2. ]))
    """

    def __init__(self, net: Any = None, get: str = "nngp", net_bounds: Any = (1e-3, 1e3), input_shape: Any = None):
        self.net = net
        self.get = get
        self.net_bounds = net_bounds
        self.input_shape = input_shape

    # ------------------------------------------------------------ hyperparameters

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor; if `deep`, also each number of the network by its name."""
        params = super().get_params(deep)
        return params | {number.path: number.value for number in self._numbers()} if deep else params

    def set_params(self, **params: Any) -> "NTKKernel":
        """Arguments of the constructor, or numbers of the network, as in `set_params(**{"layers[0].W_std": 2.0})`."""
        arguments = super().get_params(deep=False)
        super().set_params(**{name: params[name] for name in arguments if name in params})
        numbers = {name: value for name, value in params.items() if name not in arguments}
        indices = {number.path: number.index for number in self._numbers()}
        for name in numbers:
            checks.one_of(name, "a parameter of NTKKernel", (*arguments, *indices))
        if numbers:
            self.net = bridge.with_numbers(self._net(), [indices[n] for n in numbers], list(numbers.values()))
        return self

    @property
    def hyperparameters(self) -> list[Hyperparameter]:
        """One for each tunable number, in the order of the layers; what cannot or should not be tuned is fixed."""
        bounds = self._bounds()
        return [Hyperparameter(number.path, "numeric", bounds[number.path]) for number in self._numbers()]

    @property
    def theta(self) -> np.ndarray:
        """The logarithms of the numbers that are not fixed, (d,)."""
        return np.log(np.array([number.value for number in self._free()], float))

    @theta.setter
    def theta(self, theta: Any) -> None:
        free = self._free()
        if len(theta) != len(free):
            raise ValueError(f"Expected theta with {len(free)} entries, one per free number, got {len(theta)}.")
        values = [float(value) for value in np.exp(np.asarray(theta, float))]
        self.net = bridge.with_numbers(self._net(), [number.index for number in free], values)

    @property
    def bounds(self) -> np.ndarray:
        """The logarithms of the bounds of theta, (d, 2)."""
        bounds = self._bounds()
        return np.log(np.array([bounds[number.path] for number in self._free()], float).reshape(-1, 2))

    def _net(self):
        return bridge.network_of(self.net)

    def _numbers(self):
        return bridge.numbers_of(self._net())

    def _free(self):
        bounds = self._bounds()
        return [number for number in self._numbers() if not isinstance(bounds[number.path], str)]

    def _bounds(self) -> dict[str, Any]:
        """name -> (low, high) inside of what the layer allows, or "fixed"."""
        numbers = self._numbers()
        given = self.net_bounds if isinstance(self.net_bounds, dict) else {n.path: self.net_bounds for n in numbers}
        for name in given:
            checks.one_of(name, "a name in net_bounds", tuple(number.path for number in numbers))
        return {number.path: _limits(number, given.get(number.path, (1e-3, 1e3))) for number in numbers}

    # ------------------------------------------------------------ values

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """k(X, Y), (n, m), float64; with `eval_gradient` also its derivatives in theta, (n, n, d).

        Raises:
            ValueError: for a gradient with Y, other features, or a network whose kernel keeps positions.
        """
        checks.one_of(self.get, "get", ("nngp", "ntk"))
        if Y is not None and eval_gradient:
            raise ValueError("Expected no Y with eval_gradient=True, got one: gradients are those of k(X, X).")
        x = self._inputs(X)
        if not eval_gradient:
            return bridge.matrices(self._net(), (self.get,), x, None if Y is None or Y is X else self._inputs(Y))[0]
        indices = tuple(number.index for number in self._free())
        if not indices:
            return self(X), np.empty((len(x), len(x), 0))
        with bridge.precision():
            slope, value = _value_and_slope(self._net(), self.theta, x, indices, self.get)
            return np.array(value), np.array(slope)

    def diag(self, X: Any) -> np.ndarray:
        """k(x, x) of each row, (n,)."""
        checks.one_of(self.get, "get", ("nngp", "ntk"))
        return bridge.diagonal(self._net(), self._inputs(X), self.get)

    def is_stationary(self) -> bool:
        """False: it depends on the length of the inputs."""
        return False

    def _inputs(self, X):
        return bridge.as_images(np.atleast_2d(np.asarray(X, np.float64)), self.input_shape)

    def __repr__(self) -> str:
        rounded = [float(f"{number.value:.3g}") for number in self._numbers()]
        net = bridge.with_numbers(self._net(), range(len(rounded)), rounded)
        return f"NTKKernel({net!r}, get={self.get!r})"


def _limits(number: bridge.Free, wanted: Any) -> Any:
    if isinstance(wanted, str):
        checks.one_of(wanted, f"the bounds of {number.path}", ("fixed",))
        return "fixed"
    low, high = np.asarray(wanted, float).reshape(2)
    if not 0 < low <= high < np.inf:
        raise ValueError(f"Expected bounds of {number.path} with 0 < low <= high, got ({low:g}, {high:g}).")
    return (max(low, number.low), min(high, number.high)) if number.value > 0 else "fixed"


@partial(jax.jit, static_argnames=("indices", "get"))
def _value_and_slope(net, theta, x, indices, get):
    """((n, n, d), (n, n)); forward mode, as the numbers are few."""

    def value(theta):
        k = gram(bridge.with_numbers(net, indices, list(jnp.exp(theta))), x, get=get)
        return k, k

    return jax.jacfwd(value, has_aux=True)(theta)
