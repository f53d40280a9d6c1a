"""The guest's empirical kernels, of any f(params, x, **options), with its `trace_axes` and `diagonal_axes`.

Where f is seen to treat each example on its own, the fast methods of this library do the work. Everything else (trees
of inputs and outputs, batch axes elsewhere, examples that see each other) goes by Jacobians. No n^2 numbers are made
where the example axis is diagonal.
"""

import enum
from collections.abc import Callable, Iterable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from ..finite import empirical, functions, programs
from ..finite import linearize as expansions
from ..pytrees import pytree, static
from .batching import batch
from .kernels import chosen, words_of


class NtkImplementation(enum.IntEnum):
    """The guest's methods; all give the same numbers."""

    AUTO = 0
    JACOBIAN_CONTRACTION = 1
    NTK_VECTOR_PRODUCTS = 2
    STRUCTURED_DERIVATIVES = 3


_METHODS = {0: "auto", 1: "auto", 2: "vector_product", 3: "layerwise"}


@pytree
class _WithOptions:
    """f with its keyword arguments, a value that compiled code can take."""

    options: Any
    f: Callable = static()

    def __call__(self, params, x):
        return self.f(params, x, **self.options)


def _sides(f, x2, options: dict[str, Any]) -> tuple[Callable, Callable]:
    """f with its options, for x1 and for x2: of a pair, and of a random key, each has its own."""
    if not options:
        return f, f
    key = options.get("rng")
    if x2 is not None and key is not None and not isinstance(key, tuple):
        options = {**options, "rng": tuple(jax.random.split(key))}
    is_pair = lambda value: isinstance(value, tuple) and len(value) == 2
    of = lambda side: _WithOptions({name: v[side] if is_pair(v) else v for name, v in options.items()}, f)
    first = of(0)
    return first, first if x2 is None or not any(map(is_pair, options.values())) else of(1)


def linearize(f, params):
    """g(new_params, *inputs, **options): f to first order about `params`."""
    return taylor_expand(f, params, 1)


def taylor_expand(f, params, degree):
    """g(new_params, *inputs, **options): f to `degree`-th order about `params`; any trees."""

    def g(new_params, *inputs, **options):
        at = lambda theta, _: f(theta, *inputs, **options)
        return expansions.taylor_expand(at, params, degree)(new_params, None)

    return g


# ------------------------------------------------------------------------------------------------------------- kernels


def _letters(ndim: int, trace_axes, diagonal_axes) -> tuple[list[int], list[int], list[int]]:
    """(second, kernel, traced): which axes a kernel has of outputs with letters 0, 1, ... and of `second` ones.

    There are two axes of each axis of the outputs, one if it is diagonal, and none, averaged over, if traced.
    """
    positive = lambda axes: {axis % ndim for axis in ((axes,) if isinstance(axes, int) else axes) if ndim}
    traced, diagonal = positive(trace_axes), positive(diagonal_axes)
    if traced & diagonal:
        raise ValueError(f"Expected axes that are traced or diagonal, got both for {traced & diagonal}.")
    second = [i if i in traced | diagonal else ndim + i for i in range(ndim)]
    kernel = [j for i in range(ndim) if i not in traced for j in ([i] if i in diagonal else [i, ndim + i])]
    return second, kernel, sorted(traced)


def _contract(a, b, ndim: int, axes):
    """Products of what two sets of outputs, of `ndim` axes, have, over all axes that follow."""
    second, kernel, traced = _letters(ndim, *axes)
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


def _is_apart(f, params, x, vmap_axes) -> bool:
    """Is each example treated on its own, axis 0 first: as the caller says, or as the program shows?"""
    if vmap_axes is not None:
        spread = vmap_axes if isinstance(vmap_axes, tuple) and len(vmap_axes) == 3 else (vmap_axes, vmap_axes, {})
        return all(axis == 0 for axis in jax.tree.leaves(spread[:2])) and not spread[2]
    if isinstance(x, list):  # a tree there, rows here
        return False
    try:
        return functions.are_apart(f, params, functions.as_examples(x, "x1"))
    except (TypeError, ValueError):
        return False


def empirical_ntk_fn(
    f,
    trace_axes=(-1,),
    diagonal_axes=(),
    vmap_axes=None,
    implementation=NtkImplementation.JACOBIAN_CONTRACTION,
    _j_rules=True,
    _s_rules=True,
    _fwd=None,
):
    """ntk_fn(x1, x2, params, **options): the tangent kernel of f, of shape zip(f(x1).shape, f(x2).shape).

    Axes in `trace_axes` are averaged over and absent, those in `diagonal_axes` appear once. A tree of outputs gives a
    tree of kernels.
    """

    def ntk_fn(x1, x2, params, **options):
        f1, f2 = _sides(f, x2, options)
        is_apart = _is_apart(f1, params, x1, vmap_axes)
        out = jax.eval_shape(f1, params, x1)
        if is_apart and f1 is f2 and not isinstance(x1, list) and isinstance(out, jax.ShapeDtypeStruct) and out.ndim:
            n, shape = out.ndim, out.shape
            second, kernel, traced = _letters(n, trace_axes, diagonal_axes)
            if {0, n} <= set(kernel):  # all pairs of examples
                method, is_mean = _METHODS[int(implementation)], len(kernel) == 2
                k = empirical.empirical_ntk(f1, params, x1, x2, method=method, outputs="mean" if is_mean else "full")
                if is_mean:
                    return k
                k = k.reshape(*k.shape[:2], *shape[1:], *shape[1:])
                return jnp.einsum(k, [0, n, *range(1, n), *second[1:]], kernel) / prod(shape[i] for i in traced)
        return _products((f1, f2), params, (x1, x2), "rows" if is_apart else "jacobian", trace_axes, diagonal_axes)

    return ntk_fn


