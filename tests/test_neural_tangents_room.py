"""The guest room: code written for neural-tangents gives here what it gives there.

`guest_code.py` is that code, `reference/room.json` what the original made of it.
"""

import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guest_code import CASES, FLAT, FLAT2, IMAGES, TARGETS

import ntkbook.neural_tangents as nt
from ntkbook.finite import contractions

STORED = json.loads((Path(__file__).parent / "reference" / "room.json").read_text())
TOLERANCE = 1e-6  # of the largest entry


def test_all_cases_are_stored():
    assert list(STORED) == list(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_values_and_shapes_are_those_of_the_original(name):
    made = CASES[name](nt)
    assert list(made) == list(STORED[name])
    for key, stored in STORED[name].items():
        ours, theirs = np.asarray(made[key], float), np.array(stored["values"]).reshape(stored["shape"])
        assert ours.shape == theirs.shape, key
        error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12)
        assert error <= TOLERANCE, f"{key}: {error:.1e} of the largest entry"


@pytest.mark.slow
def test_sampled_kernels_surround_the_exact_one(optimized):
    """The mean over networks of finite width, by the guest's own function, against the kernel of infinite width."""
    stax = nt.stax
    init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(256, 1.3, 0.2), stax.Erf(), stax.Dense(1, 1.3, 0.2))
    sample = nt.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.PRNGKey(0), [1, 40], batch_size=3)
    one, many = sample(FLAT, None, ("nngp", "ntk"))
    exact = kernel_fn(FLAT, None)
    assert one.ntk.shape == many.nngp.shape == (5, 5)
    np.testing.assert_allclose(many.ntk, exact.ntk, atol=0.1 * np.abs(exact.ntk).max())
    np.testing.assert_allclose(many.nngp, exact.nngp, atol=0.8 * np.abs(exact.nngp).max())  # one output each
    assert np.abs(one.nngp - exact.nngp).max() > np.abs(many.nngp - exact.nngp).max()


@pytest.mark.slow
def test_finite_networks_have_the_shapes_that_kernels_state():
    stax = nt.stax
    conv = stax.Conv(4, (2, 2), dimension_numbers=("NCHW", "OIHW", "NCHW"))
    init_fn, apply_fn, kernel_fn = stax.serial(conv, stax.Relu(), stax.Flatten(), stax.Dense(3))
    x = IMAGES.transpose(0, 3, 1, 2)
    shape, params = init_fn(jax.random.PRNGKey(0), (-1, *x.shape[1:]))
    assert tuple(shape) == (-1, 3) and apply_fn(params, x).shape == (3, 3)
    assert kernel_fn(x, None, "shape1") == (3, 3)
    assert stax.serial(conv, stax.Relu())[2](x).shape1 == (3, 4, 4, 3)


def test_paths_may_end_apart():
    stax = nt.stax
    ends = stax.serial(stax.Dense(8, 1.3), stax.FanOut(2), stax.parallel(stax.Dense(1), stax.Dense(2, 2.0)))
    init_fn, apply_fn, kernel_fn = ends
    shapes, params = init_fn(jax.random.PRNGKey(0), FLAT.shape)
    assert [tuple(shape) for shape in shapes] == [(5, 1), (5, 2)]
    assert [out.shape for out in apply_fn(params, jnp.asarray(FLAT))] == [(5, 1), (5, 2)]
    first, second = kernel_fn(FLAT, None, "nngp")
    np.testing.assert_allclose(second, 4 * first)


def concatenated(stax, axis, order="NHWC"):
    conv = stax.Conv(8, (1, 1), W_std=1.3, dimension_numbers=(order, "OIHW", order))
    return stax.serial(conv, stax.FanOut(2), stax.parallel(stax.Relu(), stax.Erf()), stax.FanInConcat(axis))


