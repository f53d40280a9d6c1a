"""Kernels on a disk: the numbers of memory, to the last bit, whatever stopped the computation on its way."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.pytrees import pytree, static
from ntkbook.scale import store as stores
from ntkbook.scale.blocks import Recomputed

HERE = Path(__file__).parent
NET = nb.serial(nb.Dense(8, 1.4, 0.1), nb.Relu(), nb.Dense(1))
X = jnp.asarray(np.random.default_rng(0).normal(size=(21, 5)))
ALONE = {**os.environ, "JAX_PLATFORMS": "cpu"}


@pytest.fixture(params=["kernel", "kernel.zarr"])
def path(request, tmp_path):
    return tmp_path / request.param


def make(path, net=NET, x=X, **options):
    return nb.gram(net, x, store=path, **{"tile": 8, **options})


def stopped_after(n_blocks, path, monkeypatch, error=KeyboardInterrupt):
    """A store whose computation met an error after some blocks."""
    put, done = stores.Stored.put, []

    def failing(self, i, j, block):
        if len(done) == n_blocks:
            raise error
        done.append((i, j))
        return put(self, i, j, block)

    with monkeypatch.context() as changed:
        changed.setattr(stores.Stored, "put", failing)
        changed.setattr(os, "cpu_count", lambda: 1)
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            make(path)


def test_it_holds_what_memory_would(path):
    nngp, ntk = make(path, get=("nngp", "ntk"))
    np.testing.assert_array_equal(ntk, nb.gram(NET, X, tile=8))
    np.testing.assert_array_equal(nngp, nb.gram(NET, X, get="nngp", tile=8))
    assert ntk.shape == (21, 21) and ntk.nbytes == 21 * 21 * 8 and "float64[21, 21]" in repr(ntk)
    k, v = np.asarray(ntk), np.random.default_rng(1).normal(size=(21, 2))
    np.testing.assert_array_equal(ntk[3:100, -2:], k[3:, -2:])
    np.testing.assert_array_equal(ntk.rows([4, 0]), k[[4, 0]])
    np.testing.assert_array_equal(ntk.diagonal(), np.diag(k))
    np.testing.assert_allclose(ntk @ v, k @ v, rtol=1e-12)
    np.testing.assert_allclose(ntk @ v[:, 0], k @ v[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(stores.open_store(path, "nngp"), nngp)
    with pytest.raises(ValueError, match="Expected an array with 21 rows"):
        _ = ntk @ v[:20]


@pytest.mark.slow
def test_two_sets_and_a_kernel_that_is_kept_nowhere(tmp_path):
    across = make(tmp_path / "k", x2=X[:10] + 1)
    whole, v = np.asarray(nb.ntk(NET, X, X[:10] + 1)), np.arange(10.0)
    np.testing.assert_allclose(across, whole, rtol=1e-12)
    np.testing.assert_allclose(across @ v, whole @ v, rtol=1e-12)
    again, within = Recomputed(NET, X, tile=8), np.asarray(nb.ntk(NET, X))
    np.testing.assert_allclose(again @ np.arange(21.0), within @ np.arange(21.0), rtol=1e-12)
    np.testing.assert_allclose(again.rows(np.array([2, 5])), within[[2, 5]], rtol=1e-12)
    np.testing.assert_allclose(again.diagonal(), np.diag(within), rtol=1e-12)


def test_a_computation_that_stopped_goes_on(path, monkeypatch):
    stopped_after(2, path, monkeypatch)
    with pytest.raises(ValueError, match="lacks 4 blocks"):
        stores.open_store(path)
    written, put = [], stores.Stored.put
    with monkeypatch.context() as changed:
        changed.setattr(stores.Stored, "put", lambda *at: (written.append(at[1:3]), put(*at))[1])
        np.testing.assert_array_equal(make(path), nb.gram(NET, X, tile=8))
        make(path)  # nothing is left to do
    assert len(written) == 4


def test_a_full_disk_is_one_sentence_and_loses_nothing(path, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(stores.shutil, "disk_usage", lambda path: Free)
        with pytest.raises(OSError, match=r"Could not write to .*: 0.0 GB are needed, and 0.0 GB are free"):
            make(path)
    stopped_after(3, path, monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    np.testing.assert_array_equal(make(path), nb.gram(NET, X, tile=8))


class Free:
    free = 100


@pytest.mark.slow
def test_a_real_limit_of_a_file(tmp_path):
    """The system refuses to let a file grow: as a full disk does, but for one process."""
    code = """
