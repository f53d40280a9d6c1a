"""Empirical kernels with any axes: products of outputs, or of derivatives, of which some axes are averaged over.

Where f is seen to treat each example on its own, the fast methods of empirical.py do the work. Everything else (trees
of inputs and outputs, examples that see each other, two functions) goes by Jacobians. No n^2 numbers are made where
the example axis is diagonal.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from . import functions, programs
from .empirical import empirical_ntk

Axes = tuple[Sequence[int], Sequence[int]]  # traced: averaged over and absent; diagonal: there once


def output_products(sides: tuple[Callable, Callable], params: Any, inputs: tuple[Any, Any], axes: Axes) -> Any:
    """f1(x1) f2(x2), of shape zip(f1(x1).shape, f2(x2).shape) but for `axes`; a tree of outputs gives a tree.

    Raises:
        ValueError: for axes that are both traced and diagonal.
    """
    return _products(sides, params, inputs, "outputs", axes)


def tangent_products(
    sides: tuple[Callable, Callable],
    params: Any,
    inputs: tuple[Any, Any],
    axes: Axes,
    *,
    method: str = "auto",
    is_apart: bool | None = None,
) -> Any:
    """The tangent kernel in the same form, sum over the parameters p of df1(x1)/dp df2(x2)/dp.

    `is_apart` says whether each example, axis 0 first, is treated on its own; by default the program shows it. The
    second input is the first one if it is None. `method` is that of `empirical_ntk`.

    Raises:
        ValueError: as `output_products`, and `empirical_ntk`.
    """
    (f, other), x = sides, inputs[0]
    is_apart = _is_apart(f, params, x) if is_apart is None else is_apart
    out = jax.eval_shape(f, params, x)
    is_array = isinstance(out, jax.ShapeDtypeStruct) and not isinstance(x, list) and out.ndim > 0
    if is_apart and is_array and f is other:
        n, shape = out.ndim, out.shape
        second, kernel, traced = _letters(n, axes)
        if {0, n} <= set(kernel):  # all pairs of examples
            is_mean = len(kernel) == 2
            k = empirical_ntk(f, params, *inputs, method=method, outputs="mean" if is_mean else "full")
            if is_mean:
                return k
            k = k.reshape(*k.shape[:2], *shape[1:], *shape[1:])
            return jnp.einsum(k, [0, n, *range(1, n), *second[1:]], kernel) / prod(shape[i] for i in traced)
    return _products(sides, params, inputs, "rows" if is_apart else "jacobians", axes)


def tangent_map(sides: tuple[Callable, Callable], params: Any, inputs: tuple[Any, Any]) -> Callable:
    """v -> Theta(x1, x2) v, for v of the shape of f2(params, x2); any trees."""
    (f1, f2), (x1, x2) = sides, inputs

    def product(v):
        _, pull = jax.vjp(lambda params: f2(params, x1 if x2 is None else x2), params)
        return jax.jvp(lambda params: f1(params, x1), (params,), pull(v))[1]

    return product


def _is_apart(f, params, x) -> bool:
    if isinstance(x, list):  # a tree
        return False
    try:
        return functions.are_apart(f, params, functions.as_examples(x, "x1"))
    except (TypeError, ValueError):
        return False


def _letters(ndim: int, axes: Axes) -> tuple[list[int], list[int], list[int]]:
    """(second, kernel, traced): which axes a kernel has of outputs with letters 0, 1, ... and of `second` ones.

    There are two axes of each axis of the outputs, one if it is diagonal, and none, averaged over, if traced.
    """
    traced, diagonal = ({axis % ndim for axis in some if ndim} for some in axes)
    if traced & diagonal:
        raise ValueError(f"Expected axes that are traced or diagonal, got both for {traced & diagonal}.")
    second = [i if i in traced | diagonal else ndim + i for i in range(ndim)]
    kernel = [j for i in range(ndim) if i not in traced for j in ([i] if i in diagonal else [i, ndim + i])]
    return second, kernel, sorted(traced)


def _products(sides, params, inputs, of: str, axes: Axes):
    """Functions are traced, so that equal operations compile once."""
    inputs = inputs[0], inputs[0] if inputs[1] is None else inputs[1]
    seen = [jax.tree.map(lambda a: a[:1], x) if of == "rows" else x for x in inputs]
    pair = tuple(programs.trace(f, params, x) for f, x in zip(sides, seen))
    return contracted(pair, params, inputs, of, tuple(map(tuple, axes)))


@partial(jax.jit, static_argnames=("of", "axes"))
def contracted(pair, params, inputs, of: str, axes: Axes):
    """Products of the "outputs" of two programs, of their "jacobians", or of these one example at a time ("rows")."""
    each = lambda f, x: f(params, x) if of == "outputs" else _jacobian(f, params, x, of == "rows")
    ranks = [0] if of == "outputs" else list(map(jnp.ndim, jax.tree.leaves(params)))

    def kernel(u, v):  # of one output
        parts = zip(jax.tree.leaves(u), jax.tree.leaves(v), ranks, strict=True)
        return sum(_contract(a, b, a.ndim - rank, axes) for a, b, rank in parts)

    structure = pair[0].code.out
    u, v = (structure.flatten_up_to(each(f, x)) for f, x in zip(pair, inputs))
    return jax.tree.unflatten(structure, list(map(kernel, u, v)))


def _contract(a, b, ndim: int, axes: Axes):
    """Products of what two sets of outputs, of `ndim` axes, have, over all axes that follow."""
    second, kernel, traced = _letters(ndim, axes)
    rest = [2 * ndim + i for i in range(a.ndim - ndim)]
    product: Any = jnp.einsum  # of operands and their lists of axes in turn
    sums = product(a, [*range(ndim), *rest], b, [*second, *rest], kernel, precision=jax.lax.Precision.HIGHEST)
    return sums / prod(a.shape[i] for i in traced)


def _jacobian(f, params, x, is_by_example: bool):
    """df/dparams: a tree of outputs, of trees of parameters; with one pass per example and output if they are apart."""
    if not is_by_example:
        return jax.jacrev(f)(params, x)
    one = lambda x: jax.jacrev(f)(params, jax.tree.map(lambda a: a[None], x))
    return jax.vmap(lambda x: jax.tree.map(lambda a: a[0], one(x)))(x)
