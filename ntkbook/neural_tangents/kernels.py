"""The guest's `Kernel`, translated from and to what flows through the layers of this library.

The guest keeps examples in front, ours keeps them last; it keeps covariances of x1 with itself under `cov1`, which here
are the variances, or the pairs of positions inside one example.
"""

import dataclasses
from collections import namedtuple
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..networks import positions
from ..networks.signals import Signals

_STATIC = "is_gaussian is_reversed is_input diagonal_batch diagonal_spatial shape1 shape2 batch_axis channel_axis"


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["nngp", "ntk", "cov1", "cov2", "x1_is_x2", "mask1", "mask2"],
    meta_fields=_STATIC.split(),
)
@dataclasses.dataclass(frozen=True)
class Kernel:
    """The covariances of the signals at one place of a network, under the guest's names.

    nngp, ntk: (n1, n2), with positions (n1, n2, h, h, w, w), or (n1, n2, h, w) if `diagonal_spatial`
    cov1, cov2: (n1,) and (n2,), with positions (n1, h, h, w, w) or (n1, h, w); cov2 is None if x2 is x1
    shape1, shape2: the shapes of the signals
    """

    nngp: Any
    ntk: Any
    cov1: Any
    cov2: Any
    x1_is_x2: Any
    is_gaussian: bool
    is_reversed: bool
    is_input: bool
    diagonal_batch: bool
    diagonal_spatial: bool
    shape1: tuple[int, ...] | None
    shape2: tuple[int, ...] | None
    batch_axis: int
    channel_axis: int
    mask1: Any = None
    mask2: Any = None

    replace = dataclasses.replace

    def asdict(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))

    def astuple(self) -> tuple[Any, ...]:
        """The fields in order."""
        return tuple(vars(self).values())


# Arguments that have no counterpart unless they are left at their default, and the nearest thing that there is.
_ARGUMENTS = {
    "pattern": "none, as networks on graphs have no kernel here",
    "mask_constant": "to pad and pool, or to leave masked examples out",
    "pos_emb_decay_fn": "ntkbook.SelfAttention(position_decay=...)",
    "n_chan_pos_emb": "as many channels as there are, to which positions are added",
    "val_pos_emb": "positions in queries and keys alone, val_pos_emb=False",
}


def refuse(is_absent: bool, what: str, nearest: str) -> None:
    """Raises NotImplementedError, in the one sentence that this room has for it."""
    if is_absent:
        raise NotImplementedError(f"{what} is not known here. The nearest: {nearest}.")


def refuse_arguments(given: dict[str, Any]) -> None:
    """Raises NotImplementedError for arguments without a counterpart; all are None or False by default."""
    for name in given.keys() & _ARGUMENTS:
        refuse(given[name] is not None and given[name] is not False, f"The argument {name}", _ARGUMENTS[name])


def chosen(get, part_of: Callable[[str], Any], known=("nngp", "ntk"), name: str = "Kernels"):
    """part_of(word) for the one word that `get` is, or a named tuple for several; equal words make one type.

    Raises:
        ValueError: for words that are not `known`.
    """
    words = words_of(get)
    if not words or set(words) - set(known):
        raise ValueError(f"Expected get to be one or several of {', '.join(known)}, got {get!r}.")
    parts = tuple(map(part_of, words))
    return parts[0] if isinstance(get, str) else _named_tuple(name, words)(*parts)


def words_of(get) -> tuple[str, ...]:
    """The words that are asked for; both kernels for None."""
    words = (get,) if isinstance(get, str) else ("nngp", "ntk") if get is None else get
    return tuple(word.lower() for word in words)


_named_tuple = cache(namedtuple)


def relaxed(function: Callable) -> Callable:
    """`function`, whatever the caller has told JAX about shapes that broadcast and precisions that meet."""

    @wraps(function)
    def call(*arguments, **options):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*arguments, **options)

    return call


def from_core(k: Signals, is_same: bool, diagonal_spatial: bool = False, axes: Callable = tuple) -> Kernel:
    """What our layers made, as the guest has it; `axes` puts what is in our order, examples first, in the guest's."""
    nngp, ntk = k.nngp, k.ntk
    var1, var2 = k.var1[..., 0], k.var2[..., 0, :]  # asked for by the caller
    sizes = [nngp.shape[pair[0]] for pair in k.axes]
    is_diagonal = k.keep == "same"
    if k.keep == "all" and k.inside1 is not None and k.inside2 is not None and not diagonal_spatial:
        var1, var2 = k.inside1.nngp[..., 0], k.inside2.nngp[..., 0, :]
    elif k.keep == "all":
        nngp, ntk, is_diagonal = *(positions.diagonal(a, len(sizes)) for a in (nngp, ntk)), True
        var1, var2 = (v.reshape(*sizes, -1) for v in (var1, var2))
    cov1, cov2 = (jnp.moveaxis(v, -1, 0) for v in (var1, var2))
    order = axes(tuple(range(len(sizes) + 2)))
    return Kernel(
        nngp=positions.examples_first(nngp),
        ntk=positions.examples_first(ntk),
        cov1=cov1,
        cov2=None if is_same else cov2,
        x1_is_x2=jnp.asarray(is_same),
        is_gaussian=k.is_gaussian,
        is_reversed=False,
        is_input=False,
        diagonal_batch=True,
        diagonal_spatial=is_diagonal,
        shape1=axes((len(cov1), *sizes, k.width)),
        shape2=axes((len(cov2), *sizes, k.width)),
        batch_axis=order.index(0),
        channel_axis=order.index(len(order) - 1),
    )


def to_core(k: Kernel) -> Signals:
    """What our layers take, from the guest's fields: also for a Kernel made by hand.

    Raises:
        NotImplementedError: for masks, and positions in reverse order.
    """
    is_strange = k.mask1 is not None or k.mask2 is not None or k.is_reversed
    refuse(is_strange, "A Kernel with masks, or with positions in reverse order", "one without")
    nngp = jnp.moveaxis(jnp.asarray(k.nngp), (0, 1), (-2, -1))
    ntk = jnp.zeros_like(nngp) if k.ntk is None else jnp.moveaxis(jnp.asarray(k.ntk), (0, 1), (-2, -1))
    cov1, cov2 = (jnp.asarray(cov) for cov in (k.cov1, k.cov1 if k.cov2 is None else k.cov2))
    if k.diagonal_batch:
        cov1, cov2 = (jnp.moveaxis(cov, 0, -1) for cov in (cov1, cov2))
    else:
        cov1, cov2 = (jnp.diagonal(cov, axis1=0, axis2=1) for cov in (cov1, cov2))
    keep = "none" if nngp.ndim == 2 else "same" if k.diagonal_spatial else "all"
    width = 1 if k.shape1 is None else k.shape1[k.channel_axis]
    made = Signals(nngp, ntk, None, None, width=width, is_gaussian=k.is_gaussian, keep=keep)
    if keep != "all":
        return made.replace(var1=cov1[..., None], var2=cov2[..., None, :])
    inside1, inside2 = (_inside(made, cov, axis) for cov, axis in ((cov1, -1), (cov2, -2)))
    return made.replace(var1=inside1.var1, var2=inside2.var2, inside1=inside1, inside2=inside2)


def _inside(k: Signals, cov: Array, axis: int) -> Signals:
    nngp = jnp.expand_dims(cov, axis)
    var1, var2 = (positions.diagonal_of_pairs(nngp, side) for side in (0, 1))
    return k.replace(nngp=nngp, ntk=jnp.zeros_like(nngp), var1=var1, var2=var2, keep="inside")