def empirical_nngp_fn(f, trace_axes=(-1,), diagonal_axes=()):
    """nngp_fn(x1, x2, params, **options): products of outputs, of the same shapes as the tangent kernel."""

    def nngp_fn(x1, x2, params, **options):
        return _products(_sides(f, x2, options), params, (x1, x2), "outputs", trace_axes, diagonal_axes)

    return nngp_fn


def _products(sides, params, inputs, of: str, *axes):
    """Products `of` outputs, or of Jacobians: any trees. Functions are traced, and equal operations compile once."""
    inputs = inputs[0], inputs[0] if inputs[1] is None else inputs[1]
    seen = [jax.tree.map(lambda a: a[:1], x) if of == "rows" else x for x in inputs]
    pair = tuple(programs.trace(f, params, x) for f, x in zip(sides, seen))
    return _slow(pair, params, inputs, of, tuple(one if isinstance(one, int) else tuple(one) for one in axes))


@partial(jax.jit, static_argnames=("of", "axes"))
def _slow(pair, params, inputs, of, axes):
    each = lambda f, x: f(params, x) if of == "outputs" else _jacobian(f, params, x, of == "rows")
    ranks = [0] if of == "outputs" else list(map(jnp.ndim, jax.tree.leaves(params)))

    def kernel(u, v):  # of one output
        parts = zip(jax.tree.leaves(u), jax.tree.leaves(v), ranks, strict=True)
        return sum(_contract(a, b, a.ndim - rank, axes) for a, b, rank in parts)

    structure = pair[0].code.out
    u, v = (structure.flatten_up_to(each(f, x)) for f, x in zip(pair, inputs))
    return jax.tree.unflatten(structure, list(map(kernel, u, v)))


def empirical_kernel_fn(f, trace_axes=(-1,), diagonal_axes=(), *ntk_arguments, **ntk_options):
    """kernel_fn(x1, x2, get, params, **options): "nngp", "ntk", or a named tuple of those asked for.

    Other arguments are those of `empirical_ntk_fn`.
    """
    fns = {
        "nngp": empirical_nngp_fn(f, trace_axes, diagonal_axes),
        "ntk": empirical_ntk_fn(f, trace_axes, diagonal_axes, *ntk_arguments, **ntk_options),
    }
    return lambda x1, x2, get, params, **options: chosen(get, lambda word: fns[word](x1, x2, params, **options))


def empirical_ntk_vp_fn(f, x1, x2, params, **options):
    """v -> Theta(x1, x2) v, for v of the shape of f(params, x2)."""
    f1, f2 = _sides(f, x2, options)
    second = x1 if x2 is None else x2

    def product(cotangents):
        _, pull = jax.vjp(lambda params: f2(params, second), params)
        return jax.jvp(lambda params: f1(params, x1), (params,), pull(cotangents))[1]

    return product


def monte_carlo_kernel_fn(
    init_fn,
    apply_fn,
    key,
    n_samples,
    batch_size=0,
    device_count=-1,
    store_on_device=True,
    *kernel_arguments,
    **kernel_options,
):
    """kernel_fn(x1, x2, get, **options): the mean of empirical kernels over `n_samples` draws of the parameters.

    Of several counts it makes a generator, which gives the mean at each of them. Other arguments are those of
    `empirical_ntk_fn`.
    """
    kernel_fn = empirical_kernel_fn(apply_fn, *kernel_arguments, **kernel_options)

    @partial(jax.jit, static_argnames=("words", "names"))
    def one(x1, x2, key, words, names, values):
        key_init, key_apply = jax.random.split(key)
        _, params = init_fn(key_init, jax.tree.map(lambda x: x.shape, x1))
        return tuple(kernel_fn(x1, x2, words, params, rng=key_apply, **dict(zip(names, values))))

    def means(counts, x1, x2, get, options):
        words, total, done = words_of(get), None, 0
        for count in counts:
            for i in range(done, count):
                key_i = jax.random.fold_in(key, i)
                parts = batch(one, batch_size)(x1, x2, key_i, words, tuple(options), tuple(options.values()))
                total = parts if total is None else jax.tree.map(jnp.add, total, parts)
            done = count
            average = dict(zip(words, jax.tree.map(lambda a, n=count: a / n, total)))
            yield chosen(get, average.get)

    def get_kernel(x1, x2=None, get=None, **options):
        if isinstance(n_samples, Iterable):
            return means(n_samples, x1, x2, get, options)
        return next(means([n_samples], x1, x2, get, options))

    return get_kernel