import resource, signal, sys, numpy as np, jax.numpy as jnp, ntkbook as nb
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for name in ("kernel", "kernel.zarr"):
    try:
        nb.gram(nb.Dense(1), jnp.eye(64), store=f"{sys.argv[1]}/{name}", tile=32)
    except OSError as error:
        print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], env=ALONE, capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("Could not write to") for line in lines), ran.stdout


@pytest.mark.parametrize("place", ["file/kernel", "file/kernel.zarr"])
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Could not write to .*file.*Not a directory"):
        make(tmp_path / place)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="Expected a new folder for the store, got .* with thesis.tex in it"):
        make(tmp_path)


def test_a_changed_block_is_told_and_computed_again(path):
    make(path)
    file = max((file for file in path.rglob("*") if file.is_file() and file.suffix not in (".txt", ".json")), key=size)
    content = bytearray(file.read_bytes())
    content[-1 if file.suffix == ".npy" else 0] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="1 blocks have changed"):
        stores.open_store(path)
    with pytest.warns(UserWarning, match="1 blocks of .* are computed again"):
        np.testing.assert_array_equal(make(path), nb.gram(NET, X, tile=8))
    stores.open_store(path)


def size(file):
    return file.stat().st_size


def test_a_line_that_was_cut_is_not_read(path):
    make(path)
    ledger = path / "ledger-0.txt"
    lines = ledger.read_text().split()
    ledger.write_text(ledger.read_text()[: -2 - len(lines[-2]) // 2])
    with pytest.raises(ValueError, match="lacks 1 blocks"):
        stores.open_store(path)
    np.testing.assert_array_equal(make(path), nb.gram(NET, X, tile=8))
    stores.open_store(path)


def test_two_computations_never_meet(tmp_path, monkeypatch):
    stopped_after(2, tmp_path / "k", monkeypatch)
    other = nb.serial(nb.Dense(8, 1.5, 0.1), nb.Relu(), nb.Dense(1))
    wider = nb.serial(nb.Dense(8, jnp.asarray(1.4), 0.1), nb.LeakyRelu(0.0), nb.Dense(1))
    for changed, words in (
        ({"net": other}, "another network and numbers"),
        ({"net": wider}, "another network"),
        ({"x": X + 1e-9}, "another data"),
        ({"x": X[:20]}, "another data and shape"),
        ({"x": X.astype(jnp.float32)}, "another data and dtype"),
        ({"x2": X[:3]}, "another data and shape"),
        ({"tile": 4}, "another tile"),
        ({"get": "nngp"}, r"to hold \['nngp'\], got a store of \['ntk'\]"),
    ):
        with pytest.raises(ValueError, match=words):
            make(tmp_path / "k", **changed)
    about = json.loads((tmp_path / "k" / "about.json").read_text())
    about["versions"]["jax"] = "0.1"
    (tmp_path / "k" / "about.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="no store is made by two programs"):
        make(tmp_path / "k")


@pytree
class Times(nb.Layer):
    """A layer of a reader, with a function that has no name."""

    f: Any = static()

    def kernel(self, k):
        return k.replace(nngp=self.f(k.nngp))


def test_functions_count_by_what_they_do(tmp_path):
    make(tmp_path / "k", Times(lambda x: 2 * x), get="nngp")
    make(tmp_path / "k", Times(lambda x: x + x), get="nngp")
    with pytest.raises(ValueError, match="another values"):
        make(tmp_path / "k", Times(lambda x: 3 * x), get="nngp")


def test_the_tile_follows_the_memory(tmp_path):
    side = lambda memory: stores.stored_side(NET, np.zeros((9, 5), "float32"), 1, memory)
    n_workers = os.cpu_count() or 1
    assert side(None) == side(1e12) == 1024
    assert side(1e6) < 1024 and 8 * n_workers * 4 * side(1e6) ** 2 <= 1e6 < 8 * n_workers * 4 * (2 * side(1e6)) ** 2
    assert make(tmp_path / "k", tile=None, memory=1e4).tile == 8


def test_what_is_no_store_is_said(tmp_path):
    with pytest.raises(ValueError, match="Expected a store in .*, found none"):
        stores.open_store(tmp_path)
    with pytest.raises(ValueError, match="one that keeps positions"):
        make(tmp_path / "k", nb.Conv(1, (2, 2)), jnp.ones((2, 3, 3, 1)))
    assert not (tmp_path / "k").exists()
    k = make(tmp_path / "k", x=X[:3])
    with pytest.raises(ValueError, match="get to be one of 'ntk', got 'nngp'"):
        stores.open_store(k.path, "nngp")
    (k.path / "about.json").write_text("{")
    with pytest.raises(ValueError, match="Expected what a store wrote"):
        make(k.path, x=X[:3])


NURSERY = """
import json, os, random, signal, sys, time
import numpy as np, jax, jax.numpy as jnp, ntkbook as nb, ntkbook.scale.store as stores
from pathlib import Path
from typing import Any

def work():
    net = nb.serial(nb.Dense(8, 1.4, 0.1), nb.Relu(), nb.Dense(1))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(320, 5)).astype("float32"))
    k = nb.gram(net, x, store=sys.argv[1], tile=4)
    return bool((np.asarray(k) == np.asarray(nb.gram(net, x, tile=4))).all())

seconds, seen = random.Random(0), []
for _ in range(20):  # nothing of JAX runs here before the fork
    born = os.fork()
    if not born:
        os._exit(0 if work() else 1)
    ledger, before = Path(sys.argv[1]) / "ledger-0.txt", seen[-1] if seen else 0
    if seconds.random() < 0.8:  # within the work, else at any moment, as in the start
        while len(stores._finished(Path(sys.argv[1]), {"get": ["ntk"]})) == before:
            time.sleep(0.01)
    time.sleep(0.1 * seconds.random())
    os.kill(born, signal.SIGKILL)
    os.waitpid(born, 0)
    seen.append(len(stores._finished(Path(sys.argv[1]), {"get": ["ntk"]})))
print(json.dumps([seen, work()]))
"""


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_the_same_bits(tmp_path):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-W", "ignore", "-c", NURSERY, tmp_path / "kernel"]
    ran = subprocess.run(command, env={**ALONE, **cache}, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    seen, is_same = json.loads(ran.stdout)
    assert is_same and seen == sorted(seen) and len(set(seen)) > 10 and seen[-1] < 80 * 81 // 2, seen


PROCESS = """
import sys, numpy as np, jax, jax.numpy as jnp, ntkbook as nb
port, index, path = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
net = nb.serial(nb.Dense(8, 1.4, 0.1), nb.Relu(), nb.Dense(1))
x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 5)).astype("float32"))
mesh = jax.make_mesh((2,), ("rows",))
k = nb.gram(net, x, store=path, tile=4, mesh=mesh)
rows = k.on_mesh(mesh)
mine = rows.addressable_shards[0]
one = np.asarray(nb.gram(net, x, tile=4))
print(rows.shape, mine.data.shape, (np.asarray(k) == one).all(), (np.asarray(mine.data) == one[mine.index]).all())
try:
    nb.ntk(net, jax.make_array_from_callback(x.shape, rows.sharding, lambda index: np.asarray(x)[index]))
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = lambda index: [sys.executable, "-c", PROCESS, port, str(index), tmp_path / "k"]
    both = [subprocess.Popen(command(index), env=ALONE, stdout=subprocess.PIPE, text=True) for index in (0, 1)]
    try:
        printed = [one.communicate(timeout=120)[0].splitlines()[-2:] for one in both]  # after Gloo's own
    finally:
        for one in both:
            one.kill()
    for lines in printed:
        assert lines[0] == "(20, 20) (10, 20) True True"
        assert lines[1].startswith("Expected x1 whole in each process")
    ledgers = [len((tmp_path / "k" / f"ledger-{index}.txt").read_text().split("\n\n")) for index in (0, 1)]
    assert sum(ledgers) in (15, 16, 17) and min(ledgers) >= 7


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda file: os.truncate(file, 200), lambda file: os.truncate(file, 3)]
)
def test_a_file_that_is_gone_or_cut_is_one_sentence(tmp_path, damage):
    for name, file in (("k", "ntk.npy"), ("k.zarr", "ntk/zarr.json")):
        make(tmp_path / name)
        damage(tmp_path / name / file)
        for again in (stores.open_store, make):
            with pytest.raises(OSError, match="Could not read the numbers of the store.*Remove that folder"):
                again(tmp_path / name)
