"""The core of flat networks: golden numbers, exact diagonals, one compilation for a sweep, and how JAX may use it."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import ntkbook as nb
from ntkbook import Abs, Dense, Erf, Gelu, LeakyRelu, Relu, Repeat, Sign, Sin, serial
from ntkbook.networks.kernel import Kernel, Layer
from ntkbook.pytrees import pytree

X = np.random.default_rng(0).normal(size=(5, 3))


def deep(act, times, W_std=1.5, b_std=0.1):
    """`times` hidden layers of depth, which may be a slider."""
    return serial(Dense(8, W_std, b_std), Repeat(serial(act, Dense(8, W_std, b_std)), times))


def written_out(act, layers, W_std, b_std):
    """`layers` affine layers with an activation between each two."""
    rest = [layer for _ in range(layers - 1) for layer in (act, Dense(8, W_std, b_std))]
    return serial(Dense(8, W_std, b_std), *rest)


# NNGP and NTK of (1, -.5, 2) with (.3, .8, 1) after L affine layers
GOLDEN = [
    (Relu(), 2, 0.01, 2, 1.424818456254, 2.341055280746),
    (Relu(), 2, 0.01, 4, 1.622988105120, 4.155149218473),
    (Relu(), 1, 0.01, 4, 0.117782593584, 0.284031849386),
    (Erf(), 1.5, 0.0025, 3, 0.347970677262, 1.098976047800),
    (Gelu(), 1.7, 0.04, 3, 0.737115458676, 1.780638428223),
    (Sin(), 1, 0.1, 3, 0.295707398064, 0.663186361501),
]


@pytest.mark.slow_after_first
@pytest.mark.parametrize("act, W_var, b_var, layers, nngp, ntk", GOLDEN)
def test_golden_recursion(act, W_var, b_var, layers, nngp, ntk):
    x1, x2 = jnp.array([[1, -0.5, 2]]), jnp.array([[0.3, 0.8, 1]])
    for net in (
        written_out(act, layers, W_var**0.5, b_var**0.5),
        deep(act, layers - 1, W_var**0.5, b_var**0.5),
    ):
        k = nb.kernel(net, x1, x2)
        assert float(k.nngp[0, 0]) == pytest.approx(nngp, abs=1e-11)
        assert float(k.ntk[0, 0]) == pytest.approx(ntk, abs=1e-11)


@pytest.mark.slow
def test_the_three_doors_give_the_same_numbers():
    x, z = jnp.asarray(X), jnp.asarray(X[::2])
    net = deep(Relu(), 3)
    for second in (None, z):
        k = nb.kernel(net, x, second)
        assert isinstance(k, Kernel)
        np.testing.assert_array_equal(nb.ntk(net, x, second), k.ntk)
        np.testing.assert_array_equal(nb.nngp(net, x, second), k.nngp)


# Exact diagonals ------------------------------------------------------------------------------------------------------

# The activation, and q -> E[phi(u)^2], E[phi'(u)^2] for a single number q
EXACT = {
    "relu": (Relu(), lambda q: (q / 2, 0.5)),
    "leaky relu": (LeakyRelu(0.5), lambda q: (q * 0.625, 0.625)),
    "abs": (Abs(), lambda q: (q, 1.0)),
    "erf": (Erf(), lambda q: oracles.erf_dual(q, q, q)),
}


@pytest.mark.slow_after_first
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype, tol", [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_the_diagonal_is_exact_at_every_depth(name, dtype, tol):
    """Depths 1 to 100, against the recursion of a single number in float64."""
    per_layer = 6e-8 if name == "erf" and dtype == np.float32 else 0  # its slope varies, and rounds at each layer
    act, step = EXACT[name]
    W_std, b_std = 1.25, 0.125  # their squares are exact in float32
    x = jnp.asarray(X, dtype)
    variances = (np.asarray(x, float) ** 2).sum(-1) / X.shape[1]
    for depth in (1, 2, 5, 20, 50, 100):
        k = nb.kernel(deep(act, float(depth), W_std, b_std), x)
        for i, q in enumerate(variances):
            q = theta = W_std**2 * q + b_std**2
            for _ in range(depth):
                T, Tdot = step(q)
                q = W_std**2 * T + b_std**2
                theta = q + W_std**2 * Tdot * theta
            assert float(k.nngp[i, i]) == pytest.approx(q, rel=tol), depth
            assert float(k.ntk[i, i]) == pytest.approx(theta, rel=tol + depth * per_layer), depth


def test_the_diagonal_survives_irrational_scales_in_float32():
    """W_std = sqrt(2) keeps the variance of a ReLU network only if it is squared before it is rounded."""
    x = jnp.asarray(X, jnp.float32)
    k = nb.kernel(deep(Relu(), 100.0, 2**0.5, 0.0), x)
    q = 2 * (np.asarray(x, float) ** 2).mean(-1)
    np.testing.assert_allclose(np.diag(k.nngp), q, rtol=1e-6)
    np.testing.assert_allclose(np.diag(k.ntk), 101 * q, rtol=1e-6)


# Numbers that overflow or vanish elsewhere ----------------------------------------------------------------------------


@pytest.mark.slow_after_first
@pytest.mark.parametrize("act", [Relu(), LeakyRelu(0.1), Abs(), Erf(), Gelu(), Sign(), Sin()], ids=repr)
@pytest.mark.parametrize("W_std", [10.0, 1e-3])
def test_large_and_small_weights_at_depth_100(act, W_std):
    x = jnp.asarray(np.concatenate([X, X[:1], -X[:1], 2 * X[:1], 0 * X[:1]]))
    net = deep(act, 100.0, W_std, 0.0)
    derivative = jax.jvp(lambda W_std: nb.ntk(deep(act, 100.0, W_std, 0.0), x), (W_std,), (1.0,))[1]
    for second in (None, x):
        k = nb.kernel(net, x, second)
        assert np.isfinite(k.nngp).all() and np.isfinite(k.ntk).all()
    assert np.isfinite(derivative).all()


def test_a_scaled_network_is_the_same_network_at_every_scale():
    """ReLU is homogeneous: W_std = 10 at depth 100 is 10^200 times a kernel of unit weights."""
    x = jnp.asarray(X)
    for scale in (10.0, 0.1):
        small, large = nb.kernel(deep(Relu(), 100.0, 1.5, 0.0), x), nb.kernel(deep(Relu(), 100.0, 1.5 * scale, 0.0), x)
        np.testing.assert_allclose(large.nngp / (scale**2) ** 50 / (scale**2) ** 51, small.nngp, rtol=1e-10)
        np.testing.assert_allclose(large.ntk / (scale**2) ** 50 / (scale**2) ** 51, small.ntk, rtol=1e-10)


# How JAX may use it ---------------------------------------------------------------------------------------------------

TRACES = []


@pytree
class Probe(Layer):
    """Changes nothing, and notes each time that its rule is traced: compiled programs do not run Python."""

    def kernel(self, k):
        TRACES.append(1)
        return k


def test_a_sweep_of_depth_and_scales_compiles_once():
    x = jnp.asarray(X)

    def sliders(times, W_std, b_std, slope):
        act = LeakyRelu(slope)
        return serial(Dense(8, W_std, b_std), Probe(), Repeat(serial(act, Dense(8, W_std, b_std)), times), Dense(1))

    nb.kernel(sliders(1.0, 1.0, 0.0, 0.1), x)
    nb.ntk(sliders(1.0, 1.0, 0.0, 0.1), x)
    TRACES.clear()
    for i in range(100):
        net = sliders(float(1 + i % 50), 0.5 + i / 50, i / 100, i / 200)
        nb.kernel(net, x)
        nb.ntk(net, x)
    assert not TRACES
    nb.ntk(serial(Dense(9), Probe(), Dense(1)), x)  # a new structure is traced: the probe works
    assert TRACES


def test_jit_vmap_and_gradients_over_numbers():
    x = jnp.asarray(X)
    W = jnp.linspace(0.5, 2.0, 4)
    of_W = lambda W: nb.ntk(deep(Relu(), 3.0, W), x)
    singles = jnp.stack([of_W(float(w)) for w in W])
    np.testing.assert_allclose(jax.vmap(of_W)(W), singles, rtol=1e-13)
    np.testing.assert_allclose(jax.jit(jax.vmap(of_W))(W), singles, rtol=1e-13)
    depths = jnp.arange(1.0, 5.0)
    by_depth = jax.vmap(lambda times: nb.ntk(deep(Erf(), times), x))(depths)
    np.testing.assert_allclose(by_depth, jnp.stack([nb.ntk(deep(Erf(), float(t)), x) for t in depths]), rtol=1e-13)
    loss = lambda W: (nb.ntk(written_out(Relu(), 3, W, 0.1), x) ** 2).sum()
    quotient = oracles.difference_quotient(lambda W: float(loss(W)), 1.3)
    assert float(jax.grad(loss)(1.3)) == pytest.approx(float(quotient), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("act", [Erf(), Gelu(), nb.Gaussian()], ids=repr)
def test_derivatives_of_a_kernel_give_the_kernel_of_derivatives(act):
    """d^2 K(x, x') / dx dx' is the covariance of the slopes of a random network: second derivatives are right too."""
    net = written_out(act, 3, 1.3, 0.2)
    entry = jax.jit(lambda a, b: nb.nngp(net, a[None], b[None])[0, 0])
    slope = jax.jit(jax.grad(entry))
    for a, b in ((X[0], X[1]), (X[0], X[0])):
        exact = jax.jacfwd(jax.grad(entry), argnums=1)(jnp.asarray(a), jnp.asarray(b))
        for i in range(3):
            shift = np.eye(3)[i]
            quotient = oracles.difference_quotient(lambda t, s=shift, b=b, a=a: slope(a, b + t * s), 0.0)
            np.testing.assert_allclose(exact[:, i], quotient, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_a_first_call_inside_jit_leaks_no_tracer(checking_leaks):
    """Caches that are filled while tracing would keep a tracer and break the next call."""
    x = jnp.asarray(X)
    numeric = nb.Elementwise(jnp.arctan, nodes=(6, 4))
    net = serial(Dense(8), Repeat(serial(nb.LayerNorm(), Relu(), Dense(8, b_std=0.1)), 2), numeric, Dense(1))
    with checking_leaks():
        inside = jax.jit(lambda net, x: nb.ntk(net, x))(net, x)
    np.testing.assert_allclose(nb.ntk(net, x), inside, rtol=1e-12)


@pytest.mark.parametrize("one, other", [("float32", "float32"), ("float64", "float64"), ("float32", "float64")])
def test_precision_follows_the_inputs(one, other):
    x1, x2 = jnp.asarray(X, one), jnp.asarray(X, other)
    k = nb.kernel(deep(Relu(), 2.0, np.float64(1.5), np.float32(0.1)), x1, x2)
    assert k.nngp.dtype == k.ntk.dtype == np.promote_types(one, other)


@pytest.mark.slow
def test_without_float64_everything_is_float32():
    """As users have it who never touch JAX's configuration, and with every warning an error."""
    code = """
import jax, numpy as np, ntkbook as nb
from ntkbook import Dense, Relu, Repeat, Tanh, Conv, GlobalAvgPool, serial
x = np.random.default_rng(0).normal(size=(4, 3))
net = serial(Dense(8, 1.5, 0.1), Repeat(serial(Relu(), Dense(8)), 3.0), Tanh(), Dense(1))
k = nb.kernel(net, x)
assert k.ntk.dtype == "float32" and np.isfinite(k.ntk).all()
_, params = net.init(jax.random.key(0), x.shape)
assert net.apply(params, x).dtype == "float32"
images = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
assert nb.ntk(serial(Conv(8, (3, 3)), Relu(), GlobalAvgPool(), Dense(1)), images).dtype == "float32"
assert not jax.config.jax_enable_x64
print("fine")
"""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "fine", ran.stderr


@pytest.mark.slow
def test_importing_does_not_touch_the_precision():
    code = "import jax; before = jax.config.jax_enable_x64; import ntkbook; assert jax.config.jax_enable_x64 == before"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_equal_fields_do_not_make_equal_structures():
    """JAX takes tree structures as keys of compiled programs."""
    assert jax.tree.structure(Relu()) != jax.tree.structure(Erf())
    assert jax.tree.structure(serial(Dense(8), Relu())) != jax.tree.structure(serial(Dense(8), Erf()))
    assert jax.tree.structure(deep(Relu(), 1.0)) == jax.tree.structure(deep(Relu(), 7.0, 2.0, 1.0))
    assert hash(jax.tree.structure(deep(Relu(), 1.0))) == hash(jax.tree.structure(deep(Relu(), 7.0)))
    net = deep(LeakyRelu(0.3), 3.0)
    assert jax.tree.map(lambda leaf: leaf, net) == net
