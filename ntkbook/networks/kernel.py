"""The doors of infinite width, `kernel`, `ntk` and `nngp`, and what a layer is.

A layer maps `Signals` to `Signals`; `kernel(net, x1, x2)` sends the inputs' own Gram matrix through every layer of a
network. Notebook 02 derives the NNGP, notebook 03 the NTK.
"""

from collections.abc import Iterator
from functools import partial
from math import log2, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import checks
from . import positions
from .in_turn import in_turn, through
from .offsets import fits, mean_over_positions
from .signals import Signals, far_signals, flat_products, input_signals
from .tiles import as_jax, busy_side, rows_on, tiled

WORDS = ("nngp", "ntk")


class Kernel(NamedTuple):
    """The two kernels of a network, each (n1, n2): what `kernel` returns.

    >>> import jax.numpy as jnp
    >>> from ntkbook import Dense, kernel
    >>> nngp, ntk = kernel(Dense(1), jnp.eye(2))
    >>> nngp.shape
    (2, 2)
    """

    nngp: Any
    ntk: Any

    def __repr__(self) -> str:
        shown = (f"{word}={getattr(a, 'dtype', type(a).__name__)}{jnp.shape(a)}" for word, a in zip(WORDS, self))
        return f"Kernel({', '.join(shown)})"


