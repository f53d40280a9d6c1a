"""What flows through an infinitely wide network: the covariances of its signals, and how they start.

Every layer maps `Signals` to `Signals`. Besides the two kernels these hold what keeps them exact: variances, and the
squared distance of every pair of signals. An angle that is read off a covariance is known to the root of the rounding
error only, and a kink or a jump makes that visible; distances of near points keep their digits, and are zero for
copies. Notebook 02 derives the NNGP, notebook 03 the NTK.
"""

import dataclasses
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..numerics import NEAR
from ..pytrees import pytree, static
from . import positions

FEW_FEATURES = 16  # up to here all distances are taken from differences
GATHERED = 2**22  # numbers that are gathered at a time, for distances of near points


@pytree
class Signals:
    """The covariances of the signals at one place of a network, for all pairs of examples.

    nngp:  E[z(x1) z(x2)] of one channel z, (n1, n2)
    ntk:   sum over the parameters p before this place of E[dz(x1)/dp dz(x2)/dp], (n1, n2)
    var1:  E[z(x1)^2], (n1, 1), and var2: E[z(x2)^2], (1, n2); they broadcast against nngp and ntk
    distance: E[(z(x1) - z(x2))^2] = var1 + var2 - 2 nngp with the digits that this difference would lose, (n1, n2);
        zero exactly where both are one signal. A value without derivatives.
    copies: where both are one signal, for flat data none of which are near: then there is no distance to carry.

    Where nothing that follows asked for variances (`Layer.requires`), they and the distance may be None. Signals with
    positions (images, sequences) have more axes in front: see positions.py.
    """

    nngp: Array
    ntk: Array
    var1: Any
    var2: Any
    distance: Any = None
    copies: Any = None
    width: int = static(default=0)  # channels before this place: the standard parameterization depends on it
    is_gaussian: bool = static(default=False)
    level: int = static(default=0)  # how many sums of paths enclose this place
    fresh: int = static(default=-1)  # the level at which random weights of mean zero made these signals
    keep: str = static(default="none")  # pairs of positions: none (flat data), same, all, inside (one example), offset
    offset: Any = None  # of the positions that are paired along the first direction, for keep="offset"
    inside1: "Signals | None" = None  # this place for the positions inside each example of x1, where needed
    inside2: "Signals | None" = None  # the same for x2

    @property
    def axes(self) -> list[tuple[int, ...]]:
        """The position axes of nngp and ntk, by direction: [(0, 1), (2, 3)] for all pairs on images."""
        return positions.position_axes(self.nngp.ndim - 2, self.keep)

    def replace(self, **changes: Any) -> "Signals":
        """A copy with some fields changed. A distance that is not given follows from the new covariances."""
        new = dataclasses.replace(self, **changes)
        if new.var1 is None or new.var2 is None or new.copies is not None:
            return dataclasses.replace(new, distance=None)
        if "distance" not in changes and changes.keys() & {"nngp", "var1", "var2"}:
            new = dataclasses.replace(new, distance=distance_of_covariances(new, self.distance))
        return dataclasses.replace(new, distance=jax.lax.stop_gradient(new.distance))

    def without_distance(self) -> "Signals":
        """These signals before they are mixed: where two were one says nothing about what comes of them."""
        return dataclasses.replace(self, distance=None)

    def on_twins(self, values: Array, exact: Array) -> Array:
        """`values`, except that entries which pair a signal with itself are taken from `exact`.

        The angle of a point with itself is zero only up to rounding; variances have no angle in them.
        """
        are_twins = self.copies if self.distance is None else self.distance == 0
        return values if are_twins is None else _selected(values, exact, are_twins)


@jax.custom_jvp
def _selected(values, exact, is_exact):
    return jnp.where(is_exact, exact, values)


# Two equal points may move apart: what differs is in `values`.
_selected.defjvps(lambda d_values, *_: d_values, None, None)


def own_variances(k: Signals, nngp: Array, mixed: Callable[[Signals], Array]) -> tuple[Any, Any]:
    """(var1, var2) after a mixing of positions, from all pairs of positions inside each example.

    `mixed` gives the nngp after it, and `nngp` is that of k. (None, None) if nothing that follows reads them.
    """
    if k.keep == "inside":
        inside = nngp, nngp
    elif k.inside1 is None or k.inside2 is None:
        return None, None
    else:
        inside = mixed(k.inside1), mixed(k.inside2)
    return positions.diagonal_of_pairs(inside[0], 0), positions.diagonal_of_pairs(inside[1], 1)


def distance_of_covariances(k: Signals, before: Any = None) -> Array:
    """var1 + var2 - 2 nngp, zero where it is rounding, and where the signals were one before (distance zero)."""
    total = k.var1 + k.var2
    distance = total - 2 * k.nngp
    is_zero = distance < 8 * jnp.finfo(distance.dtype).eps * total
    if before is not None and before.shape == distance.shape:
        is_zero = is_zero | (before == 0)
    return jnp.where(is_zero, 0, distance)


