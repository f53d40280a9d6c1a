"""Triples (init_fn, apply_fn, kernel_fn), and how the guest's `serial`, `parallel` and fans become one network of ours.

A triple's kernel function carries the layers that made it, so that unpacked triples can be put together again. Fans are
rewritten: FanOut(2), parallel(f, g), FanInSum() is a sum of two paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from .. import checks
from ..networks import kernel as core
from ..networks import layers, positions
from ..networks.activations import Activation
from ..networks.signals import Signals, input_signals
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
    """Paths side by side."""

    paths: tuple["Chain", ...]


@dataclass(frozen=True)
class FanIn:
    """Several paths become one: `join` is Sum or Concat."""

    join: Any


@dataclass(frozen=True)
class Chain:
    """What the guest puts in series: layers of ours and fans; and where batch and channels are at both ends."""

    parts: tuple[Any, ...] = ()
    axes_in: Axes = None
    axes_out: Axes = None

    def __add__(self, other: "Chain") -> "Chain":
        return Chain(self.parts + other.parts, self.axes_in or other.axes_in, other.axes_out or self.axes_out)

    def split(self) -> tuple[list[core.Layer], list["Chain"]] | None:
        """(layers, the paths that stay apart after them), with every fan closed; None for paths without a FanOut.

        Raises:
            ValueError: where the number of paths changes.
        """
        trunk, paths = [], []
        for part in self.parts:
            if isinstance(part, core.Layer) and not paths:
                trunk.append(part)
            elif isinstance(part, FanOut) and not paths:
                paths = [Chain()] * part.count
            elif isinstance(part, Parallel) and paths:
                if len(paths) != len(part.paths):
                    raise ValueError(f"Expected {len(paths)} paths side by side, as before, got {len(part.paths)}.")
                paths = [before + path for before, path in zip(paths, part.paths)]
            elif isinstance(part, FanIn) and paths:
                trunk.append(part.join(*(path.network for path in paths)))
                paths = []
            else:
                return None
        return trunk, paths

    @cached_property
    def ends(self) -> list["Chain"]:
        """One chain for each path that stays apart to the end; none if there is one end."""
        found = self.split()
        return [replace(self, parts=(*found[0], *path.parts)) for path in found[1]] if found else []

    @cached_property
    def network(self) -> core.Layer:
        """The network of ours that the chain is.

        Raises:
            NotImplementedError: if its paths are apart at one of its ends.
        """
        found = self.split()
        if found is None or found[1]:
            raise NotImplementedError("Paths need a FanOut before them, and end in FanInSum or FanInConcat.")
        return layers.serial(*found[0])


def chain_of(triple) -> Chain:
    """The chain in a triple.

    Raises:
        TypeError: for what is no triple.
        NotImplementedError: for a triple made by hand.
    """
    if not isinstance(triple, (tuple, list)) or len(triple) < 3:
        raise TypeError(f"Expected layers as triples (init_fn, apply_fn, kernel_fn), got {checks.describe(triple)}.")
    if not isinstance(triple[2], KernelFn):
        raise NotImplementedError(
            "Three functions alone are no layer: decorate what makes them with stax.layer, or write a subclass of "
            "ntkbook.Layer with init, apply and kernel."
        )
    return triple[2].chain


def triple(chain: Chain, name: str) -> Triple:
    """(init_fn, apply_fn, kernel_fn) of a chain."""
    if chain.ends:
        return _triple_of_ends([triple(end, name) for end in chain.ends], KernelFn(chain, name))
    is_one = len(chain.parts) == 1 and name not in ("serial", "repeat")  # its own parameters, not a list of one

    @kernels.relaxed
    def init_fn(rng, input_shape, **options):
        refuse_trees(input_shape)
        shape, params = chain.network.init(rng, _inward(tuple(input_shape), chain.axes_in))
        return _outward(tuple(shape), chain.axes_out), params[0] if is_one else params

    @kernels.relaxed
    def apply_fn(params, inputs, **options):
        refuse_trees(inputs)
        out = chain.network.apply([params] if is_one else params, _inward(inputs, chain.axes_in))
        return _outward(out, chain.axes_out)

    for function, kind in ((init_fn, "init"), (apply_fn, "apply")):
        function.__name__ = name
        function.__qualname__ = f"{name}.{kind}"
    return init_fn, apply_fn, KernelFn(chain, name)


def _triple_of_ends(triples: list[Triple], kernel_fn: "KernelFn") -> Triple:
    """Each end is a network of its own, and all have one kernel function."""

    def init_fn(rng, input_shape, **options):
        keys = jax.random.split(rng, len(triples))
        made = [init(key, input_shape) for (init, _, _), key in zip(triples, keys)]
        return [shape for shape, _ in made], [params for _, params in made]

    def apply_fn(params, inputs, **options):
        return [apply(own, inputs) for (_, apply, _), own in zip(triples, params, strict=True)]

    return init_fn, apply_fn, kernel_fn


@dataclass(frozen=True, eq=False)
class KernelFn:
    """The guest's kernel function: of two inputs, or of a `Kernel` that comes from another network."""

    chain: Chain
    name: str = "serial"

    @property
    def __name__(self) -> str:
        return self.name

    @kernels.relaxed
    def __call__(
        self,
        x1_or_kernel,
        x2=None,
        get=None,
        *,
        pattern=None,
        mask_constant=None,
        diagonal_batch=None,
        diagonal_spatial=None,
        **options,
    ):
        """The `Kernel`, or what `get` names of it; see `kernels.Kernel` for shapes.

        Raises:
            NotImplementedError: for `pattern`, `mask_constant`, inputs that are trees, and diagonal_batch=False where
                the input is a Kernel.
            ValueError: for diagonal_spatial=True where a layer needs all pairs of positions.
        """
        refuse(pattern is not None, "pattern", "none, as networks on graphs have no kernel here")
        refuse(mask_constant is not None, "mask_constant", "to pad and pool, or to leave masked examples out")
        is_kernel, is_diagonal = isinstance(x1_or_kernel, kernels.Kernel), bool(diagonal_spatial)
        refuse(is_kernel and diagonal_batch is False, "diagonal_batch=False of a Kernel", "its variances")
        if self.chain.ends:
            return [KernelFn(end)(x1_or_kernel, x2, get, diagonal_spatial=diagonal_spatial) for end in self.chain.ends]
        net, words = self.chain.network, kernels.words_of(get)
        if (x1_or_kernel.diagonal_spatial if is_kernel else is_diagonal) and "all" in net.requires(frozenset()):
            raise ValueError("Expected all pairs of positions for the pooling, got diagonal_spatial=True.")
        if is_kernel:
            k = x1_or_kernel
            made, is_same, shapes = _onwards(net, kernels.to_core(k)), k.cov2 is None, (k.shape1, k.shape2)
        else:
            net, x1, x2 = core.checked(net, *map(self._array, (x1_or_kernel, x2)))
            if words is not None and not set(words) - {"nngp", "ntk"}:
                parts = core.compute(net, x1, x2, words)
                parts = [_diagonal(part) for part in parts] if is_diagonal else parts
                return parts[0] if isinstance(get, str) else kernels.named(words, parts)
            made, is_same = _through(net, x1, x2), x2 is None
            shapes = [_outward(x.shape, self.chain.axes_in) for x in (x1, x1 if x2 is None else x2)]
        result = kernels.from_core(
            made,
            [shape and self._shape(shape) for shape in shapes],
            is_same=is_same,
            diagonal_spatial=is_diagonal,
            axes=self.chain.axes_out or (0, -1),
        )
        if diagonal_batch is False:  # all pairs within each set
            within = lambda x: self(_outward(x, self.chain.axes_in), None, "nngp", diagonal_spatial=diagonal_spatial)
            result = result.replace(cov1=within(x1), cov2=None if is_same else within(x2), diagonal_batch=False)
        return kernels.select(result, get)

    def _array(self, x):
        refuse_trees(x)
        return None if x is None else _inward(jnp.asarray(x), self.chain.axes_in)

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the outputs for inputs of `shape`; nothing is drawn."""
        found = []

        def draw(key):
            out, params = self.chain.network.init(key, _inward(shape, self.chain.axes_in))
            found.append(tuple(int(size) for size in out))
            return params

        jax.eval_shape(draw, jax.random.key(0))
        return _outward(found[0], self.chain.axes_out)


@pytree
class Guest(core.Layer):
    """A layer of ours made of the guest's three functions, the last one from `Kernel` to `Kernel`."""

    init_fn: Any = static()
    apply_fn: Any = static()
    kernel_fn: Any = static()

    def init(self, key, input_shape):
        return self.init_fn(key, input_shape)

    def apply(self, params, x):
        return self.apply_fn(params, x)

    def kernel(self, k):
        refuse(k.keep in ("all", "inside"), "stax.layer before a pooling of positions", "a subclass of ntkbook.Layer")
        shapes = [(n, *k.nngp.shape[:-2], k.width) for n in k.nngp.shape[-2:]]
        given = kernels.from_core(k, shapes, is_same=False, diagonal_spatial=True, axes=(0, -1))
        made = kernels.to_core(self.kernel_fn(given))
        return k.replace(
            nngp=made.nngp, ntk=made.ntk, var1=made.var1, var2=made.var2, is_gaussian=made.is_gaussian, fresh=-1
        )


