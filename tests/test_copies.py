"""Copies and near points through kinks and jumps, inputs far from the origin, and overflow: exact, or said."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import ntkbook as nb

KINKED = [nb.Relu(), nb.LeakyRelu(0.2), nb.Abs(), nb.Step(), nb.Sign(), nb.Elu()]
CLOSED = KINKED[:-1]


def deep(act, depth, b_std=0.1):
    return nb.serial(nb.Dense(1, 1.4, b_std), nb.Repeat(nb.serial(act, nb.Dense(1, 1.4, b_std)), depth))


def points(dtype, features=5, n=8):
    """Eight points, of which 1 and 6, and 2 and 7 are copies."""
    x = np.random.default_rng(3).normal(size=(n, features))
    x[6], x[7] = x[1], x[2]
    return jnp.asarray(x, dtype)


def tolerance(dtype):
    return 1e-12 if dtype == "float64" else 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("features", [5, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("act", KINKED, ids=repr)
def test_copies_have_one_kernel(act, dtype, features):
    x = points(dtype, features)
    for depth in (1, 3, 10, 100) if act in CLOSED else (2,):
        net = deep(act, depth)
        for k in (nb.kernel(net, x), nb.kernel(net, x, x[jnp.array([1, 0, 2])])):
            for matrix in k:
                matrix = np.asarray(matrix)
                for one, copy in ((1, 6), (2, 7)):  # entries near zero have the rounding of the large ones
                    room = tolerance(dtype) * np.abs(matrix).max()
                    np.testing.assert_allclose(matrix[one], matrix[copy], rtol=tolerance(dtype), atol=room)
        both, across = nb.kernel(net, x), nb.kernel(net, x, x[jnp.array([1, 0, 2])])
        for whole, part in zip(both, across):
            expected = np.asarray(whole)[np.array([1, 0, 2]), np.array([1, 0, 2])]
            got = np.asarray(part)[np.array([1, 0, 2]), np.arange(3)]
            np.testing.assert_allclose(got, expected, rtol=10 * tolerance(dtype))


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_with_another_target_lowers_the_rank(seed):
    x = np.random.default_rng(seed).normal(size=(6, 3))
    x[5] = x[0]
    k = nb.ntk(deep(nb.Relu(), 2), jnp.asarray(x))
    assert float(k[0, 0] - k[0, 5]) == 0
    flow = nb.gradient_flow(k, jnp.arange(6.0))
    assert int(flow.rank) == 5
    with pytest.warns(UserWarning, match="rank 5 of 6"):
        end = flow.train(jnp.inf)
    np.testing.assert_allclose(end[0], end[5], rtol=1e-12)
    np.testing.assert_allclose(end[0], 2.5, rtol=1e-6)  # the mean of the two targets


@pytest.mark.slow_after_first
@pytest.mark.parametrize("act", CLOSED, ids=repr)
def test_near_points_keep_their_distance(act):
    """Angles from 1e-12 to 0.1 between two points of one length: float64 against the formula in 50 digits."""
    mpmath.mp.dps = 50
    for theta in (1e-12, 1e-9, 1e-6, 1e-3, 0.1):
        x = np.array([[1.0, 0.0], [np.cos(theta), np.sin(theta)]])
        k = nb.nngp(nb.serial(nb.Dense(1, 2**0.5), act, nb.Dense(1)), jnp.asarray(x))
        u, v = ([mpmath.mpf(float(a)) for a in row] for row in x)
        exact = mpmath.atan2(abs(u[0] * v[1] - u[1] * v[0]), u[0] * v[0] + u[1] * v[1])
        fraction = {  # 1 - K(x, x')/sqrt(K(x, x) K(x', x')) as a function of the angle
            "Relu": (mpmath.mpf(1) - (mpmath.sin(exact) + (mpmath.pi - exact) * mpmath.cos(exact)) / mpmath.pi),
            "Abs": 1 - 2 / mpmath.pi * (mpmath.sin(exact) + (mpmath.pi / 2 - exact) * mpmath.cos(exact)),
            "Step": exact / mpmath.pi,
            "Sign": 2 * exact / mpmath.pi,
        }.get(type(act).__name__)
        if fraction is not None:
            got = float(1 - k[0, 1] / jnp.sqrt(k[0, 0] * k[1, 1]))
            assert got == pytest.approx(float(fraction), abs=4e-16, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("act", [nb.Rbf(1.0), nb.Sin(), nb.Cos()], ids=repr)
def test_far_from_the_origin(act):
    x = 2020 + np.random.default_rng(0).standard_normal((20, 784))
    net = nb.serial(nb.Dense(1, 28.0), act, nb.Dense(1))
    exact = np.asarray(nb.nngp(net, jnp.asarray(x)))
    x32 = jnp.asarray(x, jnp.float32)
    for k in (nb.nngp(net, x32), nb.nngp(net, x32, x32 + 0)):
        np.testing.assert_allclose(k, exact, atol=2e-2)  # the inputs themselves are rounded to 1e-4 of 2020
        np.testing.assert_allclose(np.diagonal(k), 1 if isinstance(act, nb.Rbf) else np.diagonal(exact), atol=1e-3)
        assert np.linalg.eigvalsh(np.asarray(k, float)).min() > -1e-4


@pytest.mark.slow
@pytest.mark.parametrize("act", [nb.Relu(), nb.Exp(1.0), nb.Polynomial((0.0, 0.0, 0.0, 1.0))], ids=repr)
def test_overflow_is_said(act):
    x = jnp.full((3, 2), 1e15, jnp.float32) * jnp.arange(1.0, 4)[:, None].astype(jnp.float32)
    net = nb.serial(nb.Dense(1, 1e5), act, nb.Dense(1, 1e5))
    for call in (nb.ntk, nb.nngp, nb.kernel, nb.gram):
        with pytest.raises(ValueError, match="within the range of float32"):
            call(net, x)


def test_equal_patches_of_images_are_copies():
    """All positions of a constant image see equal patches, save at the rim."""
    x = np.random.default_rng(0).normal(size=(2, 1, 1, 3)) * np.ones((1, 5, 5, 1))
    net = nb.serial(nb.Conv(1, (3, 3), padding="CIRCULAR"), nb.Sign(), nb.Conv(1, (3, 3), padding="CIRCULAR"))
    k = np.asarray(nb.nngp(net, jnp.asarray(x)))  # (2, 2, 5, 5, 5, 5)
    np.testing.assert_allclose(k[0, 0], 1, rtol=1e-12)


@pytest.mark.slow
def test_derivatives_at_copies_are_those_of_the_formula():
    """d/de of K(x + e v, x') at e = 0 for x = x': finite differences from both sides."""
    x, v = jnp.array([[1.0, 0.5], [1.0, 0.5]]), jnp.array([0.3, -0.2])
    net = deep(nb.Relu(), 2)
    at = lambda e: nb.ntk(net, x.at[0].add(e * v))[0, 1]
    step = 1e-6
    central = (at(step) - at(-step)) / (2 * step)
    assert float(jax.jacfwd(at)(0.0)) == pytest.approx(float(central), rel=1e-5)


def test_sums_of_paths_add_their_kernels():
    x = points("float64")
    first, second = nb.serial(nb.Dense(3, 1.2), nb.Relu(), nb.Dense(4, 0.7)), nb.Dense(4, 0.5)
    total = nb.kernel(nb.Sum(first, second), x)
    for word in ("nngp", "ntk"):
        parts = getattr(nb.kernel(first, x), word) + getattr(nb.kernel(second, x), word)
        np.testing.assert_allclose(getattr(total, word), parts, rtol=1e-12)
    with pytest.raises(ValueError, match="end in random weights"):
        nb.ntk(nb.serial(nb.Dense(4), nb.Sum(nb.Identity(), nb.Relu())), x)


@pytest.mark.slow
def test_doors_say_what_to_call():
    net, x = nb.serial(nb.Dense(4), nb.Relu(), nb.Dense(1)), jnp.ones((2, 3))
    with pytest.raises(TypeError, match="net.apply"):
        net(x)
    assert len(repr(nb.kernel(net, x)).splitlines()) == 1
    # without the checks of annotations, which come first here
    code = "import numpy as np, ntkbook as nb; net = nb.serial(nb.Dense(1)); x = np.ones((2, 3)); "
    for call, word in (("nb.serial([nb.Dense(1)])", "Unpack"), ("nb.ntk(x, net)", "swapped")):
        done = subprocess.run([sys.executable, "-c", code + call], capture_output=True, text=True)
        assert word in done.stderr.splitlines()[-1]
