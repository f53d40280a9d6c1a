"""Triples (init_fn, apply_fn, kernel_fn), and how the guest's `serial`, `parallel` and fans become one network of ours.

A triple's kernel function carries the layers that made it, so that unpacked triples can be put together again. Fans are
rewritten: FanOut(2), parallel(f, g), FanInSum() is a sum of two paths.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from .. import checks
from ..networks import activations, layers
from ..networks import kernel as core
from ..networks.signals import input_signals
from ..pytrees import pytree, static
from . import kernels
from .kernels import refuse

Triple = Any  # (init_fn, apply_fn, kernel_fn)
Axes = tuple[int, int] | None  # of batch and channels; None where a layer takes them as they are


@dataclass(frozen=True)
class FanOut:
    """`count` copies of what comes in."""

    count: int


@dataclass(frozen=True)
class Parallel:
    """Paths side by side, each a tuple of parts."""

    paths: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class FanIn:
    """Several paths become one: `join` is Sum, or Concat along an `axis`, where the channels are by then."""

    join: Any
    axis: int | None = None
    channel_axis: int | None = None  # None before the layers in front of it say so

    def layer(self, paths: Iterable[core.Layer]) -> core.Layer:
        """The paths and their end as one layer."""
        channel_axis = -1 if self.channel_axis is None else self.channel_axis
        made = self.join(*paths)
        return made if self.axis is None else over_channels(made, self.axis, channel_axis, f"FanInConcat({self.axis})")


@dataclass(frozen=True, eq=False)
class KernelFn:
    """The guest's kernel function, of two inputs, or of a `Kernel` that comes from another network.

    It carries what the guest puts in series, layers of ours and fans, and where batch and channels are at both ends.
    Paths that stay apart to the end are networks of their own, and give lists.
    """

    parts: tuple[Any, ...]
    axes_in: Axes = None
    axes_out: Axes = None
    name: str = "serial"

    @property
    def __name__(self) -> str:
        return self.name

    @cached_property
    def split(self) -> tuple[tuple[core.Layer, ...], list[tuple[Any, ...]]] | None:
        """(layers, the paths that stay apart after them), with every fan closed; None for paths without a FanOut.

        Raises:
            ValueError: where the number of paths changes.
        """
        trunk, paths = (), []
        for part in self.parts:
            if isinstance(part, core.Layer) and not paths:
                trunk += (part,)
            elif isinstance(part, FanOut) and not paths:
                paths = [()] * part.count
            elif isinstance(part, Parallel) and paths:
                if len(paths) != len(part.paths):
                    raise ValueError(f"Expected {len(paths)} paths side by side, as before, got {len(part.paths)}.")
                paths = [before + path for before, path in zip(paths, part.paths)]
            elif isinstance(part, FanIn) and paths:
                trunk, paths = (*trunk, part.layer(KernelFn(path).network for path in paths)), []
            else:
                return None
        return trunk, paths

    @cached_property
    def ends(self) -> list["KernelFn"]:
        """One for each path that stays apart to the end; none if there is one end."""
        trunk, paths = self.split or ((), [])
        return [replace(self, parts=trunk + path) for path in paths]

    @cached_property
    def network(self) -> core.Layer:
        """The network of ours that all of it is."""
        trunk, is_whole = self.split[0] if self.split else (), self.split is not None and not self.ends
        refuse(not is_whole, "A path that is apart at an end", "FanOut before all paths, FanInSum or FanInConcat after")
        return layers.serial(*trunk)

    @cached_property
    def without_ntk(self) -> core.Layer:
        """The same network, whose layers by `stax.layer` are told that nobody asked for the NTK."""
        is_guest = lambda part: isinstance(part, Guest)
        told = lambda part: replace(part, has_ntk=False) if is_guest(part) else part
        return jax.tree.map(told, self.network, is_leaf=is_guest)

    @property
    def is_layer(self) -> bool:
        """Has it the parameters of one layer, rather than a list of them?"""
        return len(self.parts) == 1 and self.name not in ("serial", "repeat")

    @kernels.relaxed
    def init(self, rng, input_shape, **options):
        """(shape of the outputs, parameters)."""
        _refuse_trees(input_shape)
        if self.ends:
            made = [end.init(key, input_shape) for end, key in zip(self.ends, jax.random.split(rng, len(self.ends)))]
            return [shape for shape, _ in made], [params for _, params in made]
        shape, params = self.network.init(rng, self.inward(tuple(input_shape)))
        return self.outward(tuple(shape)), params[0] if self.is_layer else params

    @kernels.relaxed
    def apply(self, params, inputs, **options):
        """Outputs of the finite network."""
        _refuse_trees(inputs)
        if self.ends:
            return [end.apply(own, inputs) for end, own in zip(self.ends, params, strict=True)]
        return self.outward(self.network.apply([params] if self.is_layer else params, self.inward(inputs)))

    @kernels.relaxed
    def __call__(self, x1_or_kernel, x2=None, get=None, *, diagonal_batch=None, diagonal_spatial=None, **options):
        """The `Kernel`, or what `get` names of it; see `kernels.Kernel` for shapes.

        Raises:
            NotImplementedError: for `pattern`, `mask_constant`, inputs that are trees, and diagonal_batch=False where
                the input is a Kernel.
            ValueError: for diagonal_spatial=True where a layer needs all pairs of positions.
        """
        kernels.refuse_arguments(options)
        if self.ends:
            options = {"diagonal_batch": diagonal_batch, "diagonal_spatial": diagonal_spatial}
            return [end(x1_or_kernel, x2, get, **options) for end in self.ends]
        net, k = self.network, x1_or_kernel
        is_kernel, is_diagonal = isinstance(k, kernels.Kernel), bool(diagonal_spatial)
        words = kernels.words_of(get)
        if "ntk" not in words or is_kernel and k.ntk is None:
            net = self.without_ntk
        refuse(is_kernel and diagonal_batch is False, "diagonal_batch=False of a Kernel", "its variances")
        if (k.diagonal_spatial if is_kernel else is_diagonal) and "all" in net.requires(frozenset()):
            raise ValueError("Expected all pairs of positions for the pooling, got diagonal_spatial=True.")
        if is_kernel:
            result = kernels.from_core(_onwards(net, kernels.to_core(k)), k.cov2 is None, is_diagonal, self.outward)
            result = result.replace(ntk=None if k.ntk is None else result.ntk)
            return result if get is None else kernels.chosen(get, vars(result).get, vars(result))
        _refuse_trees(k)
        is_alone = x2 is None
        net, x1, x2 = core.checked(net, *(x if x is None else self.inward(jnp.asarray(x)) for x in (k, x2)))
        if get is not None and not is_diagonal and words and set(words) <= {"nngp", "ntk"}:
            return kernels.chosen(get, dict(zip(words, core.compute(net, x1, x2, words))).get)
        of = lambda *x: kernels.from_core(_through(net, *x), x[1] is None, is_diagonal, self.outward)
        result = of(x1, x2)
        if diagonal_batch is False:  # all pairs within each set
            cov2 = None if x2 is None else of(x2, None).nngp
            result = result.replace(cov1=of(x1, None).nngp, cov2=cov2, diagonal_batch=False)
        if x2 is None and not is_alone:  # two equal sets
            result = result.replace(cov2=result.cov1)
        return result if get is None else kernels.chosen(get, vars(result).get, vars(result))

    def inward(self, x) -> Any:
        """An array, or its shape, with the guest's batch first and channels last."""
        ndim = len(x) if isinstance(x, tuple) else x.ndim
        return _permuted(x, _order(self.axes_in, ndim))

    def outward(self, x) -> Any:
        """The way back, at the other end."""
        order = _order(self.axes_out, len(x) if isinstance(x, tuple) else x.ndim)
        return _permuted(x, sorted(range(len(order)), key=order.__getitem__))