@pytree
class WithDual(Activation):
    """A function whose dual the guest gives; by autodiff its slope, unless that is given too."""

    function: Any = static()
    nngp_fn: Any = static()
    slope_fn: Any = static(default=None)

    def phi(self, x):
        refuse(self.function is None, "A finite network of Elementwise without fn", "its kernel")
        return jnp.vectorize(self.function)(x)

    def dual(self, q1, q2, k):
        slope = jax.grad(self.nngp_fn) if self.slope_fn is None else self.slope_fn
        return tuple(jnp.vectorize(f)(k, q1, q2) for f in (self.nngp_fn, slope))


def refuse_trees(x) -> None:
    """Raises NotImplementedError for inputs, or their shapes, that are trees."""
    is_tree = isinstance(x, (tuple, list)) and any(
        hasattr(leaf, "shape") or isinstance(leaf, (tuple, list)) for leaf in x
    )
    refuse(is_tree, "A tree as input", "one array, and FanOut")


@jax.jit
def _through(net, x1, x2):
    needs = frozenset({"variances", "all", "inside"} if x1.ndim > 2 else {"variances"})
    return core.through(net, input_signals(x1, x2, net.requires(needs)))


@jax.jit
def _onwards(net: core.Layer, k: Signals) -> Signals:
    return core.through(net, k)


def _diagonal(array):
    n = (array.ndim - 2) // 2
    last = jnp.moveaxis(array, (0, 1), (-2, -1))
    return positions.examples_first(positions.diagonal(last, n)) if n else array


# Batch and channels are first and last here: arrays, and their shapes, are moved at the door.


def _inward(x: Any, axes: Axes) -> Any:
    return x if axes is None else _permuted(x, _order(axes, _ndim(x)))


def _outward(x: Any, axes: Axes) -> Any:
    return x if axes is None else _permuted(x, [_order(axes, _ndim(x)).index(axis) for axis in range(_ndim(x))])


def _order(axes: tuple[int, int], ndim: int) -> list[int]:
    batch, channel = (axis % ndim for axis in axes)
    return [batch, *(axis for axis in range(ndim) if axis not in (batch, channel)), channel]


def _ndim(x) -> int:
    return len(x) if isinstance(x, tuple) else x.ndim


def _permuted(x, order: Sequence[int]):
    return tuple(x[axis] for axis in order) if isinstance(x, tuple) else jnp.transpose(x, order)
