"""Finite width: the neural tangent kernel of any f(params, x), computed from the function itself.

Theta(x, x') = df(x)/dparams df(x')/dparams^T is the object that the infinite-width rules predict. Three exact
methods compute it, `auto` picks one by its cost, and tiles bound the memory. Used from notebook 03 on.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import checks
from .functions import Examples, count, outputs_of, prepare, reverse_mode, two_examples
from .layerwise import Layerwise, layerwise

METHODS = ("auto", "jacobian", "vector_product", "layerwise")
MEMORY = 2**29


NOT_FINITE = (
    "f(params, x) or its derivatives are not finite at these parameters and inputs. Did training diverge, or does f "
    "divide by zero, or take a root or a logarithm there?"
)


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

    f maps (params, x) with x of shape (n, ...) to (n, o). params is any tree of arrays; complex ones count by their
    real and imaginary parts. x is an array of floats or of whole numbers (tokens), or a tree of arrays (tokens and a
    mask), example axis first in each. With `outputs="mean"` the result is the average of Theta_aa over the o outputs,
    (n1, n2); with "full" it is (n1, n2, o, o). `x2=None` means x1, and the result is then exactly symmetric.

    >>> f = lambda w, x: jnp.tanh(x @ w)
    >>> empirical_ntk(f, jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 0.0]])).tolist()  # x x^T where the slope is 1
    [[5.0, 3.0], [3.0, 9.0]]

    f is traced at each call, so what it reads from elsewhere is as it is now; it compiles again only if its operations
    change. In a loop, `jax.jit(lambda params, x: empirical_ntk(f, params, x))` spares the tracing.

    Methods, all exact: "jacobian" contracts the Jacobians; "vector_product" multiplies by unit vectors without
    ever storing a Jacobian; "layerwise" finds the linear layers of f, whoever wrote it, and multiplies Gram matrices
    of what enters a layer and of what comes back (layerwise.py); "auto" estimates which is the fastest. A function that
    cannot be differentiated backwards (`while_loop`) is differentiated forwards, whatever the method.
    Tiles of examples keep intermediate results near `memory` bytes, as far as a single pair of examples allows.

    Raises:
        TypeError: if f is no function, returns no single floating array, or params hold no floating arrays.
        ValueError: for unknown words, mismatched inputs, a function whose examples see each other, or a kernel that is
            not finite.

    Jacot et al. 2018, section 4; the methods are compared in Novak et al. 2022.
    """
    checks.one_of(method, "method", METHODS)
    checks.one_of(outputs, "outputs", ("mean", "full"))
    checks.single_number(memory, "memory", low=0.0)
    options = {"method": method, "full": outputs == "full", "memory": memory}
    return checks.finite_kernel(_of("empirical_ntk", _empirical_ntk, f, params, x1, x2, **options), NOT_FINITE)


def empirical_nngp(
    f: Callable, params: Any, x1: Examples, x2: Examples | None = None
) -> Float[Array | np.ndarray, "n1 n2"]:
    """Sample of the kernel of the prior, f(x1) f(x2)^T / o: its mean over initializations is the NNGP.

    >>> empirical_nngp(lambda w, x: x @ w, jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, 0.0]])).tolist()
    [[2.5, 1.5], [1.5, 4.5]]

    Raises:
        TypeError, ValueError: as `empirical_ntk`.
    """
    return checks.finite_kernel(_of("empirical_nngp", nngp_of, f, params, x1, x2), NOT_FINITE)


def ntk_vector_product(
    f: Callable,
    params: Any,
    x1: Examples,
    x2: Examples | None = None,
) -> Callable:
    """The map v -> Theta(x1, x2) v, without the kernel: one reverse and one forward pass for each call.

    (Theta v)_ia = sum over j, b of Theta(x1_i, x2_j)_ab v_jb, for v of shape (n2, o), the result of shape (n1, o)

    >>> x = jnp.array([[1.0, 2.0], [3.0, 0.0]])
    >>> ntk_vector_product(lambda w, x: x @ w, jnp.zeros((2, 1)), x)(jnp.array([[1.0], [0.0]])).tolist()
    [[5.0], [3.0]]

    Raises:
        TypeError, ValueError: as `empirical_ntk`; ValueError for a v of another shape than f(params, x2), or an f that
            cannot be differentiated backwards.
    """
    later = lambda *args: functools.partial(product_of, *args)
    return _of("ntk_vector_product", later, f, params, x1, x2)


