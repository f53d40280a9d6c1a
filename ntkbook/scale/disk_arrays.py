"""The two files that a store's numbers lie in: a NumPy file that is mapped into memory, or a Zarr 3 array."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


class NpyFile:
    """A file of NumPy, which anything can map into memory. Mapped anew for each access: pages go back to the system."""

    def __init__(self, file: Path, shape: Any, dtype: Any, tile: int, is_new: bool):
        self.file = file
        if is_new:
            np.lib.format.open_memmap(file, "w+", dtype, tuple(shape))
            if hasattr(os, "posix_fallocate"):
                with file.open("r+b") as opened:  # room for all of it now: to a map a full disk is a crash
                    os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)

        self._map = np.load(file, mmap_mode="r")  # reads the header here, once: Python 3.11's parser fails in threads

    def _mapped(self, mode: Any) -> np.ndarray:
        return np.memmap(self.file, self._map.dtype, mode, self._map.offset, self._map.shape)

    def read(self, index: Any) -> np.ndarray:
        return np.array(self._mapped("r")[index])

    def write(self, index: Any, values: np.ndarray) -> None:
        self._mapped("r+")[index] = values


class ZarrArray:
    """An array of Zarr 3, by TensorStore: a file for each block, which replaces the old one when it is whole."""

    def __init__(self, folder: Path, shape: Any, dtype: Any, tile: int, is_new: bool, about: dict | None = None):
        try:
            import tensorstore
        except ImportError as error:
            raise ImportError('Expected tensorstore for a .zarr store. Run: pip install "ntkbook[store]".') from error
        spec: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
        if is_new:
            grid = {"name": "regular", "configuration": {"chunk_shape": [tile, tile]}}
            spec["metadata"] = {"shape": shape, "data_type": dtype, "chunk_grid": grid, "attributes": about}
            spec |= {"create": True, "delete_existing": True}
        with self._said():
            self._array = tensorstore.open(spec).result()

    @contextmanager
    def _said(self):
        """Whatever goes wrong is a ValueError there."""
        try:
            yield
        except ValueError as error:
            raise OSError(str(error).split(" [")[0]) from error

    def read(self, index: Any) -> np.ndarray:
        with self._said():
            return np.asarray(self._array[self._within(index)].read().result())

    def write(self, index: Any, values: np.ndarray) -> None:
        with self._said():
            self._array[self._within(index)].write(values).result()

    def _within(self, index: Any) -> Any:
        """An index of NumPy, which may end beyond the array or count from its end, as TensorStore takes it."""
        parts = index if isinstance(index, tuple) else (index,)
        within = lambda part, n: slice(*part.indices(n)) if isinstance(part, slice) else np.arange(n)[part]
        return tuple(within(part, n) for part, n in zip(parts, self._array.shape))


def array_on_disk(path: Path, about: dict[str, Any], word: str, is_new: bool = False) -> NpyFile | ZarrArray:
    """The numbers of one kernel of the store in `path`, made anew or opened, with `.read` and `.write` by an index.

    Raises:
        ImportError: for a folder that ends in .zarr, without tensorstore.
        OSError: for a disk that is full, and files that are missing, cut short, or cannot be read.
    """
    try:
        if path.suffix == ".zarr":
            return ZarrArray(path / word, about["shape"], about["dtype"], about["tile"], is_new, about)
        return NpyFile(path / f"{word}.npy", about["shape"], about["dtype"], about["tile"], is_new)
    except (OSError, ValueError) as error:
        if is_new:
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"Could not read the numbers of the store in {path}: {reason}. Remove that folder, and gram makes it anew."
        ) from error
