"""Downloads that break off, arrive damaged or find no network: on small files served from this machine."""

import gzip
import hashlib
import http.server
import json
import re
import threading

import numpy as np
import pytest

from ntkbook import data, openml

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
        self.content, self.md5, self.ranges, self.etag = content, hashlib.md5(content).hexdigest(), True, '"one"'
        self.packs, self.cuts, self.damages, self.status, self.requests = False, [], 0, 200, []

    def handle_error(self, request, client_address):
        pass  # a connection that we cut ourselves


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments):  # pyright: ignore[reportIncompatibleMethodOverride]
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        if self.path.startswith("/api/v1/json/data/"):
            about = {"data_set_description": {"file_id": "99", "md5_checksum": server.md5}}
            return self.answer(200, json.dumps(about).encode(), {})
        assert self.path == "/data/v1/download/99"
        if server.status != 200:
            return self.answer(server.status, b"no", {})
        content = gzip.compress(server.content, mtime=0) if server.packs else server.content
        if server.damages:
            server.damages -= 1
            content = content[:-50] + b"1" * 50
        headers = {"Content-Encoding": "gzip"} if server.packs else {}
        if server.etag:
            headers["ETag"] = server.etag
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
            return self.answer(206, content[int(wanted[1]) :], headers)
        return self.answer(200, content, headers)

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


def fetch(source=SMALL):
    return openml.fetch(source, progress=False)


def downloads(server):
    return [requested for path, requested in server.requests if path.startswith("/data")]


def expected():
    _, pixels, labels = arff(SMALL)
    return pixels, labels


def agrees(pictures, labels):
    pixels, known = expected()
    # channel c, row i, column j of a picture stands at 16 c + 4 i + j of its line
    one = [[[pixels[5][16 * c + 4 * i + j] for c in range(3)] for j in range(4)] for i in range(4)]
    return pictures.shape == (30, 4, 4, 3) and pictures[5].tolist() == one and labels.tolist() == known.tolist()


@pytest.mark.parametrize("packs", [False, True])
def test_a_download_is_read_checked_and_kept(server, tmp_path, packs):
    server.packs = packs
    assert agrees(*fetch())
    before = len(server.requests)
    assert agrees(*fetch()) and len(server.requests) == before
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["small.npz", "small.sha256"]


@pytest.mark.parametrize("packs", [False, True])
def test_an_interrupted_download_goes_on_where_it_stopped(server, packs):
    server.packs, server.cuts = packs, [700, 300]
    assert agrees(*fetch())
    assert downloads(server) == [None, "bytes=700-", "bytes=1000-"]


def test_what_was_left_by_a_stopped_program_is_used_by_the_next(server):
    server.cuts = [500] * openml.ATTEMPTS
    with pytest.raises(openml.DownloadError, match="Could not fetch small"):
        fetch()
    assert agrees(*fetch())
    assert downloads(server)[-1] == "bytes=1500-"


@pytest.mark.parametrize("change", ["no ranges", "no tag", "weak tag", "another file meanwhile"])
def test_without_a_safe_way_to_go_on_it_starts_again(server, change):
    server.ranges = change != "no ranges"
    server.etag = {"no tag": "", "weak tag": 'W/"one"'}.get(change, '"one"')
    server.cuts = [500] * openml.ATTEMPTS
    with pytest.raises(openml.DownloadError):
        fetch()
    if change == "another file meanwhile":
        server.etag = '"two"'
    assert agrees(*fetch())


def test_a_file_damaged_on_the_way_is_fetched_again(server):
    server.damages = 1
    assert agrees(*fetch())
    assert downloads(server) == [None, None]


def test_a_file_with_another_checksum_is_refused(server, tmp_path):
    server.md5 = "0" * 32
    with pytest.raises(openml.DownloadError, match="Expected small with the checksum 000"):
        fetch()
    assert not list((tmp_path / "cache").glob("*.npz"))


def test_our_own_checksum_counts_more_than_the_servers(server):
    """A server that changed both the file and its description is still found out."""
    known = openml.Source("small", 7, (3, 4, 4), 30, md5="f" * 32)
    with pytest.raises(openml.DownloadError, match="checksum fff"):
        fetch(known)


def test_too_few_or_foreign_rows_are_refused(server):
    with pytest.raises(openml.DownloadError, match="Expected 31 pictures in small, got 30"):
        fetch(openml.Source("small", 7, (3, 4, 4), 31))
    with pytest.raises(openml.DownloadError, match="not a picture of 27 bytes"):
        fetch(openml.Source("small", 7, (3, 3, 3), 30))
    server.content = server.content.replace(b"@DATA\n", b"@DATA\n<html>")
    with pytest.raises(openml.DownloadError, match="damaged"):
        fetch()


@pytest.mark.parametrize("damage", ["cut", "flipped", "checksum gone", "emptied"])
def test_a_damaged_cache_is_noticed_and_replaced(server, tmp_path, damage):
    fetch()
    cached = tmp_path / "cache" / "small.npz"
    content = cached.read_bytes()
    if damage == "checksum gone":
        cached.with_suffix(".sha256").unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        cached.write_bytes({"cut": content[:-7], "flipped": flipped, "emptied": b""}[damage])
    before = len(downloads(server))
    assert agrees(*fetch())
    assert len(downloads(server)) == before + 1 and cached.read_bytes() == content


def test_nothing_is_ever_unpickled(server, tmp_path):
    """A cache that holds a pickle is refused, even with a right checksum."""
    cached = tmp_path / "cache" / "small.npz"
    cached.parent.mkdir()
    with open(cached, "wb") as file:
        np.savez(file, pictures=np.array([{"a": 1}], dtype=object), labels=np.arange(1))
    cached.with_suffix(".sha256").write_text(hashlib.sha256(cached.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="allow_pickle"):
        fetch()


def test_an_interruption_while_writing_leaves_no_half_file(server, tmp_path, monkeypatch):
    replace = openml.os.replace

    def stop(old, new):
        if str(new).endswith(".npz"):
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(openml.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert not list((tmp_path / "cache").glob("*npz*"))
    monkeypatch.undo()


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
    with pytest.raises(openml.DownloadError, match="HTTP Error 404"):
        fetch()


def test_progress_is_shown_on_request(server, capsys):
    openml.fetch(SMALL, progress=True)
    said = capsys.readouterr()
    assert "downloading small" in said.err and "reading small" in said.err and not said.out


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
