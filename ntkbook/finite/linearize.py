"""Taylor expansions of a network in its parameters: to first order it is a linear model with the NTK as kernel.

Both work for any f(params, x) and give g(params, x), which every finite-width function takes in turn: train it, or
ask for its tangent kernel. Notebook 04 derives the first order and measures the second.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .. import checks


def linearize(f: Callable, params_0: Any) -> Callable:
    """g(params, x) = f(params_0, x) + df(params_0, x)/dparams (params - params_0), exact and linear in params.

    The tangent kernel of g is that of f at `params_0`, wherever it is evaluated, and training g by squared error is
    what `gradient_descent` solves in closed form.

    >>> g = linearize(lambda w, x: x * w**2, jnp.array(3.0))
    >>> float(g(jnp.array(3.5), jnp.array(1.0)))  # 9 + 6 * 0.5
    12.0

    Raises:
        TypeError: if f is no function or `params_0` holds no floating arrays.

    Lee et al. 2019, equation 3; notebook 04.
    """
    return taylor_expand(f, params_0, 1)


def taylor_expand(f: Callable, params_0: Any, order: int) -> Callable:
    """g(params, x) = sum over k = 0..order of D^k f(params_0, x)[params - params_0, ...] / k!

    By nested forward mode, which costs about 2^order evaluations of f; any order. Complex parameters move by their
    real and imaginary parts; whole numbers stay those of `params_0`.

    >>> g = taylor_expand(lambda w, x: x * w**2, jnp.array(3.0), 2)
    >>> float(g(jnp.array(3.5), jnp.array(1.0)))  # 9 + 6 * 0.5 + 0.5**2
    12.25

    Raises:
        TypeError: if f is no function, `params_0` holds no floating arrays, or `order` is no whole number.
        ValueError: for a negative order, or, in g, for params of another structure than `params_0`.
    """
    checks.whole_number(order, "order")
    check_function(f)
    check_params(params_0)
    if hasattr(f, "own_taylor_expand"):  # a model that JAX cannot differentiate brings its own derivatives
        return f.own_taylor_expand(params_0, order)
    leaves_0, structure = jax.tree.flatten(params_0)
    start = [jnp.asarray(leaf) for leaf in leaves_0 if moves(leaf)]

    def rebuild(theta: list) -> Any:
        new = iter(theta)
        return jax.tree.unflatten(structure, [next(new) if moves(leaf) else leaf for leaf in leaves_0])

    def g(params: Any, x: Any) -> Any:
        leaves, same = jax.tree.flatten(params)
        if same != structure:
            raise ValueError(f"Expected params of the structure of params_0, {structure}, got {same}.")
        step = [jnp.asarray(a).astype(b.dtype) - b for a, b in zip([a for a in leaves if moves(a)], start, strict=True)]
        terms = derivatives(lambda theta: f(rebuild(theta), x), step, order)(start)
        weighted = [jax.tree.map(lambda a, k=k: a / math.factorial(k), term) for k, term in enumerate(terms)]
        return jax.tree.map(lambda *parts: sum(parts), *weighted)

    return g


def derivatives(f: Callable, step: Any, order: int) -> Callable:
    """theta -> (f, D f[step], ..., D^order f[step, ..., step]) at theta."""
    if order == 0:
        return lambda theta: (f(theta),)
    lower = derivatives(f, step, order - 1)

    def all_derivatives(theta):
        values, slopes = jax.jvp(lower, (theta,), (step,))
        return (*values, slopes[-1])

    return all_derivatives


def moves(leaf: Any) -> bool:
    """Is this a real or complex parameter, rather than a count, a switch or a random key?"""
    return isinstance(leaf, (float, complex)) or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact))


def check_function(f: Any) -> None:
    """Raises TypeError unless f can be called, or if it is a PyTorch module, which `from_torch` wraps first."""
    if any(kind.__module__.startswith("torch.nn.") for kind in type(f).__mro__):
        raise TypeError(
            "Expected f to be a function of (params, x), got a PyTorch module. Wrap it: from_torch(module)."
        )
    if not callable(f):
        raise TypeError(
            f"Expected f to be a function of (params, x), got {checks.describe(f)}. For a network, pass net.apply."
        )


def check_params(params: Any) -> None:
    """Raises TypeError for leaves that are no arrays, or if no leaf is floating."""
    leaves = jax.tree.leaves(params)
    for leaf in leaves:
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (float, complex, int)):
            raise TypeError(
                f"Expected params to hold arrays only, got a leaf {checks.describe(leaf)}. "
                "Split the model first, as in equinox.partition(model, equinox.is_inexact_array)."
            )
    if not any(map(moves, leaves)):
        raise TypeError(
            "Expected params with at least one floating array, got none. Did the call swap params and x?"
            if leaves
            else "Expected params with at least one floating array, got an empty tree. Pass what net.init returned."
        )
