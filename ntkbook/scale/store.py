"""Kernels on a disk: computed block by block, each with a checksum in a ledger, so that a run that was stopped goes on.

A store is a folder: `about.json` says of what it is the kernel, `ntk.npy` (or `ntk`, a Zarr array, if the folder's
name ends in .zarr) holds the numbers, and `ledger-0.txt` lists the blocks that are finished, after they were written.
Several processes of `jax.distributed` share the blocks, and keep a ledger each.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import threading
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import checks
from ..networks.kernel import WORDS, KeepsPositions, Layer, block_of, on_host, program
from ..networks.tiles import spread
from ..version import __version__
from .blocks import Blocks, blocks_at
from .disk_arrays import array_on_disk

ABOUT = "about.json"
SIDE = {True: 1024, False: 128}  # of a stored block, for flat data and for data with positions, where pairs cost more


class Stored(Blocks):
    """A kernel on a disk; `gram(..., store=...)` makes it, `open_store` opens it again. Reads like an array.

    `k[:100]`, `k @ v`, `np.asarray(k)` for all of it, `k.on_mesh(mesh)` for rows on many devices.
    """

    def __init__(self, path: Path, about: dict[str, Any], word: str):
        self.path, self.about, self.word = path, about, word
        self.shape = (int(about["shape"][0]), int(about["shape"][1]))
        self.dtype, self.tile, self.is_symmetric = np.dtype(about["dtype"]), about["tile"], about["is_symmetric"]
        self.array = array_on_disk(path, about, word)

    def __repr__(self) -> str:
        return f"Stored({self.word} of {self.about['network']}, {self.dtype}{list(self.shape)}, {str(self.path)!r})"

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.array.read(index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    @property
    def nbytes(self) -> int:
        """The bytes of the whole matrix."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def block(self, i: int, j: int) -> np.ndarray:
        return self[i : i + self.tile, j : j + self.tile]

    def rows(self, indices: Any) -> np.ndarray:
        return self[np.asarray(indices)]

    def on_mesh(self, mesh: Any) -> jax.Array:
        """The matrix in memory, its rows shared by the devices of a mesh, which may be those of several processes."""
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
        return jax.make_array_from_callback(self.shape, rows, lambda index: self[index])

    def put(self, i: int, j: int, block: np.ndarray) -> int:
        """Writes a block, and its mirror image if the matrix is symmetric; returns its checksum."""
        block = np.ascontiguousarray(block)
        with _disk(self.path):
            self.array.write((slice(i, i + len(block)), slice(j, j + block.shape[1])), block)
            if self.is_symmetric and i != j:
                self.array.write((slice(j, j + block.shape[1]), slice(i, i + len(block))), block.T)
        return zlib.crc32(block.data)

    def is_whole(self, i: int, j: int, checksum: int) -> bool:
        """Is the block that which was written, and its mirror image too?"""
        images = [self.block(i, j), self.block(j, i).T] if self.is_symmetric and i != j else [self.block(i, j)]
        return all(zlib.crc32(np.ascontiguousarray(image).data) == checksum for image in images)


def open_store(path: str | os.PathLike, get: str = "ntk", *, check: bool = True) -> Stored:
    """A finished store, for products and solves; with `check` all of it is read, and compared with its checksums.

    Raises:
        ValueError: for a folder that is no store, one that is unfinished or damaged, and a `get` that it has not.
    """
    path = Path(path)
    about = _read_about(path)
    if about is None:
        raise ValueError(f"Expected a store in {path}, found none. gram(net, x, store=...) makes one.")
    checks.one_of(get, "get", about["get"])
    stored = [Stored(path, about, word) for word in about["get"]]
    done = _finished(path, about)
    missing = len(stored[0].corners()) - len(done)
    if missing:
        raise ValueError(f"Expected a finished store in {path}, got one that lacks {missing} blocks: call gram again.")
    if check and (broken := _broken(stored, done)):
        raise ValueError(
            f"Expected {path} as it was written, but {len(broken)} blocks have changed, the first at {broken[0]}. "
            "gram with the same store computes these again."
        )
    return stored[about["get"].index(get)]


