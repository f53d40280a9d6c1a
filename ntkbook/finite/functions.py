"""Any f(params, x) as a function of real numbers and one example: what all of finite width computes with.

`prepare` splits the parameters into what moves and what stays, traces f on one example at the values of this moment
(programs.py), and makes sure that f treats the examples of a batch as it treats each alone. Then everything is computed
example by example under `vmap`. The file also keeps the sentences for functions, parameters and examples of no use.
"""

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import checks
from ..pytrees import pytree, static
from .linearize import check_function, check_params, moves
from .programs import Program, trace

Examples = Any  # (n, ...): an array or a list of rows; or a tree of arrays, each with the example axis first


def prepare(f: Callable, params: Any, x: Examples) -> tuple[Callable, Any, Callable]:
    """(row, theta, rebuild): row(theta, x_i) is f(params, x) on one example, as (o,) real numbers; both are pytrees.

    Raises:
        TypeError, ValueError: for an f that is no function, returns no single array of floats with a row per example,
            or lets examples see each other; for params without floating arrays.
    """
    function = as_function(f)
    theta, rebuild = partition(params)
    if function.is_pure and rebuild is _unchanged:
        return Row(function, _unchanged), theta, rebuild
    shapes = lambda *n: jax.tree.map(lambda a: jax.ShapeDtypeStruct((*n, *a.shape[1:]), a.dtype), x)
    row = function.trace(lambda f: Row(f, rebuild), theta, shapes())
    seen = _seen(f)
    if hash(row.code) not in seen and checks.is_concrete(row, theta, x):
        with jax.default_matmul_precision("highest"):
            batch = function.trace(lambda f: lambda theta, x: rows(f(rebuild(theta), x), 3), theta, shapes(3))
            gap = _coupling(row, batch, theta, x)
        if checks.is_concrete(gap):
            checks.independent(float(gap), row.code.eps)
            seen.add(hash(row.code))
    return row, theta, rebuild


def are_apart(f: Callable, params: Any, x: Examples) -> bool:
    """Does f treat each example on its own? Asked with other numbers where these are not known yet, as under `jit`."""

    def known(a: Any) -> Any:
        if checks.is_concrete(a):
            return a
        is_float = jnp.issubdtype(a.dtype, jnp.inexact)
        return (jnp.sin(1.0 + jnp.arange(a.size)) if is_float else jnp.zeros(a.size)).reshape(a.shape).astype(a.dtype)

    try:
        with jax.ensure_compile_time_eval():
            row, _, _ = prepare(f, *jax.tree.map(known, (params, x)))
    except (TypeError, ValueError):
        return False
    return checks.is_concrete(row)


def prepare_many(f: Callable, params: Any, x: Examples) -> tuple[Callable, Any, Callable]:
    """`prepare` for many networks: all leaves of params and of theta have the network axis in front.

    Raises:
        TypeError, ValueError: as `prepare`; ValueError for whole numbers that differ from network to network.
    """
    for leaf in jax.tree.leaves(params):
        if not moves(leaf) and checks.is_concrete(leaf) and bool((leaf != leaf[:1]).any()):
            raise ValueError("Expected whole numbers in params to be the same for every key, got different ones.")
    row, _, _ = prepare(f, jax.tree.map(lambda a: a[0], params), x)
    return row, *partition(params)


@pytree
class Row:
    """f of one example, as real numbers in the precision of the parameters."""

    function: Any
    rebuild: Callable = static()

    def __call__(self, theta: Any, x: Any) -> jax.Array:
        alone = jax.tree.map(lambda a: jax.lax.expand_dims(a, (0,)), x)
        out = rows(self.function(self.rebuild(theta), alone), 1).reshape(-1)
        return out.astype(precision([*jax.tree.leaves(theta), out]))


def outputs_of(row: Callable, theta: Any, x: Examples) -> jax.Array:
    """f(params, x), (n, o)."""
    return jax.vmap(row, (None, 0))(theta, x)


outputs_now = jax.jit(outputs_of)


def rows(out: Any, n: int) -> jax.Array:
    """What f returned, as (n, o): a function of shape (n,) has one output, further axes are outputs too.

    Raises:
        TypeError, ValueError: unless it is one real floating array with a row per example.
    """
    if not isinstance(out, (jax.Array, np.ndarray)) or not jnp.issubdtype(out.dtype, jnp.inexact):
        raise TypeError(
            f"Expected f(params, x) to return one array of floats, got {checks.describe(out)}. "
            "If it also returns new state, as BatchNorm in training mode does, fix the state and return the outputs."
        )
    if jnp.issubdtype(out.dtype, jnp.complexfloating):
        raise TypeError(
            f"Expected f(params, x) to return real numbers, got {out.dtype}. Return both parts as outputs: "
            "jnp.concatenate([out.real, out.imag], axis=-1)."
        )
    if out.ndim == 0 or out.shape[0] != n:
        raise ValueError(
            f"Expected f(params, x) with one row per example, so a first axis of {n}, got shape {out.shape}. "
            "A function of one example? Wrap it: jax.vmap(f, in_axes=(None, 0))."
        )
    return jnp.asarray(out).reshape(n, -1)


