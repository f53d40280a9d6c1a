"""The kernel of GPyTorch: formulas of one hidden layer in numpy, finite differences by PyTorch, a process trained."""

import copy
import importlib
import os
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
from oracles import erf_kernels as by_hand

import ntkbook as nb
from ntkbook.interop.bridge import precision
from ntkbook.pytrees import tunable

MISSING = [name for name in ("torch", "gpytorch", "tinygp") if find_spec(name) is None]
if MISSING and os.environ.get("NTKBOOK_REQUIRE_MODELS") != "1":
    pytest.skip(f"{' and '.join(MISSING)} not here: make test LEVEL=everything", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import gpytorch
    import torch

    from ntkbook.interop.gpytorch import NTKKernel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
RNG = np.random.default_rng(0)
X, X_TEST = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3))
Y = np.sin(X[:, 0]) + X[:, 1]
NAMES = ("layers_0_W_std", "layers_0_b_std", "layers_2_W_std", "layers_2_b_std")
PAGE = (Path(__file__).parent.parent / "docs" / "gpytorch.md").read_text()


def network(W1=1.5, b1=0.3, W2=1.2, b2=0.2):
    return nb.serial(nb.Dense(1, W1, b1), nb.Erf(), nb.Dense(1, W2, b2))


def kernel_of(*arguments, **options):
    return NTKKernel(*(arguments or (network(),)), **options).double()


def raw_of(kernel):
    return [getattr(kernel, f"raw_{name}") for name in kernel.raw_names]


@pytest.mark.parametrize("get, which", [("nngp", 0), ("ntk", 1)])
def test_values_are_those_of_the_formula(get, which):
    kernel, x, x_test = kernel_of(network(), get), torch.tensor(X), torch.tensor(X_TEST)
    close = lambda actual, expected: np.testing.assert_allclose(actual.detach(), expected, rtol=1e-6, atol=1e-7)
    close(kernel(x).to_dense(), by_hand(X, X)[which])
    close(kernel(x_test, x).to_dense(), by_hand(X_TEST, X)[which])
    close(kernel(x, diag=True), np.diagonal(by_hand(X, X)[which]))
    close(kernel(x_test, x[:4], diag=True), np.diagonal(by_hand(X_TEST, X[:4])[which]))
    # raw parameters in float32 hold seven digits; in float64 the numbers are exact again
    kernel.initialize(**dict(zip(NAMES, (1.5, 0.3, 1.2, 0.2))))
    np.testing.assert_allclose(kernel(x).to_dense().detach(), by_hand(X, X)[which], rtol=1e-12, atol=1e-14)


def test_gradients_in_inputs_and_numbers_are_finite_differences():
    kernel, check = kernel_of(network(), "ntk"), torch.autograd.gradcheck
    x, x_test = (torch.tensor(part[:3], requires_grad=True) for part in (X, X_TEST))

    def at(x, x_test, *raw):
        return torch.func.functional_call(Both(kernel), dict(zip(names, raw)), (x, x_test))

    class Both(torch.nn.Module):
        def __init__(self, kernel):
            super().__init__()
            self.kernel = kernel

        def forward(self, x, x_test):
            one, two = self.kernel(x, x).to_dense(), self.kernel(x, x_test).to_dense()
            return one, two, self.kernel(x, diag=True), self.kernel(x, x_test, diag=True)

    names = [f"kernel.raw_{name}" for name in NAMES]
    raw = [p.detach().clone().requires_grad_() for p in raw_of(kernel)]
    assert check(at, (x, x_test, *raw), eps=1e-6, atol=1e-6)
    assert check(lambda *raw: at(x.detach(), x_test.detach(), *raw), tuple(raw), eps=1e-6, atol=1e-6)


