"""Taylor expansions of a network in its parameters: to first order it is a linear model with the NTK as kernel.

Both work for any f(params, x) and give g(params, x), which every finite-width function takes in turn: train it, or
ask for its tangent kernel. Notebook 04 derives the first order and measures the second.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from .. import checks
from .functions import Function, as_function, check_params, partition
from .torch_models import TorchFunction, torch_expansion


@functools.partial(jax.tree_util.register_dataclass, data_fields=["function", "params_0"], meta_fields=["order"])
@dataclass(frozen=True)
class TaylorExpansion:
    """g(params, x), the expansion of `function` about `params_0`; a pytree, so a new `params_0` compiles nothing."""

    function: Function
    params_0: Any
    order: int

    def __call__(self, params: Any, x: Any) -> Any:
        theta_0, rebuild = partition(self.params_0)
        theta, _ = partition(params)
        step = [a - b for a, b in zip(theta, theta_0, strict=True)]

        terms = derivatives(lambda theta: self.function(rebuild(theta), x), step, self.order)(theta_0)
        weighted = [jax.tree.map(lambda a, k=k: a / math.factorial(k), term) for k, term in enumerate(terms)]
        return jax.tree.map(lambda *parts: sum(parts), *weighted)


def linearize(f: Callable, params_0: Any) -> Callable:
    """g(params, x) = f(params_0, x) + df(params_0, x)/dparams (params - params_0), exact and linear in params.

    The tangent kernel of g is that of f at `params_0`, wherever it is evaluated, and training g by squared error is
    what `gradient_descent` solves in closed form.

    Raises:
        TypeError: if f is no function or `params_0` holds no floating arrays.

    Lee et al. 2019, equation 3; notebook 04.
    """
    return taylor_expand(f, params_0, 1)


def taylor_expand(f: Callable, params_0: Any, order: int) -> Callable:
    """g(params, x) = sum over k = 0..order of D^k f(params_0, x)[params - params_0, ...] / k!

    By nested forward mode, which costs about 2^order evaluations of f; any order.

    Raises:
        TypeError: if f is no function, `params_0` holds no floating arrays, or `order` is no whole number.
        ValueError: for a negative order.
    """
    checks.whole_number(order, "order")
    if isinstance(f, TorchFunction):
        return torch_expansion(f, params_0, order)
    check_params(params_0)
    return TaylorExpansion(as_function(f), params_0, order)


def derivatives(f: Callable, step: Any, order: int) -> Callable:
    """theta -> (f, D f[step], ..., D^order f[step, ..., step]) at theta."""
    if order == 0:
        return lambda theta: (f(theta),)
    lower = derivatives(f, step, order - 1)

    def all_derivatives(theta):
        values, slopes = jax.jvp(lower, (theta,), (step,))
        return (*values, slopes[-1])

    return all_derivatives
