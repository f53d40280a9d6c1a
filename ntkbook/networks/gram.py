"""`kernel` with choices: the side of the tiles, a progress bar, one kernel or both.

`kernel`, `ntk` and `nngp` take tiles by themselves where there are many points; the numbers are the same.
"""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from .. import checks
from .kernel import WORDS, Layer, checked, compute


def gram(
    net: Layer,
    x1: Float[Array, "n1 *features"],
    x2: Float[Array, "n2 *features"] | None = None,
    *,
    get: str | tuple[str, ...] = "ntk",
    tile: int | None = None,
    progress: bool = False,
    mesh: Any = None,
) -> Array | tuple[Array, ...]:
    """The NTK, the NNGP (`get="nngp"`), or both (`get=("nngp", "ntk")`), each (n1, n2), as `kernel` gives them.

    `tile` is the number of examples along a side of a tile, from the cache and the number of positions if None.
    `progress` shows a bar. Inside `jit` all pairs are computed at once.

    With a `mesh` of `jax.sharding` its devices share the tiles, and each holds its rows of the result (all of it where
    their number does not divide n1); so do the devices that already share `x1`. For one `tile` the numbers are those
    of one device to the last bit: each is computed by the same program.

    >>> import jax.numpy as jnp
    >>> from ntkbook import Dense, gram
    >>> gram(Dense(1), jnp.ones((5, 3)), tile=2).shape
    (5, 5)

    Raises:
        TypeError, ValueError: as `kernel`; also for an unknown word in `get`, or a network whose end keeps positions.
    """
    words = get if isinstance(get, tuple) else (get,)
    for word in words:
        checks.one_of(word, "get", WORDS)
    if tile is not None:
        checks.positive_int(tile, "tile")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"Expected a jax.sharding.Mesh, got {checks.describe(mesh)}. jax.make_mesh makes one.")
    if mesh is not None and len(mesh.local_devices) < mesh.size:
        raise ValueError("Expected a mesh of this process's own devices, got one that spans several processes.")
    blocks = compute(*checked(net, x1, x2), words, tile=tile, progress=progress, mesh=mesh)
    if blocks[0].ndim != 2:
        raise ValueError(
            "Expected a network whose kernel is one number for each pair of examples, got one that keeps positions. "
            "End it in Flatten or GlobalAvgPool, then Dense; or use kernel(...)."
        )
    blocks = tuple(map(jnp.asarray, blocks))
    return blocks[0] if isinstance(get, str) else blocks
