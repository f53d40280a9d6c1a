"""Layers one after another, and a loop where many in a row are alike: what is compiled does not grow with the depth.

For a chain XLA's time grows as the square of its length: 13 s for sixteen layers with activations, where a loop over
fifty takes one. The numbers of these layers may differ.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from .signals import Signals

MANY = 4  # repetitions: three in one piece compile and run as fast
LONGEST = 12  # layers of one repetition


def through(layer: Any, k: Signals) -> Signals:
    """`layer.kernel(k)`, and the same rule inside single examples where that is carried along."""
    try:
        out = layer.kernel(k)
    except (TypeError, AttributeError) as error:
        if k.var1 is not None:
            raise
        raise ValueError(
            f"Expected variances before {type(layer).__name__}, got none: its `requires` does not ask for them. "
            'Return needs | {"variances"} there, or leave `requires` as it is in Layer.'
        ) from error
    if out.inside1 is None or k.inside1 is None or k.inside2 is None:
        return out
    return out.replace(inside1=layer.kernel(k.inside1), inside2=layer.kernel(k.inside2))


def in_turn(layers: Sequence[Any], k: Signals) -> Signals:
    """The signals after all `layers`, in the order in which they are given; raises what their `kernel` raises."""
    kinds, start = [_shapes(layer) for layer in layers], 0
    while start < len(layers):
        length, times = _repetition(kinds[start:])
        stop = start + length * times
        k = _repeated([tuple(layers[i : i + length]) for i in range(start, stop, length)], k)
        start = stop
    return k


def _shapes(tree: Any) -> tuple[Any, ...]:
    """Equal for layers, or signals, that differ in the values of their numbers alone."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda tree: tree, tree))
    return structure, *((leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves)


def _repetition(kinds: list[Any]) -> tuple[int, int]:
    """(length, times) of the beginning that is repeated most often; (1, 1) unless there are MANY of it."""

    def times(length: int) -> int:
        same = (i for i in range(len(kinds)) if kinds[i] != kinds[i % length])
        return next(same, len(kinds)) // length

    most = max(range(1, min(LONGEST, len(kinds)) + 1), key=times)
    return (most, times(most)) if times(most) >= MANY else (1, 1)


def _repeated(blocks: list[tuple[Any, ...]], k: Signals) -> Signals:
    k = _each(k, blocks[0])  # may change what kind of signal flows: raw inputs become Gaussian, say
    if len(blocks) == 1 or _shapes(jax.eval_shape(_each, k, blocks[1])) != _shapes(k):
        return reduce(_each, blocks[1:], k)
    numbers = jax.tree.map(lambda *each: jnp.stack(each), *blocks[1:])
    return jax.lax.scan(lambda k, block: (_each(k, block), None), k, numbers)[0]


def _each(k: Signals, layers: tuple[Any, ...]) -> Signals:
    return reduce(lambda k, layer: through(layer, k), layers, k)
