"""Models of other libraries, installed for real: their kernels against the same network written by hand."""

import os
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook.finite.empirical import empirical_nngp, empirical_ntk, ntk_vector_product
from ntkbook.finite.linearize import linearize, taylor_expand
from ntkbook.finite.train import train
from ntkbook.torch_models import from_torch

MISSING = [name for name in ("flax", "torch") if find_spec(name) is None]
if MISSING and os.environ.get("NTKBOOK_REQUIRE_MODELS") != "1":
    pytest.skip(f"{' and '.join(MISSING)} not here: make test LEVEL=everything", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import equinox as eqx
    import flax.linen as linen
    import torch
    from flax import nnx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PAGE = (Path(__file__).parent.parent / "docs" / "bring_your_own_model.md").read_text()


def tanh_kernel(W, b, v, x1, x2):
    """Full NTK of v tanh(W x + b) + c by its formula, with W (d, h) and v (h, o)."""
    h1, h2 = np.tanh(x1 @ W + b), np.tanh(x2 @ W + b)
    s1, s2 = 1 - h1**2, 1 - h2**2
    readout = (h1 @ h2.T + 1)[:, :, None, None] * np.eye(v.shape[1])
    hidden = np.einsum("ih,jh,ha,hb->ijab", s1, s2, v, v) * (x1 @ x2.T + 1)[:, :, None, None]
    return readout + hidden


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    return random.normal(size=(5, 3)), random.normal(size=(4, 3))


def check(f, params, data, W, b, v, rtol=1e-10):
    x1, x2 = data
    expected = tanh_kernel(*(np.asarray(a, float) for a in (W, b, v)), x1, x2)
    full = empirical_ntk(f, params, x1, x2, outputs="full")
    np.testing.assert_allclose(full, expected, rtol=rtol, atol=rtol)
    mean = np.trace(expected, axis1=2, axis2=3) / expected.shape[2]
    np.testing.assert_allclose(empirical_ntk(f, params, x1, x2), mean, rtol=rtol, atol=rtol)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.Dense(6, param_dtype=jnp.float64)(x))
        return linen.Dense(2, param_dtype=jnp.float64)(x)


