"""Finite-width kernels against the slowest, most obvious loops."""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook.finite.empirical import _empirical_ntk, empirical_nngp, empirical_ntk, ntk_vector_product

METHODS = ["jacobian", "vector_product", "layerwise"]


def normal(rng, *shape, dtype=np.float64):
    """Drawn by numpy: `jax.random` takes a program for each shape."""
    return jnp.asarray(rng.standard_normal(shape), dtype)


def dense_params(rng, sizes, dtype=np.float64):
    return [
        {"W": normal(rng, a, b, dtype=dtype), "b": normal(rng, b, dtype=dtype)} for a, b in zip(sizes[:-1], sizes[1:])
    ]


def dense(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["W"] / x.shape[-1] ** 0.5 + 0.1 * layer["b"])
    return x @ params[-1]["W"] / x.shape[-1] ** 0.5 + 0.1 * params[-1]["b"]


def conv_params(rng, dtype=np.float64):
    return {"filter": normal(rng, 3, 3, 2, 5, dtype=dtype), "out": normal(rng, 5, 3, dtype=dtype)}


def conv(params, x):
    layout = ("NHWC", "HWIO", "NHWC")
    z = jax.lax.conv_general_dilated(x, params["filter"] / 18**0.5, (1, 1), "SAME", dimension_numbers=layout)
    return jnp.tanh(z).mean((1, 2)) @ params["out"]


def attention_params(rng, dtype=np.float64):
    return tuple(normal(rng, *shape, dtype=dtype) for shape in [(4, 6)] * 2 + [(4, 5), (5, 2), (4,)])


def attention(params, x):
    Q, K, V, out, gain = params
    x = gain * (x - x.mean(-1, keepdims=True))
    weights = jax.nn.softmax(jnp.einsum("nsi,ij,nti->nst", x @ Q, jnp.eye(6, dtype=x.dtype), x @ K) / 6, axis=-1)
    return (jnp.einsum("nst,ntv->nsv", weights, x @ V) @ out).mean(1)


def residual(params, x):
    x = jnp.tanh(x @ params["in"])
    for W in params["blocks"]:
        x = x + jnp.tanh(x @ W / 2)
    return x @ params["out"]


def residual_params(rng, dtype=np.float64):
    draw = lambda *shape: normal(rng, *shape, dtype=dtype)
    return {"in": draw(3, 4), "blocks": [draw(4, 4), draw(4, 4)], "out": draw(4, 2)}


MODELS = {
    "dense, one output": (dense, lambda rng, d=np.float64: dense_params(rng, (3, 8, 6, 1), d), (3,)),
    "dense, four outputs": (dense, lambda rng, d=np.float64: dense_params(rng, (3, 8, 4), d), (3,)),
    "convolution": (conv, conv_params, (4, 5, 2)),
    "residual": (residual, residual_params, (3,)),
    "attention": (attention, attention_params, (3, 4)),
    "flat output": (lambda p, x: jnp.sin(x @ p["w"]), lambda rng, d=np.float64: {"w": normal(rng, 3, dtype=d)}, (3,)),
}


def loop_kernel(f, params, x1, x2):
    """Theta by central differences of one number at a time: no automatic differentiation at all."""
    flat, rebuild = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def jacobian(x):
        outputs = lambda flat: f(rebuild(flat), x).reshape(x.shape[0], -1)
        slope = lambda step: (outputs(flat + step) - outputs(flat - step)) / 2e-5
        return jnp.moveaxis(jax.lax.map(slope, 1e-5 * jnp.eye(flat.size)), 0, -1)

    j1, j2 = np.asarray(jacobian(x1)), np.asarray(jacobian(x2))
    full = np.zeros((len(x1), len(x2), j1.shape[1], j1.shape[1]))
    for i, a in enumerate(j1):
        for j, b in enumerate(j2):
            full[i, j] = a @ b.T
    return full


@pytest.fixture(scope="module", params=MODELS)
def example(request):
    f, make, shape = MODELS[request.param]
    params = make(np.random.default_rng(1))
    x1, x2 = (normal(np.random.default_rng(i), n, *shape) for i, n in ((2, 5), (3, 4)))
    return f, params, x1, x2, loop_kernel(f, params, x1, x2)