def triple(kernel_fn: KernelFn) -> Triple:
    """(init_fn, apply_fn, kernel_fn), all under one name."""
    init_fn = lambda rng, input_shape, **options: kernel_fn.init(rng, input_shape)
    apply_fn = lambda params, inputs, **options: kernel_fn.apply(params, inputs)
    init_fn.__name__ = apply_fn.__name__ = kernel_fn.name
    kernel_fn.ends  # raises where the number of paths changes  # noqa: B018
    return init_fn, apply_fn, kernel_fn


def joined(triples: Iterable[Triple], name: str) -> KernelFn:
    """The kernel function of layers one after another.

    Raises:
        TypeError: for what is no triple.
        NotImplementedError: for a triple made by hand.
    """
    parts, channel_axis, made = (), None, []
    for layer in triples:
        if not isinstance(layer, (tuple, list)) or len(layer) < 3:
            raise TypeError(f"Expected layers as triples (init_fn, apply_fn, kernel_fn), got {checks.describe(layer)}.")
        nearest = "stax.layer around what makes them, or a subclass of ntkbook.Layer with init, apply and kernel"
        refuse(not isinstance(layer[2], KernelFn), "A layer of three functions alone", nearest)
        made.append(one := layer[2])
        parts += tuple(_placed(part, channel_axis) for part in one.parts)
        channel_axis = one.axes_out[1] if one.axes_out else channel_axis
    axes_in = next((one.axes_in for one in made if one.axes_in), None)
    axes_out = next((one.axes_out for one in reversed(made) if one.axes_out), None)
    return KernelFn(parts, axes_in, axes_out, name)