def fill(
    path: str | os.PathLike,
    net: Layer,
    x1: jax.Array,
    x2: jax.Array | None,
    words: tuple[str, ...],
    *,
    tile: int | None = None,
    memory: float | None = None,
    progress: bool = False,
    devices: Any = (),
) -> tuple[Stored, ...]:
    """The kernels of these names of `checked` arguments in a store, begun, or continued where it was: see `gram`."""
    path, net = Path(path), on_host(net)
    rows, columns = np.asarray(x1), None if x2 is None else np.asarray(x2)
    about = describe(net, rows, columns, words, tile or stored_side(net, rows, len(words), memory, len(devices)))
    if jax.process_index() == 0 and _read_about(path) is None:
        _create(path, about)
    _meet("the store is there")
    found = _read_about(path)
    if found is None:
        raise ValueError(f"Expected one folder {path} for all processes, found no store in it here.")
    done = _finished(path, found)
    _refuse_another(path, found, about, tile)
    stored = [Stored(path, found, word) for word in found["get"]]
    corners = stored[0].corners()
    if len(done) < len(corners) and found["versions"] != about["versions"]:
        raise ValueError(
            f"Expected to go on in {path} with {found['versions']}, got {about['versions']}. Go on with those, "
            "or name another folder: no store is made by two programs."
        )
    for corner in (broken := _broken(stored, done)):
        del done[corner]
    if broken:
        checks.warn(f"{len(broken)} blocks of {path} differ from their checksums, and are computed again.")
    todo = [corner for corner in corners if corner not in done][jax.process_index() :: jax.process_count()]
    _meet("the ledgers are read")
    all_words = tuple(found["get"])
    ledger, lock = path / f"ledger-{jax.process_index()}.txt", threading.Lock()

    def work(corner: tuple[int, int]) -> int:
        blocks = blocks_at(net, rows, columns, all_words, *corner, found["tile"])
        sums = [one.put(*corner, block) for one, block in zip(stored, blocks)]
        with lock, _disk(path), ledger.open("a") as lines:  # begins a line, so that a torn one before spoils nothing
            lines.write(f"\n{corner[0]} {corner[1]} {' '.join(map(str, sums))} .\n")
        return _bytes(found, corner)

    if todo:
        bar = _bar(sum(_bytes(found, c) for c in [*done, *todo]), sum(_bytes(found, c) for c in done), progress)
        with bar:
            for n_bytes in spread(work, todo, devices):
                bar.update(n_bytes)
    _meet("all blocks are written")
    return tuple(stored[found["get"].index(word)] for word in words)


def describe(net: Layer, x1: np.ndarray, x2: np.ndarray | None, words: tuple[str, ...], tile: int) -> dict[str, Any]:
    """What makes a kernel this one: the content of about.json.

    Raises:
        KeepsPositions: for a network whose end keeps positions.
    """
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    if jax.eval_shape(lambda x: program(net, x, None, words), x1[:1])[0].ndim != 2:
        raise KeepsPositions
    leaves, structure = jax.tree.flatten(net)
    nameless = lambda text: re.sub(r" at 0x\w+", "", text)
    layers, probe = nameless(str(structure)), []
    if layers != str(structure):  # functions, whose addresses change: what they do counts
        probe = [f"{number:.3e}" for block in block_of(net, x1[:2], None, WORDS) for number in block.flat]
    return {
        "network": nameless(repr(net)),
        "numbers": _digest([repr(np.asarray(leaf).tolist()).encode() for leaf in leaves] + [layers.encode()]),
        "values": probe,
        "data": _digest([np.ascontiguousarray(x) for x in (x1, x2) if x is not None]),
        "shape": [n1, n2],
        "dtype": str(x1.dtype),
        "get": [word for word in WORDS if word in words],
        "tile": min(tile, max(n1, n2)),
        "is_symmetric": x2 is None,
        "versions": {"ntkbook": __version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind},
    }


