"""The guest's empirical kernels, of any f(params, x, **options), with its `trace_axes` and `diagonal_axes`.

Where f is seen to treat each example on its own, the fast methods of this library do the work. Everything else (trees
of inputs and outputs, batch axes elsewhere, examples that see each other) goes by Jacobians. No n^2 numbers are made
where the example axis is diagonal.
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..finite import empirical, functions, programs
from ..finite import linearize as expansions
from . import kernels
from .batching import batch


class NtkImplementation(enum.IntEnum):
    """The guest's methods; all give the same numbers."""

    AUTO = 0
    JACOBIAN_CONTRACTION = 1
    NTK_VECTOR_PRODUCTS = 2
    STRUCTURED_DERIVATIVES = 3


_METHODS = {0: "auto", 1: "auto", 2: "vector_product", 3: "layerwise"}


@partial(jax.tree_util.register_dataclass, data_fields=["options"], meta_fields=["f"])
@dataclass(frozen=True)
class _WithOptions:
    """f with its keyword arguments, a value that compiled code can take."""

    f: Callable
    options: Any

    def __call__(self, params: Any, x: Any) -> Any:
        return self.f(params, x, **self.options)


def _with_options(f: Callable, options: dict[str, Any], side: int) -> Callable:
    """f with the options for x1 (side 0) or x2: what is a pair has one for each."""
    mine = {
        key: value[side] if isinstance(value, tuple) and len(value) == 2 else value for key, value in options.items()
    }
    return _WithOptions(f, mine) if mine else f


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _split(options: dict[str, Any], has_two: bool) -> dict[str, Any]:
    """A random key becomes one for each input."""
    key = options.get("rng")
    if key is None or isinstance(key, tuple) or not has_two:
        return options
    return {**options, "rng": tuple(jax.random.split(key))}


def linearize(f: Callable, params: Any) -> Callable:
    """g(new_params, *inputs, **options): f to first order about `params`."""
    return taylor_expand(f, params, 1)


def taylor_expand(f: Callable, params: Any, degree: int) -> Callable:
    """g(new_params, *inputs, **options): f to `degree`-th order about `params`; any trees."""

    def g(new_params: Any, *inputs: Any, **options: Any) -> Any:
        at = lambda theta, _: f(theta, *inputs, **options)
        return expansions.taylor_expand(at, params, degree)(new_params, None)

    return g


# ------------------------------------------------------------------------------------------------------------- kernels


def _axes(axes: Any, ndim: int) -> tuple[int, ...]:
    return tuple(sorted({axis % ndim for axis in ((axes,) if isinstance(axes, int) else axes)})) if ndim else ()


def _static(axes: Any) -> Any:
    return axes if isinstance(axes, int) else tuple(axes)


def _contract(a: Any, b: Any, ndim: int, trace_axes: Any, diagonal_axes: Any) -> Any:
    """Products of what two sets of outputs have, `ndim` output axes and then any others, over these others.

    Of each output axis there are two in the result, one if it is diagonal, and none, averaged, if it is traced.
    """
    traced, diagonal = _axes(trace_axes, ndim), _axes(diagonal_axes, ndim)
    if set(traced) & set(diagonal):
        raise ValueError(f"Expected axes that are traced or diagonal, got both for {set(traced) & set(diagonal)}.")
    rest = [2 * ndim + i for i in range(a.ndim - ndim)]
    second = [i if i in traced or i in diagonal else ndim + i for i in range(ndim)]
    out = [j for i in range(ndim) if i not in traced for j in ([i] if i in diagonal else [i, ndim + i])]
    precision = jax.lax.Precision.HIGHEST
    product: Any = jnp.einsum  # of operands and their lists of axes in turn
    total = product(a, [*range(ndim), *rest], b, [*second, *rest], out, precision=precision)
    return total / prod(a.shape[i] for i in traced)


def _jacobian(f: Callable, params: Any, x: Any, is_by_example: bool) -> Any:
    """df/dparams: a tree of outputs, of trees of parameters; with one pass per example and output if they are apart."""
    if not is_by_example:
        return jax.jacrev(f)(params, x)
    return jax.vmap(lambda x: jax.tree.map(lambda a: a[0], jax.jacrev(f)(params, _only(x))))(x)


def _only(x: Any) -> Any:
    return jax.tree.map(lambda a: a[None], x)


def _first(x: Any) -> Any:
    return jax.tree.map(lambda a: a[:1], x)


