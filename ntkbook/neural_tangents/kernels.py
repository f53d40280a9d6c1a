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

    def replace(self, **changes) -> "Kernel":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def asdict(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))

    def astuple(self) -> tuple[Any, ...]:
        """The fields in order."""
        return tuple(vars(self).values())


def refuse(is_absent: bool, what: str, nearest: str) -> None:
    """Raises NotImplementedError, in the one sentence that this room has for it."""
    if is_absent:
        raise NotImplementedError(f"{what} is not known here. The nearest: {nearest}.")


def words_of(get) -> tuple[str, ...] | None:
    """`get` as a tuple of words, or None for everything."""
    if get is None:
        return None
    return tuple(word.lower() for word in ((get,) if isinstance(get, str) else get))


def select(result, get):
    """`result` itself, one of its parts, or some of them as a named tuple in the order asked for."""
    words = words_of(get)
    if words is None:
        return result
    unknown = [word for word in words if not hasattr(result, word)]
    if unknown or not words:
        raise ValueError(f"Expected get to name parts of the kernel, such as 'nngp' or 'ntk', got {get!r}.")
    parts = [getattr(result, word) for word in words]
    return parts[0] if isinstance(get, str) else named(words, parts)


def named(words, parts, name: str = "Kernels"):
    """A named tuple; equal words make one type, as trees want it."""
    return _named_tuple(name, tuple(words))(*parts)


_named_tuple = cache(namedtuple)


def relaxed(function: Callable) -> Callable:
    """`function`, whatever the caller has told JAX about shapes that broadcast and precisions that meet."""

    @wraps(function)
    def call(*arguments, **options):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*arguments, **options)

    return call


def from_core(k: Signals, shapes, *, is_same: bool, diagonal_spatial: bool, axes: tuple[int, int]) -> Kernel:
    """What our layers made, as the guest has it; `shapes` are those of the two signals."""
    shape1, shape2 = shapes
    nngp, ntk = k.nngp, k.ntk
    var1, var2 = k.var1[..., 0], k.var2[..., 0, :]  # asked for by the caller
    n = 0 if k.keep == "none" else nngp.ndim - 2 if k.keep == "same" else (nngp.ndim - 2) // 2
    if k.keep == "all" and (diagonal_spatial or k.inside1 is None or k.inside2 is None):
        nngp, ntk = positions.diagonal(nngp, n), positions.diagonal(ntk, n)
        var1, var2 = (v.reshape(*nngp.shape[:n], -1) for v in (var1, var2))
        diagonal_spatial = True
    elif k.keep == "all" and k.inside1 is not None and k.inside2 is not None:
        var1, var2 = k.inside1.nngp[..., 0], k.inside2.nngp[..., 0, :]
    cov1, cov2 = (jnp.moveaxis(v, -1, 0) for v in (var1, var2))
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
        diagonal_spatial=diagonal_spatial and n > 0,
        shape1=shape1,
        shape2=shape2,
        batch_axis=axes[0],
        channel_axis=axes[1] % len(shape1),
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
    cov1, cov2 = _per_example(k, k.cov1), _per_example(k, k.cov1 if k.cov2 is None else k.cov2)
    n_pairs = nngp.ndim - 2
    keep = "none" if n_pairs == 0 else "same" if k.diagonal_spatial else "all"
    width = 1 if k.shape1 is None else k.shape1[k.channel_axis]
    made = Signals(nngp, ntk, None, None, width=width, is_gaussian=k.is_gaussian, keep=keep)
    if keep != "all":
        return made.replace(var1=cov1[..., None], var2=cov2[..., None, :])
    inside1, inside2 = (_inside(made, cov, axis) for cov, axis in ((cov1, -1), (cov2, -2)))
    return made.replace(var1=inside1.var1, var2=inside2.var2, inside1=inside1, inside2=inside2)


def _per_example(k: Kernel, cov) -> Array:
    """A covariance of each example with itself, examples last."""
    cov = jnp.asarray(cov)
    return jnp.moveaxis(cov, 0, -1) if k.diagonal_batch else jnp.diagonal(cov, axis1=0, axis2=1)


def _inside(k: Signals, cov: Array, axis: int) -> Signals:
    nngp = jnp.expand_dims(cov, axis)
    var1, var2 = (positions.diagonal_of_pairs(nngp, (nngp.ndim - 2) // 2, side) for side in (0, 1))
    return k.replace(nngp=nngp, ntk=jnp.zeros_like(nngp), var1=var1, var2=var2, keep="inside")
