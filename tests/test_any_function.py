"""Whatever f(params, x) reads, takes and gives: kernels, expansions and training are right, or say why not."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkbook.dynamics.fluctuations import monte_carlo_kernel
from ntkbook.finite import functions
from ntkbook.finite.empirical import METHODS, _empirical_ntk, empirical_nngp, empirical_ntk, ntk_vector_product
from ntkbook.finite.linearize import linearize, taylor_expand
from ntkbook.finite.train import Diverged, train, train_ensemble

X = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
W = jnp.array([[1.0], [2.0]])


# Complex parameters move by their real and imaginary parts.


def real_part(params, x):
    return x * params["a"] + jnp.real(x.astype(complex) * params["c"])


COMPLEX = {"a": jnp.array(1.0), "c": jnp.array(1 + 1j)}


@pytest.mark.slow_after_first
@pytest.mark.parametrize("method", METHODS)
def test_complex_parameters_count_by_both_parts(method):
    x = jnp.array([[1.0], [2.0]])
    np.testing.assert_allclose(empirical_ntk(real_part, COMPLEX, x, method=method), [[2, 4], [4, 8]])
    both = lambda c, x: jnp.abs(x * c)  # d|c|/d(re, im) is a unit vector
    np.testing.assert_allclose(empirical_ntk(both, jnp.array(3 + 4j), x.astype(complex)), [[1, 2], [2, 4]], rtol=1e-14)


@pytest.mark.slow
def test_expansions_and_training_move_complex_parameters():
    x, y = jnp.array([[1.0], [2.0]]), jnp.array([[2.0], [4.0]])
    moved = {"a": jnp.array(2.0), "c": jnp.array(3 - 1j)}
    np.testing.assert_allclose(linearize(real_part, COMPLEX)(moved, x), real_part(moved, x))
    np.testing.assert_allclose(ntk_vector_product(real_part, COMPLEX, x)(y), [[20], [40]])
    square = lambda c, x: x * jnp.abs(c) ** 2
    np.testing.assert_allclose(taylor_expand(square, jnp.array(1 + 1j), 2)(jnp.array(3 - 2j), x), 13 * x)
    run = train(real_part, COMPLEX, x, y, lr=0.05, steps=1)
    # f = 2 x, y = 2 x: no residual; f moves only for another target
    np.testing.assert_allclose(run.params["c"], 1 + 1j)
    run = train(square, jnp.array(1 + 1j), x, 3 * x, lr=0.1, steps=1, record=("outputs", "distances"))
    # d/d(re, im) of sum (x |c|^2 - 3 x)^2 / 2 = -5 (2 re, 2 im)
    np.testing.assert_allclose(run.params, (1 + 1j) * (1 + 0.1 * 5 * 2), rtol=1e-14)
    adam = train(square, jnp.array(1 + 1j), x, 3 * x, optimizer=optax.sgd(0.1), steps=1)
    np.testing.assert_allclose(adam.params, run.params, rtol=1e-14)


# What f reads is read at each call.


class Owner:
    scale = 1.0

    def apply(self, w, x):
        return self.scale * (x @ w)

    __call__ = apply


def changing():
    """Names of places where a number may hide, with f and a way to make f three times as large."""
    box = {"c": 1.0}
    yield "a dictionary", lambda w, x: box["c"] * (x @ w), lambda: box.update(c=3.0)
    array = np.ones(1)
    yield "a numpy array", lambda w, x: array * (x @ w), lambda: array.fill(3.0)
    device = {"c": jnp.ones(())}
    yield "an array in a dictionary", lambda w, x: device["c"] * (x @ w), lambda: device.update(c=3 * jnp.ones(()))
    yield "behind a gradient rule", lambda w, x: jax.nn.relu(x @ w) * box2["c"], lambda: box2.update(c=3.0)
    method, instance, kind = Owner(), Owner(), type("Kind", (Owner,), {})
    yield "a bound method", method.apply, lambda: setattr(method, "scale", 3.0)
    yield "an object", instance, lambda: setattr(instance, "scale", 3.0)
    yield "a class", kind().apply, lambda: setattr(kind, "scale", 3.0)
    branch = []
    yield "a branch", lambda w, x: (3 if branch else 1) * (x @ w), lambda: branch.append(1)


box2 = {"c": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("f, change", [pytest.param(f, change, id=name) for name, f, change in changing()])
def test_values_are_those_of_the_moment(f, change):
    x, y, v = jnp.abs(X), jnp.zeros((3, 1)), jnp.ones((3, 1))
    numbers = lambda: [
        empirical_ntk(f, W, x),
        empirical_nngp(f, W, x),
        ntk_vector_product(f, W, x)(v),
        train(f, W, x, y, lr=0.0, steps=0).outputs ** 2,
        linearize(f, W)(W, x) ** 2,
    ]
    before = numbers()
    change()
    for old, new in zip(before, numbers()):
        np.testing.assert_allclose(new, 9 * np.asarray(old), rtol=1e-12)


def test_a_loss_and_an_optimizer_are_those_of_the_moment():
    box = {"c": 1.0}
    loss = lambda out, y: box["c"] * (out - y) ** 2
    optimizer = optax.sgd(lambda _: box["c"] * 0.01)
    run = lambda: [
        train(lambda w, x: x @ w, W, X, X[:, :1], loss=loss, lr=0.0, steps=0).loss,
        W - train(lambda w, x: x @ w, W, X, X[:, :1], optimizer=optimizer, steps=1).params,
    ]
    before = run()
    box["c"] = 3.0
    for old, new in zip(before, run()):
        np.testing.assert_allclose(new, 3 * np.asarray(old), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jitted"])
def test_what_a_function_closes_over_is_freed(wrap):
    def use():
        large = jnp.ones((1000, 1)) + jnp.arange(1.0)
        f = wrap(lambda w, x: jnp.tanh(x @ w) * large.mean() + jnp.sum(large[:1]))
        empirical_ntk(f, W, X)
        empirical_nngp(f, W, X)
        ntk_vector_product(f, W, X)(jnp.ones((3, 1)))
        train(f, W, X, X[:, :1], lr=0.1, steps=1)
        return weakref.ref(large)

    found = [use() for _ in range(2)]
    gc.collect()
    assert [ref() is None for ref in found] == [True, True]


def test_a_call_costs_one_trace_and_the_same_operations_compile_once():
    traced = []

    def made(scale):
        return lambda w, x: (traced.append(len(x)), jnp.sin(x @ w) * scale)[1]

    f, large = made(jnp.array(1.0)), made(jnp.array(3.0))
    once = empirical_ntk(f, W, X)
    assert sorted(set(traced)) == [1, 3]  # alone, and in the batch that is compared with it
    traced.clear()
    compiled, known = _empirical_ntk._cache_size(), len(functions._SEEN)
    np.testing.assert_allclose(empirical_ntk(f, W, X), once, rtol=0)
    assert traced == [1]
    np.testing.assert_allclose(empirical_ntk(large, W, X), 9 * once, rtol=1e-12)
    assert _empirical_ntk._cache_size() == compiled and len(functions._SEEN) == known + 1
    del large
    gc.collect()
    assert len(functions._SEEN) <= known


# Examples that see each other, with or without a slope.


COUPLED = {
    "a mean without a slope": lambda w, x: (x - jax.lax.stop_gradient(x.mean(0))) @ w,
    "ranks": lambda w, x: jnp.argsort(jnp.argsort(x, axis=0), axis=0).astype(x.dtype) @ w,
    "above the median": lambda w, x: (x > jnp.median(x, axis=0)).astype(x.dtype) @ w,
    "quantized by the batch": lambda w, x: jnp.round(4 * x / jnp.abs(x).max()) @ w,
    "the size of the batch": lambda w, x: x @ w / len(x),
    "dropout": lambda w, x: jax.random.bernoulli(jax.random.key(0), 0.5, x.shape).astype(x.dtype) @ w,
}


@pytest.mark.slow_after_first
@pytest.mark.parametrize("f", COUPLED.values(), ids=COUPLED)
def test_examples_that_see_each_other_get_the_sentence(f):
    for use in (
        lambda: empirical_ntk(f, W, X),
        lambda: empirical_ntk(f, W, X[:1], method="vector_product"),
        lambda: empirical_nngp(f, W, X),
        lambda: ntk_vector_product(f, W, X),
        lambda: train(f, W, X, X[:, :1], lr=0.1, steps=1),
    ):
        with pytest.raises(ValueError, match="BatchNorm or dropout in training mode"):
            use()


def test_tokens_with_statistics_of_the_batch_get_the_sentence():
    tokens = jnp.array([[0, 1], [2, 0], [1, 1]])
    alone = lambda w, x: w[x].sum(1)
    empirical_ntk(alone, jnp.ones((3, 2)), tokens)
    for joint in (lambda w, x: alone(w, x) - alone(w, x).mean(0), lambda w, x: alone(w, x) * x.max().astype(w.dtype)):
        for rows in (tokens, tokens[:1]):
            with pytest.raises(ValueError, match="BatchNorm or dropout in training mode"):
                empirical_ntk(joint, jnp.array([[1.0, 2.0], [0.0, 1.0], [3.0, 1.0]]), rows)


def test_a_last_layer_of_zeros_hides_nothing():
    with pytest.raises(ValueError, match="BatchNorm or dropout in training mode"):
        empirical_ntk(lambda p, x: (x - x.mean(0)) @ p[0] @ p[1], (W, jnp.zeros((1, 1))), X)


# Precision of the parameters, and of the compute.


@pytest.mark.slow
@pytest.mark.parametrize(
    "compute, eps, methods",
    [(jnp.bfloat16, 2**-7, METHODS), (jnp.float16, 2**-10, ("auto",))],
    ids=["bfloat16", "float16"],
)
def test_half_precision_inside(compute, eps, methods):
    random = np.random.default_rng(0)
    params = [jnp.asarray(random.normal(size=s), jnp.float32) for s in [(4, 16), (16,), (16, 2)]]
    x = jnp.asarray(random.normal(size=(5, 4)), jnp.float32)

    def f(params, x, dtype=compute):
        A, b, B = (p.astype(dtype) for p in params)
        return jnp.tanh(x.astype(dtype) @ A / 2 + b) @ (B / 4)

    exact = empirical_ntk(lambda p, x: f(p, x, jnp.float32), params, x)
    for method in methods:
        kernel = empirical_ntk(f, params, x, method=method)
        assert kernel.dtype == jnp.float32
        np.testing.assert_allclose(kernel, exact, atol=8 * eps * float(exact.max()))
    found = monte_carlo_kernel((lambda key, _: (None, params), f), jax.random.key(0), 2, x)
    np.testing.assert_allclose(found.mean, kernel, rtol=1e-5)
    run = train(f, params, x, x[:, :2], lr=0.01, steps=3, record=("loss", "kernels", "linearized"))
    assert run.loss.dtype == jnp.float32 and run.loss[-1] < run.loss[0]
    half = jax.tree.map(lambda a: a.astype(compute), params)
    whole = empirical_ntk(lambda p, x: f(p, x), half, x.astype(compute))
    np.testing.assert_allclose(whole, exact, atol=8 * eps * float(exact.max()))


# Inputs that are not one array of floats.


@pytest.mark.slow
def test_tokens_and_trees_of_inputs():
    tokens, mask = jnp.array([[0, 1, 1], [2, 0, 0]]), jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    table = jnp.array([[1.0], [2.0], [4.0]])
    f = lambda w, x: (w[x["tokens"]] * x["mask"][:, :, None]).sum(1)
    g = lambda w, x: f(w, {"tokens": x[0], "mask": x[1]})
    counts = jnp.einsum("nt,ntk->nk", mask, jax.nn.one_hot(tokens, 3))
    y = jnp.array([[1.0], [0.0]])
    x, pair = {"tokens": tokens, "mask": mask}, (tokens, mask)
    for method in METHODS:
        np.testing.assert_allclose(empirical_ntk(f, table, x, method=method), counts @ counts.T)
    for function, inputs in ((f, x), (g, pair)):
        np.testing.assert_allclose(empirical_ntk(function, table, inputs, inputs, memory=1), counts @ counts.T)
        np.testing.assert_allclose(linearize(function, table)(2 * table, inputs), 2 * counts @ table)
    np.testing.assert_allclose(empirical_nngp(g, table, pair), (counts @ table) @ (counts @ table).T)
    np.testing.assert_allclose(ntk_vector_product(g, table, pair)(y), counts @ counts.T @ y)
    run = train(f, table, x, y, lr=0.1, steps=1, x_test=x, batch_size=2, record=("outputs", "kernels"))
    step = 0.1 * counts.T @ (counts @ table - y)
    np.testing.assert_allclose(run.outputs_test[-1], counts @ (table - step), rtol=1e-12)


# Loops of unknown length, and whole numbers.


@pytest.mark.slow
def test_a_loop_of_unknown_length_is_differentiated_forwards_or_says_so():
    loop = lambda w, x: jax.lax.while_loop(
        lambda state: state[1] < 2, lambda state: (jnp.tanh(state[0] @ w), state[1] + 1), (x, 0)
    )[0]
    w = jnp.array([[0.5, 1.0], [-1.0, 0.3]])
    expected = empirical_ntk(lambda w, x: jnp.tanh(jnp.tanh(x @ w) @ w), w, X, outputs="full")
    for method in METHODS:
        np.testing.assert_allclose(empirical_ntk(loop, w, X, method=method, outputs="full"), expected, rtol=1e-12)
    for use in (lambda: ntk_vector_product(loop, w, X)(X), lambda: train(loop, w, X, X, lr=0.1, steps=1)):
        with pytest.raises(ValueError, match="loop whose number of steps is only known at run time"):
            use()


def test_a_rule_for_backward_mode_alone_is_enough():
    @jax.custom_vjp
    def double(z):
        return 2 * z

    double.defvjp(lambda z: (2 * z, None), lambda _, g: (2 * g,))
    for method in METHODS:
        np.testing.assert_allclose(empirical_ntk(lambda w, x: double(x @ w), W, X, method=method), 4 * X @ X.T)


def test_whole_numbers_in_params_decide_shapes():
    f = lambda p, x: (x.reshape(len(x), p["heads"], -1) ** int(p["power"]) @ p["w"]).sum(1)
    params = {"w": jnp.array([[1.0], [2.0]]), "heads": 1, "power": jnp.array(2)}
    np.testing.assert_allclose(empirical_ntk(f, params, X), X**2 @ (X**2).T)
    run = train(f, params, X, X[:, :1], lr=0.01, steps=2)
    assert run.params["heads"] == 1 and run.loss[-1] < run.loss[0]
    np.testing.assert_allclose(linearize(f, params)({**params, "w": 2 * params["w"]}, X), 2 * f(params, X))


# Shapes and settings of training.


@pytest.mark.slow
def test_outputs_have_the_rank_of_the_targets():
    f = lambda w, x: x @ w
    options = dict(lr=0.01, steps=3, x_test=X[:2], record=("outputs", "linearized"))
    for y, shape in ((X[:, 0], (3,)), (X[:, :1], (3, 1))):
        run = train(f, W, X, y, **options)
        assert run.outputs.shape[1:] == run.linearized_outputs.shape[1:] == shape
        assert run.outputs_test.shape[1:] == run.linearized_outputs_test.shape[1:] == (2, *shape[1:])
        many = train_ensemble((lambda key, _: (None, W), f), jax.random.key(0), 2, X, y, **options)
        assert many.outputs.shape[2:] == shape
        np.testing.assert_allclose(many.outputs[0], run.outputs, rtol=1e-12)
    assert train(lambda w, x: (x @ w)[:, 0], W, X, X[:, :1], lr=0.1, steps=1).outputs.shape[1:] == (3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("tree", [lambda a, b: {"a": a, "b": b}, lambda a, b: (a, b), lambda a, b: [a, {"b": b}]])
def test_divergence_with_a_tree_of_rates_keeps_the_history(tree):
    f = lambda params, x: x @ sum(jax.tree.leaves(params))
    with pytest.warns(Diverged, match="Choose smaller rates"):
        run = train(f, tree(W, W), X, X[:, :1], lr=tree(10.0, jnp.array(20.0)), steps=200)
    assert 0 < len(run.times) == len(run.loss) == len(run.outputs) and run.message
    assert np.isfinite(run.loss).all() and run.diverged_at > 0


def test_settings_and_history_read_well():
    f = lambda w, x: x @ w
    with pytest.raises(ValueError, match="every keyword to be one of 'steps', 'lr'.*got 'learning_rate'"):
        train(f, W, X, X[:, :1], learning_rate=0.1, steps=1)
    with pytest.raises(TypeError, match="number of steps, got none"):
        train(f, W, X, X[:, :1], lr=0.1)
    run = train(f, W, X, X[:, :1], lr=0.01, steps=2, record=("ntk", "loss"), times=[0, 2])
    assert run.ntk_change is not None and run.nngp_change is None
    assert repr(run) == "History(2 times to 2: loss 2, ntk_change 2, diverged_at -1)"
