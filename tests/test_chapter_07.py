"""Chapter 07: the networks of its panel against the library, wrong labels against a slow loop; its missions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import ntkbook as nb
from ntkbook.exercises import chapter_07
from ntkbook.panels import PANELS
from ntkbook.panels import kernel_principal_components as chapter
from ntkbook.panels.masked_network import kernel as kernel_of
from ntkbook.panels.masked_network import signals

OPTIMIZED = True


@pytest.fixture(scope="module")
def straight():
    return PANELS["straight_line"]()


@pytest.fixture(scope="module")
def noisy():
    return PANELS["noisy_labels"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


def network(i, width):
    """The i-th of the panel's networks, cut out and rebuilt from the library's layers: the oracle."""
    net = nb.serial(*[nb.Dense(width, 1.0, 0.1), nb.Relu()] * 3, nb.Dense(1, 1.0, 0.1))
    p = {name: jnp.asarray(np.asarray(array[i], float)) for name, array in chapter.networks().items()}
    inner = [(p["W"][l][:width, :width], p["b"][l][:width]) for l in range(2)]
    weights = [(p["W_in"][:, :width], p["b_in"][:width]), *inner, (p["W_out"][:width, None], p["b_out"][None])]
    return net, tuple(part for layer in weights for part in (layer, ()))[:-1]


@pytest.fixture(scope="module")
def kernels():
    """The kernel of the 100 pictures, and of the 240 new ones with them."""
    x, _, x_new, _ = chapter._pictures()
    both = jnp.concatenate([jnp.asarray(x), jnp.asarray(x_new)])
    k = np.asarray(nb.ntk(network(0, 32)[0], both))
    return k[:100, :100], k[100:, :100]


@pytest.mark.slow
def test_components_are_stretched_by_the_kernel(kernels):
    eigenvalues, functions, new = chapter.components()
    k, k_new = kernels
    assert (np.diff(eigenvalues) <= 0).all()
    assert np.allclose(functions.T @ functions / 100, np.eye(100), atol=1e-5)
    assert np.allclose(k @ functions / 100, functions * eigenvalues, atol=1e-6)
    assert np.allclose((k_new @ functions / 100 - new * eigenvalues)[:, :20], 0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("width, i", [(64, 1)])
def test_a_path_is_that_of_gradient_descent_in_small_steps(straight, width, i):
    data = at(straight, width=width, size=0.5, t=1.0)
    eigenvalues, functions, _ = chapter.components()
    net, params = network(i, width)
    x, second = jnp.asarray(chapter._pictures()[0]), jnp.asarray(functions[:, 1])
    start = net.apply(params, x)[:, 0]
    until = 1 / eigenvalues[1]  # t = 1 time constant
    history = nb.train(
        net.apply, params, x, start + 0.5 * second, lr=until / 50, steps=50, times=[50], reduction="mean"
    )
    error = np.asarray(history.outputs[-1] - start) - 0.5 * functions[:, 1]
    left = -error @ functions[:, 1] / 100
    off = np.sqrt(((error + left * functions[:, 1]) ** 2).mean())
    now = int(data["now"])
    assert data["left"][i, now] == pytest.approx(left / 0.5, abs=0.02)
    assert data["off"][i, now] == pytest.approx(off / 0.5, abs=0.02)

    kernel = nb.empirical_ntk(net.apply, params, x, method="jacobian")
    frozen = -expm(-until * np.asarray(kernel) / 100) @ functions[:, 1]
    left = -frozen @ functions[:, 1] / 100
    assert data["left_start"][i, now] == pytest.approx(left, abs=1e-3)
    assert data["off_start"][i, now] == pytest.approx(
        np.sqrt(((frozen + left * functions[:, 1]) ** 2).mean()), abs=1e-3
    )


@pytest.mark.slow
def test_the_rate_is_the_kernel_along_the_function():
    functions = chapter.components()[1].astype(np.float32)
    x = chapter._pictures()[0].astype(np.float32)
    params = jax.tree.map(lambda array: jnp.asarray(array[0]), chapter.networks())

    @jax.jit
    def both(params):
        sizes = chapter.sizes_of(jnp.float32(48))
        s = signals(params, x, sizes, nb.Relu().phi)
        return chapter.rate(params, x, s, functions[:, 1], sizes), kernel_of(x, s, x, s, sizes)

    rate, kernel = both(params)
    net, oracle = network(0, 48)
    theta = np.asarray(nb.empirical_ntk(net.apply, oracle, jnp.asarray(x, float)))
    assert np.allclose(kernel, theta, rtol=1e-3, atol=1e-5)
    assert rate == pytest.approx(functions[:, 1] @ theta @ functions[:, 1] / 100**2, rel=1e-3)


@pytest.mark.slow
def test_wide_networks_keep_to_the_line_and_near_targets_leave_the_kernel_alone(straight):
    worst = {width: float(at(straight, width=width)["worst"]) for width in (32, 256)}
    assert worst[256] < 0.6 * worst[32]
    growth = {size: float(at(straight, width=64, size=size, t=4)["growth"]) for size in (0.1, 1.0)}
    assert growth[0.1] < 1.3 < 2 < growth[1.0]


@pytest.mark.slow
def test_wrong_labels_are_those_of_a_slow_loop(noisy, kernels):
    data = at(noisy, t=100, share=0.3)
    _, y, _, y_new = chapter._pictures()
    k, k_new = kernels
    learnt = np.linalg.solve(k, np.eye(100) - expm(-noisy.state()["t"] * k / 100))
    wrong = []
    for draw in range(chapter.DRAWS):
        labels = np.where(chapter._chance()[:, draw : draw + 1] < 0.3, -y, y)
        wrong.append((np.sign(k_new @ learnt @ labels) != y_new).mean())
    assert data["here"] == pytest.approx(np.mean(wrong), abs=2e-3)
    assert data["squares"].sum() == pytest.approx(1.0)
    assert np.isclose(data["noise"], 4 * 0.3 * 0.7 / 100)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.45])
def test_the_ends_are_finite(noisy, share):
    for t in (1.0, 1e5):
        assert all(np.isfinite(array).all() for array in at(noisy, t=t, share=share).values())


@pytest.mark.slow
def test_missions_are_met_where_the_solutions_say(straight, noisy):
    straight.reset()
    noisy.reset()
    line, stop = chapter_07.mission_straight(straight), chapter_07.mission_stop(noisy)
    for width, size in ((32, 0.1), (64, 0.5), (128, 0.1)):
        straight.set(t=4, width=width, size=size)
        assert not line.done
    straight.set(width=64, size=0.1)
    assert line.done
    noisy.set(share=0.3)
    noisy.set(t=1e5)
    assert not stop.done
    noisy.set(t=10**2.3)
    assert stop.done


def plain_learnt(k_new_train, functions, eigenvalues, y, lr, steps):
    """By small steps of the flow, from the functions alone."""
    coefficients, goal = np.zeros(len(eigenvalues)), functions.T @ y / len(y)
    for _ in range(20_000):
        coefficients += lr * steps / 20_000 * eigenvalues * (goal - coefficients)
    return k_new_train @ functions @ (coefficients / eigenvalues) / len(y)


def test_a_handmade_answer_by_small_steps_is_right():
    assert chapter_07.check_learnt_at_new(plain_learnt)


def test_a_reader_who_divides_twice_by_n_is_told():
    twice = lambda k, f, lam: k @ f / (len(f) ** 2 * lam)
    assert not chapter_07.check_extend(twice)
    transposed = chapter_07.check_extend(lambda k, f, lam: (k @ f / (len(f) * lam)).T)
    assert "transposed" in transposed.feedback


def risk_by_hand(lam, c, share, n, t, *, to_truth=False):
    """The expected distance of a + b z from (1 - 2p) c, or from the true c: bias squared plus variance, in a loop."""
    total = 0.0
    for rate, coefficient in zip(lam, c):
        learnt = 1 - np.exp(-rate * t)
        goal = coefficient if to_truth else (1 - 2 * share) * coefficient
        total += (learnt * (1 - 2 * share) * coefficient - goal) ** 2 + learnt**2 * (1 - (1 - 2 * share) ** 2) / n
    return total


@pytest.mark.parametrize(
    "check, wrong, word",
    [
        ("check_extend", lambda k, f, lam: k @ f / (len(k) * lam), "number of new pictures"),
        ("check_extend", lambda k, f, lam: k @ f / (np.sqrt(len(f)) * lam), "root of N"),
        ("check_expected_risk", lambda *arguments: risk_by_hand(*arguments, to_truth=True), "from the true labels"),
        ("check_expected_risk", lambda lam, *rest: risk_by_hand(lam, *rest) / len(lam), "mean over the components"),
        (
            "check_expected_risk",
            lambda lam, c, p, n, t: (
                risk_by_hand(lam, c, p, n, t)
                + ((np.exp(-lam * t) - np.exp(-2 * lam * t)) * ((1 - 2 * p) * c) ** 2).sum()
            ),
            "squared too",
        ),
    ],
)
def test_more_wrong_answers_are_named(check, wrong, word):
    result = getattr(chapter_07, check)(wrong)
    assert not result and word in result.feedback
    assert chapter_07.check_expected_risk(risk_by_hand)
