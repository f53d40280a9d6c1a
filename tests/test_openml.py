"""Downloads that break off, arrive damaged or find no network: on small files served from this machine."""

import dataclasses
import gc
import gzip
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ntkbook import data, openml

# where a connection breaks off, pooch leaves its socket to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SMALL = openml.Source("small", 7, (3, 4, 4), 30)


def arff(source, seed=0):
    """A file as OpenML stores it, and the pictures and labels in it."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (source.count, int(np.prod(source.stored_shape))))
    labels = rng.integers(0, 10, source.count)
    head = "% a comment\n@relation x\n\n" + "".join(f"@attribute a{i} real\n" for i in range(pixels.shape[1]))
    rows = "\n".join(",".join(map(str, row)) + f",'{label}'" for row, label in zip(pixels, labels))
    return f"{head}@attribute class {{0,1}}\n@DATA\n{rows}\n".encode(), pixels, labels


class Server(http.server.ThreadingHTTPServer):
    """OpenML in small: a description and a file, with faults on demand."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.md5, self.about = content, hashlib.md5(content).hexdigest(), b""
        self.packs, self.cuts, self.damages, self.status, self.requests = False, [], 0, 200, []

    def handle_error(self, request, client_address):
        pass  # a connection that we cut ourselves


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments):  # pyright: ignore[reportIncompatibleMethodOverride]
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        if self.path.startswith("/api/v1/json/data/"):
            about = {"data_set_description": {"file_id": "99", "md5_checksum": server.md5}}
            return self.answer(200, server.about or json.dumps(about).encode(), {})
        assert self.path == "/data/v1/download/99"
        if server.status != 200:
            return self.answer(server.status, b"no", {})
        content = gzip.compress(server.content, mtime=0) if server.packs else server.content
        if server.damages:
            server.damages -= 1
            content = content[:-50] + b"1" * 50
        return self.answer(200, content, {"Content-Encoding": "gzip"} if server.packs else {})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.path.startswith("/data") and self.server.cuts and status != 404:
            body = body[: self.server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    content, _, _ = arff(SMALL)
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        monkeypatch.setattr(openml, "SERVER", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("NTKBOOK_DATA", str(tmp_path / "cache"))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield server
        server.shutdown()
        thread.join()
    gc.collect()


def fetch(source=SMALL):
    return openml.fetch(source, progress=False)


def downloads(server):
    return [path for path in server.requests if path.startswith("/data")]


def expected():
    _, pixels, labels = arff(SMALL)
    return pixels, labels


def agrees(pictures, labels):
    pixels, known = expected()
    # channel c, row i, column j of a picture stands at 16 c + 4 i + j of its line
    one = [[[pixels[5][16 * c + 4 * i + j] for c in range(3)] for j in range(4)] for i in range(4)]
    return pictures.shape == (30, 4, 4, 3) and pictures[5].tolist() == one and labels.tolist() == known.tolist()


def kept(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("packs", [False, True])
def test_a_download_is_read_checked_and_kept(server, tmp_path, packs):
    server.packs = packs
    assert agrees(*fetch())
    before = len(server.requests)
    assert agrees(*fetch()) and len(server.requests) == before
    assert kept(tmp_path) == ["small.npz"]


@pytest.mark.parametrize("packs", [False, True])
def test_an_interrupted_or_damaged_download_is_tried_again(server, tmp_path, packs):
    server.packs, server.cuts, server.damages = packs, [700], 2  # the first is cut and damaged
    assert agrees(*fetch())
    assert len(downloads(server)) == 3
    server.cuts = [500] * openml.ATTEMPTS
    (tmp_path / "cache" / "small.npz").unlink()
    with pytest.raises(openml.DownloadError, match="Could not fetch small"):
        fetch()
    assert kept(tmp_path) == []


def test_a_file_with_another_checksum_is_refused(server, tmp_path):
    server.md5 = "0" * 32
    with pytest.raises(openml.DownloadError, match="Expected small with the checksum 000"):
        fetch()
    assert kept(tmp_path) == []


def test_our_own_checksum_counts_more_than_the_servers(server):
    """A server that changed both the file and its description is still found out."""
    known = openml.Source("small", 7, (3, 4, 4), 30, md5="f" * 32)
    with pytest.raises(openml.DownloadError, match="checksum fff"):
        fetch(known)


@pytest.mark.parametrize(
    "source, old, new, words",
    [
        (openml.Source("small", 7, (3, 4, 4), 31), b"", b"", "Expected 31 pictures of 48 bytes in small"),
        (openml.Source("small", 7, (3, 3, 3), 30), b"", b"", "Expected 30 pictures of 27 bytes in small"),
        (SMALL, b"@DATA\n", b"@DATA\n<html>", "damaged"),
        (SMALL, b"@DATA\n", b"@DATA\n300,", "damaged"),
        (SMALL, b"@DATA\n", b"@DATA\n-1,", "damaged"),
        (SMALL, b"@DATA\n", b"@DATA\n\xff", "damaged"),
        (SMALL, b"@DATA\n", b"", "damaged"),
    ],
)
def test_too_few_or_foreign_rows_are_refused(server, source, old, new, words):
    server.content = server.content.replace(old, new)
    server.md5 = hashlib.md5(server.content).hexdigest()
    with pytest.raises(openml.DownloadError, match=words):
        fetch(source)


@pytest.mark.parametrize("about", [b"[]", b"<html>", b'{"data_set_description": {"file_id": "x"}}', b"\xff"])
def test_a_description_that_is_none_is_said(server, about):
    server.about = about
    with pytest.raises(openml.DownloadError, match="its description is another than expected"):
        fetch()


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def pickled(content):
    file = io.BytesIO()
    np.savez(file, pictures=np.array([{"a": 1}], dtype=object), labels=np.arange(1))
    return file.getvalue()


def of_another_shape(content):
    file = io.BytesIO()
    np.savez(file, pictures=np.zeros((30, 5, 5, 3), np.uint8), labels=np.arange(30))
    return file.getvalue()


DAMAGES = [lambda c: c[:-7], flipped, lambda c: b"", lambda c: b"\x80\x04.", pickled, of_another_shape]


@pytest.mark.parametrize("damage", DAMAGES, ids=["cut", "flipped", "emptied", "no archive", "pickled", "another shape"])
def test_a_damaged_cache_is_noticed_and_replaced(server, tmp_path, damage):
    fetch()
    cached = tmp_path / "cache" / "small.npz"
    cached.write_bytes(damage(cached.read_bytes()))
    before = len(downloads(server))
    assert agrees(*fetch()) and agrees(*fetch())
    assert len(downloads(server)) == before + 1


def test_every_flipped_byte_of_a_cache_is_noticed_or_without_effect(server, tmp_path):
    fetch()
    cached = tmp_path / "cache" / "small.npz"
    content = cached.read_bytes()
    for place in range(0, len(content), 7):
        cached.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        arrays = openml._read_cache(SMALL, cached)
        assert arrays is None or agrees(*arrays), place


def test_an_interruption_while_writing_leaves_nothing(server, tmp_path, monkeypatch):
    def stop(old, new):
        raise KeyboardInterrupt

    monkeypatch.setattr(openml.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert kept(tmp_path) == []


@pytest.mark.slow
def test_several_first_loads_at_once_all_arrive(server, tmp_path):
    code = "from ntkbook import openml; openml.SERVER = {!r}; openml.fetch(openml.Source{!r}, progress=False)"
    code = code.format(openml.SERVER, dataclasses.astuple(SMALL))
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    with ThreadPoolExecutor(8) as threads:
        assert all(agrees(*arrays) for arrays in threads.map(lambda _: fetch(), range(8)))
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert kept(tmp_path) == ["small.npz"]


def test_what_is_the_readers_own_stays(server, tmp_path):
    folder, outside = tmp_path / "cache", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("mine")
    own = ["small.arff.notes.txt", "small.arff.part", "small.arff.packed", "small.sha256"]
    for name in own:
        (folder / name).write_text("mine")
    for name in (f".small.npz.{os.getpid()}", "small.npz"):
        (folder / name).symlink_to(outside)
    (folder / "small.arff").write_bytes(server.content)
    assert agrees(*fetch()) and not server.requests
    assert all((folder / name).read_text() == "mine" for name in own) and outside.read_text() == "mine"
    assert (folder / "small.arff").read_bytes() == server.content


def test_a_file_put_there_by_hand_is_checked(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "small.arff").write_bytes(server.content[:-30])
    with pytest.raises(openml.DownloadError, match="Expected small as OpenML stores it.*Take .*small.arff away"):
        fetch()


@pytest.mark.parametrize("place", ["{file}", "{file}/below", "{taken}"])
def test_a_folder_that_cannot_be_one_is_said(server, tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "small.npz").mkdir(parents=True)
    monkeypatch.setenv("NTKBOOK_DATA", place.format(file=tmp_path / "file", taken=tmp_path / "taken"))
    with pytest.raises(openml.DownloadError, match="Could not keep small in .*NTKBOOK_DATA"):
        fetch()


def test_the_home_folder_may_be_written_as_a_tilde(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value, place in (
        ("NTKBOOK_DATA", "~/mine", "mine"),
        ("XDG_CACHE_HOME", "~/x", "x/ntkbook"),
        ("XDG_CACHE_HOME", "", ".cache/ntkbook"),
    ):
        monkeypatch.delenv("NTKBOOK_DATA", raising=False)
        monkeypatch.setenv(name, value)
        assert openml.cache_folder() == tmp_path / place


def test_without_a_network_it_says_what_to_do(server, tmp_path, monkeypatch):
    monkeypatch.setattr(openml, "SERVER", "http://127.0.0.1:9")
    with pytest.raises(openml.DownloadError) as caught:
        fetch()
    said = str(caught.value)
    assert "data.digits" in said and "small.arff" in said and str(tmp_path / "cache") in said
    (tmp_path / "cache" / "small.arff").write_bytes(server.content)  # and what it says works
    assert agrees(*fetch()) and not server.requests


def test_a_server_that_says_no_is_reported(server):
    server.status = 404
    with pytest.raises(openml.DownloadError, match="404"):
        fetch()


def test_progress_is_shown_on_request(server, capsys):
    openml.fetch(SMALL, progress=True)
    said = capsys.readouterr()
    assert "%|" in said.err and "reading small" in said.err and not said.out
    openml.fetch(openml.Source("small", 7, (3, 4, 4), 30, server.md5), progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("load, source, shape", [("mnist", "MNIST", (28, 28, 1)), ("cifar10", "CIFAR10", (32, 32, 3))])
def test_the_loaders_make_training_sets(server, monkeypatch, load, source, shape):
    original = getattr(openml, source)
    small = openml.Source(original.name, original.number, original.stored_shape, 40)
    monkeypatch.setattr(openml, source, small)
    server.content, pixels, labels = arff(small)
    server.md5 = hashlib.md5(server.content).hexdigest()
    loaded = getattr(data, load)(25, 10, images=True, scale="unit", targets="parity", progress=False)
    assert loaded.x_train.shape == (25, *shape) and loaded.x_test.shape == (10, *shape)
    np.testing.assert_allclose(
        np.asarray(loaded.x_train[3, 2, 1]), pixels[3].reshape(shape[2], -1)[:, 2 * shape[1] + 1] / 255
    )
    assert np.asarray(loaded.y_train)[:, 0].tolist() == np.where(labels[:25] % 2, -1.0, 1.0).tolist()
    flat = getattr(data, load)(25, 10, progress=False)
    assert flat.x_train.shape == (25, int(np.prod(shape)))
