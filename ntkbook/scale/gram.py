"""`kernel` with choices: the side of the tiles, a progress bar, one kernel or both.

`kernel`, `ntk` and `nngp` take tiles by themselves where there are many points; the numbers are the same.
"""

import os
from typing import Any

import jax.numpy as jnp
from jax import process_index
from jax.sharding import Mesh
from jaxtyping import Array, Float

from .. import checks
from ..networks.kernel import WORDS, KeepsPositions, Layer, checked, compute
from ..networks.tiles import rows_on
from .store import fill


def gram(
    net: Layer,
    x1: Float[Array, "n1 *features"],
    x2: Float[Array, "n2 *features"] | None = None,
    *,
    get: str | tuple[str, ...] = "ntk",
    tile: int | None = None,
    progress: bool = False,
    mesh: Any = None,
    store: str | os.PathLike | None = None,
    memory: float | None = None,
) -> Any:
    """The NTK, the NNGP (`get="nngp"`), or both (`get=("nngp", "ntk")`), each (n1, n2), as `kernel` gives them.

    `tile` is the number of examples along a side of a tile, from the cache and the number of positions if None.
    `progress` shows a bar. Inside `jit` all pairs are computed at once.

    With a `mesh` of `jax.sharding` its devices share the tiles, and each holds its rows of the result (all of it where
    their number does not divide n1); so do the devices that already share `x1`. For one `tile` the numbers are those
    of one device to the last bit: each is computed by the same program.

    With a `store`, a folder, the result is on disk and nowhere else, as something that reads like an array and has
    products (`scale.store.Stored`). Each tile is written whole and noted with its checksum: the same call after a
    stop, of whatever kind, goes on from there, and ends with the same bits. A name that ends in .zarr is a Zarr array,
    by TensorStore (`pip install "ntkbook[store]"`), any other a file of NumPy. There `tile` is that of the store,
    1024 or 128 with positions, or what keeps the tiles in work within `memory` bytes; the processes of
    `jax.distributed` share them, and `progress` counts bytes.

    >>> import jax.numpy as jnp
    >>> from ntkbook import Dense, gram
    >>> gram(Dense(1), jnp.ones((5, 3)), tile=2).shape
    (5, 5)

    Raises:
        TypeError, ValueError: as `kernel`; also for an unknown word in `get`, a network whose end keeps positions, and
            a store of another network, other data or another precision.
        OSError: where the store cannot be written.
    """
    words = get if isinstance(get, tuple) else (get,)
    for word in words:
        checks.one_of(word, "get", WORDS)
    if tile is not None:
        checks.positive_int(tile, "tile")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"Expected a jax.sharding.Mesh, got {checks.describe(mesh)}. jax.make_mesh makes one.")
    if memory is not None:
        checks.single_number(memory, "memory", low=1.0)
    if store is not None:
        if not isinstance(store, (str, os.PathLike)):
            raise TypeError(f"Expected store to be the path of a folder, got {checks.describe(store)}.")
        return _stored(store, *checked(net, x1, x2), get, words, tile, memory, progress, mesh)
    if mesh is not None and len(mesh.local_devices) < mesh.size:
        raise ValueError("Expected a store for a mesh that spans several processes, got none: pass store=folder.")
    blocks = compute(*checked(net, x1, x2), words, tile=tile, progress=progress, mesh=mesh)
    if blocks[0].ndim != 2:
        raise ValueError(POSITIONS)
    blocks = tuple(map(jnp.asarray, blocks))
    return blocks[0] if isinstance(get, str) else blocks


POSITIONS = (
    "Expected a network whose kernel is one number for each pair of examples, got one that keeps positions. "
    "End it in Flatten or GlobalAvgPool, then Dense; or use kernel(...)."
)


def _stored(path, net, x1, x2, get, words, tile, memory, progress, mesh):
    rows = rows_on(mesh, x1)
    devices = [] if rows is None else [device for device in rows.device_set if device.process_index == process_index()]
    try:
        found = fill(path, net, x1, x2, words, tile=tile, memory=memory, progress=progress, devices=devices)
    except KeepsPositions as error:
        raise ValueError(POSITIONS) from error
    return found[0] if isinstance(get, str) else found