@pytest.mark.slow
def test_flax_linen(data):
    model = Linen()
    params = model.init(jax.random.key(0), data[0])
    first, second = params["params"]["Dense_0"], params["params"]["Dense_1"]
    check(model.apply, params, data, first["kernel"], first["bias"], second["kernel"])
    run = train(model.apply, params, data[0], np.sin(data[0][:, :2]), lr=0.01, steps=5, record=("loss", "distances"))
    assert run.loss[-1] < run.loss[0] and len(run.layers) == 2


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 6, rngs=rngs, param_dtype=jnp.float64)
        self.second = nnx.Linear(6, 2, rngs=rngs, param_dtype=jnp.float64)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def test_flax_nnx(data):
    model = NNX(nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    f = lambda params, x: nnx.merge(graph, params, rest)(x)
    check(f, params, data, model.first.kernel[...], model.first.bias[...], model.second.kernel[...])
    g = linearize(f, params)
    np.testing.assert_allclose(g(params, data[0]), f(params, data[0]), rtol=1e-12)


def test_what_a_model_of_flax_holds_is_read_at_each_call(data):
    x, w = jnp.asarray(data[0]), jnp.ones((3, 1))

    class Scaled(nnx.Module):
        def __init__(self):
            self.scale = nnx.Variable(jnp.array(1.0))

        def __call__(self, w, x):
            return self.scale[...] * (x @ w)

    model, stats = Scaled(), {"mean": jnp.zeros(3)}
    at_rest = linen.BatchNorm(use_running_average=True, dtype=jnp.float64)
    normalized = lambda params, x: at_rest.apply({"params": params, "batch_stats": {**stats, "var": jnp.ones(3)}}, x)
    ones = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    before = empirical_ntk(model, w, x)
    centered = lambda mean: ((x - mean) @ (x - mean).T / (1 + 1e-5) + 3) / 3
    np.testing.assert_allclose(empirical_ntk(normalized, ones, x), centered(0.0), rtol=1e-10)
    model.scale[...], stats["mean"] = jnp.array(3.0), jnp.full(3, 2.0)
    np.testing.assert_allclose(empirical_ntk(model, w, x), 9 * before, rtol=1e-12)
    np.testing.assert_allclose(empirical_ntk(normalized, ones, x), centered(2.0), rtol=1e-10)


def test_equinox(data):
    model = eqx.nn.MLP(3, 2, 6, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    f = lambda params, x: jax.vmap(eqx.combine(params, static))(x)
    first, second = model.layers
    check(f, params, data, first.weight.T, first.bias, second.weight.T)
    with pytest.raises(TypeError, match="equinox.partition"):
        empirical_ntk(lambda model, x: jax.vmap(model)(x), model, data[0])


def torch_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()


@pytest.mark.parametrize("method", ["auto", "jacobian", "vector_product"])
def test_torch(data, method):
    f, params = from_torch(torch_network())
    x1, x2 = data
    expected = tanh_kernel(params["0.weight"].T, params["0.bias"], params["2.weight"].T, x1, x2)
    for memory in (2**29, 0):
        kernel = empirical_ntk(f, params, x1, x2, method=method, outputs="full", memory=memory)
        assert type(kernel) is np.ndarray
        np.testing.assert_allclose(kernel, expected, rtol=1e-11, atol=1e-11)
    symmetric = empirical_ntk(f, params, x1, method=method)
    assert (symmetric == symmetric.T).all()
    v = np.random.default_rng(1).normal(size=(4, 2))
    product = ntk_vector_product(f, params, x1, x2)(v)
    np.testing.assert_allclose(product, np.einsum("ijab,jb->ia", expected, v), rtol=1e-11)
    out = np.tanh(x1 @ params["0.weight"].T + params["0.bias"]) @ params["2.weight"].T + params["2.bias"]
    np.testing.assert_allclose(empirical_nngp(f, params, x1), out @ out.T / 2, rtol=1e-11)


@pytest.mark.parametrize("method", ["jacobian", "vector_product"])
def test_torch_tiles_below_the_diagonal_are_mirrored(data, method):
    """With two hidden layers Theta_ij^ab is not Theta_ij^ba: gradients one by one tell them apart."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)]
    model, x = torch.nn.Sequential(*layers).double(), np.asarray(data[0])
    gradients = lambda out: torch.autograd.grad(out, [*model.parameters()], retain_graph=True)
    row_of = lambda out: torch.cat([g.ravel() for g in gradients(out)]).numpy()
    J = np.stack([[row_of(out) for out in outputs] for outputs in model(torch.tensor(x))])
    expected = np.einsum("iap,jbp->ijab", J, J)
    assert abs(expected - expected.swapaxes(2, 3)).max() > 1e-3
    f, params = from_torch(model)
    size = 2 * 8 * J.shape[-1]  # bytes of the gradients of one example
    for memory in (2**29, 4 * size, 0):  # one tile, tiles of two, of one
        kernel = empirical_ntk(f, params, x, method=method, outputs="full", memory=memory)
        np.testing.assert_allclose(kernel, expected, rtol=1e-11, atol=1e-11)


def test_torch_expansions_are_those_of_the_same_network_in_jax(data):
    f, params = from_torch(torch_network())
    random = np.random.default_rng(2)
    moved = {name: value + 0.3 * random.normal(size=value.shape) for name, value in params.items()}
    twin = lambda p, x: jnp.tanh(x @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]
    for order in (0, 1, 2, 3):
        expected = taylor_expand(twin, params, order)(jax.tree.map(jnp.asarray, moved), jnp.asarray(data[0]))
        actual = taylor_expand(f, params, order)(moved, data[0])
        assert type(actual) is np.ndarray
        np.testing.assert_allclose(actual, expected, rtol=1e-10)
    kernel = empirical_ntk(linearize(f, params), moved, data[0])
    np.testing.assert_allclose(kernel, empirical_ntk(f, params, data[0]), rtol=1e-11)


def test_torch_convolution_in_float32_with_frozen_parts_and_batchnorm_at_rest():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(64, 3)).eval()
    model[0].bias.requires_grad_(False)
    x = np.random.default_rng(0).normal(size=(3, 1, 6, 6))
    f, params = from_torch(model)
    assert "0.bias" not in params
    kernel = empirical_ntk(f, params, x, outputs="full")
    assert kernel.dtype == np.float32
    rows = []
    for image in x:
        out = model(torch.tensor(image[None], dtype=torch.float32))[0]
        free = [p for p in model.parameters() if p.requires_grad]
        gradients = [torch.autograd.grad(o, free, retain_graph=True) for o in out]
        rows.append([np.concatenate([g.numpy().ravel() for g in gradient]) for gradient in gradients])
    np.testing.assert_allclose(kernel, np.einsum("iap,jbp->ijab", rows, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_training_mode_is_an_error_that_says_why(data):
    x = data[0]
    for part in (torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5)):
        model = torch.nn.Sequential(torch.nn.Linear(3, 6), part, torch.nn.Linear(6, 2))
        with pytest.raises(ValueError, match="model.eval()"):
            from_torch(model)
        from_torch(model.eval())

    class Own(torch.nn.Module):  # no BatchNorm in name
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(x - x.mean(0))

    with pytest.raises(ValueError, match="rest of the batch"):
        empirical_ntk(*from_torch(Own()), x)

    class Normalized(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))
            return linen.Dropout(0.5, deterministic=not train)(x)

    model = Normalized()
    x = x.astype(np.float32)
    variables = model.init(jax.random.key(0), x, train=False)
    training = lambda p, x: model.apply(p, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
    with pytest.raises(TypeError, match="one array of floats.*BatchNorm in training mode"):
        empirical_ntk(training, variables, x)
    for f in (lambda p, x: training(p, x)[0], lambda p, x: training(p, x)[0][:, :1]):
        for use in (lambda f: empirical_ntk(f, variables, x), lambda f: empirical_nngp(f, variables, x)):
            with pytest.raises(ValueError, match="BatchNorm or dropout in training mode"):
                use(f)
    rest = lambda p, x: model.apply({**variables, "params": p}, x, train=False)
    assert empirical_ntk(rest, variables["params"], x).shape == (5, 5)

    noisy = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
    graph, params, others = nnx.split(noisy, nnx.Param, ...)
    with pytest.raises(Exception, match="Cannot mutate RngCount"):  # Flax's own: a random stream is used up
        empirical_ntk(lambda p, x: nnx.merge(graph, p, others)(x), params, x)


def test_what_is_no_torch_module_or_no_torch(monkeypatch, data):
    with pytest.raises(TypeError, match="Expected a torch.nn.Module"):
        from_torch(lambda x: x)
    with pytest.raises(TypeError, match="from_torch"):
        empirical_ntk(torch_network(), {"w": jnp.ones(1)}, data[0])
    f, params = from_torch(torch_network())
    with pytest.raises(TypeError, match="Train it in PyTorch"):
        train(f, params, data[0], data[0][:, :2], lr=0.1, steps=1)
    with pytest.raises(ValueError, match="method for a PyTorch module"):
        empirical_ntk(f, params, data[0], method="layerwise")
    with pytest.raises(TypeError, match="params that from_torch gave"):
        empirical_ntk(f, [], data[0])
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        from_torch(torch_network)


SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL)
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
}


def test_the_page_shows_every_kind_of_model():
    assert [title for title, blocks in SECTIONS.items() if blocks] == [
        "A plain JAX function",
        "Flax (linen)",
        "Flax (NNX)",
        "Equinox",
        "PyTorch",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title, blocks in SECTIONS.items() if blocks])
def test_the_page_runs(title, capsys):
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        for block in SECTIONS[title]:
            exec(compile(block, f"bring_your_own_model.md: {title}", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.strip() and "False" not in printed
