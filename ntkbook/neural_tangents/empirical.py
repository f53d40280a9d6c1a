"""The guest's empirical kernels, of any f(params, x, **options): its axes and options, in terms of this library."""

import enum
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..finite import contractions
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
    key = options.get("rng")
    if x2 is not None and key is not None and not isinstance(key, tuple):
        options = {**options, "rng": tuple(jax.random.split(key))}
    is_pair = lambda value: isinstance(value, tuple) and len(value) == 2
    of = lambda side: _WithOptions({name: v[side] if is_pair(v) else v for name, v in options.items()}, f)
    first = of(0) if options else f
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


def _axes(traced, diagonal):
    as_tuple = lambda axes: (axes,) if isinstance(axes, int) else tuple(axes)
    return as_tuple(traced), as_tuple(diagonal)


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
    axes, is_apart = _axes(trace_axes, diagonal_axes), None
    if vmap_axes is not None:  # of inputs, outputs, options; only the first axis is followed
        spread = vmap_axes if isinstance(vmap_axes, tuple) and len(vmap_axes) == 3 else (vmap_axes, vmap_axes, {})
        is_apart = all(axis == 0 for axis in jax.tree.leaves(spread[:2])) and not spread[2]

    def ntk_fn(x1, x2, params, **options):
        sides, method = _sides(f, x2, options), _METHODS[int(implementation)]
        return contractions.tangent_products(sides, params, (x1, x2), axes, method=method, is_apart=is_apart)

    return ntk_fn


def empirical_nngp_fn(f, trace_axes=(-1,), diagonal_axes=()):
    """nngp_fn(x1, x2, params, **options): products of outputs, of the same shapes as the tangent kernel."""
    axes = _axes(trace_axes, diagonal_axes)

    def nngp_fn(x1, x2, params, **options):
        return contractions.output_products(_sides(f, x2, options), params, (x1, x2), axes)

    return nngp_fn


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
    return contractions.tangent_map(_sides(f, x2, options), params, (x1, x2))


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
