"""Modes and similarities: oracles are scikit-learn, slow loops over pairs, and kernels whose spectrum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import KernelPCA

from ntkbook.dynamics.gradient import gradient_flow
from ntkbook.dynamics.spectrum import (
    alignment,
    condition_number,
    effective_rank,
    kernel_distance,
    kernel_pca,
    label_alignment,
    spectrum,
)

PHI = np.random.default_rng(0).normal(size=(7, 12)) * np.linspace(1, 3, 12)
K = PHI @ PHI.T
Y = np.random.default_rng(1).normal(size=(7, 2))


def test_modes_rebuild_kernel_and_target():
    s = spectrum(K, Y)
    np.testing.assert_allclose(s.modes * s.eigenvalues @ s.modes.T, K, atol=1e-12)
    np.testing.assert_allclose(s.modes @ s.coefficients, Y, atol=1e-13)
    assert (np.diff(s.eigenvalues) < 0).all() and s.rank == 7
    np.testing.assert_allclose(s.power, [sum((m @ Y[:, o]) ** 2 for o in (0, 1)) / (Y**2).sum() for m in s.modes.T])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_time_constants_are_the_times_to_fall_by_e(reduction):
    s = spectrum(K)
    y = np.asarray(s.modes[:, 3])  # one mode alone
    tau = s.time_constants(0.3, reduction=reduction)[3]
    left = gradient_flow(K, y, lr=0.3, reduction=reduction).residual(tau) @ -y
    np.testing.assert_allclose(left, np.exp(-1), rtol=1e-10)


def test_a_circulant_kernel_has_its_fourier_coefficients():
    row = np.exp(np.cos(2 * np.pi * np.arange(12) / 12))
    circulant = np.array([np.roll(row, i) for i in range(12)])
    np.testing.assert_allclose(spectrum(circulant).eigenvalues, np.sort(np.fft.fft(row).real)[::-1], atol=1e-12)


def test_rank_counts_what_is_not_rounding():
    for rank in (1, 3, 6):
        low = PHI[:, :rank] @ PHI[:, :rank].T
        s = spectrum(low)
        assert s.rank == rank
        assert (s.eigenvalues[rank:] == 0).all() and np.isinf(s.time_constants()[rank:]).all()
        assert spectrum(low.astype(np.float32)).rank == rank
        assert np.isinf(condition_number(low))
    assert np.linalg.eigvalsh(low)[0] != 0  # and rounding there is


def test_effective_rank_and_condition_of_known_spectra():
    assert effective_rank(np.eye(5)) == pytest.approx(5) == effective_rank(3 * np.eye(5), kind="participation")
    assert effective_rank(np.ones((5, 5))) == pytest.approx(1)
    p = np.array([0.5, 0.25, 0.25])
    Q = np.linalg.qr(PHI[:3, :3])[0]
    k = Q * p @ Q.T
    assert effective_rank(k) == pytest.approx(2**1.5)
    assert effective_rank(k, kind="participation") == pytest.approx(1 / 0.375)
    assert condition_number(k) == pytest.approx(2.0)


def test_centred_components_are_those_of_scikit_learn():
    x, x_new = PHI, np.random.default_rng(5).normal(size=(4, 12))
    theirs = KernelPCA(3, kernel="precomputed").fit(x @ x.T)
    ours = kernel_pca(x @ x.T, 3)
    np.testing.assert_allclose(np.abs(ours.scores), np.abs(theirs.transform(x @ x.T)), atol=1e-10)
    projected = ours.project(x_new @ x.T) * jnp.sqrt(ours.eigenvalues)
    np.testing.assert_allclose(np.abs(projected), np.abs(theirs.transform(x_new @ x.T)), atol=1e-10)
    np.testing.assert_allclose(ours.eigenvalues * 7, theirs.eigenvalues_, rtol=1e-10)


@pytest.mark.parametrize("centered", [True, False])
def test_components_are_eigenfunctions_with_mean_square_one(centered):
    pca = kernel_pca(K, 3, centered=centered)
    k = K - K.mean(0) - K.mean(1)[:, None] + K.mean() if centered else K
    for i in range(3):
        f = np.asarray(pca.functions[:, i])
        np.testing.assert_allclose(k @ f / 7, pca.eigenvalues[i] * f, atol=1e-10)
        assert np.mean(f**2) == pytest.approx(1) and f[np.abs(f).argmax()] > 0
    np.testing.assert_allclose(pca.project(K), pca.functions, atol=1e-10)  # a training point lands on itself


def test_alignment_is_the_loop_over_pairs():
    L = PHI[:, :4] @ PHI[:, :4].T
    H = np.eye(7) - 1 / 7
    for centered, a, b in ((True, H @ K @ H, H @ L @ H), (False, K, L)):
        dot = lambda p, q: sum(p[i, j] * q[i, j] for i in range(7) for j in range(7))
        expected = dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5
        np.testing.assert_allclose(alignment(K, L, centered=centered), expected, rtol=1e-12)
    np.testing.assert_allclose(alignment(K, 5 * K + 2, centered=True), 1, rtol=1e-12)
    y = Y[:, 0]
    np.testing.assert_allclose(label_alignment(K, y), y @ K @ y / (np.linalg.norm(K) * y @ y), rtol=1e-12)
    np.testing.assert_allclose(kernel_distance(K, L), 1 - alignment(K, L, centered=False), rtol=1e-12)


def test_small_turns_keep_their_digits():
    """1 - cos loses everything below 1e-16: a relative change of 1e-10 turns the kernel by 5e-21 at most."""
    change = np.diag([1.0, -1, 0, 0, 0, 0, 0]) * 1e-9 * np.linalg.norm(K)
    turn = kernel_distance(K, K + change)
    inside = (change * K).sum() / np.linalg.norm(K)
    np.testing.assert_allclose(turn, (np.linalg.norm(change) ** 2 - inside**2) / 2 / np.linalg.norm(K) ** 2, rtol=1e-4)
    naive = 1 - (K * (K + change)).sum() / (np.linalg.norm(K) * np.linalg.norm(K + change))
    assert abs(naive - turn) > 10 * turn


@pytest.mark.slow
def test_transformations_and_precision():
    np.testing.assert_allclose(jax.jit(effective_rank)(K), effective_rank(K), rtol=1e-12)
    kernels = jnp.stack([K, K @ K])
    np.testing.assert_allclose(jax.vmap(condition_number)(kernels)[1], condition_number(K @ K), rtol=1e-6)
    slope = jax.grad(lambda e: alignment(jnp.asarray(K) + e * jnp.eye(7), K))(0.1)
    finite = (alignment(K + 0.10001 * np.eye(7), K) - alignment(K + 0.09999 * np.eye(7), K)) / 2e-5
    np.testing.assert_allclose(slope, finite, rtol=1e-5)
    assert spectrum(K.astype(np.float32)).modes.dtype == jnp.float32
    jax.jit(lambda k: spectrum(k, Y).power)(K)


@pytest.mark.parametrize(
    "call",
    [
        lambda: spectrum(K[:, :3]),
        lambda: spectrum(K, Y[:5]),
        lambda: spectrum(K).power,
        lambda: spectrum(K).time_constants(reduction="total"),
        lambda: effective_rank(np.zeros((3, 3))),
        lambda: effective_rank(K, kind="trace"),
        lambda: kernel_pca(K, 8),
        lambda: kernel_pca(K, 2).project(K[:, :3]),
        lambda: alignment(K, K[:3, :3]),
        lambda: alignment(K, np.ones((7, 7))),
        lambda: kernel_distance(K, np.zeros((7, 7))),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="Expected"):
        call()
