"""PyTorch modules of many kinds: their kernels against gradients taken one by one."""

import copy
import os
import warnings
from importlib.util import find_spec

import numpy as np
import pytest

import ntkbook as nb

if find_spec("torch") is None and os.environ.get("NTKBOOK_REQUIRE_MODELS") != "1":
    pytest.skip("torch not here: make test LEVEL=everything", allow_module_level=True)

import torch
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RANDOM = np.random.default_rng(0)
SIGNAL, ROWS = RANDOM.normal(size=(3, 4, 6)), RANDOM.normal(size=(3, 6))


class Of(nn.Module):
    """A module made of parts and a function of them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


def recurrent(kind):
    torch.manual_seed(0)
    return Of(lambda s, x: s.out(s.core(x)[0][:, -1]), core=kind(6, 5, batch_first=True), out=nn.Linear(5, 2))


def heads():
    forward = lambda s, x: s.core(x, x, x, need_weights=False)[0].mean(1)
    return Of(forward, core=nn.MultiheadAttention(6, 2, batch_first=True))


def shared():
    layer = nn.Linear(6, 6)
    return Of(lambda s, x: s.b(torch.tanh(s.a(x))), a=layer, b=layer)


def tied():
    a, b = nn.Linear(6, 6), nn.Linear(6, 6)
    b.weight = a.weight
    return Of(lambda s, x: s.b(torch.tanh(s.a(x))), a=a, b=b)


def mixed():
    return Of(lambda s, x: s.b(torch.tanh(s.a(x)).double()), a=nn.Linear(6, 3), b=nn.Linear(3, 2).double())


def complex_inside():
    weight = nn.Parameter(torch.randn(6, 2, dtype=torch.complex128))
    return Of(lambda s, x: (x.to(s.w.dtype) @ s.w).abs(), w=weight)


CASES = {
    "RNN": (lambda: recurrent(nn.RNN), SIGNAL, 1e-4),
    "LSTM": (lambda: recurrent(nn.LSTM), SIGNAL, 1e-4),
    "GRU": (lambda: recurrent(nn.GRU), SIGNAL, 1e-4),
    "heads": (heads, SIGNAL, 1e-4),
    "transformer": (lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), SIGNAL, 1e-4),
    "shared part": (shared, ROWS, 1e-4),
    "tied weights": (tied, ROWS, 1e-4),
    "mixed precision": (mixed, ROWS, 1e-4),
    "bfloat16": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).bfloat16(), ROWS, 0.1),
    "complex": (complex_inside, ROWS, 1e-10),
    "tokens": (
        lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)),
        RANDOM.integers(0, 5, (3, 2)),
        1e-4,
    ),
    "tokens as floats": (
        lambda: Of(lambda s, x: s.table(x.long()).sum(1), table=nn.Embedding(5, 3)),
        RANDOM.integers(0, 5, (3, 2)).astype(float),
        1e-4,
    ),
    "tokens and mask": (
        lambda: Of(lambda s, t, mask: (s.table(t) * mask[..., None]).sum(1), table=nn.Embedding(5, 3)),
        {"t": RANDOM.integers(0, 5, (3, 4)), "mask": RANDOM.integers(0, 2, (3, 4)).astype(float)},
        1e-4,
    ),
}


def slow_kernel(model, x):
    """By `torch.autograd.grad` of each output of each example, on the reader's own module."""
    params, precision = list(model.parameters()), next(model.parameters()).real.dtype
    as_tensor = lambda a: torch.tensor(a).to(precision) if a.dtype.kind == "f" else torch.tensor(a)
    parts = lambda g: torch.view_as_real(g.conj().resolve_conj()) if g.is_complex() else g
    rows = []
    for i in range(3):
        one = {k: as_tensor(a[i : i + 1]) for k, a in x.items()} if isinstance(x, dict) else as_tensor(x[i : i + 1])
        out = model(**one) if isinstance(one, dict) else model(one)
        gradients = [torch.autograd.grad(o, params, retain_graph=True) for o in out.flatten()]
        rows.append([np.concatenate([parts(g).double().numpy().ravel() for g in gradient]) for gradient in gradients])
    return np.einsum("iap,jbp->ijab", rows, rows)


@pytest.mark.slow_after_first
@pytest.mark.parametrize("make, x, tolerance", CASES.values(), ids=CASES)
def test_kernels_and_products(make, x, tolerance):
    torch.manual_seed(1)
    model = make().eval()
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors in PyTorch's own reference
        expected = slow_kernel(model, x)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * abs(expected).max())
    f, params = nb.from_torch(model)
    for method in ("auto", "vector_product"):
        close(nb.empirical_ntk(f, params, x, outputs="full", method=method), expected)
    v = RANDOM.normal(size=(3, expected.shape[-1]))
    product = nb.ntk_vector_product(f, params, x)(v)
    np.testing.assert_allclose(product, np.einsum("ijab,jb->ia", expected, v), atol=3 * tolerance * abs(expected).max())
    np.testing.assert_allclose(nb.linearize(f, params)(params, x), f(params, x), rtol=1e-6)
    after = model.state_dict()
    assert all((after[name] == before[name]).all() for name in before)  # the reader's module is as it was
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())


def test_params_are_those_of_the_start():
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).eval()
    f, params = nb.from_torch(model)
    kernel, kept = nb.empirical_ntk(f, params, ROWS), {name: value.copy() for name, value in params.items()}
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
        model[1].running_var.mul_(9.0)
    assert all((params[name] == kept[name]).all() for name in kept)
    np.testing.assert_array_equal(nb.empirical_ntk(f, params, ROWS), kernel)


@pytest.mark.parametrize(
    "make, x, error, sentence",
    [
        (lambda: Of(lambda s, x: nn.functional.dropout(s.a(x)), a=nn.Linear(6, 9)), ROWS, ValueError, "dropout"),
        (lambda: Of(lambda s, x: s.a(x - x.mean(0).detach()), a=nn.Linear(6, 2)), ROWS, ValueError, "rest of the"),
        (lambda: Of(lambda s, x: s.a(x) / len(x), a=nn.Linear(6, 2)), ROWS, ValueError, "rest of the batch"),
        (lambda: nn.LSTM(6, 2, batch_first=True), SIGNAL, TypeError, "states of an RNN"),
        (
            lambda: Of(lambda s, x: x.to(s.w.dtype) @ s.w, w=nn.Parameter(torch.ones(6, 2) + 1j)),
            ROWS,
            TypeError,
            "real",
        ),
        (lambda: nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 2).double()), ROWS, TypeError, "one precision"),
    ],
)
def test_what_has_no_kernel_is_told_in_a_sentence(make, x, error, sentence):
    f, params = nb.from_torch(make().eval())
    for use in (nb.empirical_ntk, nb.empirical_nngp, nb.ntk_vector_product):
        with pytest.raises(error, match=sentence):
            use(f, params, x)