def test_float32_stays_float32_and_the_setting_of_jax_is_left_alone():
    kernel = NTKKernel(network(), "ntk")
    x = torch.tensor(X, dtype=torch.float32, requires_grad=True)
    with precision(False):
        value = kernel(x).to_dense()
        value.sum().backward()
        double = kernel_of(network(), "ntk")(torch.tensor(X)).to_dense()
        assert not jax.config.jax_enable_x64
    assert value.dtype == x.grad.dtype == kernel.raw_layers_0_W_std.grad.dtype == torch.float32
    assert double.dtype == torch.float64
    np.testing.assert_allclose(value.detach(), by_hand(X, X)[1], rtol=1e-5, atol=1e-5)


def test_a_batch_of_kernels_and_of_inputs():
    kernel = kernel_of(network(), batch_shape=torch.Size([2]))
    kernel.layers_0_W_std = torch.tensor([1.5, 0.7]).reshape(2, 1, 1)
    kernel.layers_2_b_std = 0.4
    numbers = [(w, 0.3, 1.2, 0.4) for w in (1.5, 0.7)]
    x, many = torch.tensor(X), torch.tensor(np.stack([X, X + 1, 2 * X])[:, None])
    assert kernel(x).shape == (2, 5, 5) and kernel(many).shape == (3, 2, 5, 5)
    value = kernel(many).to_dense().detach()
    for i, inputs in enumerate((X, X + 1, 2 * X)):
        for j, each in enumerate(numbers):
            np.testing.assert_allclose(value[i, j], by_hand(inputs, inputs, *each)[0], rtol=1e-6)
    np.testing.assert_allclose(kernel[1](x).to_dense().detach(), value[0, 1], rtol=1e-12)
    np.testing.assert_allclose(kernel(x, diag=True).detach(), np.diagonal(value[0], axis1=1, axis2=2), rtol=1e-12)
    kernel(x).to_dense()[1].sum().backward()
    slope = kernel.raw_layers_0_W_std.grad.ravel()
    assert slope[0] == 0 and slope[1] != 0
    with pytest.raises(ValueError, match="Expected one network, got a batch"):
        kernel.network()
    found = [number.value for number in tunable(kernel[1].network())]
    np.testing.assert_allclose(found, numbers[1], rtol=1e-6)


class Process(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood, kernel):
        super().__init__(x, y, likelihood)
        self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def test_an_exact_process_is_trained_and_predicts_by_the_formula():
    x, y = torch.tensor(X), torch.tensor(Y)
    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    model = Process(x, y, likelihood, gpytorch.kernels.ScaleKernel(kernel_of())).double()
    likelihood.noise, model.covar_module.outputscale = 0.1, 1.5
    evidence = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    values = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = -evidence(model(x), y)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    density = scipy.stats.multivariate_normal(np.zeros(5), 1.5 * by_hand(X, X)[0] + 0.1 * np.eye(5))
    np.testing.assert_allclose(-values[0], density.logpdf(Y) / 5, rtol=1e-5)
    assert values[-1] < values[0] - 0.05
    model.eval()
    found = likelihood(model(torch.tensor(X_TEST)))
    inner = model.covar_module.base_kernel
    numbers = [getattr(inner, name).item() for name in NAMES]
    scale, noise = model.covar_module.outputscale.item(), likelihood.noise.item()
    k, k_test, own = (scale * by_hand(a, b, *numbers)[0] for a, b in ((X, X), (X_TEST, X), (X_TEST, X_TEST)))
    solved = np.linalg.solve(k + noise * np.eye(5), np.concatenate([Y[:, None], k_test.T], axis=1))
    np.testing.assert_allclose(found.mean.detach(), k_test @ solved[:, 0], rtol=1e-6)
    variances = np.diagonal(own - k_test @ solved[:, 1:]) + noise
    np.testing.assert_allclose(found.variance.detach(), variances, rtol=1e-6)
    law = nb.posterior(inner.network(), X, Y, noise / scale).predict(X_TEST)  # and back in this library
    np.testing.assert_allclose(law.mean, found.mean.detach(), rtol=1e-6)


