"""Kernels in tiles: the same numbers as all pairs at once, for any number of examples, in bounded memory."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook import Conv, Dense, Flatten, GlobalAvgPool, Relu, Repeat, SelfAttention, gram, serial

FLAT = serial(Dense(8, 1.4, 0.1), Repeat(serial(Relu(), Dense(8, 1.4, 0.1)), 2.0))
NETWORKS = {
    "flat": (FLAT, (3,)),
    "convolution": (serial(Conv(8, (3, 3), b_std=0.1), Relu(), GlobalAvgPool(), Dense(1)), (3, 3, 2)),
    "flatten": (serial(Conv(8, (2, 2), b_std=0.1), Relu(), Flatten(), Dense(1)), (3, 3, 2)),
    "attention": (serial(SelfAttention(8), GlobalAvgPool(), Dense(1)), (3, 4)),
}


def inputs(n, shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, *shape)))


@pytest.mark.slow_after_first
@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_have_the_numbers_of_the_whole(name):
    """Sizes that no tile divides, and fewer examples than a tile on one side or both."""
    net, shape = NETWORKS[name]
    x, z = inputs(9, shape), inputs(5, shape, 1)
    within, across = nb.kernel(net, x), nb.kernel(net, x, z)
    for n1, n2 in ((9, None), (8, None), (5, None), (9, 5), (3, 5), (6, 1)):
        whole = within if n2 is None else across
        ntk, nngp = gram(net, x[:n1], None if n2 is None else z[:n2], get=("ntk", "nngp"), tile=4)
        n2 = n2 or n1
        assert ntk.shape == nngp.shape == (n1, n2)
        np.testing.assert_allclose(ntk, whole.ntk[:n1, :n2], rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(nngp, whole.nngp[:n1, :n2], rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("are_near", [False, True])
def test_many_points_have_the_numbers_of_few(are_near):
    """From 65 points on far ones carry no distances. A copy and a near point need theirs: a jump makes them visible."""
    net = serial(Dense(8, 1.4, 0.1), Relu(), Dense(8, 1.4), nb.Step(), Dense(1))
    x = inputs(70, (30,))
    if are_near:
        x = x.at[60].set(x[3]).at[61].set(x[4] + 1e-7)
    close = dict(rtol=1e-9, atol=1e-12)
    for whole, within, across, of_two in zip(
        nb.kernel(net, x), nb.kernel(net, x[:20]), nb.kernel(net, x[:20], x[50:]), nb.kernel(net, x, x[1:])
    ):
        np.testing.assert_allclose(whole[:20, :20], within, **close)
        np.testing.assert_allclose(whole[:20, 50:], across, **close)
        np.testing.assert_allclose(of_two[:20, 49:], across, **close)


@pytest.mark.parametrize("tile", [1, 2, 3, 9, 100])
def test_any_tile_will_do(tile):
    x = inputs(9, (3,))
    np.testing.assert_allclose(gram(FLAT, x, tile=tile), nb.ntk(FLAT, x), rtol=1e-11)


def test_words_and_default():
    x = inputs(6, (3,))
    k = nb.kernel(FLAT, x)
    np.testing.assert_allclose(gram(FLAT, x, tile=4), k.ntk, rtol=1e-12)
    np.testing.assert_allclose(gram(FLAT, x, get="nngp", tile=4), k.nngp, rtol=1e-12)
    (only,) = gram(FLAT, x, get=("nngp",), tile=4)
    np.testing.assert_allclose(only, k.nngp, rtol=1e-12)
    np.testing.assert_allclose(gram(FLAT, x), k.ntk, rtol=1e-12)  # a tile of its own choice


@pytest.mark.slow
def test_itself_is_exactly_symmetric_and_exact_on_the_diagonal():
    x = inputs(11, (3,))
    k = gram(FLAT, x, tile=4)
    np.testing.assert_array_equal(k, k.T)
    np.testing.assert_allclose(np.diag(k), np.diag(nb.ntk(FLAT, x)), rtol=1e-14)
    mixed = nb.ntk(nb.serial(nb.Dense(1), nb.Gelu(), nb.Dense(1), nb.Erf(), nb.Dense(1), nb.Gaussian(), nb.Dense(1)), x)
    np.testing.assert_array_equal(mixed, mixed.T)
    x = x.astype(jnp.float32)
    k = gram(FLAT, x, tile=4)
    assert k.dtype == jnp.float32
    np.testing.assert_allclose(np.diag(k), np.diag(nb.ntk(FLAT, x)), rtol=1e-6)


def test_one_compilation_serves_all_tiles_and_scales():
    """Padding makes all tiles alike: on and off the diagonal are two programs, whatever n is."""
    from ntkbook.networks.kernel import program

    net = lambda W: serial(Dense(8, W), Relu(), Dense(1, W))
    gram(net(1.0), inputs(9, (3,)), tile=4)
    programs = program._cache_size()
    for n in (5, 6, 13):
        gram(net(0.1 * n), inputs(n, (3,)), tile=4)
    assert program._cache_size() == programs


def test_under_transformations_it_is_the_kernel():
    x = inputs(5, (3,))
    net = lambda W: serial(Dense(8, W), Relu(), Dense(1, W))
    np.testing.assert_allclose(jax.jit(lambda x: gram(net(1.5), x, tile=2))(x), nb.ntk(net(1.5), x), rtol=1e-12)
    slope = jax.jacfwd(lambda W: gram(net(W), x, tile=2))(1.5)
    np.testing.assert_allclose(slope, jax.jacfwd(lambda W: nb.ntk(net(W), x))(1.5), rtol=1e-12)


def test_progress_counts_the_tiles(capsys):
    gram(FLAT, inputs(9, (3,)), tile=4)
    assert capsys.readouterr().err == ""
    gram(FLAT, inputs(9, (3,)), tile=4, progress=True)
    assert "6/6" in capsys.readouterr().err  # 3 x 3 tiles, the upper triangle


def test_an_error_in_a_tile_reaches_the_caller():
    with pytest.raises(ValueError, match="Expected .* got one that keeps positions"):
        gram(serial(Conv(8, (3, 3)), Relu(), Dense(1)), inputs(5, (3, 3, 2)), tile=2)


@pytest.mark.slow
def test_memory_stays_near_that_of_the_result():
    """Seen from outside: the largest memory of a process of its own, beyond what a small kernel needs."""
    code = """
import numpy as np, ntkbook as nb
net = nb.serial(nb.Dense(8), nb.Relu(), nb.Dense(8), nb.Relu(), nb.Dense(1))
peak = lambda: next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
x = np.random.default_rng(0).normal(size=(6000, 50)).astype("float32")
nb.gram(net, x[:600], tile=128)
before = peak()
result = nb.gram(net, x).block_until_ready()
print((peak() - before) / result.nbytes)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert 0.9 < float(ran.stdout) < 1.35, ran.stdout