def _is_apart(f: Callable, params: Any, x: Any, vmap_axes: Any) -> bool:
    """Is each example treated on its own, axis 0 first: as the caller says, or as the program shows?"""
    if vmap_axes is not None:
        spread = vmap_axes if isinstance(vmap_axes, tuple) and len(vmap_axes) == 3 else (vmap_axes, vmap_axes, {})
        return all(axis == 0 for axis in jax.tree.leaves(spread[:2])) and not spread[2]
    if not _is_array(x) or not np.ndim(x):
        return False
    x = jnp.asarray(x)
    try:
        out = jax.eval_shape(f, params, x)
        is_one = isinstance(out, jax.ShapeDtypeStruct) and out.ndim > 0 and out.shape[0] == len(x)
        return is_one and functions.are_apart(f, params, x)
    except (TypeError, ValueError):
        return False


def _is_array(x: Any) -> bool:
    return isinstance(x, (np.ndarray, jax.Array))


def empirical_ntk_fn(
    f: Callable,
    trace_axes: Any = (-1,),
    diagonal_axes: Any = (),
    vmap_axes: Any = None,
    implementation: int = NtkImplementation.JACOBIAN_CONTRACTION,
    _j_rules: bool = True,
    _s_rules: bool = True,
    _fwd: bool | None = None,
) -> Callable[..., Any]:
    """ntk_fn(x1, x2, params, **options): the tangent kernel of f, of shape zip(f(x1).shape, f(x2).shape).

    Axes in `trace_axes` are averaged over and absent, those in `diagonal_axes` appear once. A tree of outputs gives a
    tree of kernels.
    """

    def ntk_fn(x1: Any, x2: Any, params: Any, **options: Any) -> Any:
        options = _split(options, x2 is not None)
        f1, f2 = _with_options(f, options, 0), _with_options(f, options, 1)
        is_apart = _is_apart(f1, params, x1, vmap_axes)
        shared = not any(map(_is_pair, options.values()))
        if is_apart and shared and _is_array(x1) and (x2 is None or _is_array(x2)):
            out = jax.eval_shape(f1, params, x1)
            if isinstance(out, jax.ShapeDtypeStruct) and out.ndim > 0:
                traced, diagonal = _axes(trace_axes, out.ndim), _axes(diagonal_axes, out.ndim)
                if 0 not in traced + diagonal:
                    method = _METHODS[int(implementation)]
                    return _fast(f1, params, x1, x2, out.shape[1:], traced, diagonal, method)
        if x2 is None:
            x2, f2 = x1, f1
        seen = lambda x: _first(x) if is_apart else x
        pair = tuple(programs.trace(f, params, seen(x)) for f, x in ((f1, x1), (f2, x2)))
        return _slow(pair, params, (x1, x2), is_apart, _static(trace_axes), _static(diagonal_axes))

    return ntk_fn


def _fast(f, params, x1, x2, outputs, traced, diagonal, method):
    """By the methods of this library: kernels of every pair of examples."""
    if len(traced) == len(outputs):
        return empirical.empirical_ntk(f, params, x1, x2, method=method)
    full = empirical.empirical_ntk(f, params, x1, x2, method=method, outputs="full")
    full = full.reshape(*full.shape[:2], *outputs, *outputs)
    n = len(outputs)
    second = [i if i + 1 in traced + diagonal else n + i for i in range(n)]
    out = [j for i in range(n) if i + 1 not in traced for j in ([i] if i + 1 in diagonal else [i, n + i])]
    pairs = [2 * n, 2 * n + 1]
    total = jnp.einsum(full, [*pairs, *range(n), *second], [*pairs, *out])
    return total / prod(outputs[i - 1] for i in traced)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _slow(pair, params, inputs, is_apart, trace_axes, diagonal_axes):
    """By Jacobians: any trees. The pair is of traced functions, so that equal operations compile once."""
    jacobians = [_jacobian(f, params, x, is_apart) for f, x in zip(pair, inputs)]
    seen = _first(inputs[0]) if is_apart else inputs[0]
    leaves, structure = jax.tree.flatten(jax.eval_shape(pair[0], params, seen))

    def kernel(j1, j2, out):
        parts = zip(jax.tree.leaves(j1), jax.tree.leaves(j2), strict=True)
        return sum(_contract(a, b, out.ndim, trace_axes, diagonal_axes) for a, b in parts)

    pairs = zip(*map(structure.flatten_up_to, jacobians), leaves)
    return jax.tree.unflatten(structure, [kernel(j1, j2, out) for j1, j2, out in pairs])


def empirical_nngp_fn(f: Callable, trace_axes: Any = (-1,), diagonal_axes: Any = ()) -> Callable[..., Any]:
    """nngp_fn(x1, x2, params, **options): products of outputs, of the same shapes as the tangent kernel."""

    def nngp_fn(x1: Any, x2: Any, params: Any, **options: Any) -> Any:
        options = _split(options, x2 is not None)
        sides = ((_with_options(f, options, side), x) for side, x in enumerate((x1, x1 if x2 is None else x2)))
        pair = tuple(programs.trace(g, params, x) for g, x in sides)
        return _products(pair, params, (x1, x2), _static(trace_axes), _static(diagonal_axes))

    return nngp_fn


