"""Gradient descent against a Python loop, closed forms, and its own reports of divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkbook.finite.descent import advance
from ntkbook.finite.train import Diverged, train, train_ensemble


def net(params, x):
    W, b, v = params
    return jnp.tanh(x @ W + b) @ v


@pytest.fixture(scope="module")
def setting():
    keys = jax.random.split(jax.random.key(0), 6)
    params = tuple(jax.random.normal(k, s) / 2 for k, s in zip(keys, [(3, 6), (6,), (6, 2)]))
    x, x_test = jax.random.normal(keys[3], (8, 3)), jax.random.normal(keys[4], (5, 3))
    return params, x, jax.random.normal(keys[5], (8, 2)), x_test


def loop(params, x, y, lr, steps, momentum=0.0, loss=None, divide=1):
    """The same descent, one step at a time; yields the parameters of each step."""
    loss = loss or (lambda f, y: ((f - y) ** 2).sum() / 2)
    slope = jax.jit(jax.grad(lambda p: loss(net(p, x), y) / divide))
    velocity = jax.tree.map(jnp.zeros_like, params)
    for _ in range(steps + 1):
        yield params
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, slope(params))
        params = jax.tree.map(lambda p, v: p - lr * v, params, velocity)


@pytest.mark.slow_after_first
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_descent_is_the_loop(setting, momentum, reduction):
    params, x, y, x_test = setting
    lr, divide = (0.02, 1) if reduction == "sum" else (0.16, 8)
    run = train(net, params, x, y, lr=lr, momentum=momentum, steps=20, reduction=reduction, x_test=x_test)
    path = list(loop(params, x, y, lr, 20, momentum, divide=divide))
    assert run.times[0] == 0 and run.times[-1] == 20
    expected = np.stack([net(path[t], x) for t in run.times])
    np.testing.assert_allclose(run.outputs, expected, rtol=1e-10)
    np.testing.assert_allclose(run.outputs_test, np.stack([net(path[t], x_test) for t in run.times]), rtol=1e-10)
    np.testing.assert_allclose(run.loss, ((expected - y) ** 2).sum((1, 2)) / 2 / divide, rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), run.params, path[-1])


def softmax_loss(f, y):
    return -(y * (f - jax.scipy.special.logsumexp(f, axis=1, keepdims=True))).sum()


def test_cross_entropy_of_probabilities_and_of_classes(setting):
    params, x, _, _ = setting
    labels = jnp.array([0, 1, 1, 0, 1, 0, 0, 1])
    y = jnp.eye(2)[labels]
    *_, end = loop(params, x, y, 0.1, 15, loss=softmax_loss)
    for targets in (y, labels):
        run = train(net, params, x, targets, lr=0.1, steps=15, loss="cross_entropy", record=("outputs", "accuracy"))
        np.testing.assert_allclose(run.outputs[-1], net(end, x), rtol=1e-10)
        assert float(run.accuracy[-1]) == np.mean(np.asarray(net(end, x)).argmax(1) == np.asarray(labels))


def test_any_loss_per_entry_or_summed(setting):
    params, x, y, _ = setting
    quartic = lambda f, y: (f - y) ** 4
    *_, end = loop(params, x, y, 0.005, 10, loss=lambda f, y: quartic(f, y).sum())
    for loss in (quartic, lambda f, y: quartic(f, y).sum(1)):
        run = train(net, params, x, y, lr=0.005, steps=10, loss=loss)
        np.testing.assert_allclose(run.outputs[-1], net(end, x), rtol=1e-10)


@pytest.mark.slow
def test_any_optax_optimizer(setting):
    params, x, y, _ = setting
    optimizer = optax.adam(1e-2)
    slope = jax.grad(lambda p: ((net(p, x) - y) ** 2).sum() / 2)
    state, expected = optimizer.init(params), params
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(7):
            update, state = optimizer.update(slope(expected), state, expected)
            expected = optax.apply_updates(expected, update)
    run = train(net, params, x, y, optimizer=optimizer, steps=7)
    np.testing.assert_allclose(run.outputs[-1], net(expected, x), rtol=1e-9)


def test_one_rate_for_each_array(setting):
    params, x, y, _ = setting
    run = train(net, params, x, y, lr=(0.0, 0.0, 0.03), steps=5)
    np.testing.assert_array_equal(run.params[0], params[0])
    hidden = jnp.tanh(x @ params[0] + params[1])
    v = params[2]
    for _ in range(5):
        v = v - 0.03 * hidden.T @ (hidden @ v - y)
    np.testing.assert_allclose(run.params[2], v, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_batches_see_every_example_once_in_an_epoch(reduction):
    # With f = params[i] on example i, an example that is drawn moves its own parameter and no other.
    n, x = 6, jnp.eye(6)
    f = lambda params, x: (x @ params)[:, None]
    times = range(0, 13)
    options = dict(lr=0.1 if reduction == "sum" else 0.6, reduction=reduction)  # the slope is scaled by 6/2 or by 1/2
    run = train(f, jnp.zeros(n), x, jnp.ones(n), steps=12, batch_size=2, times=list(times), **options)
    drawn = np.diff(run.outputs, axis=0) > 0
    assert (drawn.sum(1) == 2).all()
    for epoch in drawn.reshape(4, 3, n):
        assert (epoch.sum(0) == 1).all()
    assert len({epoch.tobytes() for epoch in drawn.reshape(4, 3, n)}) > 1  # shuffled anew
    np.testing.assert_allclose(run.outputs[-1], 1 - 0.7**4, rtol=1e-12)
    again = train(f, jnp.zeros(n), x, jnp.ones(n), lr=0.1, steps=3, batch_size=2, key=jax.random.key(0))
    other = train(f, jnp.zeros(n), x, jnp.ones(n), lr=0.1, steps=1, batch_size=2, key=jax.random.key(7))
    assert (np.asarray(again.outputs[1]) != np.asarray(other.outputs[1])).any()


@pytest.mark.slow
def test_the_linear_model_follows_its_closed_form(setting):
    params, x, y, x_test = setting
    run = train(net, params, x, y, lr=0.01, steps=30, record=("linearized", "outputs"), x_test=x_test)
    jacobian = lambda x: np.concatenate(
        [np.asarray(j).reshape(2 * len(x), -1) for j in jax.tree.leaves(jax.jacrev(net)(params, x))], axis=1
    )
    kernel = jacobian(x) @ jacobian(x).T
    f0, target = np.asarray(net(params, x)).ravel(), np.asarray(y).ravel()
    for t, linear, test in zip(run.times, run.linearized_outputs, run.linearized_outputs_test):
        residual = np.linalg.matrix_power(np.eye(16) - 0.01 * kernel, int(t)) @ (f0 - target)
        np.testing.assert_allclose(np.ravel(linear), target + residual, rtol=1e-8, atol=1e-10)
        change = jacobian(x_test) @ jacobian(x).T @ np.linalg.solve(kernel, target + residual - f0)
        np.testing.assert_allclose(np.ravel(test), np.ravel(net(params, x_test)) + change, rtol=1e-6, atol=1e-8)
    expected = np.sqrt(((run.outputs_test - run.linearized_outputs_test) ** 2).mean((1, 2)))
    np.testing.assert_allclose(run.linearized_distance, expected, rtol=1e-10)


def test_distances_of_each_weight(setting):
    params, x, y, _ = setting
    run = train(net, params, x, y, lr=0.02, steps=9, record="distances", times=[0, 9])
    *_, end = loop(params, x, y, 0.02, 9)
    expected = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(end, params) if a.ndim == 2]
    np.testing.assert_allclose(run.distances, [[0, 0], expected], rtol=1e-10)
    assert run.layers == ("[0]", "[2]") and run.loss is None and run.outputs is None


def test_changes_of_both_kernels(setting):
    params, x, y, _ = setting
    run = train(net, params, x, y, lr=0.02, steps=9, record="kernels", times=[0, 9])
    *_, end = loop(params, x, y, 0.02, 9)

    def kernels(params):
        flat = [np.asarray(j).reshape(16, -1) for j in jax.tree.leaves(jax.jacrev(net)(params, x))]
        mean = lambda full: np.trace(full.reshape(8, 2, 8, 2), axis1=1, axis2=3) / 2
        hidden = np.tanh(x @ params[0] + params[1])
        return mean(sum(j @ j.T for j in flat)), hidden @ hidden.T  # the last layer is W times the hidden signals

    for change, now, start in zip((run.ntk_change, run.nngp_change), kernels(end), kernels(params)):
        np.testing.assert_allclose(change, [0, np.linalg.norm(now - start) / np.linalg.norm(start)], rtol=1e-9)


@pytest.mark.slow
def test_ensemble_is_its_members(setting):
    _, x, y, x_test = setting
    init = lambda key, shape: (None, tuple(jax.random.normal(key, s) for s in [(3, 6), (6,), (6, 2)]))
    key = jax.random.key(3)
    options = dict(lr=0.02, steps=12, x_test=x_test, record=("outputs", "loss", "distances"))
    many = train_ensemble((init, net), key, 5, x, y, **options)
    assert many.outputs.shape == (5, len(many.times), 8, 2)
    few = train_ensemble((init, net), key, 5, x, y, memory=1, progress=True, **options)
    for i, seed in enumerate(jax.random.split(key, 5)):
        single = train(net, init(seed, x.shape)[1], x, y, **options)
        for name in ("outputs", "outputs_test", "loss", "distances"):
            np.testing.assert_allclose(getattr(many, name)[i], getattr(single, name), rtol=1e-9)
            np.testing.assert_allclose(getattr(few, name)[i], getattr(single, name), rtol=1e-9)


def test_divergence_is_reported_and_the_curves_end_before(setting):
    params, x, y, _ = setting
    f = lambda params, x: x @ params
    start = jnp.zeros((3, 2))
    top = np.linalg.eigvalsh(x @ x.T)[-1]
    with pytest.warns(Diverged, match=r"diverged at step \d+.*lr \* lambda_max = 2\.4") as caught:
        run = train(f, start, x, y, lr=2.4 / top, steps=2000)
    assert f"{top:.4g}" in str(caught[0].message) and run.message == str(caught[0].message)
    assert np.isfinite(run.loss).all() and np.isfinite(run.outputs).all()
    assert 0 < run.times[-1] < run.diverged_at < 2000 and len(run.times) == len(run.loss)
    assert np.isfinite(run.params).all()
    with pytest.warns(Diverged, match="lr \\* lambda_max = 2\\.4"):
        mean = train(f, start, x, y, lr=2.4 * 8 / top, steps=2000, reduction="mean")
    assert abs(mean.diverged_at - run.diverged_at) <= 2
    fine = train(f, start, x, y, lr=1.9 / top, steps=2000)
    assert fine.diverged_at == -1 and fine.message == ""
    heavy = train(f, start, x, y, lr=2.4 / top, momentum=0.5, steps=2000)  # stable below 2 (1 + momentum)
    assert heavy.diverged_at == -1


@pytest.mark.slow
def test_divergence_in_an_ensemble_spares_the_others():
    init = lambda key, shape: (None, jnp.where(jax.random.uniform(key) < 0.5, 1.0, 3.0)[None])
    f = lambda params, x: params[0] ** 2 * x
    x = jnp.ones((1, 1))
    with pytest.warns(Diverged):
        run = train_ensemble((init, f), jax.random.key(0), 8, x, x, lr=0.2, steps=50)
    diverged = np.asarray(run.diverged_at) >= 0
    assert 0 < diverged.sum() < 8
    assert np.isfinite(run.loss).all() and (run.loss[~diverged, -1] < 1e-6).all()


def test_a_diverging_twin_leaves_the_network_alone():
    # f = p^2 from p = 2 has a catapult at lr = 0.13 > 2/16, where the linear model diverges
    f = lambda p, x: p**2 * x
    run = train(
        f, jnp.array([2.0]), jnp.ones((1, 1)), 3.5 * jnp.ones(1), lr=0.13, steps=3000, record=("linearized", "loss")
    )
    assert run.diverged_at == -1 and run.linearized_diverged_at > 0
    assert run.loss[-1] < 1e-6 and np.isfinite(run.linearized_outputs).all()


def test_new_numbers_compile_nothing(setting):
    params, x, y, _ = setting
    again = lambda: lambda params, x: net(params, x)  # a new function with the same operations
    train(again(), params, x, y, lr=0.01, momentum=0.5, steps=10)
    compiled = advance._cache_size()
    for lr in (0.02, 0.03):
        train(again(), jax.tree.map(lambda a: 2 * a, params), x + 1, y, lr=lr, momentum=0.2, steps=10)
    assert advance._cache_size() == compiled > 0


def test_under_jit_and_in_float32(setting):
    params, x, y, _ = setting
    expected = train(net, params, x, y, lr=0.02, steps=20)
    jitted = jax.jit(lambda lr: train(net, params, x, y, lr=lr, steps=20))(0.02)
    np.testing.assert_allclose(jitted.loss, expected.loss, rtol=1e-12)
    small = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x, y))
    single = train(net, *small, lr=0.02, momentum=0.1, steps=20, record=("loss", "accuracy", "distances", "linearized"))
    assert {a.dtype for a in (single.loss, single.accuracy, single.distances)} == {jnp.dtype("float32")}


def test_every_loss_value_was_trained(setting):
    params, x, y, _ = setting
    run = train(net, params, x, y, lr=0.02, steps=0)
    assert list(run.times) == [0]
    with_test = train(
        net, params, x, y[:, :2], lr=0.02, steps=4, x_test=x[:3], y_test=y[:3], record=("loss", "accuracy"), times=[4]
    )
    residual = net(with_test.params, x[:3]) - y[:3]
    np.testing.assert_allclose(with_test.loss_test, [(residual**2).sum() / 2], rtol=1e-12)
    assert with_test.accuracy_test.shape == (1,)


@pytest.mark.parametrize(
    "changes, error, sentence",
    [
        ({"lr": None}, ValueError, "lr or optimizer, got neither"),
        ({"optimizer": optax.sgd(0.1)}, ValueError, "got both"),
        ({"lr": None, "optimizer": 0.1}, TypeError, "optax"),
        ({"lr": -0.1}, ValueError, "lr"),
        ({"lr": "0.1"}, TypeError, "lr"),
        ({"steps": -1}, ValueError, "steps"),
        ({"steps": 1.5}, TypeError, "[Ss]teps|whole"),
        ({"momentum": 1.0}, ValueError, "momentum"),
        ({"loss": "hinge"}, ValueError, "loss"),
        ({"reduction": "max"}, ValueError, "reduction"),
        ({"record": ("weights",)}, ValueError, "record"),
        ({"batch_size": 9}, ValueError, "batch_size of at most the 8 examples"),
        ({"y": np.zeros((7, 2))}, ValueError, "one target for each of the 8"),
        ({"y": np.zeros((8, 3))}, ValueError, "Expected targets of the shape"),
        ({"y": np.zeros(8, bool)}, TypeError, "floats"),
        ({"x": np.full((8, 3), np.nan)}, ValueError, "NaN"),
        ({"x_test": np.zeros((2, 4))}, ValueError, "same features"),
        ({"y_test": np.zeros((2, 2))}, ValueError, "x_test"),
        ({"times": [5, 99]}, ValueError, "times of at most 10 steps"),
        ({"params": ()}, TypeError, "empty tree"),
        ({"f": lambda params, x: (net(params, x), {})}, TypeError, "one array of floats"),
        ({"f": lambda params, x: net(params, x) - net(params, x).mean(0)}, ValueError, "BatchNorm or dropout"),
    ],
)
def test_bad_input_is_told_in_a_sentence(setting, changes, error, sentence):
    params, x, y, _ = setting
    call = dict(f=net, params=params, x=x, y=y, lr=0.1, steps=10) | changes
    with pytest.raises(error, match=sentence):
        train(**call)