def precision(arrays: list[Any]) -> Any:
    """The dtype that holds all these numbers, at least float32: sums over many half-precision numbers need it."""
    dtypes = {a.dtype for a in arrays}
    if len(dtypes) == 1 and jnp.finfo(*dtypes).bits >= 32:
        return dtypes.pop()
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes, jnp.float32)


_SEEN = weakref.WeakKeyDictionary()


def _seen(f: Callable) -> set[int]:
    """Hashes of the programs of f whose examples were seen to be apart; forgotten with f."""
    owner = f.__self__ if inspect.ismethod(f) else f
    try:
        return _SEEN.setdefault(owner, set())
    except TypeError:  # an owner that has no hash is looked at each time
        return set()


@jax.jit
def _coupling(row: Callable, batch: Callable, theta: Any, x: Examples) -> jax.Array:
    """How far outputs in a batch of three are from those alone, relative to the largest.

    Away from the start, where outputs may cancel or a last layer may be zero, and with a third example that is none of
    the set, so that equal examples do not hide what they do to each other.
    """
    theta = jax.tree.map(_moved, theta)
    x = jax.tree.map(lambda a: jnp.concatenate([a[:1], a[-1:], _altered(a[:1])]), x)
    alone, together = outputs_of(row, theta, x), batch(theta, x)
    together = together.astype(alone.dtype)
    gap = jnp.where((alone == together) | jnp.isnan(alone) & jnp.isnan(together), 0, jnp.abs(together - alone))
    size = jnp.abs(together).max(where=jnp.isfinite(together), initial=0)
    return gap.max() / jnp.maximum(size, jnp.finfo(gap.dtype).tiny)


def _moved(a: jax.Array) -> jax.Array:
    wave = 0.1 * jnp.sin(1 + jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape)
    return jnp.where((a == 0).all(), wave, a * (1 + wave))


def _altered(a: jax.Array) -> jax.Array:
    if jnp.issubdtype(a.dtype, jnp.inexact):
        return 2 * a + 1
    return jnp.broadcast_to(a[..., :1], a.shape) if a.ndim > 1 else a  # tokens that occur


@pytree
class Function:
    """f(params, x) with the numbers of its owner as leaves; `structure` is None for a function without an owner."""

    numbers: tuple  # leaves of the owner, None where one is constant
    call: Any = static()
    structure: Any = static(default=None)
    constants: tuple = static(default=())
    is_pure: bool = static(default=False)

    def __call__(self, params: Any, x: Any) -> Any:
        if self.structure is None:
            return self.call(params, x)
        leaves = [constant if number is None else number for number, constant in zip(self.numbers, self.constants)]
        return self.call(jax.tree.unflatten(self.structure, leaves), params, x)

    def trace(self, use: Callable, *args: Any) -> Program:
        """use(self)(*args) as a program of `args`."""
        again = lambda numbers, *args: use(dataclasses.replace(self, numbers=numbers))(*args)
        return trace(again, *args, first=(self.numbers,))


def as_function(f: Callable) -> Function:
    """`f` as a pytree: the object behind a bound method such as `net.apply` travels as an argument.

    Raises:
        TypeError: unless f can be called, or is a PyTorch module, which `from_torch` wraps first.
    """
    check_function(f)
    owner, call = (f.__self__, f.__func__) if inspect.ismethod(f) else (f, type(f).__call__)
    if jax.tree_util.all_leaves([owner]):
        return Function((), f)
    leaves, structure = jax.tree.flatten(owner)
    constants = tuple(None if _is_number(leaf) else leaf for leaf in leaves)
    numbers = tuple(leaf if _is_number(leaf) else None for leaf in leaves)
    # only for networks of this library do we know that nothing beside their fields decides what they compute
    is_ours = type(owner).__module__.split(".")[0] == __name__.split(".")[0]
    return Function(numbers, call, structure, constants, is_ours and _is_plain(structure))


def _is_number(leaf: Any) -> bool:
    # whole numbers may decide a shape (how often a layer repeats), so they stay static
    return isinstance(leaf, (float, jax.Array, np.ndarray, np.floating))


@functools.lru_cache(maxsize=1024)
def _is_plain(structure: Any) -> bool:
    """Does the static part of a pytree consist of words and numbers alone, and not of functions of the reader?"""
    data = structure.node_data()
    plain = lambda v: isinstance(v, (str, int, float, type, type(None))) or isinstance(v, tuple) and all(map(plain, v))
    return data is None or plain(data[1]) and all(map(_is_plain, structure.children()))


def partition(params: Any) -> tuple[Any, Callable[[Any], Any]]:
    """(theta, rebuild): the tree of real arrays that move, None where a leaf is held constant, and the way back.

    Whole numbers, booleans and random keys are held constant. Complex numbers move by their real and imaginary parts,
    which are a last axis of theta.

    Raises:
        TypeError: as `check_params`.
    """
    check_params(params)
    leaves, structure = jax.tree.flatten(params)
    if all(isinstance(leaf, float) or moves(leaf) and not jnp.iscomplexobj(leaf) for leaf in leaves):
        return jax.tree.map(lambda a: a if isinstance(a, jax.Array) else jnp.asarray(a), params), _unchanged

    def rebuild(theta: Any) -> Any:
        new = iter(jax.tree.leaves(theta))
        return jax.tree.unflatten(structure, [_as_it_was(next(new), leaf) if moves(leaf) else leaf for leaf in leaves])

    return jax.tree.unflatten(structure, [_as_real(leaf) if moves(leaf) else None for leaf in leaves]), rebuild