def _of(word: str, general: Callable, f: Callable, params: Any, x1: Any, x2: Any, **options: Any) -> Any:
    """general(row, theta, x1, x2), or f's own way: a model that JAX cannot differentiate brings its own derivatives."""
    checked = two_examples(x1, x2)
    if hasattr(f, f"own_{word}"):
        return getattr(f, f"own_{word}")(params, x1, x2, **options)
    row, theta, _ = prepare(f, params, checked[0])
    return general(row, theta, *checked, **options)


@jax.jit
def nngp_of(row, theta, x1, x2):
    """f(x1) f(x2)^T / o of `row`; see `empirical_nngp`."""
    out1 = outputs_of(row, theta, x1)
    out2 = out1 if x2 is None else outputs_of(row, theta, x2)
    return out1 @ out2.T / out1.shape[1]


@jax.jit
def product_of(row, theta, x1, x2, v):
    """Theta(x1, x2) v of `row`; see `ntk_vector_product`."""
    f = lambda x: lambda theta: outputs_of(row, theta, x)
    with reverse_mode():
        out2, pull = jax.vjp(f(x1 if x2 is None else x2), theta)
        if v.shape != out2.shape:
            raise ValueError(f"Expected v of the shape {out2.shape} of f(params, x2), got {v.shape}.")
        return jax.jvp(f(x1), (theta,), pull(v))[1]


@functools.partial(jax.jit, static_argnames=("method", "full", "memory"))
def _empirical_ntk(row, theta, x1, x2, *, method, full, memory):
    return kernel_of(row, theta, x1, x2, method=method, full=full, memory=memory)


def kernel_of(
    row: Callable, theta: Any, x1: Examples, x2: Examples | None, *, method: str, full: bool, memory: int
) -> Array:
    """The tangent kernel of `row`; see `empirical_ntk`."""
    f, theta, one, out = _flat(row, theta, x1)
    n = max(count(x1), 0 if x2 is None else count(x2))
    size = _tile(out.size * sum(leaf.nbytes for leaf in theta), n=n, memory=memory)
    forwards, backwards = _works(f, theta, one)
    layers = layerwise(f, theta, one, n, full) if backwards and method in ("auto", "layerwise") else None
    if method == "jacobian" or not (forwards and backwards or layers):
        features, contract = _by_jacobian(f, theta, out, full, backwards)
    elif layers and (method == "layerwise" or not forwards or not _prefers_products(layers, out.size, memory)):
        features, contract = layers.features, layers.contract
        size = _tile(layers.bytes_per_example, layers.bytes_per_pair, n=n, memory=memory)
    else:
        features, contract = _by_vector_product(f, theta, out, full)
    return tiled(features, contract, x1, x2, tile=size)


def _flat(row: Callable, theta: Any, x: Examples) -> tuple[Callable, list[Array], Any, Any]:
    """The function and its parameters as a list of arrays, and the shapes of an example and of its outputs."""
    leaves, structure = jax.tree.flatten(theta)
    f = lambda leaves, x: row(jax.tree.unflatten(structure, leaves), x)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
    return f, leaves, one, jax.eval_shape(f, leaves, one)


def _works(f: Callable, theta: list[Array], one: Any) -> list[bool]:
    """Can f be differentiated forwards, and backwards? Loops of unknown length or rules of its own may forbid it."""

    def works(derivative):
        try:
            return "custom_lin" not in str(jax.make_jaxpr(derivative)(theta, one))  # a promise that JAX cannot keep
        except Exception:
            return False

    forwards = lambda theta, x: jax.jvp(lambda theta: f(theta, x), (theta,), (theta,))
    backwards = lambda theta, x: (lambda out, pull: pull(out))(*jax.vjp(lambda theta: f(theta, x), theta))
    return [works(forwards), works(backwards)]


def ntk_and_last_layer(row: Callable, theta: Any, x: Examples, *, memory: int = MEMORY) -> tuple[Array, Array]:
    """The tangent kernel (n, n), and the part of it that the last linear layer has.

    The second is the finite network's NNGP kernel, W_std^2 <a, a'>/n + b_std^2 with the last hidden signals a (Lee et
    al. 2019, section 2.2), if the network ends in Dense.
    """
    f, theta, one, _ = _flat(row, theta, x)
    layers = layerwise(f, theta, one, count(x), False)
    both = lambda u, v: jnp.stack([layers.contract(u, v), layers.contract(u, v, layers.last)], axis=-1)
    size = _tile(layers.bytes_per_example, layers.bytes_per_pair, n=count(x), memory=memory)
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