def _placed(part: Any, channel_axis: int | None) -> Any:
    """A part whose fans know where channels are, if that was still open."""
    if isinstance(part, Parallel):
        return Parallel(tuple(tuple(_placed(inner, channel_axis) for inner in path) for path in part.paths))
    is_open = isinstance(part, FanIn) and part.channel_axis is None
    return replace(part, channel_axis=channel_axis) if is_open else part


@pytree
class Guest(core.Layer):
    """A layer of ours made of the guest's three functions, the last one from `Kernel` to `Kernel`."""

    init_fn: Any = static()
    apply_fn: Any = static()
    kernel_fn: Any = static()
    has_ntk: bool = static(default=True)  # without, the guest's function gets None

    def init(self, key, input_shape):
        return self.init_fn(key, input_shape)

    def apply(self, params, x):
        return self.apply_fn(params, x)

    def kernel(self, k):
        refuse(k.keep in ("all", "inside"), "stax.layer before a pooling of positions", "a subclass of ntkbook.Layer")
        given = kernels.from_core(k, False)
        made = kernels.to_core(self.kernel_fn(given if self.has_ntk else given.replace(ntk=None)))
        changed = {name: getattr(made, name) for name in ("nngp", "ntk", "var1", "var2", "is_gaussian")}
        return k.replace(**changed, fresh=-1)


@pytree
class OverChannels(activations.Identity):
    """Changes nothing: is the guest's `axis` the last one?"""

    axis: int = static()
    what: str = static()

    def _look(self, ndim: int) -> None:
        refuse(self.axis != ndim - 1, f"{self.what} of {ndim} axes", "the axis of the channels")

    def init(self, key, input_shape):
        self._look(len(input_shape))
        return super().init(key, input_shape)

    def apply(self, params, x):
        self._look(x.ndim)
        return x

    def kernel(self, k):
        self._look(2 + len(k.axes))
        return k


def over_channels(layer: core.Layer, axis: Any, channel_axis: int, what: str) -> core.Layer:
    """`layer`, if `axis`, one or a tuple of one, is that of the channels: at once, or as soon as there is data."""
    axis = axis[0] if isinstance(axis, (tuple, list)) and len(axis) == 1 else axis
    if axis == channel_axis:
        return layer
    is_other = not isinstance(axis, int) or min(axis, channel_axis) != -1  # -1 and a number may be one axis
    refuse(is_other, what, "the axis of the channels")
    return layers.serial(layer, OverChannels(max(axis, channel_axis), what))


def _refuse_trees(x) -> None:
    """Inputs, or their shapes, that are trees."""
    is_tree = isinstance(x, (tuple, list)) and any(hasattr(a, "shape") or isinstance(a, (tuple, list)) for a in x)
    refuse(is_tree, "A tree as input", "one array, and FanOut")


@jax.jit
def _through(net, x1, x2):
    needs = frozenset({"variances", "all", "inside"} if x1.ndim > 2 else {"variances"})
    return core.through(net, input_signals(x1, x2, net.requires(needs)))


_onwards = jax.jit(core.through)


def _order(axes: Axes, ndim: int) -> list[int]:
    """Where batch, positions and channels are; of two axes only the order counts, as pooling takes others away."""
    if axes is None:
        return list(range(ndim))
    batch, channel = (axis % ndim for axis in axes) if ndim > 2 else sorted((0, 1), key=lambda i: axes[i] % 100)
    return [batch, *(axis for axis in range(ndim) if axis not in (batch, channel)), channel]


def _permuted(x, order: list[int]):
    """An array, or its shape, with its axes in another order."""
    return tuple(x[axis] for axis in order) if isinstance(x, tuple) else jnp.transpose(x, order)
