"""Any f(params, x) as a value that `jax.jit` can take: what the finite-width rooms share.

A reader brings a network as a plain function, as `net.apply`, or as a callable object that holds
numbers. `as_function` splits it into what compiled code depends on (the code, the structure) and what
may change without compiling again (the numbers). The file also keeps the sentences for parameters and
outputs that no finite-width computation can use, and the test that examples do not see each other.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import checks
from .independence import stays_apart

Examples = Any  # (n, ...): a numpy or jax array of floats, or lists of them, example axis first


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["numbers"], meta_fields=["call", "structure", "constants"]
)
@dataclass(frozen=True)
class Function:
    """f(params, x) with its numbers as leaves; `structure` is None for a function without an owner."""

    numbers: tuple
    call: Any
    structure: Any = None
    constants: tuple = ()

    def __call__(self, params: Any, x: Any) -> Any:
        if self.structure is None:
            return self.call(params, x)
        numbers = iter(self.numbers)
        leaves = [next(numbers) if leaf is _NUMBER else leaf for leaf in self.constants]
        return self.call(jax.tree.unflatten(self.structure, leaves), params, x)


class _Number:
    def __repr__(self) -> str:
        return "<number>"


_NUMBER = _Number()


def as_function(f: Callable) -> Function:
    """`f` as a pytree: the object behind a bound method such as `net.apply` travels as an argument.

    Raises:
        TypeError: unless f can be called, or is a PyTorch module, which `from_torch` wraps first.
    """
    if isinstance(f, Function):
        return f
    if any(kind.__module__.startswith("torch.nn.") for kind in type(f).__mro__):
        raise TypeError(
            "Expected f to be a function of (params, x), got a PyTorch module. Wrap it: from_torch(module)."
        )
    if not callable(f):
        raise TypeError(
            f"Expected f to be a function of (params, x), got {checks.describe(f)}. For a network, pass net.apply."
        )
    owner, call = (f.__self__, f.__func__) if inspect.ismethod(f) else (f, type(f).__call__)
    if jax.tree_util.all_leaves([owner]):
        return Function((), _hashable(f))
    leaves, structure = jax.tree.flatten(owner)
    constants = tuple(_NUMBER if _is_number(leaf) else leaf for leaf in leaves)
    return Function(tuple(leaf for leaf in leaves if _is_number(leaf)), call, structure, constants)


def _is_number(leaf: Any) -> bool:
    # whole numbers may decide a shape (how often a layer repeats), so they stay static
    return isinstance(leaf, (float, jax.Array, np.ndarray, np.floating))


@dataclass(frozen=True, eq=False)
class _ByIdentity:
    """A callable without a hash, told apart by identity."""

    f: Callable

    def __call__(self, params: Any, x: jax.Array) -> Any:
        return self.f(params, x)


def _hashable(f: Callable) -> Callable:
    try:
        hash(f)
    except TypeError:
        return _ByIdentity(f)
    return f


def partition(params: Any) -> tuple[list[jax.Array], Callable[[list], Any]]:
    """The floating leaves of `params`, and the function that puts new ones in their place.

    Whole numbers, booleans and random keys among the leaves are held constant.

    Raises:
        TypeError: as `check_params`.
    """
    check_params(params)
    leaves, structure = jax.tree.flatten(params)
    is_float = [_is_float(leaf) for leaf in leaves]

    def rebuild(floats: list) -> Any:
        new = iter(floats)
        return jax.tree.unflatten(structure, [next(new) if f else leaf for f, leaf in zip(is_float, leaves)])

    return [jnp.asarray(leaf) for f, leaf in zip(is_float, leaves) if f], rebuild


def check_params(params: Any) -> None:
    """Raises TypeError for leaves that are no arrays, or if no leaf is floating."""
    leaves = jax.tree.leaves(params)
    for leaf in leaves:
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int)):
            raise TypeError(
                f"Expected params to hold arrays only, got a leaf {checks.describe(leaf)}. "
                "Split the model first, as in equinox.partition(model, equinox.is_inexact_array)."
            )
    if not any(map(_is_float, leaves)):
        raise TypeError(
            "Expected params with at least one floating array, got none. Did the call swap params and x?"
            if leaves
            else "Expected params with at least one floating array, got an empty tree. Pass what net.init returned."
        )


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, float) or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating))


def outputs_of(function: Callable, params: Any, x: jax.Array) -> jax.Array:
    """f(params, x) as (n, o); a function of shape (n,) has one output, further axes are outputs too.

    Raises:
        TypeError: unless f returns one floating array.
        ValueError: unless its first axis counts the examples.
    """
    out = function(params, x)
    if not isinstance(out, jax.Array) or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f"Expected f(params, x) to return one array of floats, got {checks.describe(out)}. "
            "If it also returns new state, as BatchNorm in training mode does, fix the state and return the outputs."
        )
    if out.ndim == 0 or out.shape[0] != x.shape[0]:
        raise ValueError(
            f"Expected f(params, x) with one row per example, so a first axis of {x.shape[0]}, got shape {out.shape}. "
            "A function of one example? Wrap it: jax.vmap(f, in_axes=(None, 0))."
        )
    return out.reshape(out.shape[0], -1)


def coupling(function: Callable, params: Any, x: jax.Array) -> jax.Array | None:
    """How much the output of one example depends on the rest of its batch, 0 where examples are on their own.

    None, and nothing computed, where the program shows that they are, as most do (independence.py). Where it does not:
    the slope of one output by another example's input, relative to that by its own: exactly zero without coupling,
    even where outputs cancel (a network minus its own start). A function that draws random numbers, whose slopes say
    nothing, must give equal examples equal outputs.
    """
    together = jnp.concatenate([x[:1], x[-1:], 2 * x[:1] + 1])
    program = jax.make_jaxpr(lambda x: outputs_of(function, params, x))(together)
    is_random = bool(_RANDOM & _primitives(program.jaxpr))
    if not is_random and stays_apart(program):
        return None
    out, pull = jax.vjp(lambda x: outputs_of(function, params, x), together)
    tiny = jnp.finfo(out.dtype).tiny
    mix = jnp.sin(1 + jnp.arange(out.shape[1], dtype=out.dtype))
    (slopes,) = pull(jnp.zeros_like(out).at[0].set(mix))
    own, others = jnp.abs(slopes[0]).max(), jnp.abs(slopes[1:]).max()
    gap = (others / jnp.maximum(own, tiny)).astype(out.dtype)
    if not is_random:
        return gap
    copies = outputs_of(function, params, jnp.repeat(x[:1], 32, axis=0))
    return jnp.maximum(gap, jnp.abs(copies - copies[:1]).max() / jnp.maximum(jnp.abs(copies).max(), tiny))


_RANDOM = {"random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"}


def _primitives(jaxpr: Any) -> set[str]:
    """The names of all operations of a traced program, also of the programs inside it."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                names |= _primitives(inner)
    return names


