"""Pictures from OpenML: downloaded once, checked, and kept as plain arrays.

`fetch` returns pictures and labels; `data.mnist` and `data.cifar10` make training sets of them. What arrives is
held against the checksum that OpenML states (and against our own, where we know it) before it counts. Files are
written whole or not at all, an interrupted download goes on where the server allows it, a damaged cache is
noticed and replaced, and nothing is ever unpickled.
"""

import gzip
import hashlib
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

SERVER = "https://api.openml.org"
ATTEMPTS = 3
BLOCK = 1 << 18


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


def cache_folder() -> Path:
    """Where downloads are kept: the folder in NTKBOOK_DATA, or `ntkbook` in the user's cache."""
    if chosen := os.environ.get("NTKBOOK_DATA"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ntkbook"


def fetch(source: Source, *, progress: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, height, width, channels) of bytes and labels (n,), from the cache or from OpenML.

    Raises:
        DownloadError: without a network, or if what arrives is not what OpenML says it is.
    """
    folder = cache_folder()
    cached = folder / f"{source.name}.npz"
    arrays = _read_cache(cached)
    if arrays is None:
        folder.mkdir(parents=True, exist_ok=True)
        arrays = _from_text(source, folder, progress)
        _write_cache(cached, *arrays)
        for leftover in folder.glob(f"{source.name}.arff*"):
            leftover.unlink()
    return arrays


def _from_text(source: Source, folder: Path, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Downloads and reads the ARFF text; a file that the reader put there by hand is read first."""
    by_hand = folder / f"{source.name}.arff"
    if by_hand.exists():
        return _parse(source, by_hand, source.md5, progress)
    about = _description(source, folder)
    md5 = source.md5 or about.get("md5_checksum")
    for attempt in range(1, ATTEMPTS + 1):
        downloaded = _download(source, f"{SERVER}/data/v1/download/{about['file_id']}", folder, progress)
        try:
            return _parse(source, downloaded, md5, progress)
        except DownloadError:
            downloaded.unlink(missing_ok=True)  # damaged on the way: from the start again
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _description(source: Source, folder: Path) -> dict[str, Any]:
    address = f"{SERVER}/api/v1/json/data/{source.number}"
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            about = json.load(answer)["data_set_description"]
            return {"file_id": int(about["file_id"]), "md5_checksum": about.get("md5_checksum")}
    except (OSError, HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise _unreachable(source, folder, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"Expected a description of {source.name} from OpenML, got {error!r}. Later again?"
        ) from error


def _download(source: Source, address: str, folder: Path, progress: bool) -> Path:
    """The file as it travels (packed if the server packs it), complete by its announced length."""
    part, tag_file = folder / f"{source.name}.arff.part", folder / f"{source.name}.arff.tag"
    complete = folder / f"{source.name}.arff.packed"
    failure: Exception | None = None
    for _ in range(ATTEMPTS):
        headers = {"Accept-Encoding": "gzip"}
        if part.exists() and tag_file.exists():
            # go on only if it still is the same file; else the server sends the whole of it
            headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": tag_file.read_text()}
        try:
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
                goes_on = answer.status == 206
                tag = answer.headers.get("ETag") or ""
                tag_file.write_text(tag) if tag and not tag.startswith("W/") else tag_file.unlink(missing_ok=True)
                _save(answer, part, goes_on, source.name, progress)
            os.replace(part, complete)
            tag_file.unlink(missing_ok=True)
            return complete
        except urllib.error.HTTPError as error:
            error.close()
            part.unlink(missing_ok=True)
            failure = error
        except (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException) as error:
            failure = error
    raise _unreachable(source, folder, failure)


def _save(answer: Any, part: Path, goes_on: bool, name: str, progress: bool) -> None:
    start = part.stat().st_size if goes_on else 0
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length else None
    with (
        open(part, "ab" if goes_on else "wb") as file,
        _bar(f"downloading {name}", total, start, "B", progress) as bar,
    ):
        while block := answer.read(BLOCK):
            file.write(block)
            bar.update(len(block))
        received = file.tell()
    if total is not None and received != total:
        raise ConnectionError(f"the connection closed after {received} of {total} bytes")


def _parse(source: Source, path: Path, md5: str | None, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows `pixel,pixel,...,label` below the line @data; checksum and count are checked at the end."""
    size = int(np.prod(source.stored_shape))
    pictures = np.empty((source.count, size), dtype=np.uint8)
    labels = np.empty(source.count, dtype=np.int64)
    digest = hashlib.md5(usedforsecurity=False)
    rows = 0
    try:
        with _unpacked(path) as file, _bar(f"reading {source.name}", source.count, 0, " rows", progress) as bar:
            for line in _data_lines(file, digest):
                values, _, label = line.rpartition(b",")
                row = np.fromstring(values.decode("ascii"), dtype=np.int64, sep=",")
                if rows == source.count or row.size != size or row.min() < 0 or row.max() > 255:
                    raise ValueError(f"row {rows + 1} is not a picture of {size} bytes")
                pictures[rows] = row
                labels[rows] = int(label.strip(b" '\""))
                rows += 1
                bar.update(1)
    except (ValueError, EOFError, gzip.BadGzipFile, DeprecationWarning) as error:
        raise DownloadError(f"Expected {source.name} as OpenML stores it, got a damaged file ({error}).") from error
    if rows != source.count:
        raise DownloadError(f"Expected {source.count} pictures in {source.name}, got {rows}: the file was cut short.")
    if md5 is not None and digest.hexdigest() != md5:
        raise DownloadError(
            f"Expected {source.name} with the checksum {md5}, got {digest.hexdigest()}. "
            "The file changed on the way; call again, and if it stays, tell OpenML."
        )
    pictures = pictures.reshape(-1, *source.stored_shape)
    return np.ascontiguousarray(np.moveaxis(pictures, 1, -1)), labels  # channels last, as everywhere in this library


def _unpacked(path: Path) -> io.BufferedReader:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return io.BufferedReader(gzip.GzipFile(path)) if packed else open(path, "rb")


def _data_lines(file: io.BufferedReader, digest: Any) -> Iterator[bytes]:
    """The lines after @data that hold something; every byte of the file enters the digest."""
    begun = False
    for line in file:
        digest.update(line)
        stripped = line.strip()
        if begun and stripped and not stripped.startswith(b"%"):
            yield stripped
        begun = begun or stripped.lower() == b"@data"


def _read_cache(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The arrays if the file is there and whole, else None; the bytes are checked before they are interpreted."""
    try:
        content = path.read_bytes()
        expected = path.with_suffix(".sha256").read_text().strip()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != expected:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["pictures"], arrays["labels"]


def _write_cache(path: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pictures=pictures, labels=labels)
    content = buffer.getvalue()
    _write(path, content)
    # last: a file without its checksum counts as none
    _write(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode() + b"\n")


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _bar(words: str, total: int | None, start: int, unit: str, progress: bool) -> Any:
    from tqdm import tqdm

    scaled = unit == "B"
    return tqdm(total=total, initial=start, unit=unit, unit_scale=scaled, desc=words, disable=not progress, leave=False)


def _unreachable(source: Source, folder: Path, error: Exception | None) -> DownloadError:
    return DownloadError(
        f"Could not fetch {source.name} from OpenML ({error}). Is there a network? Without one, use data.digits, "
        f"which needs none; or get {source.name}.arff from data set {source.number} of openml.org on another "
        f"machine and put it into {folder}."
    )