def nested_concatenation(stax, axis):
    conv = stax.Conv(8, (1, 1), dimension_numbers=("NCHW", "OIHW", "NCHW"))
    inner = stax.serial(stax.FanOut(2), stax.parallel(stax.Relu(), stax.Erf()), stax.FanInConcat(axis))
    return stax.serial(conv, stax.FanOut(2), stax.parallel(inner, inner), stax.FanInConcat(1))


def test_channels_in_front_are_joined_and_normalized_there():
    stax = nt.stax
    last, first = (
        stax.serial(
            concatenated(stax, channel_axis, order),
            stax.Conv(4, (2, 2), dimension_numbers=(order, "OIHW", order)),
            stax.LayerNorm(axis=channel_axis, channel_axis=channel_axis),
        )
        for channel_axis, order in ((-1, "NHWC"), (1, "NCHW"))
    )
    swapped = np.moveaxis(IMAGES, -1, 1)
    np.testing.assert_allclose(first[2](swapped, None, "ntk"), last[2](IMAGES, None, "ntk"), rtol=1e-12)
    shape, params = first[0](jax.random.key(0), swapped.shape)
    assert tuple(shape) == first[1](params, jnp.asarray(swapped)).shape and shape[1] == 4
    assert nested_concatenation(stax, 1)[0](jax.random.key(0), swapped.shape)[0][1] == 4 * 8


def test_the_last_axis_has_two_names():
    stax = nt.stax
    flat = lambda axis: stax.serial(
        stax.Dense(8, 1.3),
        stax.LayerNorm(axis),
        stax.FanOut(2),
        stax.parallel(stax.Relu(), stax.Erf()),
        stax.FanInConcat(axis),
        stax.Dense(1),
    )
    images = lambda axis: stax.serial(concatenated(stax, axis), stax.Conv(4, (2, 2)), stax.LayerNorm((axis,)))
    for network, x in ((flat, FLAT), (images, IMAGES)):
        (_, _, last), (init_fn, apply_fn, counted) = network(-1), network(x.ndim - 1)
        np.testing.assert_array_equal(last(x, None, "ntk"), counted(x, None, "ntk"))
        shape, params = init_fn(jax.random.key(0), x.shape)
        assert tuple(shape) == apply_fn(params, jnp.asarray(x)).shape


@pytest.mark.parametrize("traced, n", [((0, -1), 4), ((0, 0, 1), 2), ((0, 1, 2), 1)])
def test_examples_may_share_a_kernel(traced, n):
    """Targets keep the order of their axes, whichever of them has a kernel."""
    rng = np.random.default_rng(3)
    y, k = rng.normal(size=(5, 4, 2)), rng.normal(size=(n, n))
    k = k @ k.T + np.eye(n)
    own_axes = [axis for axis in range(3) if axis not in (traced[0], traced[1] % 3, traced[2 % len(traced)])]
    out = nt.predict.gradient_descent_mse(k.reshape((n, n) if own_axes else ()), y, trace_axes=traced)(3.0)
    rows = np.moveaxis(y, own_axes, range(len(own_axes))).reshape(n, -1)
    values, vectors = np.linalg.eigh(k)
    gain = (vectors * -np.expm1(-3.0 * values / y.size)) @ vectors.T
    expected = gain @ rows
    np.testing.assert_allclose(np.moveaxis(out, own_axes, range(len(own_axes))).reshape(n, -1), expected, rtol=1e-8)