@pytest.mark.slow_after_first
@pytest.mark.parametrize("method", METHODS)
def test_kernel_is_the_sum_over_parameters(example, method):
    f, params, x1, x2, expected = example
    full = empirical_ntk(f, params, x1, x2, method=method, outputs="full")
    np.testing.assert_allclose(full, expected, rtol=1e-7, atol=1e-8 * abs(expected).max())
    mean = empirical_ntk(f, params, x1, x2, method=method)
    np.testing.assert_allclose(mean, np.trace(full, axis1=2, axis2=3) / full.shape[-1], rtol=1e-12, atol=1e-12)


def small_example(name):
    f, make, shape = MODELS[name]
    x1, x2 = (normal(np.random.default_rng(i), n, *shape) for i, n in ((2, 5), (3, 4)))
    return f, make(np.random.default_rng(1)), x1, x2


@pytest.mark.slow_after_first
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("outputs, memory", [("mean", 2**29), ("full", 2**29), ("full", 5_000), ("mean", 0)])
def test_tiles_change_nothing_and_symmetry_is_exact(method, outputs, memory):
    f, params, x1, _ = small_example("convolution")
    whole = empirical_ntk(f, params, x1, x1, outputs=outputs, method="jacobian")
    kernel = empirical_ntk(f, params, x1, outputs=outputs, method=method, memory=memory)
    np.testing.assert_allclose(kernel, whole, rtol=1e-10, atol=1e-10)
    transposed = kernel.T if outputs == "mean" else kernel.transpose(1, 0, 3, 2)
    assert (kernel == transposed).all()


@pytest.mark.parametrize("method", METHODS)
def test_float32(method):
    f, params, x1, x2 = small_example("convolution")
    expected = empirical_ntk(f, params, x1, x2, method="jacobian")
    kernel = empirical_ntk(f, *jax.tree.map(lambda a: a.astype(jnp.float32), (params, x1, x2)), method=method)
    assert kernel.dtype == jnp.float32
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("memory", [5_000, 0])
def test_tiles_of_two_sets(memory):
    f, params, x1, x2 = small_example("convolution")
    whole = empirical_ntk(f, params, x1, x2, outputs="full", method="jacobian")
    tiles = empirical_ntk(f, params, x1, x2, outputs="full", memory=memory)
    np.testing.assert_allclose(tiles, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_under_jit_vmap_and_grad(method):
    f, params, x1, x2 = small_example("attention")
    kernel = lambda x1: empirical_ntk(f, params, x1, x2, method=method)
    plain = kernel(x1)
    np.testing.assert_allclose(jax.jit(kernel)(x1), plain, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(kernel)(jnp.stack([x1, x1 + 1]))[0], plain, rtol=1e-12, atol=1e-12)
    direction = jnp.sin(jnp.arange(x1.size, dtype=x1.dtype)).reshape(x1.shape)
    step = 1e-5 * direction
    slope = (kernel(x1 + step) - kernel(x1 - step)).sum() / 2e-5
    gradient = jax.grad(lambda x: kernel(x).sum())(x1)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6)


