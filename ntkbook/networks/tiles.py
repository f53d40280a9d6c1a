"""Matrices of all pairs of two sets, tile by tile: any number of points, bounded memory, half of the work if symmetric.

`kernel.py` uses it by itself for many points, `scale/gram.py` with choices of yours.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ALIGNMENT = 64  # bytes


def tiled(
    f: Callable[[Any, Any], tuple[np.ndarray, ...]],
    x1: Array | np.ndarray,
    x2: Array | np.ndarray | None,
    tile: int,
    *,
    progress: bool = False,
    devices: Sequence[Any] | None = (),
) -> list[np.ndarray]:
    """The matrices f(x1, x2), each (n1, n2), from calls on at most `tile` rows of each; x2=None means x1.

    `f` gets None for the second rows on the diagonal of a symmetric matrix. The last tile is filled up with opposite
    rows, which are near to no other, so that one compiled program serves all. Tiles go to the next free device; each
    is computed by the same program wherever it is, so that no bit depends on how many there are.
    """
    is_same, n1, n2 = x2 is None, len(x1), len(x1 if x2 is None else x2)
    place = jax.numpy.asarray if devices == [] or devices == () else np.asarray  # once, where JAX goes by itself
    rows = _cut(x1, tile, place)
    columns = rows if x2 is None else _cut(x2, tile, place)
    results: list[np.ndarray] = []
    first = threading.Lock()

    def fill(corner: tuple[int, int]) -> None:
        i, j = corner
        blocks = f(rows[i], None if is_same and i == j else columns[j])
        with first:  # only a tile tells how many matrices there are, of what precision
            if not results:
                results.extend(_aligned((n1, n2), entries.dtype) for entries in blocks)
        i, j = i * tile, j * tile
        for result, entries in zip(results, blocks):
            entries = entries[: n1 - i, : n2 - j]
            result[i : i + tile, j : j + tile] = entries
            if is_same and i != j:
                result[j : j + tile, i : i + tile] = entries.T
            elif is_same:  # sums in another order may differ in the last bit
                result[i : i + tile, i : i + tile] = np.triu(entries) + np.triu(entries, 1).T

    corners = [(i, j) for i in range(len(rows)) for j in range(len(columns)) if not is_same or i <= j]
    for _ in _with_bar(spread(fill, corners, devices), len(corners), progress):
        pass  # an error in a worker is raised here
    return results


def spread(f: Callable[[Any], Any], jobs: Iterable[Any], devices: Sequence[Any] | None = ()) -> Iterator[Any]:
    """f(job) for each job, in order, from one worker for each core or accelerator, each on the next free device.

    Without devices: on JAX's own. With None: by the caller, one after another.
    """
    if devices is None:
        yield from map(f, jobs)
        return
    devices = list(devices) or [None]  # None: where JAX would go by itself
    n_workers = max(len(devices), os.cpu_count() or 1) if jax.default_backend() == "cpu" else len(devices)
    free = queue.SimpleQueue()
    for worker in range(n_workers):
        free.put(devices[worker % len(devices)])

    def run(job: Any) -> Any:
        device = free.get()
        try:
            with jax.default_device(device):
                return f(job)
        finally:
            free.put(device)

    with ThreadPoolExecutor(n_workers) as workers:
        yield from workers.map(run, jobs)


def rows_on(mesh: Mesh | None, x: Any) -> NamedSharding | None:
    """How rows lie on a mesh, or on the devices of x if it has several; None for one device.

    Each device has an equal part of the rows, or all of them where their number does not divide.
    """
    sharding = getattr(x, "sharding", None)
    if mesh is None and sharding is not None and len(sharding.device_set) > 1:
        if isinstance(sharding, NamedSharding):
            return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
        mesh = Mesh(np.array(sorted(sharding.device_set, key=lambda device: device.id)), ("rows",))
    if mesh is None:
        return None
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names) if len(x) % mesh.size == 0 else PartitionSpec())


def busy_side(side: int, n1: int, n2: int, n_devices: int) -> int:
    """The side of a tile, halved until there are four for each device, with a core's cache as the least."""
    while n_devices and side > 64 and -(-n1 // side) * -(-n2 // side) < 8 * n_devices:
        side //= 2
    return side


def _aligned(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """An empty array where JAX wants its own to lie, so that `as_jax` need not copy it."""
    size = shape[0] * shape[1] * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def as_jax(result: np.ndarray) -> Array:
    """A matrix of `tiled` as a JAX array: the same memory where the host is the only device."""
    is_host = jax.default_backend() == "cpu" and jax.device_count() == 1
    return jax.numpy.from_dlpack(result) if is_host else jax.numpy.asarray(result)


def _cut(x: Array | np.ndarray, tile: int, place: Callable[[np.ndarray], Any]) -> list[Any]:
    """The rows of each tile, the last filled up with opposite ones."""
    host = np.asarray(x)
    missing = -len(host) % tile
    parts = [host[i : i + tile] for i in range(0, len(host), tile)]
    if missing:
        parts[-1] = np.concatenate([parts[-1], np.resize(-host, (missing, *host.shape[1:]))])
    return [place(part) for part in parts]


def _with_bar(steps: Iterator[Any], total: int, progress: bool) -> Iterator[Any]:
    if not progress:
        return steps
    from tqdm.auto import tqdm

    return iter(tqdm(steps, total=total, desc="kernel", unit="tile"))