class Layer:
    """One layer, three meanings: `init` and `apply` of the finite layer, `kernel` of the infinitely wide one.

    A layer is a frozen dataclass and a pytree: numbers that one may tune are leaves, widths and structure are
    static. Any layer is a network, and unpacks as `init_fn, apply_fn, kernel_fn = layer`. A layer that mixes positions
    or reads no variances has a fourth duty, `requires`.
    """

    is_by_offset = False  # does its kernel serve the pairs of positions of one offset alone? That is quick: offsets.py
    is_global_mean = False  # does it end the positions in one mean?

    def init(self, key: Array, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
        """(output shape, parameters) for inputs of `input_shape`, the example axis first (any number there)."""
        raise NotImplementedError

    def apply(self, params: Any, x: Array) -> Array:
        """The finite layer: outputs for inputs `x`, the example axis first."""
        raise NotImplementedError

    def kernel(self, k: Signals) -> Signals:
        """The infinitely wide layer: the signals after it, from the signals before it."""
        raise NotImplementedError

    def requires(self, needs: frozenset[str]) -> frozenset[str]:
        """What the signals before this layer must hold, if what comes after needs `needs`.

        Words: "variances" (var1, var2 and distance are read), "all" (all pairs of positions), "inside" (inside1,
        inside2). As it stands here a layer may read variances; one that mixes positions has to ask for "all".
        """
        return needs | {"variances"}

    @property
    def parts(self) -> tuple["Layer", ...]:
        """The layers that this one runs one after another."""
        return (self,)

    def kernel_fn(self, x1: Array, x2: Array | None = None, get: str | tuple[str, ...] | None = None) -> Any:
        """The kernel as neural-tangents calls it: `get` is "nngp", "ntk", a tuple of them, or None for both."""
        words: Any = WORDS if get is None else get if isinstance(get, (tuple, list)) and get else (get,)
        for word in words:
            checks.one_of(word, "get", WORDS)
        if get is None:
            return kernel(self, x1, x2)
        blocks = compute(*checked(self, x1, x2), tuple(words))
        return blocks[0] if isinstance(get, str) else blocks

    def __iter__(self) -> Iterator[Any]:
        return iter((self.init, self.apply, self.kernel_fn))

    def __call__(self, *inputs: Any) -> Any:
        raise TypeError(
            f"Expected a method of the network, got a call of {type(self).__name__} itself. "
            "net.apply(params, x) is the finite network, ntkbook.ntk(net, x) the kernel of the infinitely wide one."
        )


def kernel(net: Layer, x1: Float[Array, "n1 *features"], x2: Float[Array, "n2 *features"] | None = None) -> Kernel:
    """The NNGP and the NTK of the infinitely wide `net`, as `.nngp` and `.ntk`, each (n1, n2).

    K(x, x') = E[f(x) f(x')],  Theta(x, x') = sum over parameters p of E[df(x)/dp df(x')/dp]

    Without `x2`: of `x1` with itself. A point with itself, and with its copies, has exact values. A network that keeps
    positions to its end (no `Flatten`, no pooling) gives (n1, n2, h, h, w, w).

    >>> import jax.numpy as jnp
    >>> from ntkbook import Dense, Relu, kernel, serial
    >>> kernel(serial(Dense(8), Relu(), Dense(1)), jnp.eye(2)).ntk.shape
    (2, 2)

    Raises:
        TypeError, ValueError: for inputs that are no finite floats, features that differ, an order of layers that has
            no kernel, or numbers beyond the range of the inputs' precision.

    Jacot et al. 2018, Proposition 1 and Theorem 1; Lee et al. 2019, section 2; derived in notebook 03.
    """
    return Kernel(*compute(*checked(net, x1, x2), WORDS))


def ntk(
    net: Layer, x1: Float[Array, "n1 *features"], x2: Float[Array, "n2 *features"] | None = None
) -> Float[Array, "n1 n2 *positions"]:
    """Neural tangent kernel of the infinitely wide `net`, (n1, n2): see `kernel`.

    >>> import jax.numpy as jnp
    >>> from ntkbook import Dense, Relu, ntk, serial
    >>> ntk(serial(Dense(8), Relu(), Dense(1)), jnp.eye(2), jnp.eye(2)).shape
    (2, 2)
    """
    return compute(*checked(net, x1, x2), ("ntk",))[0]


def nngp(
    net: Layer, x1: Float[Array, "n1 *features"], x2: Float[Array, "n2 *features"] | None = None
) -> Float[Array, "n1 n2 *positions"]:
    """Covariance of the outputs of the infinitely wide `net` at initialization, (n1, n2): see `kernel`.

    >>> import jax.numpy as jnp
    >>> from ntkbook import Dense, nngp
    >>> nngp(Dense(1, W_std=2.0), jnp.ones((1, 3))).tolist()
    [[4.0]]
    """
    return compute(*checked(net, x1, x2), ("nngp",))[0]


def compute(
    net: Layer,
    x1: Array,
    x2: Array | None,
    words: tuple[str, ...],
    *,
    tile: int | None = None,
    progress: bool = False,
    mesh: Any = None,
) -> tuple[Array, ...]:
    """The kernels of these names, of `checked` arguments: in tiles if there are many points, else all pairs at once.

    With a `mesh`, or where x1 lies on several devices: tiles on all of them, and a result of which each has its rows.
    """
    most = max(len(x1), 0 if x2 is None else len(x2))
    side = tile or tile_side(net, x1)
    if tile is None and x1.ndim > 2 and side < most <= 4 * side:
        side = -(-most // -(-most // side))  # few tiles are of equal size: with positions what fills up the last costs
    is_known = checks.is_concrete(net, x1, x2)
    rows = rows_on(mesh, x1) if is_known else None
    if rows is None and (most <= side or not is_known):
        return _all_pairs(net, x1, x2, words, is_known)
    devices = [] if rows is None else sorted(rows.device_set, key=lambda device: device.id)
    if tile is None:
        side = busy_side(side, len(x1), most, len(devices))
    try:
        blocks = tiled(partial(block_of, on_host(net), words=words), x1, x2, side, progress=progress, devices=devices)
    except KeepsPositions:
        return _all_pairs(net, _on_one_device(x1), _on_one_device(x2), words, is_known)
    return tuple(as_jax(block) if rows is None else jax.device_put(block, rows) for block in blocks)


def _on_one_device(x: Any) -> Any:
    return x if x is None or len(x.sharding.device_set) == 1 else jnp.asarray(np.asarray(x))


def on_host(net: Layer) -> Layer:
    """The network with numbers that no device holds: each tile takes them to its own."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, net)


class KeepsPositions(Exception):
    """The kernel of a tile has position axes, which are not put together from tiles."""


def _all_pairs(net: Layer, x1: Array, x2: Array | None, words: tuple[str, ...], is_known: bool) -> tuple[Array, ...]:
    n_pairs = len(x1) * len(x1 if x2 is None else x2)
    blocks = (shortest if is_known and n_pairs > FEW_PAIRS else program)(net, x1, x2, words)
    if is_known:
        if x2 is None and blocks[0].ndim == 2:
            blocks = _symmetric(blocks)
        is_small = blocks[0].size <= FEW  # to start a program takes longer than to look at few numbers
        looked_at = all(np.isfinite(np.asarray(block)).all() for block in blocks) if is_small else _are_finite(blocks)
        _check_range(bool(looked_at), blocks[0])
    return blocks


def block_of(net: Layer, x1: Any, x2: Any, words: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """The kernels of these names of the rows of one tile, on the device of the caller's choice.

    Raises:
        ValueError: for an overflow.
        KeepsPositions: for a network whose end keeps positions.
    """
    blocks = shortest(net, x1, x2, words)
    if blocks[0].ndim != 2:
        raise KeepsPositions
    blocks = tuple(map(np.asarray, blocks))
    _check_range(all(np.isfinite(block).all() for block in blocks), blocks[0])
    return blocks


def _check_range(is_finite: bool, block: Any) -> None:
    if not is_finite:
        raise ValueError(
            f"Expected a kernel within the range of {block.dtype}, got infinity or NaN: numbers that overflow, or "
            "variances beyond those that an activation without a closed form is right for. Scale the inputs or the "
            "weights down, use float64 (jax.config.update('jax_enable_x64', True), x.astype(float)), or give an "
            "Elementwise more nodes."
        )


FEW_PAIRS = 2**12  # of examples: up to here a second program costs more than the distances that it spares
FEW = 2**14  # entries: up to here the call of a program costs more than a pass over them
# Points along a tile of flat data on a CPU, measured from 600 to 5000: rows of 256 fall on the same lines of the cache.
FLAT_SIDE = 336
# Entries of one array of a tile: with the few arrays that a layer touches at a time, about a core's cache.
ENTRIES_PER_TILE = {"cpu": 2**16, "gpu": 2**24, "tpu": 2**24}


def tile_side(net: Layer, x: Any) -> int:
    """As many examples as fill the cache, given how many pairs of positions the network keeps for each pair."""
    if x.ndim == 2 and jax.default_backend() == "cpu":
        return FLAT_SIDE
    sizes = prod(x.shape[1:-1])
    entries, pairs, least = ENTRIES_PER_TILE[jax.default_backend()], sizes, 4
    if net.requires(frozenset()) & {"all", "inside"}:
        entries, pairs = 4 * entries, sizes**2  # measured: here a call costs more than a cache that is too small
        if layers_by_offset(net, x):
            entries, pairs = entries // 4, pairs // x.shape[1]
            least = 8 if pairs <= 2**15 else 4  # whole vectors are worth 8 MB an array, not more
    side = (entries / pairs) ** 0.5
    return max(least, 2 ** int(log2(max(side, 1))))  # whole vectors: tiles of 5 take twice the time of tiles of 8


@partial(jax.jit, static_argnames="words")
def program(net, x1, x2, words):
    """The kernels of these names: the compiled part."""
    parts, n_by_offset = net.parts, layers_by_offset(net, x1)
    if n_by_offset:
        k = mean_over_positions(partial(in_turn, parts[:n_by_offset]), x1, x2)
        return _ends(in_turn(parts[n_by_offset:], k), words)
    return _ends(through(net, input_signals(x1, x2, net.requires(frozenset({"all"})))), words)


def layers_by_offset(net: Layer, x: Any) -> int:
    """How many layers come before a mean over all positions, if all can be computed by one offset at a time, else 0."""
    parts = net.parts
    n = next((i for i, part in enumerate(parts) if part.is_global_mean), 0)
    is_so = fits(x) and all(part.is_by_offset for part in parts[:n]) and "inside" not in net.requires(frozenset())
    return n if is_so else 0


def shortest(net: Layer, x1: Any, x2: Any, words: tuple[str, ...]) -> tuple[Array, ...]:
    """`program`, or the shorter one for flat data none of which are near."""
    if x1.ndim == 2:
        products, any_near = flat_products(x1, x2)
        if not any_near:
            return _far_program(net, products, words, x1.shape[-1], x2 is None)
    return program(net, x1, x2, words)


@partial(jax.jit, static_argnames=("words", "width", "is_same"))
def _far_program(net, products, words, width, is_same):
    """`program` for flat data without near points, which passes no distances on."""
    return _ends(through(net, far_signals(products, width, is_same)), words)


def _ends(k, words):
    return tuple(positions.examples_first(getattr(k, word)) for word in words)


# Two more passes over a result, apart: compiled together with it they would compute all of it again.


@jax.jit
def _symmetric(blocks):
    """Sums in another order may differ in the last bit."""
    i = jax.lax.optimization_barrier(jnp.arange(len(blocks[0])))  # folding 500 rows of constants takes a minute
    return tuple(jnp.where(i[:, None] <= i[None], block, block.T) for block in blocks)


@jax.jit
def _are_finite(blocks):
    return jnp.stack([jnp.isfinite(block).all() for block in blocks]).all()


def checked(net: Any, x1: Any, x2: Any) -> tuple[Layer, Array, Array | None]:
    """The arguments of `kernel`, in one precision; x2 is None if it is x1. Raises what `kernel` raises for them."""
    if not isinstance(net, Layer):
        where = " Are the arguments swapped?" if any(isinstance(x, Layer) for x in (x1, x2)) else ""
        raise TypeError(
            f"Expected a network made by serial(...), got {type(net).__name__}. The network comes first.{where}"
        )
    is_same = x2 is x1
    x1 = checks.as_array(x1, "x1", ndim=(2, 3, 4, 5))
    if x2 is None or is_same:
        return net, x1, None
    x2 = checks.as_array(x2, "x2", ndim=(2, 3, 4, 5))
    checks.same_features(x1, x2)
    with jax.numpy_dtype_promotion("standard"):  # two inputs of two precisions are no accident
        dtype = jnp.promote_types(x1.dtype, x2.dtype)
    x1, x2 = x1.astype(dtype), x2.astype(dtype)
    if x1.shape == x2.shape and checks.is_concrete(x1, x2) and _are_equal(x1, x2):
        return net, x1, None  # all pairs of one set: half of the work, and exactly symmetric
    return net, x1, x2


def _are_equal(x1, x2):
    both = x1.sharding.device_set | x2.sharding.device_set
    return bool((x1 == x2).all()) if len(both) == 1 else np.array_equal(x1, x2)
