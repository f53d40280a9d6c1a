"""Bad input at every public door: what is no number, no array, no key or no function ends in a sentence."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_checks import nb

BAD = [None, "word", 1j, {}, object(), [1, [2, 3]], 2**70, jax.random.key(0), np.array(["a", "b"]), nb]
X = np.random.default_rng(0).normal(size=(4, 3))
Y = np.sin(X[:, :1])
NET = nb.serial(nb.Dense(8), nb.Relu(), nb.Dense(1))
FLAGS = {"progress", "covariance", "images", "endpoint"}  # whatever is true or false


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A store's name may be any word: none is made among our files."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """An argument for every name that a public function has."""
    k, between = (np.asarray(nb.ntk(NET, X, x2)) for x2 in (None, X[:2]))
    kernels = dict.fromkeys(["k", "k1", "k2", "k_train_train"], k) | {
        "k_test_train": between.T,
        "k_new_train": between.T,
    }
    data = {"x": X, "x1": X, "x_train": X, "x_test": X[:2], "y": Y, "y_train": Y, "variances": np.ones(2)}
    network = {"net": NET, "layer": nb.Dense(3), "activation": nb.Relu(), "f": NET.apply, "phi": jnp.tanh}
    params = NET.init(jax.random.key(0), X.shape)[1]
    numbers = {"steps": 2, "order": 1, "depth": 3, "degree": 2, "width": 4, "times": 2, "channels": 3, "n_networks": 2}
    numbers |= {"t": 1.0, "noise": 0.1, "lr": 0.01, "W_std": 1.4, "b_std": 0.0, "slope": 0.1, "rate": 0.5, "gamma": 1.0}
    rest = {"key": jax.random.key(0), "params": params, "params_0": params, "input_shape": (1, 3), "function": jnp.tanh}
    rest |= {"loss": lambda f, y: jnp.square(f - y).sum() / 2, "coefficients": (0.0, 1.0), "n": np.array([3.0])}
    rest |= {
        "eigenvalues": np.array([1.0, 0.5]),
        "target_power": np.ones(2),
        "filter_shape": (3,),
        "window_shape": (2,),
    }
    return kernels | data | network | numbers | rest


def raw_errors(f: Any, good: dict[str, Any]) -> list[str]:
    """What f says to bad values of each of its arguments that is no sentence of ours."""
    known = [p for p in inspect.signature(f).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = {p.name for p in known if p.default is p.empty}
    base, found = {name: good[name] for name in needed if name in good}, []
    if base.keys() < needed:
        return []
    for p in known:
        for value in BAD if p.name not in FLAGS else ():
            try:
                f(**{**base, p.name: value})
            except (TypeError, ValueError) as error:
                if "Expected" not in str(error):
                    found.append(f"{p.name}={value!r:.30}: {error!r:.90}")
            except Exception as error:
                found.append(f"{p.name}={value!r:.30}: {error!r:.90}")
    return found


PUBLIC = [name for name in dir(nb) if not name.startswith("_") and callable(getattr(nb, name))]


@pytest.mark.slow_after_first
@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name, good):
    assert not raw_errors(getattr(nb, name), good)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sine", "circle", "digits"])
def test_data(name, good):
    assert not raw_errors(getattr(nb.data, name), good | {"n": 5})


RESULTS = {
    "gradient_flow": lambda g: nb.gradient_flow(g["k"], Y),
    "gradient_descent": lambda g: nb.gradient_descent(g["k"], Y, lr=0.01),
    "ensemble": lambda g: nb.ensemble(NET, X, Y),
    "ensemble at points": lambda g: nb.ensemble(NET, X, Y).at(X[:2]),
    "spectrum": lambda g: nb.spectrum(g["k"], Y),
    "kernel_regression": lambda g: nb.kernel_regression(g["k"], Y, noise=0.1, progress=False),
    "Dense": lambda g: nb.Dense(3),
    "LayerNorm": lambda g: nb.LayerNorm(),
    "GlobalAvgPool": lambda g: nb.GlobalAvgPool(),
}


@pytest.mark.slow_after_first
@pytest.mark.parametrize("name", RESULTS)
def test_methods_of_results(name, good):
    result = RESULTS[name](good)
    methods = [m for m in dir(result) if not m.startswith("_") and m not in ("kernel", "requires", "replace", "net")]
    params = {"params": nb.Dense(3).init(jax.random.key(0), (1, 3))[1]} if name == "Dense" else {}
    found = {m: raw_errors(getattr(result, m), good | params) for m in methods if inspect.ismethod(getattr(result, m))}
    assert not {m: errors for m, errors in found.items() if errors}