def test_a_state_with_momentum_goes_on_where_it_was():
    """Velocities count in times of 1/sqrt(learning rate) steps; what a state leaves out is absent, or at rest."""
    kernel_fn = nt.stax.serial(nt.stax.Dense(4, 1.3, 0.2), nt.stax.Relu(), nt.stax.Dense(1))[2]
    k, between = kernel_fn(FLAT, None, "ntk"), kernel_fn(FLAT2, FLAT, "ntk")
    state = nt.predict.ODEState(0.1 * TARGETS, 0.3, qx_train=0.2)
    predict = jax.jit(nt.predict.gradient_descent(lambda f, y: jnp.mean((f - y) ** 4), k, TARGETS, 0.5, 0.7))
    whole = predict(5.0, state, None, between)
    halves = predict(3.0, predict(2.0, state, None, between), None, between)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, halves)
    h = 1e-3  # velocities are slopes of outputs in the time sqrt(learning rate) * steps
    later, sooner = (predict(5.0 + sign * h, state, None, between) for sign in (1, -1))
    np.testing.assert_allclose((later.fx_test - sooner.fx_test) / (2 * h * 0.5**0.5), whole.qx_test, atol=1e-4)
    alone = predict(jnp.ones((2, 3)), state._replace(fx_test=None))
    assert alone.fx_test is alone.qx_test is None and alone.qx_train.shape == (2, 3, *TARGETS.shape)
    with pytest.raises(ValueError, match="without velocities"):
        nt.predict.gradient_descent(lambda f, y: jnp.mean((f - y) ** 2), k, TARGETS)(1.0, state._replace(fx_test=None))
    with pytest.raises(ValueError, match="k_test_train"):
        predict(1.0, state)


def test_a_kernel_that_is_missing_is_named():
    stax = nt.stax
    kernel_fn = stax.serial(stax.Dense(4, 1.3), stax.Relu(), stax.Dense(1))[2]
    predict = nt.predict.gp_inference(kernel_fn(FLAT, None, ("ntk",)), TARGETS)
    between = kernel_fn(FLAT2, FLAT, ("ntk",))
    with pytest.raises(ValueError, match="nngp among the kernels"):
        predict(("ntk",), between, kernel_fn(FLAT2, None, "nngp"))
    with pytest.raises(ValueError, match="nngp among the kernels"):
        predict("nngp", between)


def test_a_layer_of_ones_own_sees_no_ntk_that_nobody_asked_for():
    stax, seen = nt.stax, []

    @stax.layer
    def Look():
        def kernel_fn(k, **options):
            seen.append(k.ntk is None)
            return k

        return lambda key, shape: (shape, ()), lambda params, x, **options: x, kernel_fn

    kernel_fn = stax.serial(stax.Dense(4, 1.3), Look(), stax.Relu(), stax.Dense(1))[2]
    plain = stax.serial(stax.Dense(4, 1.3), stax.Relu(), stax.Dense(1))[2]
    for get, is_absent in (("nngp", True), ("cov1", True), ("ntk", False), (None, False), (("nngp", "ntk"), False)):
        seen.clear()
        result = kernel_fn(FLAT, FLAT2, get)
        assert seen and set(seen) == {is_absent}
        if isinstance(get, str):
            np.testing.assert_allclose(result, plain(FLAT, FLAT2, get), rtol=1e-12)


