"""The evidence: against scipy's multivariate normal density, finite differences, and hyperparameters that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ntkbook as nb
from ntkbook.dynamics.evidence import fit, log_marginal_likelihood

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 2))


def network(W_std=1.3, b_std=0.4, slope=0.2):
    return nb.serial(nb.Dense(1, W_std, b_std), nb.LeakyRelu(slope), nb.Dense(1, W_std, b_std))


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_evidence_is_the_density_of_a_multivariate_normal(get):
    k = np.asarray(getattr(nb.kernel(network(), jnp.asarray(X)), get)) + 0.3 * np.eye(8)
    density = scipy.stats.multivariate_normal(np.zeros(8), k)
    expected = density.logpdf(Y[:, 0]) + density.logpdf(Y[:, 1])
    np.testing.assert_allclose(log_marginal_likelihood(network(), X, Y, noise=0.3, get=get), expected, rtol=1e-12)
    one = log_marginal_likelihood(network(), X, Y[:, 0], noise=0.3, get=get)
    np.testing.assert_allclose(one, density.logpdf(Y[:, 0]), rtol=1e-12)


def test_gradients_in_every_leaf_are_finite_differences():
    """Also with two equal inputs, where the derivative of the plain arc cosine is NaN."""
    x = jnp.asarray(np.concatenate([X, X[:1]]))
    y = jnp.asarray(np.concatenate([Y, Y[:1]]))
    evidence = jax.jit(lambda net, noise: log_marginal_likelihood(net, x, y, noise=noise))
    net_slope, noise_slope = jax.grad(evidence, argnums=(0, 1))(network(), 0.3)
    forward = jax.jacfwd(evidence)(network(), 0.3)
    leaves, tree = jax.tree.flatten(network())
    for i, slope in enumerate(jax.tree.leaves(net_slope)):
        moved = [jax.tree.unflatten(tree, [l + s * 1e-5 * (i == j) for j, l in enumerate(leaves)]) for s in (1, -1)]
        finite = (evidence(moved[0], 0.3) - evidence(moved[1], 0.3)) / 2e-5
        np.testing.assert_allclose(slope, finite, rtol=1e-6)
        np.testing.assert_allclose(jax.tree.leaves(forward)[i], slope, rtol=1e-9)
    np.testing.assert_allclose(
        noise_slope, (evidence(network(), 0.30001) - evidence(network(), 0.29999)) / 2e-5, rtol=1e-6
    )


def test_forward_mode_through_a_traced_depth():
    net = nb.serial(nb.Dense(1, 1.3), nb.Repeat(nb.serial(nb.Relu(), nb.Dense(1, 1.2, 0.1)), 3))

    @jax.jit
    def f(W_std):
        layers = jax.tree.map(lambda leaf: W_std if leaf == 1.3 else leaf, net)
        return log_marginal_likelihood(layers, X, Y, noise=0.1)

    np.testing.assert_allclose(jax.jacfwd(f)(1.3), (f(1.30001) - f(1.29999)) / 2e-5, rtol=1e-6)


@pytest.fixture(scope="module")
def drawn():
    """Functions drawn from a known network's process: the best hyperparameters are near those."""
    x = RNG.normal(size=(40, 4))
    k = np.asarray(nb.nngp(nb.serial(nb.Dense(1, 1.8, 0.5), nb.Erf(), nb.Dense(1, 1.8, 0.5)), jnp.asarray(x)))
    return x, RNG.multivariate_normal(np.zeros(40), k + 0.05 * np.eye(40), size=8, method="cholesky").T


@pytest.mark.slow
def test_fit_finds_a_maximum(drawn):
    x, y = drawn
    start = nb.serial(nb.Dense(1, 1.0, 0.3), nb.Erf(), nb.Dense(1, 1.0, 0.3))
    found = fit(start, x, y, noise=0.5, steps=60)
    assert found.evidence[0] == pytest.approx(float(log_marginal_likelihood(start, x, y, noise=0.5)))
    best = float(log_marginal_likelihood(found.net, x, y, noise=found.noise))
    assert best == pytest.approx(found.evidence.max()) and best > found.evidence[0] + 10
    truth = nb.serial(nb.Dense(1, 1.8, 0.5), nb.Erf(), nb.Dense(1, 1.8, 0.5))
    assert best > log_marginal_likelihood(truth, x, y, noise=0.05)
    assert 0.01 < found.noise < 0.1
    assert all((values >= 0).all() for values in found.path.values())
    leaves, tree = jax.tree.flatten(found.net)
    for i in range(len(leaves)):  # every way off the maximum is down
        for sign in (1, -1):
            moved = jax.tree.unflatten(tree, [l + 0.05 * sign * (i == j) for j, l in enumerate(leaves)])
            assert log_marginal_likelihood(moved, x, y, noise=found.noise) < best
    assert all(len(values) == len(found.evidence) for values in found.path.values())


@pytest.mark.slow
def test_fit_by_optax_with_progress_and_a_picture(drawn, capsys):
    import optax
    from matplotlib.figure import Figure

    from ntkbook.figures import draw_fit

    x, y = drawn
    net = nb.serial(
        nb.Dense(1, 1.0, 0.3), nb.Erf(), nb.Repeat(nb.serial(nb.Dense(1, 1.0, 0.3), nb.Erf()), 2), nb.Dense(1)
    )
    found = fit(net, x[:12], y[:12], noise=0.5, steps=15, optimizer=optax.adam(0.05), progress=True)
    assert found.evidence[-1] > found.evidence[0] and len(found.evidence) == 16
    assert "evidence" in capsys.readouterr().err
    assert "times" not in "".join(found.path) and "[" not in repr(found.noise)
    left, right = Figure().subplots(1, 2)
    draw_fit(left, right, found)
    assert left.get_xlabel() == "step" and len(right.lines) == len(found.path)


@pytest.mark.slow
def test_fit_leaves_alone_what_is_not_to_be_tuned(drawn):
    """A LayerNorm's epsilon, moved freely, goes below zero and makes the evidence NaN; a depth is whole."""
    x, y = drawn
    net = nb.serial(nb.Dense(1, 1.2, 0.3), nb.LayerNorm(), nb.Relu(), nb.Dense(1))
    found = fit(net, x[:10], y[:10], steps=8)
    assert found.path and not [name for name in found.path if "eps" in name]
    assert found.evidence[-1] > found.evidence[0] and np.isfinite(found.evidence).all()


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: log_marginal_likelihood(network(), X, Y[:3], noise=0.1), "8 examples"),
        (lambda: log_marginal_likelihood(network(), X, Y, noise=-0.1), "noise"),
        (lambda: log_marginal_likelihood(network(), X, Y, noise=0.1, get="both"), "get"),
        (lambda: log_marginal_likelihood(network(), np.ones((8, 3)), Y, noise=0.0), "positive definite"),
        (lambda: fit(network(), X, Y, noise=0.0), "positive noise"),
        (lambda: fit(network(), X, Y, noise=np.ones(8)), "one number as noise"),
        (lambda: log_marginal_likelihood(network(), X, Y, noise=np.ones(3)), "one number as noise"),
        (lambda: fit(network(), X, Y, steps=0), "steps"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
