"""Kernels of many examples, tile by tile, in bounded memory.

`kernel` computes all pairs at once, with several arrays of that size alive, or thousands of times that for networks
that keep all pairs of positions. `gram` gives the same numbers from tiles that stay in the processor's cache: any
number of examples, half of the work when x2 is x1, one worker per core. Used wherever n is large.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import checks
from .kernel import WORDS, Layer, checked, finite, program

# Entries of one array of a tile: with the few arrays that a layer touches at a time, about a core's cache.
ENTRIES_PER_TILE = {"cpu": 2**16, "gpu": 2**24, "tpu": 2**24}


def gram(
    net: Layer,
    x1: Float[Array, "n1 *features"],
    x2: Float[Array, "n2 *features"] | None = None,
    *,
    get: str | tuple[str, ...] = "ntk",
    tile: int | None = None,
    progress: bool = False,
) -> Array | tuple[Array, ...]:
    """The NTK, the NNGP (`get="nngp"`), or both (`get=("nngp", "ntk")`), each (n1, n2), as `kernel` gives them.

    `tile` is the number of examples along a side of a tile, from the cache and the number of positions if None.
    `progress` shows a bar. Inside `jit` this is `kernel`, all pairs at once.

    Raises:
        TypeError, ValueError: as `kernel`; also for an unknown word in `get`, or a network whose end keeps positions.
    """
    words = get if isinstance(get, tuple) else (get,)
    for word in words:
        checks.one_of(word, "get", WORDS)
    net, x1, x2 = checked(net, x1, x2)
    if not checks.is_concrete(net, x1, x2):
        results, _ = _tile(net, x1, x2, words)
    else:
        if tile is None:
            tile = _tile_side(net, x1)
        checks.positive_int(tile, "tile")
        if tile >= max(len(x1), 0 if x2 is None else len(x2)):
            results, is_finite = _tile(net, x1, x2, words)  # nothing else leaves the device
            finite(is_finite, x1.dtype)
        else:
            results = tuple(map(jnp.asarray, _in_tiles(net, x1, x2, words, tile, progress)))
    return results[0] if isinstance(get, str) else results


def _in_tiles(net, x1, x2, words, tile, progress) -> list[np.ndarray]:
    same, x2 = x2 is None, x1 if x2 is None else x2
    n1, n2 = len(x1), len(x2)
    x1, x2 = _padded(x1, tile), _padded(x2, tile)
    results = [np.empty((n1, n2), x1.dtype) for _ in words]

    def fill(corner: tuple[int, int]) -> None:
        i, j = corner
        rows, columns = x1[i : i + tile], None if same and i == j else x2[j : j + tile]
        blocks, is_finite = _tile(net, rows, columns, words)
        finite(is_finite, x1.dtype)
        for result, block in zip(results, blocks):
            block = np.asarray(block)[: n1 - i, : n2 - j]
            result[i : i + tile, j : j + tile] = block
            if same and i != j:
                result[j : j + tile, i : i + tile] = block.T

    corners = [(i, j) for i in range(0, n1, tile) for j in range(0, n2, tile) if not same or i <= j]
    with ThreadPoolExecutor(os.cpu_count() if jax.default_backend() == "cpu" else 1) as workers:
        for _ in _with_bar(workers.map(fill, corners), len(corners), progress):
            pass  # an error in a worker is raised here
    return results


@partial(jax.jit, static_argnames="words")
def _tile(net, x1, x2, words):
    blocks, is_finite = program(net, x1, x2, words)
    for block in blocks:
        if block.ndim != 2:
            raise ValueError(
                "Expected a network whose kernel is one number for each pair of examples, got one that keeps "
                "positions. End it in Flatten or GlobalAvgPool, then Dense; or use kernel(...)."
            )
    return blocks, is_finite


def _tile_side(net: Layer, x: Array) -> int:
    """As many examples as fill the cache, given how many pairs of positions the network keeps for each pair."""
    sizes = prod(x.shape[1:-1])
    pairs = sizes**2 if net.requires(frozenset()) & {"all", "inside"} else sizes
    side = (ENTRIES_PER_TILE[jax.default_backend()] / pairs) ** 0.5
    return max(4, 2 ** int(np.log2(max(side, 1))))  # whole vectors: tiles of 5 take twice the time of tiles of 8


def _padded(x: Array, tile: int) -> np.ndarray:
    """Whole tiles, so that one compiled program serves all: the last example is repeated, and cut off later."""
    host = np.asarray(x)
    return np.concatenate([host, np.repeat(host[-1:], -len(host) % tile, axis=0)])


def _with_bar(steps: Iterator[Any], total: int, progress: bool) -> Iterator[Any]:
    if not progress:
        return steps
    from tqdm.auto import tqdm

    return iter(tqdm(steps, total=total, desc="kernel", unit="tile"))