@pytest.mark.parametrize(
    "call, nearest",
    [
        (lambda s: s.ConvLocal(3, (2, 2)), "Conv"),
        (lambda s: s.ConvTranspose(3, (2, 2)), "Conv"),
        (lambda s: s.ImageResize((4, 4), "linear"), "AvgPool"),
        (lambda s: s.Aggregate(), "graphs"),
        (lambda s: s.AggregateImplementation.DENSE, "graphs"),
        (lambda s: s.Slice[0], "Flatten"),
        (lambda s: concatenated(s, 1)[2](IMAGES), "channels"),
        (lambda s: concatenated(s, 1)[0](jax.random.key(0), IMAGES.shape), "channels"),
        (lambda s: concatenated(s, -2), "channels"),
        (lambda s: concatenated(s, -1, "NCHW")[2](np.moveaxis(IMAGES, -1, 1)), "channels"),
        (lambda s: concatenated(s, 3, "NCHW"), "channels"),
        (lambda s: nested_concatenation(s, 3), "channels"),
        (lambda s: s.LayerNorm(axis=3, channel_axis=1), "channels"),
        (lambda s: s.LayerNorm(axis=-1, channel_axis=1)[0](jax.random.key(0), IMAGES.shape), "channels"),
        (lambda s: s.LayerNorm(axis=1)[0](jax.random.key(0), IMAGES.shape), "channels"),
        (lambda s: s.Dropout(0.5), "test"),
        (lambda s: s.LayerNorm(axis=(1, 2)), "channels"),
        (lambda s: s.serial(s.Dense(1), s.FanOut(2), s.FanInProd()), "FanInSum"),
        (lambda s: s.Dense(3)[2](FLAT, None, pattern=FLAT), "graphs"),
        (lambda s: s.Dense(3)[2](FLAT, None, mask_constant=0.0), "mask"),
        (lambda s: s.Dense(3)[2](s.Dense(3)[2](FLAT), diagonal_batch=False), "variances"),
        (lambda s: s.parallel(s.Dense(3), s.Dense(3))[2]((FLAT, FLAT)), "FanOut"),
        (lambda s: s.parallel(s.Dense(3), s.Dense(3))[0](jax.random.key(0), ((5, 4), (5, 4))), "FanOut"),
        (lambda s: s.Relu()[1]((), [FLAT, FLAT]), "FanOut"),
        (lambda s: s.Dense(3, parameterization="standard", s=(1, 2)), "width"),
        (lambda s: s.serial((print, print, print)), "Layer"),
    ],
)
def test_what_is_absent_says_so_and_names_the_nearest(call, nearest):
    with pytest.raises(NotImplementedError, match=nearest):
        call(nt.stax)


@pytest.mark.slow
def test_the_workflows_of_the_page_run_and_agree(optimized):
    page = (Path(__file__).parents[1] / "docs" / "coming_from_neural_tangents.md").read_text()
    imports, *blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 3
    names = {}
    for code in (imports, *blocks):
        exec(code, names)
    scale = np.abs(names["f_test"]).max()
    assert names["gap"] < 0.05 * scale
    assert names["same"] < 1e-3 * scale
    # By quadrature: the variance stays, the slope at c = 1 is W_std^2 E[erf'(z)^2] there.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    average = lambda f: (weights * f(np.sqrt(float(names["q"])) * nodes)).sum() / weights.sum()
    erf = np.vectorize(math.erf)
    np.testing.assert_allclose(names["q"], 0.8**2 * average(lambda z: erf(z) ** 2) + 0.3**2, rtol=1e-6)
    np.testing.assert_allclose(names["c"], 1, rtol=1e-3)
    np.testing.assert_allclose(names["slope"], 0.8**2 * average(lambda z: 4 / np.pi * np.exp(-2 * z**2)), rtol=2e-3)


def test_pairs_within_each_set_on_request():
    """A ReLU layer by hand: the arc-cosine formula for all pairs of one set."""
    x1, x2 = np.asarray(FLAT), np.asarray(FLAT2)
    k = nt.stax.serial(nt.stax.Dense(4), nt.stax.Relu())[2](FLAT, FLAT2, diagonal_batch=False)
    for cov, x in ((k.cov1, x1), (k.cov2, x2)):
        products = x @ x.T / x.shape[1]
        sizes = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
        angle = np.arccos(np.clip(products / sizes, -1, 1))
        expected = sizes * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        np.testing.assert_allclose(cov, expected, rtol=1e-6)
    assert k.diagonal_batch is False
    own = nt.stax.Dense(4)[2](FLAT, None, diagonal_batch=False)
    assert own.cov2 is None and own.cov1.shape == (5, 5)


def test_layers_have_parameters_of_their_own():
    """A layer alone takes its own parameters; Identity has a place in the list, as any layer."""
    stax, x = nt.stax, jnp.asarray(FLAT)
    _, params = stax.serial(stax.Dense(3), stax.Identity(), stax.Relu())[0](jax.random.key(0), x.shape)
    assert len(params) == 3
    plain = stax.Dense(3)[1](params[0], x)
    np.testing.assert_allclose(stax.serial(stax.Dense(3), stax.Abs())[1](params[:2], x), np.abs(plain), rtol=1e-6)
    assert stax.Sin()[2].__name__ == "Sin"


