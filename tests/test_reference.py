"""Kernels, closed forms and finite networks against neural-tangents, an independent implementation.

The values and the networks as plain data are in `reference/neural_tangents.json`; the script beside it made them. A new
row there is a new test here.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb

STORED = json.loads((Path(__file__).parent / "reference" / "neural_tangents.json").read_text())
TOLERANCE = 1e-9  # of the largest entry
# For a point with itself or its opposite the peer takes the angle from rounded covariances. An error e in a cosine near
# 1 is an error sqrt(e) in the angle: each kink halves the digits of its own numbers there, a jump does so twice.
TWINS = {"smooth": TOLERANCE, "kink": 1e-6, "jump": 1e-3}
STATED = {"elementwise gabor": 1e-6}  # a bump much narrower than its input: `Quadrature` states its error

PHI = {
    "gabor": lambda x: jnp.exp(-(x**2)) * jnp.sin(x),
    "sigmoid-like erf": lambda x: 0.5 * jax.scipy.special.erf(x / 2.4020563531719796) + 0.5,
    "rectified square": lambda x: jnp.maximum(x, 0) ** 2,
    "cube": lambda x: x**3,
}


def names(layers):
    """All layers of a network, those inside others too."""
    return {name for name, _ in layers}.union(*(names(options.get("layers", [])) for _, options in layers))


def network(layers):
    return nb.serial(*(layer(name, dict(options)) for name, options in layers))


def layer(name, options):
    if name == "SelfAttention" and isinstance(options["zeta"], list):
        options["zeta"] = layer(*options["zeta"])
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    if name == "Elementwise":
        return nb.Elementwise(PHI[options["phi"]])
    if name == "Residual":
        return nb.Residual(*network(options["layers"]).layers)
    if name == "Repeat":
        return nb.Repeat(network(options["layers"]), options["times"])
    return getattr(nb, name)(**options)


def assert_close(ours, stored, allowed=TOLERANCE):
    """Equal to a share of the largest entry; where the peer has a null it gave NaN, and there ours has a number."""
    ours, stored = np.asarray(ours), np.array(stored, dtype=float)
    assert ours.shape == stored.shape
    assert np.isfinite(ours).all()
    known = np.isfinite(stored)
    assert known.any()
    error = np.where(known, np.abs(ours - stored), 0) / np.abs(stored[known]).max()
    assert (error <= allowed).all(), f"largest error {error.max():.2e} of the largest entry"


@pytest.mark.slow
@pytest.mark.parametrize("row", STORED["kernels"], ids=lambda row: row["name"])
def test_kernels_agree(row):
    inputs = STORED["inputs"][row["inputs"]]
    x1, x2 = jnp.array(inputs["x1"]), jnp.array(inputs["x2"])
    k = nb.kernel(network(row["network"]), x1, jnp.concatenate([x1, x2]))  # with itself and with x2 at once
    tolerance = STATED.get(row["name"], TOLERANCE)
    twins = np.concatenate([np.eye(len(x1), dtype=bool), np.zeros((len(x1), len(x2)), bool)], axis=1)
    twins[1, len(x1)] = twins[0, len(x1) + 1] = True  # equal and opposite
    allowed = np.where(twins, max(tolerance, TWINS[roughness(row["network"])]), tolerance)
    assert_close(k.nngp, np.concatenate([row["nngp_self"], row["nngp"]], axis=1), allowed)
    if "ntk" in row:
        assert_close(k.ntk, np.concatenate([row["ntk_self"], row["ntk"]], axis=1), allowed)


def roughness(layers):
    phis = {options.get("phi") for _, options in layers}  # of Elementwise
    if "Sign" in names(layers):
        return "jump"
    return "kink" if names(layers) & {"Relu", "LeakyRelu", "Abs"} or "rectified square" in phis else "smooth"


# ---------------------------------------------------------------------------- training in function space

P = STORED["predictors"]
# The peer's loss is half the mean over all entries of y, ours half a sum or that over the number of examples.
UNITS = {"sum": {"lr": P["lr_for_reduction_sum"]}, "mean": {"lr": P["lr_for_reduction_mean"], "reduction": "mean"}}


def stored_time(row):
    return jnp.inf if row["t"] is None else row["t"]


def array(name):
    return jnp.array(P[name])


@pytest.mark.parametrize("get", ["nngp", "ntk"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradient_flow_agrees(get, reduction):
    flow = nb.gradient_flow(jnp.array(P["k_train_train"][get]), array("y_train"), **UNITS[reduction])
    k_test_train = jnp.array(P["k_test_train"][get])
    for row in (row for row in P["gradient_flow"] if row["get"] == get):
        t = stored_time(row)
        assert_close(flow.train(t, array("f0_train")), row["train"])
        assert_close(flow.test(t, k_test_train, array("f0_train"), array("f0_test")), row["test"])


def test_gradient_flow_of_one_finite_network_agrees():
    stored = STORED["finite width"]
    flow = nb.gradient_flow(
        jnp.array(stored["ntk_full_self"]), jnp.array(stored["y"]), lr=stored["lr_for_reduction_sum"]
    )
    k_test_train = jnp.array(stored["ntk_full"]).transpose(1, 0, 3, 2)
    f0_train, f0_test = (finite_network(tree(stored["params"]), jnp.array(stored[x])) for x in ("x1", "x2"))
    for row in stored["flow"]:
        t = stored_time(row)
        assert_close(flow.train(t, f0_train), row["train"])
        assert_close(flow.test(t, k_test_train, f0_train, f0_test), row["test"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_max_learning_rate_agrees(momentum):
    (row,) = (row for row in P["max_learning_rate"] if row["momentum"] == momentum)
    k, (n, outputs) = jnp.array(P["k_train_train"]["ntk"]), array("y_train").shape
    in_sum = nb.max_learning_rate(k, momentum=momentum)
    in_mean = nb.max_learning_rate(k, momentum=momentum, reduction="mean")
    assert_close(in_sum * n * outputs, row["value_for_the_peer"])
    assert_close(in_mean * outputs, row["value_for_the_peer"])


# The ensemble over time is held against the stored values in test_ensemble.py; here, its limit.
@pytest.mark.slow
@pytest.mark.parametrize("row", P["gp_inference"], ids=lambda row: f"{row['get']}, noise {row['noise']}")
def test_gaussian_process_inference_agrees(row):
    train = "last_layer" if row["get"] == "nngp" else "all"
    made = nb.ensemble(network(P["network"]), array("x_train"), array("y_train"), train=train, noise=row["noise"])
    law = made.predict(jnp.inf, array("x_test"))
    assert_close(law.mean, row["mean"])
    if row["get"] == "nngp" or (row["get"] == "ntk" and row["noise"] == 0):  # "ntkgp" is a posterior, no ensemble
        assert_close(law.covariance, row["covariance"])


# ------------------------------------------------------------------------------------------ finite width


def tree(stored):
    return [{name: jnp.array(values) for name, values in layer_params.items()} for layer_params in stored]


def finite_network(params, x):
    """The function of the script that made the values, written again."""
    for n, layer_params in enumerate(params):
        x = x @ layer_params["W"] / np.sqrt(layer_params["W"].shape[0]) + 0.1 * layer_params["b"]
        x = jnp.tanh(x) if n < len(params) - 1 else x
    return x


@pytest.mark.slow
def test_linearization_and_taylor_expansion_agree():
    stored = STORED["finite width"]
    params, moved, x = tree(stored["params"]), tree(stored["moved"]), jnp.array(stored["x1"])
    assert_close(finite_network(params, x), stored["f"])
    assert_close(finite_network(moved, x), stored["f_moved"])
    assert_close(nb.linearize(finite_network, params)(moved, x), stored["linearize"])
    for order, values in stored["taylor"].items():
        assert_close(nb.taylor_expand(finite_network, params, int(order))(moved, x), values)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "jacobian", "vector_product", "layerwise"])
def test_empirical_kernels_agree(method):
    stored = STORED["finite width"]
    params, x1, x2 = tree(stored["params"]), jnp.array(stored["x1"]), jnp.array(stored["x2"])
    for outputs in ("mean", "full"):
        across = nb.empirical_ntk(finite_network, params, x1, x2, method=method, outputs=outputs)
        within = nb.empirical_ntk(finite_network, params, x1, method=method, outputs=outputs)
        assert_close(across, stored[f"ntk_{outputs}"])
        assert_close(within, stored[f"ntk_{outputs}_self"])
    assert_close(nb.empirical_nngp(finite_network, params, x1, x2), stored["nngp"])
