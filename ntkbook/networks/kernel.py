"""What flows through an infinitely wide network: its two kernels, and how they start and end.

A layer maps a `Kernel` to a `Kernel`: the covariance of the signals at its input to the one at its output
(NNGP), and the tangent kernel of all parameters before (NTK). `kernel(net, x1, x2)` sends the inputs' own
Gram matrix through every layer. Notebook 02 derives the NNGP, notebook 03 the NTK.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import checks
from ..pytrees import pytree, static
from . import positions


@pytree
class Kernel:
    """The covariances of the signals at one place of a network, for all pairs of examples.

    nngp:  E[z(x1) z(x2)] of one channel z, (n1, n2)
    ntk:   sum over the parameters p before this place of E[dz(x1)/dp dz(x2)/dp], (n1, n2)
    var1:  E[z(x1)^2], (n1, 1), and var2: E[z(x2)^2], (1, n2); they broadcast against nngp and ntk

    Signals with positions (images, sequences) have more axes in front: see positions.py.
    """

    nngp: Array
    ntk: Array
    var1: Array
    var2: Array
    width: int = static()  # channels before this place: the standard parameterization depends on it
    is_gaussian: bool = static(default=False)
    is_fresh: bool = static(default=False)  # made by random weights since the enclosing Residual began
    # Pairs of axes on which equal indices mean one point with itself; the example axes if x2 is x1.
    twin_axes: tuple[tuple[int, ...], ...] = static(default=())
    keep: str = static(default="none")  # pairs of positions: none (flat data), same, all, inside (one example)
    inside1: "Kernel | None" = None  # this place for the positions inside each example of x1, where needed
    inside2: "Kernel | None" = None  # the same for x2

    def replace(self, **changes: Any) -> "Kernel":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def on_diagonal(self, values: Array, exact: Array) -> Array:
        """`values`, except that entries which pair a point with itself are taken from `exact`.

        The angle of a point with itself is zero only up to rounding, and a kink turns an error e there into
        sqrt(e). Variances have no angle in them.
        """
        if not self.twin_axes:
            return values
        index = partial(jax.lax.broadcasted_iota, jnp.int32, values.shape)
        twins = [index(i % values.ndim) == index(j % values.ndim) for i, j in self.twin_axes]
        return jnp.where(reduce(jnp.logical_and, twins), exact, values)


class Layer:
    """One layer, three meanings: `init` and `apply` of the finite layer, `kernel` of the infinitely wide one.

    A layer is a frozen dataclass and a pytree: numbers that one may tune are leaves, widths and structure are
    static. Any layer is a network, and unpacks as `init_fn, apply_fn, kernel_fn = layer`.
    """

    def init(self, key: Array, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
        """(output shape, parameters) for inputs of `input_shape`, the example axis first (any number there)."""
        raise NotImplementedError

    def apply(self, params: Any, x: Array) -> Array:
        """The finite layer: outputs for inputs `x`, the example axis first."""
        raise NotImplementedError

    def kernel(self, k: Kernel) -> Kernel:
        """The infinitely wide layer: the kernel after it, from the kernel before it."""
        raise NotImplementedError

    def requires(self, needs: frozenset[str]) -> frozenset[str]:
        """What the kernel before this layer must hold, if what comes after needs `needs`.

        Words: "variances" (var1 and var2 are read), "all" (all pairs of positions), "inside" (inside1, inside2).
        """
        return needs

    def kernel_fn(self, x1: Array, x2: Array | None = None, get: str | tuple[str, ...] | None = None) -> Any:
        """The kernel as neural-tangents calls it: `get` is "nngp", "ntk", a tuple of them, or None for both."""
        for word in () if get is None else (get,) if isinstance(get, str) else get:
            checks.one_of(word, "get", ("nngp", "ntk"))
        full = kernel(self, x1, x2)
        if get is None:
            return full
        return getattr(full, get) if isinstance(get, str) else tuple(getattr(full, word) for word in get)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.init, self.apply, self.kernel_fn))


def through(layer: Layer, k: Kernel) -> Kernel:
    """`layer.kernel(k)`, and the same rule inside single examples where that is carried along."""
    out = layer.kernel(k)
    if out.inside1 is None or k.inside1 is None or k.inside2 is None:
        return out
    return out.replace(inside1=layer.kernel(k.inside1), inside2=layer.kernel(k.inside2))


def like(value: Any, array: Array) -> Array:
    """A hyperparameter in the precision of the array that it meets: the library follows its inputs."""
    return jnp.asarray(value).astype(array.dtype)


def kernel(net: Layer, x1: Float[Array, "n1 *features"], x2: Float[Array, "n2 *features"] | None = None) -> Kernel:
    """The NNGP and the NTK of the infinitely wide `net`, as `.nngp` and `.ntk`, each (n1, n2).

    K(x, x') = E[f(x) f(x')],  Theta(x, x') = sum over parameters p of E[df(x)/dp df(x')/dp]

    Without `x2`: of `x1` with itself, and then exact on the diagonal. A network that keeps positions to its end
    (no `Flatten`, no pooling) gives (n1, n2, h, h, w, w).

    Raises:
        TypeError, ValueError: for inputs that are no finite floats, features that differ, or an order of
            layers that has no kernel.

    Jacot et al. 2018, Proposition 1 and Theorem 1; Lee et al. 2019, section 2; derived in notebook 03.
    """
    return _kernel(*checked(net, x1, x2))


def ntk(
    net: Layer, x1: Float[Array, "n1 *features"], x2: Float[Array, "n2 *features"] | None = None
) -> Float[Array, "n1 n2 *positions"]:
    """Neural tangent kernel of the infinitely wide `net`, (n1, n2): see `kernel`.

    >>> from ntkbook import Dense, Relu, ntk, serial
    >>> ntk(serial(Dense(8), Relu(), Dense(1)), jnp.eye(2), jnp.eye(2)).shape
    (2, 2)
    """
    return _ntk(*checked(net, x1, x2))


def nngp(
    net: Layer, x1: Float[Array, "n1 *features"], x2: Float[Array, "n2 *features"] | None = None
) -> Float[Array, "n1 n2 *positions"]:
    """Covariance of the outputs of the infinitely wide `net` at initialization, (n1, n2): see `kernel`."""
    return _nngp(*checked(net, x1, x2))


@jax.jit
def _kernel(net, x1, x2):
    k = through(net, input_kernel(x1, x2, net.requires(frozenset({"all"}))))
    return k.replace(nngp=positions.examples_first(k.nngp), ntk=positions.examples_first(k.ntk))


@jax.jit
def _ntk(net, x1, x2):
    return _kernel(net, x1, x2).ntk


@jax.jit
def _nngp(net, x1, x2):
    return _kernel(net, x1, x2).nngp


def checked(net: Any, x1: Any, x2: Any) -> tuple[Layer, Array, Array | None]:
    """The arguments of `kernel`, in one precision. Raises what `kernel` raises for them."""
    if not isinstance(net, Layer):
        raise TypeError(f"Expected a network made by serial(...), got {type(net).__name__}. The network comes first.")
    x1 = checks.as_array(x1, "x1", ndim=(2, 3, 4, 5))
    if x2 is None:
        return net, x1, None
    x2 = checks.as_array(x2, "x2", ndim=(2, 3, 4, 5))
    checks.same_features(x1, x2)
    with jax.numpy_dtype_promotion("standard"):  # two inputs of two precisions are no accident
        dtype = jnp.promote_types(x1.dtype, x2.dtype)
    return net, x1.astype(dtype), x2.astype(dtype)


def input_kernel(x1: Array, x2: Array | None, needs: frozenset[str]) -> Kernel:
    """The kernel that enters the first layer: nngp = x1 . x2 / features, and no parameters yet, so ntk = 0."""
    same, x2 = x2 is None, x1 if x2 is None else x2
    n_positions = x1.ndim - 2
    keep = "none" if n_positions == 0 else "all" if needs & {"all", "inside"} else "same"
    nngp, var1, var2 = positions.inner_products(x1, x2, keep)
    twins = positions.position_axes(n_positions, keep) if keep == "all" else []
    k = Kernel(nngp, jnp.zeros_like(nngp), var1, var2, width=x1.shape[-1], keep=keep)
    k = k.replace(twin_axes=(*twins, (-2, -1)) if same else ())
    if "inside" in needs and n_positions:
        k = k.replace(inside1=_inside_kernel(x1, -1), inside2=_inside_kernel(x2, -2))
    return k.replace(nngp=k.on_diagonal(nngp, var1))


def _inside_kernel(x: Array, axis: int) -> Kernel:
    """All pairs of positions inside each example, with an axis of length 1 where the other examples would be."""
    nngp, var1, var2 = (jnp.expand_dims(array, axis) for array in positions.inner_products_inside(x))
    twins = tuple(positions.position_axes(x.ndim - 2, "all"))
    k = Kernel(nngp, jnp.zeros_like(nngp), var1, var2, width=x.shape[-1], twin_axes=twins, keep="inside")
    return k.replace(nngp=k.on_diagonal(nngp, var1))
