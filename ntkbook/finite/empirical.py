"""Finite width: the neural tangent kernel of any f(params, x), computed from the function itself.

Theta(x, x') = df(x)/dparams df(x')/dparams^T is the object that the infinite-width rules predict. Three exact
methods compute it, `auto` picks one by its cost, and tiles bound the memory. Used from notebook 03 on.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import checks
from .functions import (
    Examples,
    Function,
    as_function,
    check_independent,
    check_params,
    coupling,
    outputs_of,
    partition,
    require_independent,
)
from .layerwise import Layerwise, layerwise
from .torch_models import TorchFunction, torch_ntk, torch_product

METHODS = ("auto", "jacobian", "vector_product", "layerwise")
MEMORY = 2**29


def empirical_ntk(
    f: Callable,
    params: Any,
    x1: Examples,
    x2: Examples | None = None,
    *,
    method: str = "auto",
    outputs: str = "mean",
    memory: int = MEMORY,
) -> Float[Array | np.ndarray, "n1 n2"] | Float[Array | np.ndarray, "n1 n2 o o"]:
    """Neural tangent kernel of the function f at `params`.

    Theta(x, x')_ab = sum over parameters p of df_a(x)/dp df_b(x')/dp

    f maps (params, x) with x of shape (n, ...) to (n, o); params is any tree of arrays. With `outputs="mean"` the
    result is the average of Theta_aa over the o outputs, (n1, n2); with "full" it is (n1, n2, o, o). `x2=None`
    means x1, and the result is then exactly symmetric.

    Methods, all exact: "jacobian" contracts the Jacobians; "vector_product" multiplies by unit vectors without
    ever storing a Jacobian; "layerwise" finds the linear layers of f, whoever wrote it, and multiplies Gram matrices
    of what enters a layer and of what comes back (layerwise.py); "auto" estimates which is the fastest.
    Tiles of examples keep intermediate results near `memory` bytes, as far as a single pair of examples allows.

    Raises:
        TypeError: if f is no function, returns no single floating array, or params hold no floating arrays.
        ValueError: for unknown words, mismatched inputs, or a function whose examples see each other.

    Jacot et al. 2018, section 4; the methods are compared in Novak et al. 2022.
    """
    checks.one_of(method, "method", METHODS)
    checks.one_of(outputs, "outputs", ("mean", "full"))
    x1, x2 = _inputs(x1, x2)
    if isinstance(f, TorchFunction):
        return torch_ntk(f, params, x1, x2, method=method, full=outputs == "full", memory=memory)
    function = as_function(f)
    check_params(params)
    kernel, gap = _empirical_ntk(function, params, x1, x2, method=method, outputs=outputs, memory=memory)
    check_independent(gap)
    return kernel


def empirical_nngp(
    f: Callable, params: Any, x1: Examples, x2: Examples | None = None
) -> Float[Array | np.ndarray, "n1 n2"]:
    """Sample of the kernel of the prior, f(x1) f(x2)^T / o: its mean over initializations is the NNGP.

    Raises:
        TypeError, ValueError: as `empirical_ntk`.
    """
    x1, x2 = _inputs(x1, x2)
    if isinstance(f, TorchFunction):
        out1 = f(params, x1).reshape(len(x1), -1)
        out2 = out1 if x2 is None else f(params, x2).reshape(len(x2), -1)
        return out1 @ out2.T / out1.shape[1]
    check_params(params)
    kernel, gap = _empirical_nngp(as_function(f), params, x1, x2)
    check_independent(gap)
    return kernel


def ntk_vector_product(
    f: Callable,
    params: Any,
    x1: Examples,
    x2: Examples | None = None,
) -> Callable:
    """The map v -> Theta(x1, x2) v, without the kernel: one reverse and one forward pass for each call.

    (Theta v)_ia = sum over j, b of Theta(x1_i, x2_j)_ab v_jb, for v of shape (n2, o), the result of shape (n1, o)

    Raises:
        TypeError, ValueError: as `empirical_ntk`; ValueError for a v of another shape than f(params, x2).
    """
    x1, x2 = _inputs(x1, x2)
    if isinstance(f, TorchFunction):
        return torch_product(f, params, x1, x2)
    function = as_function(f)
    check_params(params)
    require_independent(function, params, x1)

    def product(v: Float[Array, "n2 o"]) -> Float[Array, "n1 o"]:
        return _ntk_vector_product(function, params, x1, x2, v)

    return product


def _inputs(x1: Any, x2: Any) -> tuple[Array, Array | None]:
    x1 = checks.as_array(x1, "x1")
    if x2 is None:
        return x1, None
    x2 = checks.as_array(x2, "x2")
    checks.same_features(x1, x2)
    return x1, x2


@jax.jit
def _empirical_nngp(function, params, x1, x2):
    out1 = outputs_of(function, params, x1)
    out2 = out1 if x2 is None else outputs_of(function, params, x2)
    return out1 @ out2.T / out1.shape[1], coupling(function, params, x1)


@jax.jit
def _ntk_vector_product(function, params, x1, x2, v):
    theta, rebuild = partition(params)
    f = lambda x: lambda theta: outputs_of(function, rebuild(theta), x)
    out2, pull = jax.vjp(f(x1 if x2 is None else x2), theta)
    if v.shape != out2.shape:
        raise ValueError(f"Expected v of the shape {out2.shape} of f(params, x2), got {v.shape}.")
    return jax.jvp(f(x1), (theta,), pull(v))[1]


@functools.partial(jax.jit, static_argnames=("method", "outputs", "memory"))
def _empirical_ntk(function, params, x1, x2, *, method, outputs, memory):
    theta, rebuild = partition(params)

    def f(theta, x):
        return outputs_of(function, rebuild(theta), x)

    tile = functools.partial(_tile, n=max(x1.shape[0], 0 if x2 is None else x2.shape[0]), memory=memory)
    full = outputs == "full"
    n_outputs = jax.eval_shape(f, theta, x1[:1]).shape[1]
    jacobian_bytes = n_outputs * sum(leaf.nbytes for leaf in theta)
    features, contract = _by_vector_product(f, theta, n_outputs, full)
    size = tile(jacobian_bytes)
    if method == "jacobian":
        features, contract = _by_jacobian(f, theta, n_outputs, full)
    elif method != "vector_product":
        layers = layerwise(f, theta, x1[0], x1.shape[0], full)
        if method == "layerwise" or not _prefers_products(layers, n_outputs, memory):
            features, contract = layers.features, layers.contract
            size = tile(layers.bytes_per_example, layers.bytes_per_pair)
    return tiled(features, contract, x1, x2, tile=size), coupling(function, params, x1)


def ntk_and_last_layer(function: Function, params: Any, x: Array, *, memory: int = MEMORY) -> tuple[Array, Array]:
    """The tangent kernel (n, n), and the part of it that the last linear layer has.

    The second is the finite network's NNGP kernel, W_std^2 <a, a'>/n + b_std^2 with the last hidden signals a (Lee et
    al. 2019, section 2.2), if the network ends in Dense.
    """
    theta, rebuild = partition(params)
    f = lambda theta, x: outputs_of(function, rebuild(theta), x)
    layers = layerwise(f, theta, x[0], x.shape[0], False)
    both = lambda u, v: jnp.stack([layers.contract(u, v), layers.contract(u, v, layers.last)], axis=-1)
    size = _tile(layers.bytes_per_example, layers.bytes_per_pair, n=x.shape[0], memory=memory)
    kernels = tiled(layers.features, both, x, x, tile=size)
    return kernels[..., 0], kernels[..., 1]


def _prefers_products(layers: Layerwise, n_outputs: int, memory: int) -> bool:
    """Products with unit vectors pass through the network once more for every pair of examples and output."""
    return layers.bytes_per_example > memory / 2 or 4 * n_outputs * layers.cost_of_forward < layers.cost_per_pair


def _tile(bytes_per_example: int, bytes_per_pair: int = 0, *, n: int, memory: int) -> int:
    """The most examples t <= n with 2 t bytes_per_example + t^2 bytes_per_pair <= memory."""
    a, b = bytes_per_pair, 2 * bytes_per_example
    most = memory / b if a == 0 else ((b * b + 4 * a * memory) ** 0.5 - b) / (2 * a)
    return max(1, min(n, int(most)))


# Each method: features of a tile of examples, and the kernel of two tiles from their features.


def _by_jacobian(f, theta, n_outputs, full):
    def features(x):
        row = lambda x: jax.jacrev(lambda theta: f(theta, x[None])[0])(theta)
        return [j.reshape(x.shape[0], n_outputs, -1) for j in jax.vmap(row)(x)]

    def contract(j1, j2):
        if full:
            return sum(jnp.einsum("iap,jbp->ijab", a, b) for a, b in zip(j1, j2))
        rows = lambda j: j.reshape(j.shape[0], -1)
        return sum(rows(a) @ rows(b).T for a, b in zip(j1, j2)) / n_outputs

    return features, contract


def _by_vector_product(f, theta, n_outputs, full):
    def contract(x1, x2):
        def column(x, unit):
            _, pull = jax.vjp(lambda theta: f(theta, x[None])[0], theta)
            return jax.jvp(lambda theta: f(theta, x1), (theta,), pull(unit))[1]  # (n1, o)

        units = jnp.eye(n_outputs, dtype=jax.eval_shape(f, theta, x1).dtype)
        columns = jax.vmap(jax.vmap(column, (None, 0)), (0, None))(x2, units)  # (n2, o, n1, o)
        if full:
            return columns.transpose(2, 0, 3, 1)
        return jnp.einsum("jaia->ij", columns) / n_outputs

    return lambda x: x, contract


def tiled(features: Callable, contract: Callable, x1: Array, x2: Array | None, *, tile: int) -> Array:
    """The matrix of contract(features(x1), features(x2)), at most `tile` examples of each at a time.

    A symmetric matrix (x2=None) is computed in its upper half. The last tile repeats the last example, so any
    number of examples will do.
    """
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    if max(x1.shape[0], x2.shape[0]) <= tile:
        features1 = features(x1)
        kernel = contract(features1, features1 if symmetric else features(x2))
        return _mirrored(kernel) if symmetric else kernel
    rows, cols = (_tiles(x.shape[0], tile) for x in (x1, x2))

    def row(i):
        features1 = features(x1[rows[i]])
        block = lambda j: contract(features1, features(x2[cols[j]]))
        if symmetric:
            empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(block, 0))
            upper_block = lambda j: jax.lax.cond(j >= i, block, lambda j: empty, j)
            return jax.lax.map(upper_block, jnp.arange(len(cols)))
        return jax.lax.map(block, jnp.arange(len(cols)))

    blocks = jax.lax.map(row, jnp.arange(len(rows)))  # (rows, cols, tile, tile, ...)
    kernel = blocks.swapaxes(1, 2).reshape(rows.size, cols.size, *blocks.shape[4:])
    kernel = kernel[: x1.shape[0], : x2.shape[0]]
    return _mirrored(kernel) if symmetric else kernel


def _tiles(n: int, tile: int) -> Array:
    count = -(-n // tile)
    tile = -(-n // count)  # even tiles waste fewer repetitions
    return jnp.minimum(jnp.arange(count * tile), n - 1).reshape(count, tile)


def _transposed(kernel: Array) -> Array:
    return kernel.swapaxes(0, 1) if kernel.ndim == 2 else kernel.transpose(1, 0, 3, 2)


def _mirrored(kernel: Array) -> Array:
    # the barrier keeps the compiler from computing an entry and its mirror image in two ways
    kernel = jax.lax.optimization_barrier(kernel)
    i, j = jnp.indices(kernel.shape[:2]).reshape(2, *kernel.shape[:2], *(1,) * (kernel.ndim - 2))
    mirror = _transposed(kernel)
    return jnp.where(i < j, kernel, jnp.where(i > j, mirror, (kernel + mirror) / 2))