def require_independent(function: Callable, params: Any, x: jax.Array) -> None:
    """Raises ValueError if the examples that f gets together see each other."""
    check_independent(_coupling(function, params, x))


_coupling = jax.jit(coupling)


def check_independent(gap: jax.Array | None) -> None:
    """Raises ValueError if `coupling` found that examples see each other."""
    if gap is not None and checks.is_concrete(gap):
        checks.independent(float(gap), float(jnp.finfo(gap.dtype).eps))


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


def initial_params(init: Function, keys: jax.Array, x: jax.Array) -> Any:
    """Parameters for each key, on a leading axis, in the precision of x."""
    params = _drawn(init, keys, x.shape)
    follow = lambda a: a.astype(x.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a
    return jax.tree.map(follow, params)


@functools.partial(jax.jit, static_argnames="shape")
def _drawn(init, keys, shape):
    return jax.vmap(lambda key: init(key, shape)[1])(keys)


def map_in_batches(f: Callable, xs: Any, size: int) -> Any:
    """f of every entry along the first axis of the tree `xs`, `size` of them side by side; compiled once."""
    n = len(jax.tree.leaves(xs)[0])
    count = -(-n // size)
    if count == 1:
        return jax.vmap(f)(xs)
    # even batches; the last one repeats the last entry, which is cheaper than compiling a batch of another size
    index = jnp.minimum(jnp.arange(count * -(-n // count)), n - 1).reshape(count, -1)
    out = jax.lax.map(lambda i: jax.vmap(f)(jax.tree.map(lambda a: a[i], xs)), index)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], out)