def test_a_kernel_needs_no_finite_network():
    """sqrt(q1 q2) exp(gamma (cosine + shift)) is a kernel alone, with all fields; its network is refused."""
    stax, x = nt.stax, np.asarray(FLAT)
    init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(3), stax.ExpNormalized(0.7, -0.9))
    k = kernel_fn(x)
    products = x @ x.T / x.shape[1]
    sizes = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    np.testing.assert_allclose(k.nngp, sizes * np.exp(0.7 * (products / sizes - 0.9)), rtol=1e-10)
    assert k.shape1 == (5, 3)
    with pytest.raises(NotImplementedError, match="its kernel"):
        apply_fn(init_fn(jax.random.key(0), x.shape)[1], jnp.asarray(x))


def test_equal_operations_compile_once_whoever_wrote_them():
    """A new lambda in every call neither compiles again nor is kept."""
    x, made = jnp.asarray(FLAT), []
    scaled = lambda c: lambda w, x: c * (x - x.mean(0)) @ w
    for scale in (1.0, 2.0, 3.0):
        f = scaled(jnp.asarray(scale))
        w = jnp.ones((x.shape[1], 2))
        made.append((nt.empirical_ntk_fn(f)(x, None, w), nt.empirical_nngp_fn(f)(x, None, w)))
        if scale == 1.0:
            count = contractions.contracted._cache_size()
    assert count == contractions.contracted._cache_size()
    centred = np.asarray(x) - np.asarray(x).mean(0)
    for scale, (ntk, nngp) in zip((1, 2, 3), made):
        np.testing.assert_allclose(ntk, scale**2 * centred @ centred.T, atol=1e-5)
        sums = scale * centred.sum(1)
        np.testing.assert_allclose(nngp, np.outer(sums, sums), atol=1e-5)


def test_a_kernel_says_what_it_was_given():
    """Two equal sets are two sets, and a Kernel without an NTK gets none on its way."""
    stax = nt.stax
    twice, alone = (stax.Dense(4, 1.3)[2](FLAT, x2) for x2 in (FLAT, None))
    np.testing.assert_allclose(twice.cov2, alone.cov1)
    assert alone.cov2 is None
    after = stax.serial(stax.Erf(), stax.Dense(1))[2](alone.replace(ntk=None))
    assert after.ntk is None and after.nngp.shape == (5, 5)


def test_finite_gelu_may_be_the_one_by_tanh():
    x = jnp.linspace(-3, 3, 50)
    by_tanh, exact = (nt.stax.Gelu(approximate)[1]((), x) for approximate in (True, False))
    np.testing.assert_allclose(by_tanh, x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))), atol=1e-6)
    assert 1e-5 < np.abs(by_tanh - exact).max() < 1e-3


def test_settings_of_jax_are_the_callers_and_not_ours():
    """A guest may forbid what this library does: shapes that broadcast."""
    stax = nt.stax
    with jax.numpy_rank_promotion("raise"):
        init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(4, 1.3, 0.2), stax.Relu(), stax.Dense(2))
        _, params = init_fn(jax.random.PRNGKey(0), FLAT.shape)
        assert apply_fn(params, jnp.asarray(FLAT)).shape == (5, 2)
        k = kernel_fn(FLAT, None, "ntk")
        assert nt.predict.gradient_descent_mse(k, TARGETS)(1.0).shape == (5, 2)


def test_training_ends_in_the_targets_without_a_prior():
    """At the training points nothing is left of the start, so that the NTK alone is enough there."""
    kernel_fn = nt.stax.serial(nt.stax.Dense(4, 1.3, 0.2), nt.stax.Relu(), nt.stax.Dense(1))[2]
    law = nt.predict.gp_inference(kernel_fn(FLAT, None, ("ntk",)), TARGETS)("ntk", None, True)
    np.testing.assert_allclose(law.mean, TARGETS, rtol=1e-8)
    np.testing.assert_allclose(law.covariance, 0, atol=1e-12)


