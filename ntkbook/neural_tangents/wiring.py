"""Triples (init_fn, apply_fn, kernel_fn), and how the guest's `serial`, `parallel` and fans become one network of ours.

A triple's kernel function carries the layer that made it, so that unpacked triples can be put together again. Fans are
rewritten: FanOut(2), parallel(f, g), FanInSum() is a sum of two paths. A network whose paths stay apart to its end is a
list of networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import checks
from ..networks import kernel as core
from ..networks import layers, positions
from ..networks.paths import Concat, Sum
from ..networks.signals import input_signals
from ..pytrees import pytree, static
from . import kernels

Triple = Any  # (init_fn, apply_fn, kernel_fn)


@dataclass(frozen=True)
class FanOut:
    """`count` copies of what comes in."""

    count: int


@dataclass(frozen=True)
class FanIn:
    """Several paths become one, by a word: "sum", and along `axis` for "concat"."""

    word: str
    axis: int = -1


@dataclass(frozen=True)
class Parallel:
    """Paths side by side, each a chain."""

    paths: tuple["Chain", ...]


@dataclass(frozen=True)
class Chain:
    """What the guest puts in series: our layers, and fans that are not closed yet; and where batch and channels are."""

    parts: tuple[Any, ...]
    axes_in: tuple[int, int] | None = None  # (batch, channels) of the inputs; None where no layer says
    axes_out: tuple[int, int] | None = None


def chain_of(triple: Any) -> Chain:
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


def serial_chain(chains: Sequence[Chain]) -> Chain:
    """Chains one after another, with every fan closed that can be closed."""
    parts = [part for chain in chains for part in chain.parts]
    axes_in = next((chain.axes_in for chain in chains if chain.axes_in is not None), None)
    axes_out = next((chain.axes_out for chain in reversed(chains) if chain.axes_out is not None), None)
    done: list[Any] = []
    for part in parts:
        if isinstance(part, Parallel) and done and isinstance(done[-1], FanOut):
            _same_count(done[-1].count, part)
            done[-1] = part
        elif isinstance(part, Parallel) and done and isinstance(done[-1], Parallel):
            _same_count(len(done[-1].paths), part)
            done[-1] = Parallel(tuple(serial_chain(pair) for pair in zip(done[-1].paths, part.paths)))
        elif isinstance(part, FanIn) and done and isinstance(done[-1], (FanOut, Parallel)):
            last = done.pop()
            paths = last.paths if isinstance(last, Parallel) else (Chain(()),) * last.count
            done.append(_joined(part, [network_of(path) for path in paths]))
        else:
            done.append(part)
    return Chain(tuple(done), axes_in, axes_out)


def _same_count(count: int, part: Parallel) -> None:
    if count != len(part.paths):
        raise ValueError(f"Expected {count} paths side by side, as before, got {len(part.paths)}.")


def _joined(fan: FanIn, paths: list[core.Layer]) -> core.Layer:
    if fan.word == "sum":
        return Sum(*paths)
    if fan.word == "concatenation" and fan.axis in (-1, None):
        return Concat(*paths)
    raise NotImplementedError(f"A {fan.word} of these paths is not known here. The nearest is FanInSum.")


def network_of(chain: Chain) -> core.Layer:
    """The network of ours that a chain is.

    Raises:
        NotImplementedError: if its paths stay apart at one of its ends.
    """
    if not all(isinstance(part, core.Layer) for part in chain.parts):
        raise NotImplementedError("Paths that stay apart to an end of the network have no one kernel. Join them.")
    return layers.serial(*chain.parts)


def triple(chain: Chain, name: str) -> Triple:
    """(init_fn, apply_fn, kernel_fn) of a chain."""
    ends = _ends(chain)
    if ends is not None:
        triples = [triple(end, name) for end in ends]

        def init_all(rng: Any, input_shape: Any, **options: Any) -> Any:
            made = [init(key, input_shape) for (init, _, _), key in zip(triples, jax.random.split(rng, len(triples)))]
            return [shape for shape, _ in made], [params for _, params in made]

        def apply_all(params: Any, inputs: Any, **options: Any) -> Any:
            return [apply(one, inputs, **options) for (_, apply, _), one in zip(triples, params)]

        return init_all, apply_all, KernelFn(chain, name)

    is_one = len(chain.parts) == 1 and name not in ("serial", "repeat")  # its own parameters, not a list of one

    @kernels.relaxed
    def init_fn(rng: Any, input_shape: Any, **options: Any) -> Any:
        _refuse_trees(input_shape)
        shape, params = network_of(chain).init(rng, _moved(input_shape, chain.axes_in))
        return _moved_back(shape, chain.axes_out), params[0] if is_one else params

    @kernels.relaxed
    def apply_fn(params: Any, inputs: Any, **options: Any) -> Any:
        _refuse_trees(inputs)
        net, x = network_of(chain), _canonical(inputs, chain.axes_in)
        return _original(net.apply([params] if is_one else params, x), chain.axes_out)

    for function, kind in ((init_fn, "init"), (apply_fn, "apply")):
        function.__name__ = name
        function.__qualname__ = f"{name}.{kind}"
    return init_fn, apply_fn, KernelFn(chain, name)


def of(layer: core.Layer, name: str, axes_in: Any = None, axes_out: Any = None) -> Triple:
    """The triple of one layer of ours; without `axes_out` batch and channels stay where they are."""
    return triple(Chain((layer,), axes_in, axes_in if axes_out is None else axes_out), name)


def _ends(chain: Chain) -> list[Chain] | None:
    """One chain for each open end; None if the chain has one end, or nothing yet to its left."""
    last = chain.parts[-1] if chain.parts else None
    if not isinstance(last, (Parallel, FanOut)) or not all(isinstance(p, core.Layer) for p in chain.parts[:-1]):
        return None
    before = replace(chain, parts=chain.parts[:-1])
    paths = last.paths if isinstance(last, Parallel) else (Chain(()),) * last.count
    return [serial_chain([before, path]) for path in paths]


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
        x1_or_kernel: Any,
        x2: Any = None,
        get: Any = None,
        *,
        pattern: Any = None,
        mask_constant: Any = None,
        diagonal_batch: bool | None = None,
        diagonal_spatial: bool | None = None,
        **options: Any,
    ) -> Any:
        """The `Kernel`, or what `get` names of it; see `kernels.Kernel` for shapes.

        `diagonal_batch=False` gives all pairs within x1 and within x2 as cov1 and cov2; `diagonal_spatial=True` keeps
        each position with itself alone.

        Raises:
            NotImplementedError: for `pattern`, `mask_constant`, inputs that are trees, and diagonal_batch=False where
                the input is a Kernel.
            ValueError: for diagonal_spatial=True where a layer needs all pairs of positions.
        """
        refuse("pattern", pattern, "networks on graphs have no counterpart")
        refuse("mask_constant", mask_constant, "pad and pool instead, or leave masked examples out")
        if diagonal_batch is False and isinstance(x1_or_kernel, kernels.Kernel):
            raise NotImplementedError("diagonal_batch=False: of a Kernel only the variances are carried on here.")
        ends = _ends(self.chain)
        if ends is not None:
            return [KernelFn(end)(x1_or_kernel, x2, get, diagonal_spatial=diagonal_spatial) for end in ends]
        net, words, x2_given = network_of(self.chain), kernels.words_of(get), x2
        if isinstance(x1_or_kernel, kernels.Kernel):
            k = x1_or_kernel
            if k.diagonal_spatial and "all" in net.requires(frozenset()):
                raise ValueError("Expected a Kernel of all pairs of positions, got diagonal_spatial=True.")
            made, is_same = _onwards(net, kernels.to_core(k)), k.cov2 is None
            shapes = [None if shape is None else self._shape(net, shape) for shape in (k.shape1, k.shape2)]
        else:
            _refuse_trees(x1_or_kernel)
            _refuse_trees(x2)
            x1, x2 = (None if x is None else _canonical(jnp.asarray(x), self.chain.axes_in) for x in (x1_or_kernel, x2))
            net, x1, x2 = core.checked(net, x1, x2)
            if diagonal_spatial and x1.ndim > 2 and "all" in net.requires(frozenset()):
                raise ValueError("Expected all pairs of positions for the pooling, got diagonal_spatial=True.")
            if words is not None and not set(words) - {"nngp", "ntk"}:
                parts = core.compute(net, x1, x2, words)
                parts = [_diagonal(part) for part in parts] if diagonal_spatial else parts
                return parts[0] if isinstance(get, str) else kernels.named(words, parts)
            made, is_same = _through(net, x1, x2), x2 is None
            shapes = [_shape(net, x.shape) for x in (x1, x1 if x2 is None else x2)]
            shapes = [_moved_back(shape, self.chain.axes_out) for shape in shapes]
        axes = self.chain.axes_out or (0, -1)
        result = kernels.from_core(made, shapes, is_same=is_same, diagonal_spatial=bool(diagonal_spatial), axes=axes)
        if diagonal_batch is False:
            within = lambda x: KernelFn(self.chain)(x, None, diagonal_spatial=diagonal_spatial).nngp
            cov2 = None if x2_given is None else within(x2_given)
            result = result.replace(cov1=within(x1_or_kernel), cov2=cov2, diagonal_batch=False)
        return kernels.select(result, get)

    def _shape(self, net: core.Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
        return _moved_back(_shape(net, _moved(shape, self.chain.axes_in)), self.chain.axes_out)


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
        if k.keep in ("all", "inside"):
            raise NotImplementedError(
                "A layer made by stax.layer is known here for flat data and single positions, not for all pairs of "
                "positions, as pooling wants them. Write a subclass of ntkbook.Layer."
            )
        shapes = [(n, *k.nngp.shape[:-2], k.width) for n in k.nngp.shape[-2:]]
        given = kernels.from_core(k, shapes, is_same=False, diagonal_spatial=True, axes=(0, -1))
        made = kernels.to_core(self.kernel_fn(given))
        return k.replace(
            nngp=made.nngp, ntk=made.ntk, var1=made.var1, var2=made.var2, is_gaussian=made.is_gaussian, fresh=-1
        )


def _refuse_trees(x: Any) -> None:
    if isinstance(x, (tuple, list)) and any(hasattr(leaf, "shape") or isinstance(leaf, (tuple, list)) for leaf in x):
        raise NotImplementedError("Inputs that are trees are not known here. The nearest: one array, and FanOut.")


def refuse(name: str, value: Any, instead: str) -> None:
    """Raises NotImplementedError for an argument that has no meaning here, unless it is None."""
    if value is not None:
        raise NotImplementedError(f"{name} is not known here: {instead}.")


@jax.jit
def _through(net, x1, x2):
    needs = frozenset({"variances", "all", "inside"} if x1.ndim > 2 else {"variances"})
    return core.through(net, input_signals(x1, x2, net.requires(needs)))


@jax.jit
def _onwards(net, k):
    return core.through(net, k)


def _diagonal(array: Any) -> Any:
    n = (array.ndim - 2) // 2
    last = jnp.moveaxis(array, (0, 1), (-2, -1))
    return positions.examples_first(positions.diagonal(last, n)) if n else array


def _shape(net: core.Layer, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of the outputs for inputs of `shape`; nothing is drawn."""
    found = []

    def draw(key):
        out, params = net.init(key, tuple(shape))
        found.append(tuple(int(size) for size in out))
        return params

    jax.eval_shape(draw, jax.random.key(0))
    return found[0]


# Where batch and channels are: ours are first and last, and arrays are moved at the door.


def _order(axes: tuple[int, int], ndim: int) -> list[int]:
    batch, channel = axes[0] % ndim, axes[1] % ndim
    return [batch, *(axis for axis in range(ndim) if axis not in (batch, channel)), channel]


def _canonical(x: Any, axes: tuple[int, int] | None) -> Any:
    return x if axes is None else jnp.transpose(x, _order(axes, x.ndim))


def _original(x: Any, axes: tuple[int, int] | None) -> Any:
    if axes is None:
        return x
    order = _order(axes, x.ndim)
    return jnp.transpose(x, [order.index(axis) for axis in range(x.ndim)])


def _moved(shape: Sequence[int], axes: tuple[int, int] | None) -> tuple[int, ...]:
    return tuple(shape) if axes is None else tuple(shape[axis] for axis in _order(axes, len(shape)))


def _moved_back(shape: Sequence[int], axes: tuple[int, int] | None) -> tuple[int, ...]:
    if axes is None:
        return tuple(shape)
    order = _order(axes, len(shape))
    return tuple(shape[order.index(axis)] for axis in range(len(shape)))