def test_gradient_through_tiles_and_the_symmetric_half():
    f, params, x1, _ = small_example("flat output")
    total = lambda x, memory: (empirical_ntk(f, params, x, memory=memory) ** 2).sum()
    whole, tiles = (jax.grad(total)(x1, memory) for memory in (2**29, 0))
    np.testing.assert_allclose(tiles, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.slow_after_first
def test_vector_product_is_the_kernel_times_a_vector(example):
    f, params, x1, x2, expected = example
    v = normal(np.random.default_rng(5), len(x2), expected.shape[-1])
    product = ntk_vector_product(f, params, x1, x2)(v)
    np.testing.assert_allclose(product, np.einsum("ijab,jb->ia", expected, v), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match=r"Expected v of the shape"):
        ntk_vector_product(f, params, x1, x2)(v[:-1])


@pytest.mark.slow_after_first
def test_empirical_nngp_is_the_gram_matrix_of_outputs(example):
    f, params, x1, x2, _ = example
    a, b = (np.asarray(f(params, x)).reshape(len(x), -1) for x in (x1, x2))
    np.testing.assert_allclose(empirical_nngp(f, params, x1, x2), a @ b.T / a.shape[1], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(empirical_nngp(f, params, x1), a @ a.T / a.shape[1], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_examples_that_see_each_other_are_an_error_and_cancelling_outputs_are_not():
    params, x = dense_params(np.random.default_rng(0), (3, 8, 1)), normal(np.random.default_rng(1), 6, 3)
    centered = lambda moved, x: dense(moved, x) - dense(params, x)  # zero at the start, up to rounding
    empirical_ntk(centered, params, x)
    doubled = lambda pair, x: dense(pair[0], x) - dense(pair[1], x) * (1 + 1e-15)
    empirical_ntk(doubled, (params, params), x)
    normalize = lambda z: (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5)
    drop = lambda z: z * jax.random.bernoulli(jax.random.key(3), 0.5, z.shape).astype(z.dtype)
    for joint in (normalize, drop, jax.jit(drop), lambda z: z + z[::-1]):
        for rows in (x, x[:1]):
            with pytest.raises(ValueError, match="BatchNorm or dropout in training mode"):
                empirical_ntk(lambda params, x, joint=joint: joint(dense(params, x)), params, rows)
    features = lambda params, x: dense(params, x @ jax.random.normal(jax.random.key(5), (3, 3)))  # random, but fixed
    empirical_ntk(features, params, x)


@pytest.mark.parametrize(
    "changes, error, sentence",
    [
        (
            {"method": "fast"},
            ValueError,
            "Expected method to be one of 'auto', 'jacobian', 'vector_product', 'layerwise'",
        ),
        ({"outputs": "trace"}, ValueError, "Expected outputs to be one of 'mean', 'full'"),
        ({"x1": np.array(3)}, ValueError, "example axis first"),
        ({"x1": {"a": np.zeros((2, 3)), "b": np.zeros((3, 3))}}, ValueError, r"same number of examples, got \[2, 3\]"),
        ({"x1": (np.zeros((2, 3)), "text")}, TypeError, "Expected every array of x1"),
        ({"x2": (np.zeros((2, 3)),)}, ValueError, "x1 and x2 of the same structure"),
        ({"f": lambda params, x: (x @ params[0]["W"]).astype(complex)}, TypeError, "Return both parts as outputs"),
        ({"x1": np.full((2, 3), np.nan)}, ValueError, "Expected finite numbers in x1"),
        ({"x1": np.zeros((0, 3))}, ValueError, "Expected x1 to hold at least one entry"),
        ({"x2": np.zeros((2, 4))}, ValueError, "same features"),
        ({"params": {}}, TypeError, "empty tree"),
        ({"params": {"w": "text"}}, TypeError, "Expected params to hold arrays only"),
        ({"f": lambda params, x: (x, x)}, TypeError, "one array of floats"),
        ({"f": lambda params, x: (x @ params[0]["W"]).sum()}, ValueError, "one row per example"),
        ({"f": lambda params, x: x @ params[0]["W"] > 0}, TypeError, "one array of floats"),
    ],
)
def test_bad_input_is_told_in_a_sentence(changes, error, sentence):
    call = dict(f=dense, params=dense_params(np.random.default_rng(0), (3, 2, 1)), x1=np.ones((2, 3))) | changes
    with pytest.raises(error, match=sentence):
        empirical_ntk(**call)


def test_numbers_inside_a_network_compile_once():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Scaled:
        scale: float

        def apply(self, params, x):
            return self.scale * (x @ params)

    params, x = jnp.ones((3, 2)), jnp.ones((4, 3))
    kernels = [empirical_ntk(Scaled(scale).apply, params, x) for scale in (1.0, 2.0, 3.0)]
    np.testing.assert_allclose(kernels[2], 9 * kernels[0], rtol=1e-14)
    compiled = _empirical_ntk._cache_size()
    empirical_ntk(Scaled(4.0).apply, params, x)
    assert _empirical_ntk._cache_size() == compiled > 0
    through = jax.grad(lambda scale: empirical_ntk(Scaled(scale).apply, params, x).sum())(2.0)
    np.testing.assert_allclose(through, 4 * kernels[0].sum(), rtol=1e-12)
    traced = jax.jit(lambda scale: empirical_ntk(Scaled(scale).apply, params, x))
    np.testing.assert_allclose(traced(3.0), kernels[2], rtol=1e-14)
    empirical_ntk(Scaled(5.0).apply, params, x)  # after the trace: nothing of it was left behind


@pytest.mark.parametrize("kernel", [empirical_ntk, empirical_nngp])
def test_a_kernel_that_is_not_finite_is_said(kernel):
    f = lambda w, x: jnp.log(x @ w)
    with pytest.raises(ValueError, match="Did training diverge"):
        kernel(f, jnp.zeros((1, 1)), jnp.ones((2, 1)))
    inside = jax.jit(lambda w: kernel(f, w, jnp.ones((2, 1))))(jnp.zeros((1, 1)))
    assert not np.isfinite(inside).any()  # there nothing can be said
