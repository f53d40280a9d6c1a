"""Chapter 06: the panel's networks against the library's, its laws against `ensemble`, its mission."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import ntkbook as nb
from ntkbook.data import digits
from ntkbook.exercises import chapter_06
from ntkbook.panel.picture import Picture
from ntkbook.panels import PANELS
from ntkbook.panels import ensembles as chapter


@pytest.fixture(scope="module")
def panel():
    return PANELS["two_ensembles"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    return panel.data()


def library_network(i, width):
    """The i-th network of the panel, cut to `width` units and rebuilt from the library's layers, in float64."""
    rng = np.random.default_rng(6)
    widest = chapter.WIDTHS[-1]
    for _ in range(i + 1):
        W_in, W, w = (
            rng.standard_normal(shape, dtype=np.float32).astype(float)
            for shape in ((64, widest), (widest, widest), (widest,))
        )
    zero = np.zeros  # biases, which do nothing: b_std is 0
    params = (
        (W_in[:, :width], zero(width)),
        (),
        (W[:width, :width], zero(width)),
        (),
        (w[:width, None], zero(1)),
    )
    first, second, last = (nb.Dense(n, chapter.W_STD) for n in (width, width, 1))
    return nb.serial(first, nb.Erf(), second, nb.Erf(), last), jax.tree.map(jnp.asarray, params)


@functools.cache
def slope_at_64():
    net, _ = library_network(1, 64)
    return jax.jit(jax.grad(lambda params, x, y: jnp.mean((net.apply(params, x)[:, 0] - y) ** 2) / 2))


def trained_by_the_library(params, x, y, steps):
    """The parameters of a network of width 64 after so many steps on these pictures."""
    for _ in range(steps):
        params = jax.tree.map(lambda p, g: p - chapter.LR * g, params, slope_at_64()(params, x, y))
    return params


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_curves_are_those_of_the_librarys_networks_in_training(panel):
    width, steps = 64, 10
    net, params = library_network(1, width)
    x, y, line = (jnp.asarray(a) for a in chapter.pictures())
    times = [int(step) for step in chapter.STEPS if step <= steps]
    params = trained_by_the_library(params, x, y, times[-1])
    data = at(panel, width=width, t=chapter.LR * times[-1], network=2)
    assert np.allclose(data["one_all"], net.apply(params, line)[:, 0], atol=1e-4)
    assert np.allclose(data["networks_all"][1], data["one_all"])


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_two_pictures_can_be_dragged(panel):
    """What is a formula follows at once; the networks on the left come at rest, trained on what is there then."""
    steps = int(chapter.STEPS[6])
    moved = {"a_one": -0.5, "y_one": 1.6, "a_zero": 1.4, "y_zero": -0.4, "t": chapter.LR * steps}
    moved |= {"width": 64, "network": 2}
    sketch, told = panel.spec.computed({**panel.spec.defaults, **moved}, is_draft=True)
    assert sketch["networks_all"].shape == (0, len(chapter.MIX)) and "when you let go" in told
    Picture(panel.spec, sketch, density=1.0, is_draft=True).rgba()  # it may be the first picture of all

    x, y, line = (np.array(part) for part in chapter.pictures())
    i, j = np.flatnonzero(y > 0)[0], np.flatnonzero(y < 0)[0]
    x[i], x[j] = 1.5 * x[i] - 0.5 * x[j], -0.4 * x[i] + 1.4 * x[j]
    y[i], y[j] = 1.6, -0.4
    net, params = library_network(1, 64)
    both = nb.kernel(chapter.network(), jnp.asarray(np.concatenate([x, line])))
    f = np.asarray(net.apply(params, jnp.asarray(np.concatenate([x, line]))))[:, 0]
    for way, k in (("all", np.asarray(both.ntk)), ("last_layer", np.asarray(both.nngp))):
        A = k[16:, :16] @ np.linalg.solve(k[:16, :16], np.eye(16) - expm(-moved["t"] * k[:16, :16] / 16))
        assert np.allclose(sketch[f"mean_{way}"], A @ y, atol=1e-8)
        assert np.allclose(sketch[f"own_{way}"], f[16:] + A @ (y - f[:16]), atol=1e-4)

    data = at(panel, **moved)
    assert all(np.array_equal(data[name], sketch[name]) for name in ("mean_all", "sd_last_layer", "one_last_layer"))
    trained = trained_by_the_library(params, jnp.asarray(x), jnp.asarray(y), steps)
    assert np.allclose(data["one_all"], net.apply(trained, jnp.asarray(line))[:, 0], atol=1e-4)
    h = (
        chapter.W_STD
        / 8
        * np.asarray(nb.serial(*net.layers[:-1]).apply(params[:-1], jnp.asarray(np.concatenate([x, line]))))
    )
    own = h @ h[:16].T
    learnt = expm(-moved["t"] * own[:16] / 16) - np.eye(16)
    expected = f[16:] + own[16:] @ np.linalg.solve(own[:16], learnt @ (f[:16] - y))
    assert np.allclose(data["one_last_layer"], expected, atol=1e-3)
    assert len(panel.spec.computed(panel.state(), is_draft=True)[0]["networks_all"]) == chapter.NETWORKS
    assert "stars at (-0.50, 1.60) and (1.40, -0.40)" in panel.reading
    panel.reset()


