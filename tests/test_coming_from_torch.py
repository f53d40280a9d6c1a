"""The page for who comes from PyTorch's tutorial: each right side against what the left side means, by loops."""

import os
import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import ntkbook as nb

if find_spec("torch") is None and os.environ.get("NTKBOOK_REQUIRE_MODELS") != "1":
    pytest.skip("torch not here: make test LEVEL=everything", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PAGE = (Path(__file__).parent.parent / "docs" / "coming_from_torch.md").read_text()


@pytest.fixture(scope="module")
def names():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double().eval()
    known = dict(nb=nb, np=np, model=model, o=2, x1=random.normal(size=(4, 3)), x2=random.normal(size=(3, 3)))
    return known | dict(v=random.normal(size=(3, 2)), step=0.1)


def rows_of_the_page():
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")][1:]
    return [(left.strip(), re.fullmatch(r"`(.*)`", right.strip())[1]) for left, right in rows]


def gradients(model, x):
    """(n, o, all parameters), one output of one example at a time."""
    rows = [
        [torch.autograd.grad(out, list(model.parameters()), retain_graph=True) for out in model(row[None])[0]]
        for row in x
    ]
    return np.array([[np.concatenate([g.numpy().ravel() for g in each]) for each in row] for row in rows])


def test_each_row_means_what_the_left_side_does(names):
    rows = rows_of_the_page()
    first, calls, last = rows[0][1], rows[1:-1], rows[-1][1]
    exec(first, names)
    model = names["model"]
    moved = {
        name: value + names["step"] * np.sin(np.arange(value.size)).reshape(value.shape)
        for name, value in names["params"].items()
    }
    x1, x2 = (torch.tensor(names[name]) for name in ("x1", "x2"))
    g1, g2 = gradients(model, x1), gradients(model, x2)
    full = np.einsum("iap,jbp->ijab", g1, g2)
    step = np.concatenate([(moved[name] - value).ravel() for name, value in names["params"].items()])
    expected = [
        full,
        np.einsum("ijaa->ij", full),
        np.einsum("ijaa->ija", full),
        full,
        np.einsum("iap,jap->ij", g1, g1) / 2,
        np.einsum("ijab,jb->ia", full, names["v"]),
        model(x1).detach().numpy() + g1 @ step,
    ]
    assert len(calls) == len(expected)
    for (_, right), value in zip(calls, expected):
        np.testing.assert_allclose(eval(right, names | {"moved": moved}), value, rtol=1e-9, atol=1e-12, err_msg=right)
    layer = torch.nn.Linear(512, 256)
    ours = eval(last, names)
    weights, biases = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    # a uniform variance has a relative standard error of sqrt(0.8 / n)
    assert np.isclose(weights.var() * 512, ours.W_std**2, rtol=4 * (0.8 / weights.size) ** 0.5)
    assert np.isclose(np.square(biases).mean(), ours.b_std**2, rtol=4 * (0.8 / biases.size) ** 0.5)
    assert ours.width == layer.out_features


@pytest.mark.slow
def test_the_report_of_a_module_is_that_of_its_gradients(names):
    """Shares of layers by the prefix of their parameters, and the kernel, against gradients one by one."""
    f, params = nb.from_torch(names["model"])
    found = nb.report(f, params, names["x1"])
    g = gradients(names["model"], torch.tensor(names["x1"]))
    np.testing.assert_allclose(found.k, np.einsum("iap,jap->ij", g, g) / 2, rtol=1e-9)
    first = 3 * 5 + 5
    np.testing.assert_allclose(
        found.shares, [np.square(g[..., :first]).sum(), np.square(g[..., first:]).sum()] / np.square(g).sum()
    )
    assert found.layers == ("layer 0", "layer 2")