def like(value: Any, array: Array, default: float = 1.0) -> Array:
    """A hyperparameter (None: the default) in the precision of the array that it meets: the library follows its inputs.

    Raises:
        ValueError: for an array of numbers, which a single layer cannot have.
    """
    if value is not None and jnp.ndim(value):
        raise ValueError(
            f"Expected one number for each hyperparameter of a layer, got an array of shape {jnp.shape(value)}. "
            "For many networks at once map over them: jax.vmap(lambda W_std: ntk(serial(Dense(8, W_std), ...), x))."
        )
    return jnp.asarray(default if value is None else value).astype(array.dtype)


def input_signals(x1: Array, x2: Array | None, needs: frozenset[str]) -> Signals:
    """The signals that enter the first layer: nngp = x1 . x2 / features, and no parameters yet, so ntk = 0."""
    n_positions = x1.ndim - 2
    keep = "none" if n_positions == 0 else "all" if needs & {"all", "inside"} else "same"
    k = _signals(x1, x2, keep)
    if "inside" in needs and n_positions:
        k = k.replace(inside1=_inside(x1, -1), inside2=_inside(x1 if x2 is None else x2, -2))
    return k


@jax.jit
def flat_products(x1: Array, x2: Array | None) -> tuple[tuple[Array, Array, Array], Array]:
    """((nngp, var1, var2), are two different rows near) of flat data: with far points all else follows from these."""
    nngp, var1, var2 = _products(x1, x1 if x2 is None else x2)
    is_near = _is_near(nngp, var1, var2)
    return (nngp, var1, var2), (is_near if x2 is not None else is_near & ~jnp.eye(len(x1), dtype=bool)).any()


def far_signals(products: tuple[Array, Array, Array], width: int, is_same: bool) -> Signals:
    """`input_signals` without distances, of `flat_products` of far points."""
    nngp, var1, var2 = products
    copies = jnp.eye(len(nngp), dtype=bool) if is_same else jnp.zeros((1, 1), dtype=bool)
    k = Signals(nngp, jnp.zeros_like(nngp), var1, var2, width=width, copies=copies)
    return dataclasses.replace(k, nngp=k.on_twins(nngp, var1))


def _inside(x: Array, axis: int) -> Signals:
    """All pairs of positions inside each example, with an axis of length 1 where the other examples would be."""
    one = jax.vmap(lambda x: _signals(x[None], None, "all"), out_axes=-1)(x)  # (..., 1, 1, n)
    return jax.tree.map(lambda a: jnp.expand_dims(a.squeeze((-3, -2)), axis), one).replace(keep="inside")


def _signals(x1, x2, keep):
    nngp, distance, var1, var2 = positions.on_pairs(covariances, x1, x2, keep)
    return Signals(nngp, jnp.zeros_like(nngp), var1, var2, distance, width=x1.shape[-1], keep=keep)


def covariances(x1: Array, x2: Array | None) -> tuple[Array, Array, Array, Array]:
    """(nngp, distance, var1, var2) of the rows of x1 (n1, features) and x2 (n2, features), x1 itself if None."""
    is_same, x2 = x2 is None, x1 if x2 is None else x2
    features = x1.shape[-1]
    nngp, var1, var2 = _products(x1, x2)
    x1, x2 = jax.lax.stop_gradient((x1, x2))
    if features <= FEW_FEATURES:
        squares = [jnp.square(x1[:, i, None] - x2[None, :, i]) for i in range(features)]
        distance = reduce(jnp.add, squares) / features
    else:
        fixed = jax.lax.stop_gradient((nngp, var1, var2))
        is_twin = is_same & jnp.eye(len(x1), len(x2), dtype=bool)
        any_near = (_is_near(*fixed) & ~is_twin).any()  # one pass, which leaves no array behind
        rough = lambda x1, x2, nngp, var1, var2: jnp.where(is_twin, 0, var1 + var2 - 2 * nngp)
        distance = jax.lax.cond(any_near, partial(_refined, is_twin), rough, x1, x2, *fixed)
    return _selected(nngp, var1, distance == 0), distance, var1, var2


def _products(x1, x2):
    nngp = jnp.matmul(x1, x2.T, precision=jax.lax.Precision.HIGHEST) / x1.shape[-1]
    return nngp, jnp.square(x1).mean(-1)[:, None], jnp.square(x2).mean(-1)[None]


def _is_near(nngp, var1, var2):
    return var1 + var2 - 2 * nngp < 2 * NEAR * (var1 + var2)


def _refined(is_twin, x1, x2, nngp, var1, var2):
    """Distances of near rows from their differences: many at once about their common mean, the nearest one by one."""
    features = x1.shape[-1]
    mean = x1.mean(0, keepdims=True)
    a, b = x1 - mean, x2 - mean
    total = jnp.square(a).mean(-1)[:, None] + jnp.square(b).mean(-1)[None]
    centred = total - 2 * jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST) / features
    size = min(nngp.size, max(1, GATHERED // features), 4 * (len(x1) + len(x2)))

    def some(carry):
        distance, todo = carry
        i, j = jnp.nonzero(todo, size=size, fill_value=0)
        return distance.at[i, j].set(jnp.square(x1[i] - x2[j]).mean(-1)), todo.at[i, j].set(False)

    is_near = _is_near(nngp, var1, var2) & ~is_twin
    rough = jnp.where(is_twin, 0, var1 + var2 - 2 * nngp)
    start = jnp.where(is_near, centred, rough), is_near & (centred < 2 * NEAR * total)
    return jax.lax.while_loop(lambda carry: carry[1].any(), some, start)[0]