def _by_jacobian(f, theta, out, full, backwards):
    def backward(x):
        return [j.reshape(out.size, -1).astype(out.dtype) for j in jax.jacrev(f)(theta, x)]

    def forward(x):
        flat, rebuild = jax.flatten_util.ravel_pytree([leaf.astype(out.dtype) for leaf in theta])
        as_theta = lambda flat: [a.astype(b.dtype) for a, b in zip(rebuild(flat), theta)]
        unit = lambda i: jnp.zeros_like(flat).at[i].set(1)
        slope = lambda i: jax.jvp(lambda flat: f(as_theta(flat), x), (flat,), (unit(i),))[1]
        return [jax.lax.map(slope, jnp.arange(flat.size), batch_size=64).T]

    def contract(j1, j2):
        if full:
            return sum(jnp.einsum("iap,jbp->ijab", a, b) for a, b in zip(j1, j2))
        rows = lambda j: j.reshape(j.shape[0], -1)
        return sum(rows(a) @ rows(b).T for a, b in zip(j1, j2)) / out.size

    return jax.vmap(backward if backwards else forward), contract


def _by_vector_product(f, theta, out, full):
    def contract(x1, x2):
        def column(x, unit):
            _, pull = jax.vjp(lambda theta: f(theta, x), theta)
            return jax.jvp(lambda theta: jax.vmap(f, (None, 0))(theta, x1), (theta,), pull(unit))[1]  # (n1, o)

        units = jnp.eye(out.size, dtype=out.dtype)
        columns = jax.vmap(jax.vmap(column, (None, 0)), (0, None))(x2, units)  # (n2, o, n1, o)
        if full:
            return columns.transpose(2, 0, 3, 1)
        return jnp.einsum("jaia->ij", columns) / out.size

    return lambda x: x, contract


def tiled(features: Callable, contract: Callable, x1: Examples, x2: Examples | None, *, tile: int) -> Array:
    """The matrix of contract(features(x1), features(x2)), at most `tile` examples of each at a time.

    A symmetric matrix (x2=None) is computed in its upper half. The last tile repeats the last example, so any
    number of examples will do.
    """
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    n1, n2 = count(x1), count(x2)
    if max(n1, n2) <= tile:
        features1 = features(x1)
        kernel = contract(features1, features1 if symmetric else features(x2))
        return _mirrored(kernel) if symmetric else kernel
    rows, cols = _tiles(n1, tile), _tiles(n2, tile)
    part = lambda x, index: features(jax.tree.map(lambda a: a[index], x))

    def row(i):
        features1 = part(x1, rows[i])
        block = lambda j: contract(features1, part(x2, cols[j]))
        if symmetric:
            empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(block, 0))
            upper_block = lambda j: jax.lax.cond(j >= i, block, lambda j: empty, j)
            return jax.lax.map(upper_block, jnp.arange(len(cols)))
        return jax.lax.map(block, jnp.arange(len(cols)))

    blocks = jax.lax.map(row, jnp.arange(len(rows)))  # (rows, cols, tile, tile, ...)
    kernel = blocks.swapaxes(1, 2).reshape(rows.size, cols.size, *blocks.shape[4:])
    kernel = kernel[:n1, :n2]
    return _mirrored(kernel) if symmetric else kernel


def _tiles(n: int, tile: int) -> Array:
    count = -(-n // tile)
    tile = -(-n // count)  # even tiles waste fewer repetitions
    return jnp.minimum(jnp.arange(count * tile), n - 1).reshape(count, tile)


def _mirrored(kernel: Array) -> Array:
    # the barrier keeps the compiler from computing an entry and its mirror image in two ways
    kernel = jax.lax.optimization_barrier(kernel)
    i, j = jnp.indices(kernel.shape[:2]).reshape(2, *kernel.shape[:2], *(1,) * (kernel.ndim - 2))
    mirror = kernel.transpose(1, 0, *range(2, kernel.ndim)[::-1])
    return jnp.where(i < j, kernel, jnp.where(i > j, mirror, (kernel + mirror) / 2))