def _unchanged(theta: Any) -> Any:
    return theta


def _as_real(leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return jnp.stack([leaf.real, leaf.imag], axis=-1) if jnp.iscomplexobj(leaf) else leaf


def _as_it_was(array: jax.Array, leaf: Any) -> jax.Array:
    return jax.lax.complex(array[..., 0], array[..., 1]) if jnp.iscomplexobj(leaf) else array


def as_examples(x: Any, name: str) -> Examples:
    """Arrays with the example axis first: one, or a tree of them (a tuple, a dict), such as tokens and their mask.

    Raises:
        TypeError, ValueError: for what holds no arrays, numbers that are not finite, or axes of different lengths.
    """
    leaves = jax.tree.leaves(x)
    numbers = isinstance(x, tuple) and all(isinstance(leaf, (int, float)) for leaf in leaves)
    if isinstance(x, list) or numbers or not leaves or jax.tree_util.all_leaves([x]):
        return _as_array(x, name)
    x = jax.tree.map(lambda leaf: _as_array(leaf, f"every array of {name}"), x)
    sizes = {len(leaf) for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1:
        raise ValueError(f"Expected all arrays of {name} with the same number of examples, got {sorted(sizes)}.")
    return x


def two_examples(x1: Any, x2: Any) -> tuple[Examples, Examples | None]:
    """Both as `as_examples` gives them, with the same features; x2 may be None."""
    x1, x2 = as_examples(x1, "x1"), None if x2 is None else as_examples(x2, "x2")
    if x2 is not None:
        same_features(x1, x2)
    return x1, x2


def _as_array(x: Any, name: str) -> jax.Array:
    leaves = jax.tree.leaves(x)
    try:
        array = jnp.asarray(x) if leaves and all(map(_is_exact, leaves)) else checks.as_array(x, name)
    except (ValueError, OverflowError):  # rows of different lengths, integers without end
        array = checks.as_array(x, name)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"Expected {name} to hold at least one entry, example axis first, got shape {array.shape}.")
    return array


def _is_exact(leaf: Any) -> bool:
    """Whole numbers, switches, complex numbers: what goes to f as it is."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, int)
    return not jnp.issubdtype(dtype, jnp.floating) and getattr(dtype, "kind", "O") not in "OUSMm"  # keys have no kind


def same_features(x1: Examples, x2: Examples) -> None:
    """Raises ValueError unless both have the same arrays, of the same shapes after the example axis."""
    if jax.tree.structure(x1) != jax.tree.structure(x2):
        raise ValueError(f"Expected x1 and x2 of the same structure, got {type(x1).__name__} and {type(x2).__name__}.")
    jax.tree.map(checks.same_features, x1, x2)


def count(x: Examples) -> int:
    """The number of examples."""
    return len(jax.tree.leaves(x)[0])


@contextmanager
def reverse_mode() -> Iterator[None]:
    """Turns JAX's error about loops that cannot run backwards into a sentence that says what works."""
    try:
        yield
    except ValueError as error:
        if "while_loop" not in str(error):
            raise
        raise ValueError(
            "Expected f(params, x) with a gradient, got a loop whose number of steps is only known at run time. "
            "empirical_ntk takes it, by forward mode; for gradients write it as jax.lax.scan or with a fixed length."
        ) from error


def init_and_apply(net: Any) -> tuple[Callable, Callable]:
    """Both functions of a network of this library, or of an (init_fn, apply_fn) pair in the style of JAX's stax.

    Raises:
        TypeError: for anything else.
    """
    if callable(getattr(net, "init", None)) and callable(getattr(net, "apply", None)):
        return net.init, net.apply
    if isinstance(net, tuple) and len(net) >= 2 and all(map(callable, net[:2])):
        return net[0], net[1]
    raise TypeError(
        f"Expected net to be a network made by serial(...) or a pair (init_fn, apply_fn), got {checks.describe(net)}."
    )


def initial_params(init: Callable, keys: jax.Array, x: Examples) -> Any:
    """Parameters for each key, on a leading axis, in the precision of x."""
    function, shape = as_function(init), jax.tree.map(jnp.shape, x)
    if not function.is_pure:  # only the shapes are traced anew
        function = function.trace(lambda init: lambda key: init(key, shape)[1], keys[0])
    params = _drawn(function, keys, shape if isinstance(function, Function) else None)
    follow = lambda a: a.astype(x.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a
    is_array = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
    return jax.tree.map(follow, params) if is_array else params


@functools.partial(jax.jit, static_argnames="shape")
def _drawn(init, keys, shape):
    return jax.vmap(init if shape is None else lambda key: init(key, shape)[1])(keys)
