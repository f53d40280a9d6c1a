"""Matrices of all pairs of two sets, tile by tile: any number of points, bounded memory, half of the work if symmetric.

`kernel.py` uses it by itself for many points, `gram.py` with choices of yours.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import Array


def tiled(
    f: Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, ...]],
    x1: Array,
    x2: Array | None,
    tile: int,
    *,
    progress: bool = False,
) -> list[np.ndarray]:
    """The matrices f(x1, x2), each (n1, n2), from calls on at most `tile` rows of each; x2=None means x1.

    `f` gets None for the second rows on the diagonal of a symmetric matrix. The last tile is filled up with opposite
    rows, which are near to no other, so that one compiled program serves all. One worker per core.
    """
    is_same, n1, n2 = x2 is None, len(x1), len(x1 if x2 is None else x2)
    rows = _padded(x1, tile)
    columns = rows if x2 is None else _padded(x2, tile)
    results: list[np.ndarray] = []

    def block(i: int, j: int) -> tuple[np.ndarray, ...]:
        return f(rows[i : i + tile], None if is_same and i == j else columns[j : j + tile])

    def fill(corner: tuple[int, int], blocks: tuple[np.ndarray, ...] | None = None) -> None:
        i, j = corner
        for result, entries in zip(results, blocks or block(i, j)):
            entries = entries[: n1 - i, : n2 - j]
            result[i : i + tile, j : j + tile] = entries
            if is_same and i != j:
                result[j : j + tile, i : i + tile] = entries.T
            elif is_same:  # sums in another order may differ in the last bit
                result[i : i + tile, i : i + tile] = np.triu(entries) + np.triu(entries, 1).T

    corners = [(i, j) for i in range(0, n1, tile) for j in range(0, n2, tile) if not is_same or i <= j]
    first = block(*corners[0])  # tells how many matrices there are, of what precision
    results += [np.empty((n1, n2), entries.dtype) for entries in first]
    fill(corners[0], first)
    with ThreadPoolExecutor(os.cpu_count() if jax.default_backend() == "cpu" else 1) as workers:
        for _ in _with_bar(workers.map(fill, corners[1:]), len(corners), progress):
            pass  # an error in a worker is raised here
    return results


def _padded(x: Array, tile: int) -> np.ndarray:
    host = np.asarray(x)
    missing = -len(host) % tile
    return np.concatenate([host, np.resize(-host, (missing, *host.shape[1:]))]) if missing else host


def _with_bar(steps: Iterator[Any], total: int, progress: bool) -> Iterator[Any]:
    if not progress:
        return steps
    from tqdm.auto import tqdm

    return iter(tqdm(steps, total=total, initial=1, desc="kernel", unit="tile"))
