"""For users who ask JAX to be strict, no public call promotes ranks or makes a NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, LayerNorm, Relu, Repeat, Residual, SelfAttention, Sum


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.debug_nans(True):
        yield


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


X = draw(5, 3).at[4].set(0.0)  # with a zero input, and a copy
X = X.at[3].set(X[0])
NET = nb.serial(Dense(4), Relu(), Dense(1))
NETWORKS = {
    "flat": (nb.serial(Dense(3), Residual(Relu(), Dense(3)), LayerNorm(), Repeat(nb.serial(Relu(), Dense(3)), 2)), X),
    "sum": (nb.serial(Sum(Dense(2), nb.serial(Dense(3, b_std=0.1), nb.Erf(), Dense(2)))), X),
    "convolution": (
        nb.serial(Conv(4, (3, 3), b_std=0.1), Relu(), AvgPool((2, 2)), Flatten(), Dense(1)),
        draw(2, 4, 4, 2),
    ),
    "attention": (
        nb.serial(
            Dense(4),
            SelfAttention(4, scaling="sqrt", zeta="relu", position_std=0.4, position_decay=1.0),
            GlobalAvgPool(),
            Dense(1),
        ),
        draw(2, 4, 2),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    net, x = NETWORKS[name]
    within, across = nb.kernel(net, x), nb.ntk(net, x, x[:1])
    np.testing.assert_allclose(across[:, 0], within.ntk[:, 0], rtol=1e-9, atol=1e-12)
    _, params = net.init(jax.random.key(0), x.shape)
    out, slopes = jax.value_and_grad(lambda params: net.apply(params, x).sum())(params)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((out, slopes)))


@pytest.mark.slow
def test_activations():
    for act in (
        nb.Gelu(),
        nb.Sign(),
        nb.Rbf(1.0),
        nb.Polynomial((0.0, 1.0, 0.5)),
        nb.Hermite(2),
        nb.Elementwise(jnp.tanh),
    ):
        assert np.isfinite(nb.ntk(nb.serial(Dense(1), act, Dense(1)), X)).all()
    assert float(nb.phase(nb.Relu(), jnp.array([1.0, 1.5]), jnp.array([0.1, 0.2])).chi_1[0]) == pytest.approx(0.5)


@pytest.mark.slow
def test_second_derivatives_of_a_quadrature():
    net = nb.serial(Dense(1), nb.Tanh(), Dense(1))
    at = lambda x, y: nb.ntk(net, x[None], y[None])[0, 0]
    hessian = jax.vmap(jax.jacfwd(jax.grad(at), 1))(X, X[jnp.array([0, 2, 1, 0, 4])])
    assert np.isfinite(hessian).all() and np.isfinite(jax.grad(lambda x: nb.ntk(net, x).sum())(X)).all()


def test_finite_width():
    _, params = NET.init(jax.random.key(0), X.shape)
    expected = nb.empirical_ntk(NET.apply, params, X, method="jacobian")
    for method in ("auto", "vector_product", "layerwise"):
        np.testing.assert_allclose(
            nb.empirical_ntk(NET.apply, params, X, method=method), expected, rtol=1e-9, atol=1e-12
        )
    assert nb.empirical_nngp(NET.apply, params, X).shape == (5, 5)
    np.testing.assert_allclose(nb.linearize(NET.apply, params)(params, X), NET.apply(params, X), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*rank.*:UserWarning")
def test_dynamics():
    k, y = nb.ntk(NET, X), draw(5)
    flow = nb.gradient_flow(k, y)
    for t in (0.0, 1.0, jnp.inf, jnp.array([0.0, 1.0, jnp.inf])):
        assert np.isfinite(flow.train(t)).all() and np.isfinite(flow.test(t, k[:2])).all()
    descent = nb.gradient_descent(k, y, lr=0.1, momentum=0.5)
    assert np.isfinite(descent.test(3.0, k[:2])).all()
    assert np.isfinite(nb.log_marginal_likelihood(NET, X, y, noise=0.1))
    assert nb.spectrum(k, y) is not None and 0 < float(nb.effective_rank(k)) <= 5
    curve = nb.learning_curve(jnp.array([1.0, 0.5]), jnp.array([1.0, 0.5]), jnp.array([1.0, 4.0]), ridge=0.1, noise=0.1)
    assert np.isfinite(jax.tree.leaves(curve)[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["all", "last_layer"])
def test_ensembles(way):
    """The kernel of X, which holds a copy, is singular: its Cholesky factor is NaN inside."""
    law = nb.ensemble(NET, X, draw(5, 1), train=way, noise=0.1).predict(jnp.array([0.0, 1.0, jnp.inf]), draw(2, 3))
    assert np.isfinite(law.mean).all() and np.isfinite(law.covariance).all()
    singular = nb.ensemble(NET, X, jnp.zeros((5, 1)), train=way).predict(1.0, draw(2, 3))
    assert np.isfinite(singular.mean).all() and np.isfinite(singular.covariance).all()
    assert np.isfinite(nb.posterior(NET, X, draw(5, 1), noise=0.1).predict(draw(2, 3)).covariance).all()