def test_which_numbers_are_trained_and_how():
    net = nb.serial(nb.Dense(1, -1.5), nb.LeakyRelu(-0.2), nb.Dense(1, 2.0, 0.5), nb.Rbf(2.0), nb.Dense(1))
    kernel = kernel_of(net, fixed=["layers_2_b_std"])
    assert kernel.raw_names == (
        "layers_0_W_std",
        "layers_1_slope",
        "layers_2_W_std",
        "layers_3_gamma",
        "layers_4_W_std",
    )
    assert [round(getattr(kernel, name).item(), 5) for name in kernel.raw_names] == [1.5, -0.2, 2.0, 2.0, 1.0]
    bounded = {name for name, _ in kernel.named_constraints()}
    assert "raw_layers_1_slope_constraint" not in bounded and "raw_layers_3_gamma_constraint" in bounded
    assert kernel_of(net, fixed="all").raw_names == () and not list(kernel_of(net, fixed="all").parameters())
    x = torch.tensor(X, requires_grad=True)
    kernel_of(net, fixed="all")(x).to_dense().sum().backward()
    assert x.grad.abs().max() > 0
    kernel.register_prior("prior", gpytorch.priors.LogNormalPrior(0.0, 1.0), "layers_0_W_std")
    kernel.sample_from_prior("prior")
    assert kernel.layers_0_W_std.item() != 1.5 and not kernel.is_stationary
    twin = copy.deepcopy(kernel)
    other = kernel_of(net, fixed=["layers_2_b_std"])
    other.load_state_dict({name: p for name, p in kernel.state_dict().items() if "prior" not in name})
    for copied in (twin, other):
        assert torch.equal(copied(x).to_dense(), kernel(x).to_dense())


def test_a_loop_of_layers_and_images():
    loop = nb.serial(nb.Dense(1, 1.3), nb.Repeat(nb.serial(nb.Erf(), nb.Dense(1, 1.2, 0.1)), 2))
    flat = nb.serial(nb.Dense(1, 1.3), *[nb.Erf(), nb.Dense(1, 1.2, 0.1)] * 2)
    kernels, x = [kernel_of(net) for net in (loop, flat)], torch.tensor(X)
    for kernel in kernels:
        kernel(x).to_dense().square().sum().backward()
    slopes = [[float(p.grad) for p in raw_of(kernel)] for kernel in kernels]
    np.testing.assert_allclose(slopes[0][1], slopes[1][1] + slopes[1][3], rtol=1e-6)
    with pytest.raises(NotImplementedError, match="without Repeat"):
        kernels[0](torch.tensor(X, requires_grad=True)).to_dense().sum().backward()
    net = nb.serial(nb.Conv(1, (2, 2), W_std=1.4), nb.Relu(), nb.GlobalAvgPool(), nb.Dense(1))
    rows = RNG.normal(size=(3, 12))
    expected = nb.nngp(net, jax.numpy.asarray(rows.reshape(3, 2, 3, 2)))
    actual = kernel_of(net, input_shape=(2, 3, 2))(torch.tensor(rows)).to_dense()
    np.testing.assert_allclose(actual.detach(), expected, rtol=1e-6)


def test_wrong_use_is_an_error_in_a_sentence(monkeypatch):
    with pytest.raises(ValueError, match="a name in fixed"):
        kernel_of(network(), fixed=["W_std"])
    with pytest.raises(ValueError, match="get to be one of"):
        kernel_of(network(), "cov")
    with pytest.raises(TypeError, match="float32 or float64"):
        kernel_of()(torch.tensor(X, dtype=torch.float16)).to_dense()
    with pytest.raises(AttributeError, match="layers_9"):
        _ = kernel_of().layers_9_W_std
    monkeypatch.setitem(sys.modules, "gpytorch.kernels", None)
    monkeypatch.delitem(sys.modules, "ntkbook.interop.gpytorch")
    with pytest.raises(ImportError, match="pip install gpytorch"):
        importlib.import_module("ntkbook.interop.gpytorch")


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_runs(capsys):
    names = {}
    assert len(BLOCKS) == 3
    with jax.numpy_dtype_promotion("standard"), precision(False):
        for block in BLOCKS:
            exec(compile(block, "gpytorch.md", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.strip() and "False" not in printed