@pytest.mark.slow
def test_the_last_layer_follows_its_own_kernel(panel):
    """Random features: gradient flow of a model that is linear in its last layer, from its own start."""
    net, params = library_network(0, 64)
    x, y, line = (jnp.asarray(a) for a in chapter.pictures())
    hidden = nb.serial(*net.layers[:-1])
    h, h_line = (hidden.apply(params[:-1], points) for points in (x, line))
    scale = chapter.W_STD / 8
    start, start_line = (net.apply(params, points)[:, 0] for points in (x, line))
    flow = nb.gradient_flow(scale**2 * h @ h.T, y, reduction="mean")
    t = chapter.TIMES[10]
    expected = flow.test(t, scale**2 * h_line @ h.T, start, start_line)
    assert np.allclose(at(panel, width=64, t=t, network=1)["one_last_layer"], expected, atol=1e-4)


@pytest.mark.slow
def test_the_line_runs_from_a_one_to_a_zero_as_its_axis_says(panel):
    _, _, line = chapter.pictures()
    _, wanted, _, _ = (np.asarray(part) for part in digits(16, 10, classes=(0, 1), targets="one_hot"))
    x = chapter.pictures()[0]
    ends = [int(np.argmin(abs(chapter.MIX - a))) for a in (0, 1)]
    shown = [int(wanted[np.argmin(((x - line[end]) ** 2).sum(1))].argmax()) for end in ends]
    assert shown == [1, 0]
    axis = [ax.get_xlabel() for ax in panel.figure().axes if ax.get_xlabel()][0]
    assert "a · zero + (1 − a) · one" in axis


@pytest.mark.slow
@pytest.mark.parametrize("way", ["all", "last_layer"])
def test_the_laws_are_the_formulas(panel, way):
    x, y, line = (jnp.asarray(a) for a in chapter.pictures())
    both = nb.kernel(chapter.network(), jnp.concatenate([x, line]))
    prior = np.asarray(both.nngp)
    k = prior if way == "last_layer" else np.asarray(both.ntk)
    law = lambda A: (
        A @ np.asarray(y),
        covariance_by_hand(A[::8], prior[:16, :16], *blocks(prior)).diagonal().clip(0) ** 0.5,
    )
    blocks = lambda p: (p[16::8, :16], p[16::8, 16::8])
    for t in chapter.TIMES[[1, 12, -1]]:
        A = k[16:, :16] @ np.linalg.solve(k[:16, :16], np.eye(16) - expm(-t * k[:16, :16] / 16))
        data, (mean, sd) = at(panel, t=float(t)), law(A)
        assert np.allclose(data[f"mean_{way}"], mean, atol=1e-8)
        assert np.allclose(data[f"sd_{way}"][::8], sd, atol=1e-6)
    mean, sd = law(k[16:, :16] @ np.linalg.inv(k[:16, :16]))
    assert np.allclose(data[f"end_{way}"], mean, atol=1e-7)
    assert np.allclose(data[f"edges_{way}"][:, ::8], [mean[::8] - 2 * sd, mean[::8] + 2 * sd], atol=1e-5)


@pytest.mark.slow
def test_the_dotted_curve_is_one_start_pulled_to_the_targets(panel):
    x, y, line = (jnp.asarray(a) for a in chapter.pictures())
    k = np.asarray(nb.ntk(chapter.network(), jnp.concatenate([x, line]))) / len(x)
    net, params = library_network(4, 256)
    start, start_line = (np.asarray(net.apply(params, jnp.asarray(points)))[:, 0] for points in (x, line))
    t = chapter.TIMES[8]
    A = k[16:, :16] @ np.linalg.solve(k[:16, :16], np.eye(16) - expm(-t * k[:16, :16]))
    data = at(panel, t=t, network=5)
    assert np.allclose(data["own_all"], start_line + A @ (y - start), atol=1e-4)
    assert float(data["off_all"]) == pytest.approx(np.sqrt(np.mean((data["one_all"] - data["own_all"]) ** 2)))


