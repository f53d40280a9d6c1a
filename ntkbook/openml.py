"""Pictures from OpenML: downloaded once, checked, and kept as plain arrays.

`fetch` returns pictures and labels; `data.mnist` and `data.cifar10` make training sets of them. What arrives is held
against the checksum that OpenML states (against our own, where we know it) before it counts. All work happens in a
folder of its own, and only a complete file takes its name: several programs may load at once, nothing of the reader's
is touched. A damaged cache is noticed and replaced, and nothing is ever unpickled.
"""

import json
import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SERVER = "https://api.openml.org"
ATTEMPTS = 3


@dataclass(frozen=True)
class Source:
    """A data set on OpenML: its number, the shape of one picture as stored, and how many there are."""

    name: str
    number: int
    stored_shape: tuple[int, ...]
    count: int
    md5: str | None = None


MNIST = Source("mnist_784", 554, (1, 28, 28), 70_000, "0298d579eb1b86163de7723944c7e495")
CIFAR10 = Source("CIFAR_10", 40927, (3, 32, 32), 60_000)


class DownloadError(OSError):
    """What could not be fetched, and what to do about it."""


class _Damaged(ValueError):
    """Another file than the one that was asked for: to be fetched again."""


def cache_folder() -> Path:
    """Where downloads are kept: the folder in NTKBOOK_DATA, or `ntkbook` in the user's cache."""
    if chosen := os.environ.get("NTKBOOK_DATA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ntkbook"


def fetch(source: Source, *, progress: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, height, width, channels) of bytes and labels (n,), from the cache or from OpenML.

    Raises:
        DownloadError: without a network or a folder that can be written, or if what arrives is not what OpenML says.
    """
    folder = cache_folder()
    arrays = _read_cache(source, folder / f"{source.name}.npz")
    if arrays is not None:
        return arrays
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{source.name}.", dir=folder) as own:
            arrays = _by_hand(source, folder, progress) or _download(source, Path(own), progress)
            new = Path(own) / "new.npz"
            np.savez_compressed(new, pictures=arrays[0], labels=arrays[1])
            os.replace(new, folder / f"{source.name}.npz")
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"Could not keep {source.name} in {folder} ({error}). Set NTKBOOK_DATA to a folder that can be written."
        ) from error
    return arrays


def _by_hand(source: Source, folder: Path, progress: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """The text, where the reader has put it into the folder; it stays there."""
    path = folder / f"{source.name}.arff"
    try:
        return _parse(source, path, source.md5, progress) if path.is_file() else None
    except _Damaged as error:
        raise DownloadError(f"{error} Take {path} away, or get it again.") from error


def _download(source: Source, own: Path, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    import pooch

    about, text = own / "about.json", own / "text.arff"
    failure: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            pooch.HTTPDownloader(timeout=30)(f"{SERVER}/api/v1/json/data/{source.number}", str(about), None)
            said = json.loads(about.read_bytes())["data_set_description"]
            address = f"{SERVER}/data/v1/download/{int(said['file_id'])}"
            pooch.HTTPDownloader(progressbar=progress, timeout=60)(address, str(text), None)
            return _parse(source, text, source.md5 or said.get("md5_checksum"), progress)
        except (OSError, _Damaged) as error:
            failure = error
        except (ValueError, KeyError, TypeError) as error:
            failure = ValueError(f"its description is another than expected, {error!r}")
    raise DownloadError(
        f"Could not fetch {source.name} from OpenML ({failure}). Is there a network? Without one, use data.digits, "
        f"which needs none; or get {source.name}.arff from data set {source.number} of openml.org on another "
        f"machine and put it into {own.parent}."
    ) from failure


def _parse(source: Source, path: Path, md5: str | None, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows `pixel,pixel,...,label` below the line @data."""
    import pooch
    from tqdm import tqdm

    found = pooch.file_hash(str(path), alg="md5")
    if md5 is not None and found != md5:
        raise _Damaged(f"Expected {source.name} with the checksum {md5}, got {found}.")
    rows = tqdm(total=source.count, desc=f"reading {source.name}", unit=" rows", disable=not progress, leave=False)
    try:
        with open(path, encoding="ascii") as lines, rows:
            table = np.loadtxt(_below_data(lines, rows), np.uint8, comments="%", delimiter=",", quotechar="'", ndmin=2)
    except (ValueError, UserWarning) as error:  # where warnings are errors, numpy's on an empty file is one
        raise _Damaged(f"Expected {source.name} as OpenML stores it, got a damaged file ({error}).") from error
    size = int(np.prod(source.stored_shape))
    if table.shape != (source.count, size + 1):
        raise _Damaged(
            f"Expected {source.count} pictures of {size} bytes in {source.name}, got rows and columns {table.shape}."
        )
    pictures = table[:, :-1].reshape(-1, *source.stored_shape)
    # channels last, as everywhere in this library
    return np.ascontiguousarray(np.moveaxis(pictures, 1, -1)), table[:, -1].astype(np.int64)


def _below_data(lines: Any, bar: Any) -> Any:
    for line in lines:
        if line.strip().lower() == "@data":
            break
    for line in lines:
        bar.update(1)
        yield line


def _read_cache(source: Source, path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The arrays if the file is there and whole, by its own checksums, else None."""
    try:
        with zipfile.ZipFile(path) as packed:
            if packed.testzip() is not None:
                return None
        with np.load(path, allow_pickle=False) as arrays:
            pictures, labels = arrays["pictures"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None
    channels, *sides = source.stored_shape
    whole = pictures.shape == (source.count, *sides, channels) and labels.shape == (source.count,)
    return (pictures, labels) if whole and pictures.dtype == np.uint8 and labels.dtype == np.int64 else None