@partial(jax.jit, static_argnums=(3, 4))
def _products(pair, params, inputs, trace_axes, diagonal_axes):
    (f1, f2), (x1, x2) = pair, inputs
    out1 = f1(params, x1)
    out2 = out1 if x2 is None else f2(params, x2)
    return jax.tree.map(lambda a, b: _contract(a, b, a.ndim, trace_axes, diagonal_axes), out1, out2)


def empirical_kernel_fn(
    f: Callable,
    trace_axes: Any = (-1,),
    diagonal_axes: Any = (),
    vmap_axes: Any = None,
    implementation: int = NtkImplementation.JACOBIAN_CONTRACTION,
    _j_rules: bool = True,
    _s_rules: bool = True,
    _fwd: bool | None = None,
) -> Callable[..., Any]:
    """kernel_fn(x1, x2, get, params, **options): "nngp", "ntk", or a named tuple of those asked for."""
    fns = {
        "nngp": empirical_nngp_fn(f, trace_axes, diagonal_axes),
        "ntk": empirical_ntk_fn(f, trace_axes, diagonal_axes, vmap_axes, implementation),
    }

    def kernel_fn(x1: Any, x2: Any, get: Any, params: Any, **options: Any) -> Any:
        words = kernels.words_of(get) or ("nngp", "ntk")
        unknown = set(words) - set(fns)
        if unknown:
            raise ValueError(f"Expected get to be 'nngp', 'ntk' or a tuple of them, got {get!r}.")
        parts = [fns[word](x1, x2, params, **options) for word in words]
        return parts[0] if isinstance(get, str) else kernels.named(words, parts)

    return kernel_fn


def empirical_ntk_vp_fn(f: Callable, x1: Any, x2: Any, params: Any, **options: Any) -> Callable[[Any], Any]:
    """v -> Theta(x1, x2) v, for v of the shape of f(params, x2)."""
    options = _split(options, x2 is not None)
    f1, f2 = _with_options(f, options, 0), _with_options(f, options, 0 if x2 is None else 1)
    second = x1 if x2 is None else x2

    def product(cotangents: Any) -> Any:
        _, pull = jax.vjp(lambda params: f2(params, second), params)
        return jax.jvp(lambda params: f1(params, x1), (params,), pull(cotangents))[1]

    return product


def monte_carlo_kernel_fn(
    init_fn: Callable,
    apply_fn: Callable,
    key: Any,
    n_samples: int | Iterable[int],
    batch_size: int = 0,
    device_count: int = -1,
    store_on_device: bool = True,
    trace_axes: Any = (-1,),
    diagonal_axes: Any = (),
    vmap_axes: Any = None,
    implementation: int = NtkImplementation.JACOBIAN_CONTRACTION,
    _j_rules: bool = True,
    _s_rules: bool = True,
    _fwd: bool | None = None,
) -> Callable[..., Any]:
    """kernel_fn(x1, x2, get, **options): the mean of empirical kernels over `n_samples` draws of the parameters.

    Of several counts it makes a generator, which gives the mean at each of them.
    """
    kernel_fn = empirical_kernel_fn(apply_fn, trace_axes, diagonal_axes, vmap_axes, implementation)

    @partial(jax.jit, static_argnames=("get", "names"))
    def one(key, x1, x2, *, get, names, values):
        key_init, key_apply = jax.random.split(key)
        _, params = init_fn(key_init, jax.tree.map(lambda x: x.shape, x1))
        options = {"rng": key_apply, **dict(zip(names, values))}
        return tuple(kernel_fn(x1, x2, get, params, **options))

    def means(counts, x1, x2, get, options):
        words = kernels.words_of(get) or ("nngp", "ntk")
        names, values = tuple(options), tuple(options.values())

        def at(x1: Any, x2: Any, key: Any) -> Any:
            return one(key, x1, x2, get=words, names=names, values=values)

        tiled = batch(at, batch_size)
        total, done = None, 0
        for count in counts:
            for i in range(done, count):
                parts = tiled(x1, x2, jax.random.fold_in(key, i))
                total = parts if total is None else jax.tree.map(jnp.add, total, parts)
            done = count
            average = jax.tree.map(lambda a, n=count: a / n, total)
            yield average[0] if isinstance(get, str) else kernels.named(words, average)

    def get_kernel(x1: Any, x2: Any = None, get: Any = None, **options: Any) -> Any:
        if isinstance(n_samples, Iterable):
            return means(n_samples, x1, x2, get, options)
        return next(means([n_samples], x1, x2, get, options))

    return get_kernel