def stored_side(net: Layer, x: np.ndarray, n_words: int = 1, memory: float | None = None, n_devices: int = 0) -> int:
    """The side of a stored block: a common one, or what lets the blocks in work stay within `memory` bytes."""
    side = SIDE[x.ndim == 2]
    if memory is None:
        return side
    n_workers = max(n_devices, os.cpu_count() or 1)
    while side > 8 and 8 * n_workers * n_words * side**2 * x.dtype.itemsize > memory:  # a block, and its copies
        side //= 2
    return side


def _refuse_another(path, found, about, tile):
    keys = ["network", "numbers", "values", "data", "shape", "dtype"] + (["tile"] if tile else [])
    different = [key for key in keys if found[key] != about[key]]
    if different:
        key = different[0]
        raise ValueError(
            f"Expected {path} to be a store of this kernel, got one of another {' and '.join(different)}: "
            f"{key} is {str(found[key])[:60]} there, {str(about[key])[:60]} here. Name another folder."
        )
    if not set(about["get"]) <= set(found["get"]):
        raise ValueError(f"Expected {path} to hold {about['get']}, got a store of {found['get']}. Name another folder.")


def _create(path, about):
    needed = about["shape"][0] * about["shape"][1] * np.dtype(about["dtype"]).itemsize * len(about["get"])
    with _disk(path):
        path.mkdir(parents=True, exist_ok=True)
        known = {"nngp", "ntk", "nngp.npy", "ntk.npy", f"{ABOUT}.part"}
        if others := sorted(set(os.listdir(path)) - known):
            raise ValueError(f"Expected a new folder for the store, got {path} with {others[0]} in it.")
        if (free := shutil.disk_usage(path).free) < needed:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free")
        for word in about["get"]:
            array_on_disk(path, about, word, is_new=True)
        (path / f"{ABOUT}.part").write_text(json.dumps(about, indent=1))
        os.replace(path / f"{ABOUT}.part", path / ABOUT)  # last: from here on it is a store


def _read_about(path):
    try:
        return json.loads((path / ABOUT).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"Expected what a store wrote in {path / ABOUT}, got something else.") from error


def _finished(path, about):
    """corner -> the checksums of its blocks, of all whole lines of all ledgers; a later line counts."""
    done = {}
    for ledger in sorted(path.glob("ledger-*.txt")):
        for line in ledger.read_text().splitlines():
            fields = line.split()
            if len(fields) == 3 + len(about["get"]) and fields[-1] == "." and all(f.isdigit() for f in fields[:-1]):
                i, j, *sums = map(int, fields[:-1])
                done.setdefault((i, j), set()).add(tuple(sums))
    return done


def _broken(stored, done):
    """The corners whose blocks are none that a ledger lists."""

    def is_broken(corner):
        return not any(all(s.is_whole(*corner, c) for s, c in zip(stored, sums)) for sums in done[corner])

    return [corner for corner, bad in zip(done, spread(is_broken, list(done))) if bad]


def _bytes(about, corner):
    (n1, n2), tile = about["shape"], about["tile"]
    size = min(tile, n1 - corner[0]) * min(tile, n2 - corner[1]) * np.dtype(about["dtype"]).itemsize * len(about["get"])
    return size * (2 if about["is_symmetric"] and corner[0] != corner[1] else 1)


def _bar(total, initial, progress):
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=initial, desc="kernel", unit="B", unit_scale=True, disable=not progress)


def _meet(where):
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]


@contextmanager
def _disk(path):
    """Errors of a disk as one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"Could not write to {path}: {reason}. What is finished is kept; the same call goes on."
        ) from error