@pytest.mark.slow
def test_a_first_call_inside_jit_leaves_nothing_behind(optimized):
    """What is kept between calls is not what JAX was tracing; and tiles go to the host where nothing is traced."""
    kernel_fn = nt.stax.serial(nt.stax.Dense(4, 1.3, 0.2), nt.stax.Relu(), nt.stax.Dense(1))[2]
    predict = nt.predict.gradient_descent_mse_ensemble(kernel_fn, FLAT, TARGETS)
    inside = jax.jit(lambda t: predict(t, FLAT2, "ntk"))(2.0)
    np.testing.assert_allclose(predict(2.0, FLAT2, "ntk"), inside, rtol=1e-8)
    tiles = nt.batch(kernel_fn, batch_size=3, store_on_device=False)
    inside, outside = jax.jit(lambda x: tiles(x, None, "ntk"))(FLAT), tiles(FLAT, None, "ntk")
    assert isinstance(outside, np.ndarray)
    np.testing.assert_allclose(inside, outside, rtol=1e-8)


def test_kernels_pass_in_tiles_too():
    """A batched function of Kernels, and of the inputs of the first network: one result."""
    stax = nt.stax
    first, second = stax.serial(stax.Dense(4, 1.3, 0.2), stax.Relu())[2], stax.serial(stax.Dense(1, 1.1), stax.Erf())[2]
    for x2 in (None, IMAGES[0, :, :3, 0]):
        whole = second(first(FLAT, x2))
        tiled = nt.batch(second, batch_size=2)(first(FLAT, x2))
        assert (tiled.shape1, tiled.shape2, tiled.cov2 is None) == (whole.shape1, whole.shape2, x2 is None)
        for name in ("nngp", "ntk", "cov1"):
            np.testing.assert_allclose(getattr(tiled, name), getattr(whole, name), rtol=1e-10)


def test_the_names_are_all_there():
    absent = [name for name in NAMES if not callable(getattr(nt.stax, name))]
    assert not absent
    with pytest.raises(AttributeError):
        nt.stax.Convolution  # noqa: B018


@pytest.mark.slow
def test_wrong_words_and_trees_are_refused():
    kernel_fn = nt.stax.Dense(3)[2]
    with pytest.raises(ValueError, match="get"):
        kernel_fn(FLAT, None, ("nngp", "kernel"))
    with pytest.raises(TypeError, match="triples"):
        nt.stax.serial(nt.stax.Relu)
    with pytest.raises(ValueError, match="paths"):
        nt.stax.serial(nt.stax.FanOut(3), nt.stax.parallel(nt.stax.Relu(), nt.stax.Relu()))
    with pytest.raises(ValueError, match="diagonal_spatial"):
        k = nt.stax.Conv(3, (2, 2))[2](IMAGES, None, diagonal_spatial=True)
        nt.stax.GlobalAvgPool()[2](k)
    with pytest.raises(ValueError, match="k_test_train"):
        nt.predict.gradient_descent_mse(np.eye(5), TARGETS)(1.0, 0.0, 0.0)


NAMES = """
ABRelu Abs Aggregate AvgPool Conv ConvLocal ConvTranspose Cos Dense DotGeneral Dropout Elementwise ElementwiseNumerical
Erf Exp ExpNormalized FanInConcat FanInProd FanInSum FanOut Flatten Gabor Gaussian Gelu GlobalAvgPool
GlobalSelfAttention GlobalSumPool Hermite Identity ImageResize Index LayerNorm LeakyRelu Monomial Polynomial Rbf
RectifiedMonomial Relu Sigmoid_like Sign Sin Slice SumPool layer parallel repeat requires serial supports_masking
unmask_fn
""".split()