@pytest.mark.slow
def test_at_the_start_nothing_is_learnt_and_at_the_end_both_pictures_are(panel):
    start = at(panel, t=0.0)
    assert np.allclose(start["mean_all"], 0) and np.allclose(
        start["networks_all"], start["networks_last_layer"], atol=1e-5
    )
    end = at(panel, t=float(chapter.TIMES[-1]))
    zero_and_one = [int(np.argmin(abs(chapter.MIX - a))) for a in (0, 1)]
    assert np.allclose(end["mean_all"][zero_and_one], [1, -1], atol=0.02)
    assert np.allclose(end["networks_all"][:, zero_and_one], [1, -1], atol=0.05)
    assert end["sd_all"][zero_and_one].max() < 0.01 < end["sd_all"].max()


@pytest.mark.slow
def test_the_panel_is_finite_everywhere(panel):
    for width in chapter.WIDTHS:
        for t in chapter.TIMES[[0, 1, -1]]:
            for network in (1, 8):
                assert all(np.isfinite(array).all() for array in at(panel, width=width, t=t, network=network).values())
                assert not panel.failed


@pytest.mark.slow
def test_the_mission_is_met_at_one_stop(panel):
    panel.reset()
    mission = chapter_06.mission(panel)
    met = []
    for t in chapter.TIMES:
        fresh = chapter_06._is_earliest(at(panel, t=t), panel.state())
        met += [t] if fresh else []
    assert met == [6.5]
    assert mission.done


def covariance_by_hand(A, K_train, K_test_train, K_test):
    """A loop over pairs, as a reader would write it: Cov(f(x) - sum_i A_xi f(x_i), f(x') - ...)."""
    m, n = A.shape
    total = np.array(K_test)
    for a in range(m):
        for b in range(m):
            for i in range(n):
                total[a, b] -= A[a, i] * K_test_train[b, i] + A[b, i] * K_test_train[a, i]
                total[a, b] += sum(A[a, i] * K_train[i, j] * A[b, j] for j in range(n))
    return total


def mean_by_hand(t, k, k_test_train, y, lr):
    return k_test_train @ np.linalg.inv(k) @ (np.eye(len(y)) - expm(-lr * t * k)) @ y


def variance_by_hand(t, K, K_x, K_xx):
    E = expm(-t * K)
    A = K_x @ np.linalg.inv(K) @ (np.eye(len(K)) - E)
    return covariance_by_hand(A, K, K_x, K_xx).diagonal()


@pytest.mark.parametrize(
    "check, right, wrong, word",
    [
        (
            "check_mean_at",
            mean_by_hand,
            lambda t, k, k_x, y, lr: k_x @ (np.eye(len(y)) - expm(-lr * t * k)) @ y,
            "inverse kernel is missing",
        ),
        (
            "check_covariance",
            covariance_by_hand,
            lambda A, K, K_x, K_xx: K_xx + A @ K @ A.T - A @ K_x.T,
            "transpose",
        ),
        (
            "check_last_layer_variance",
            variance_by_hand,
            lambda t, K, K_x, K_xx: (
                K_xx - K_x @ np.linalg.inv(K) @ (np.eye(len(K)) - expm(-t * K)) @ K_x.T
            ).diagonal(),
            "The 2 in the exponent",
        ),
    ],
)
def test_answers_written_by_hand(check, right, wrong, word):
    judge = getattr(chapter_06, check)
    assert judge(right), repr(judge(right))
    assert not judge(wrong)
    assert word.lower() in repr(judge(wrong)).lower()


@pytest.mark.parametrize(
    "check, wrong, word",
    [
        ("check_mean_at", lambda s, k, k_x, y, lr: mean_by_hand(s / lr, k, k_x, y, 1.0), "wrong side"),
        ("check_covariance", lambda A, K, K_x, K_xx: K_xx - 2 * A @ K_x.T + A @ K @ A.T, "its transpose"),
        ("check_covariance", lambda A, K, K_x, K_xx: A @ K @ A.T, "last term alone"),
        ("check_covariance", lambda A, K, K_x, K_xx: K_xx + A @ K @ A.T, "not independent"),
        (
            "check_last_layer_variance",
            lambda t, K, K_x, K_xx: (
                K_xx - K_x @ np.linalg.inv(K) @ np.linalg.matrix_power(np.eye(len(K)) - expm(-t * K), 2) @ K_x.T
            ).diagonal(),
            "only the square",
        ),
        (
            "check_last_layer_variance",
            lambda t, K, K_x, K_xx: (
                K_xx - K_x @ np.linalg.inv(K) @ (np.eye(len(K)) - np.exp(-2 * t * K)) @ K_x.T
            ).diagonal(),
            "exponential of each entry",
        ),
    ],
)
def test_more_wrong_answers_are_named(check, wrong, word):
    result = getattr(chapter_06, check)(wrong)
    assert not result and word in result.feedback
