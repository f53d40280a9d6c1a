"""Writes `neural_tangents.json`: kernels and predictions of neural-tangents 0.6.5, for `tests/test_reference.py`.

Run it as `python benchmarks/peer.py tests/reference/make_neural_tangents.py`. A network is plain data in the names of
ntkbook, `["Dense", {"width": 16, "W_std": 1.3}]`, and is translated here to those of the peer; the test builds ours
from the same data. What the peer computes by quadrature is kept only if two degrees agree.
"""

import functools
import json
import math
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
from neural_tangents import stax

warnings.filterwarnings("ignore")
assert jax.config.jax_enable_x64, "the stored values are float64"

RANDOM = np.random.default_rng(0)
STD = {"W_std": 1.3, "b_std": 0.2}


# ---------------------------------------------------------------------------------------------- inputs


def _points(n: int, *shape: int) -> np.ndarray:
    return RANDOM.normal(size=(n, *shape))


def _pair(n1: int, n2: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of inputs; the second repeats a point of the first, and holds the opposite of another."""
    x1, x2 = _points(n1, *shape), _points(n2, *shape)
    x2[0], x2[1] = x1[1], -x1[0]
    return x1, x2


def _unit_pair(n1: int, n2: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs with mean square 1, as Hermite polynomials want them."""
    return tuple(x / np.sqrt((x**2).mean(axis=1, keepdims=True)) for x in _pair(n1, n2, features))


INPUTS = {
    "flat": _pair(4, 3, 5),
    "unit": _unit_pair(4, 3, 5),
    "image": _pair(3, 3, 5, 6, 3),
    "even image": _pair(2, 2, 6, 4, 2),
    "sequence": _pair(3, 3, 5, 4),
}


# -------------------------------------------------------------------------------------------- networks


def dense(width: int = 16, **options) -> list:
    return ["Dense", {"width": width, **STD, **options}]


def three_layers(name: str, options: dict | None = None, **std) -> list:
    """Two hidden layers, as one that is repeated: half of the compilation."""
    hidden = [[name, options or {}], dense(16, **std)]
    return [dense(16, **std), ["Repeat", {"layers": hidden, "times": 2}]]


def conv(filter_shape: list, padding: str = "SAME", strides: list | None = None, **options) -> list:
    strides = strides or [1] * len(filter_shape)
    return [
        "Conv",
        {"channels": 8, "filter_shape": filter_shape, "strides": strides, "padding": padding, **STD, **options},
    ]


def attention(zeta: str | list, scaling: str, **options) -> list:
    return ["SelfAttention", {"width": 8, "zeta": zeta, "scaling": scaling, **options}]


RELU, GELU, ERF, FLATTEN, POOL = ["Relu", {}], ["Gelu", {}], ["Erf", {}], ["Flatten", {}], ["GlobalAvgPool", {}]
ABS = ["Abs", {}]
READOUTS = {"flatten": FLATTEN, "global pooling": POOL}

ACTIVATIONS = {
    "Relu": {},
    "LeakyRelu": {"slope": 0.2},
    "Abs": {},
    "Erf": {},
    "Gelu": {},
    "Sin": {},
    "Cos": {},
    "Gaussian": {},
    "Rbf": {"gamma": 0.6},
    "Exp": {"rate": 0.4},
    "Sign": {},
    "Polynomial": {"coefficients": [0.3, -0.5, 0.2, 0.1]},
    "Identity": {},
}
# What has no layer of its own here or there: a function by name on our side, the peer's layer on the other.
ELEMENTWISE = ["gabor", "sigmoid-like erf", "rectified square", "cube"]
NAN_BY_THE_PEER = ["elementwise rectified square"]  # for equal and opposite points
QUADRATURE = ["Tanh", "Sigmoid", "Silu", "Softplus"]


def networks() -> dict[str, tuple[str, list]]:
    """Name -> (inputs, network)."""
    rows = {}
    for name, options in ACTIVATIONS.items():
        rows[f"activation {name}"] = "flat", three_layers(name, options)
    for name in ("Relu", "Erf", "Abs", "Sign", "Sin"):
        rows[f"activation {name}, no bias"] = "flat", three_layers(name, b_std=None)
    for degree in range(5):
        rows[f"activation Hermite({degree})"] = (
            "unit",
            three_layers("Hermite", {"degree": degree}, W_std=1.0, b_std=None),
        )
    for name in ELEMENTWISE:
        rows[f"elementwise {name}"] = "flat", [dense(), ["Elementwise", {"phi": name}], dense(1)]
    for name in QUADRATURE:
        rows[f"activation {name}"] = "flat", [dense(W_std=0.7), [name, {}], dense(1)]

    for b_std in (0.2, None):
        rows[f"standard parameterization, b_std={b_std}"] = (
            "flat",
            [
                dense(7, parameterization="standard", b_std=b_std),
                RELU,
                dense(11, parameterization="standard", b_std=b_std),
                GELU,
                dense(2, parameterization="standard", b_std=b_std),
            ],
        )
    rows["linear network"] = "flat", [dense(), dense(), dense(1)]
    rows["large weights, 20 layers"] = (
        "flat",
        [dense(), RELU, ["Repeat", {"layers": [dense(16, W_std=3.0), RELU], "times": 19}], dense(1)],
    )
    rows["repeat"] = "flat", [dense(), ["Repeat", {"layers": [RELU, dense()], "times": 6}], RELU, dense(1)]
    rows["repeat erf"] = "flat", [dense(), ["Repeat", {"layers": [ERF, dense()], "times": 9}], ERF, dense(1)]
    rows["residual"] = "flat", [dense(), ["Residual", {"layers": [RELU, dense()]}], RELU, dense(1)]
    block = ["Residual", {"layers": [ERF, dense(), GELU, dense()]}]
    rows["residual, deep"] = "flat", [dense(), block, block, RELU, dense(1)]
    rows["layer norm"] = "flat", [dense(), ["LayerNorm", {}], RELU, dense(), ["LayerNorm", {}], ERF, dense(1)]
    rows["layer norm in a residual"] = (
        "flat",
        [dense(), ["Residual", {"layers": [["LayerNorm", {}], GELU, dense()]}], ["LayerNorm", {}], RELU, dense(1)],
    )

    for padding in ("SAME", "VALID", "CIRCULAR"):
        for reading, readout in READOUTS.items():
            layers = [conv([3, 3], padding), RELU, conv([3, 3], padding), GELU, readout, dense(1)]
            rows[f"conv {padding}, {reading}"] = "image", layers
        strided = [conv([3, 3], padding, [2, 2]), RELU, conv([2, 2], padding), POOL, dense(1)]
        rows[f"conv {padding}, strides 2"] = "image", strided
    one, pool = conv([3, 3]), ["AvgPool", {"window_shape": [2, 2], "strides": [2, 2]}]
    overlapping = ["AvgPool", {"window_shape": [3, 2], "strides": [1, 2]}]
    uneven = [conv([3, 2], "SAME", [1, 2]), ERF, conv([2, 3], "SAME", [2, 1]), RELU]
    norm = [one, ["LayerNorm", {}], RELU, conv([3, 3], "CIRCULAR")]
    standard = [
        conv([3, 3], parameterization="standard"),
        RELU,
        conv([3, 2], parameterization="standard", channels=5),
    ]
    rows["conv 3x2, strides 1x2"] = "image", [*uneven, FLATTEN, dense(1)]
    rows["conv, average pooling"] = "even image", [one, RELU, pool, one, RELU, FLATTEN, dense(1)]
    rows["conv, overlapping average pooling"] = "image", [one, RELU, overlapping, POOL, dense(1)]
    rows["conv residual"] = "image", [one, ["Residual", {"layers": [RELU, one]}], RELU, FLATTEN, dense(1)]
    rows["dense on each pixel"] = "image", [dense(), RELU, one, RELU, POOL, dense(1)]
    for reading, readout in READOUTS.items():
        rows[f"conv layer norm, {reading}"] = "image", [*norm, readout, dense(1)]
        rows[f"conv standard parameterization, {reading}"] = (
            "image",
            [*standard, readout, dense(1, parameterization="standard")],
        )
    rows["conv 1d SAME"] = "sequence", [conv([3]), RELU, conv([3]), RELU, POOL, dense(1)]
    rows["conv 1d VALID, strides 2"] = "sequence", [conv([2], "VALID", [2]), ERF, FLATTEN, dense(1)]
    rows["flatten first"] = "image", [FLATTEN, dense(), RELU, dense(1)]
    rows["pool first"] = "image", [POOL, dense(), RELU, dense(1)]

    weights = {"W_key_std": 1.1, "W_query_std": 0.9, "W_value_std": 1.2, "W_out_std": 0.8, "b_std": 0.3}
    kinds = [("softmax", "linear"), ("identity", "linear"), ("relu", "linear"), (ABS, "linear"), ("identity", "sqrt")]
    for zeta, scaling in kinds:
        name = f"attention {zeta if isinstance(zeta, str) else 'abs'}, {scaling}"
        attend = attention(zeta, scaling, **weights)
        rows[name] = "sequence", [conv([3]), attend, RELU, POOL, dense(1)]
        if zeta in ("softmax", "identity"):
            twice = [attention(zeta, scaling), GELU, dense(), attention(zeta, scaling)]
            rows[f"{name}, twice, no bias"] = "sequence", [dense(), *twice, FLATTEN, dense(1)]
        if zeta == "softmax" or scaling == "sqrt":
            for decay in (None, 0.8):
                encoded = attention(zeta, scaling, **weights, position_std=0.7, position_decay=decay)
                rows[f"{name}, positions with decay {decay}"] = "sequence", [conv([3]), encoded, GELU, POOL, dense(1)]
    return rows


# ------------------------------------------------------------------------- translation to the peer's names


def build(network: list, degree: int):
    return stax.serial(*(layer(name, options, degree) for name, options in network))


def layer(name: str, options: dict, degree: int):
    options = dict(options)
    if name == "Dense":
        return stax.Dense(options.pop("width"), **options)
    if name == "Conv":
        return stax.Conv(options.pop("channels"), tuple(options.pop("filter_shape")), **options)
    if name == "AvgPool":
        return stax.AvgPool(tuple(options["window_shape"]), tuple(options["strides"]))
    if name == "Residual":
        return stax.serial(
            stax.FanOut(2), stax.parallel(build(options["layers"], degree), stax.Identity()), stax.FanInSum()
        )
    if name == "Repeat":
        return stax.repeat(build(options["layers"], degree), options["times"])
    if name == "SelfAttention":
        return _attention(**options)
    if name in ("LayerNorm", "Flatten", "GlobalAvgPool", "Identity"):
        return getattr(stax, name)()
    if name == "Elementwise":
        return _elementwise(options["phi"])
    if name in QUADRATURE:
        return stax.ElementwiseNumerical(_FUNCTIONS[name], deg=degree)
    return _activation(name, options)


def _activation(name: str, options: dict):
    if name == "LeakyRelu":
        return stax.LeakyRelu(options["slope"])
    if name == "Exp":
        return stax.Exp(a=1.0, b=options["rate"])
    if name == "Gaussian":
        return stax.Gaussian(a=1.0, b=-1.0)
    if name == "Polynomial":
        return stax.Polynomial(options["coefficients"])
    return getattr(stax, name)(**options)


def _elementwise(phi: str):
    return {
        "gabor": stax.Gabor,
        "sigmoid-like erf": stax.Sigmoid_like,
        "rectified square": functools.partial(stax.RectifiedMonomial, 2),
        "cube": functools.partial(stax.Monomial, 3),
    }[phi]()


_FUNCTIONS = {"Tanh": jnp.tanh, "Sigmoid": jax.nn.sigmoid, "Silu": jax.nn.silu, "Softplus": jax.nn.softplus}


def _attention(width: int, zeta: str | list, scaling: str, *, position_std=0.0, position_decay=None, **weights):
    return stax.GlobalSelfAttention(
        n_chan_out=width,
        n_chan_key=8,
        n_chan_val=8,
        n_heads=2,
        linear_scaling=scaling == "linear",
        attention_mechanism=(zeta if isinstance(zeta, str) else zeta[0]).upper(),
        pos_emb_type="SUM" if position_std else "NONE",
        pos_emb_p_norm=1,
        pos_emb_decay_fn=None if position_decay is None else lambda distance: jnp.exp(-position_decay * distance),
        W_pos_emb_std=position_std,
        **weights,
    )


def kernels(inputs: str, network: list, degree: int = 160) -> dict:
    """NNGP and NTK of x1 with x2, and of x1 with itself."""
    kernel_fn = build(network, degree)[2]
    x1, x2 = INPUTS[inputs]
    across, within = kernel_fn(x1, x2, ("nngp", "ntk")), kernel_fn(x1, None, ("nngp", "ntk"))
    return {
        "nngp": across.nngp.tolist(),
        "ntk": across.ntk.tolist(),
        "nngp_self": within.nngp.tolist(),
        "ntk_self": within.ntk.tolist(),
    }


def _largest_gap(a: dict, b: dict) -> float:
    return max(float(np.max(np.abs(np.array(a[k]) - b[k]) / (1e-3 + np.abs(b[k])))) for k in a)


def kernel_rows() -> list[dict]:
    rows = []
    for name, (inputs, network) in networks().items():
        values = kernels(inputs, network)
        bad = sum(int((~np.isfinite(v)).sum()) for v in values.values())
        assert bad == 0 or name in NAN_BY_THE_PEER, (name, bad)
        if any(layer_name in QUADRATURE for layer_name, _ in network):
            gap = _largest_gap(values, kernels(inputs, network, degree=240))
            assert gap < 1e-10, (name, gap)
        if "sqrt, positions" in name:  # the peer trains the encoding there, ours is fixed
            values = {key: value for key, value in values.items() if "nngp" in key}
        values = {key: _without_nan(value) for key, value in values.items()}
        rows.append({"name": name, "inputs": inputs, "network": network, **values})
    return rows


def _without_nan(matrix: list) -> list:
    """What the peer could not compute is null: JSON has no NaN."""
    return [[entry if math.isfinite(entry) else None for entry in row] for row in matrix]


# ------------------------------------------------------------------------------------------ predictions

TIMES = [0.0, 0.5, 3.0, 20.0, 500.0, None]  # None is infinity
NOISE = 0.05


def predictors() -> dict:
    """Training in function space. The peer's loss is half the mean over all entries of y: lambda * t * lr / y.size."""
    network = [dense(), ERF, dense(), GELU, dense(1)]
    x_train, x_test, y_train = _points(7, 4), _points(4, 4), _points(7, 2)
    x_test[0] = x_train[2]
    f0_train, f0_test = _points(7, 2), _points(4, 2)
    kernel_fn = build(network, 0)[2]
    k_dd = kernel_fn(x_train, None, ("nngp", "ntk"))
    k_td = kernel_fn(x_test, x_train, ("nngp", "ntk"))
    k_tt = kernel_fn(x_test, None, ("nngp", "ntk"))
    lr = 0.7
    outputs = y_train.shape[1]
    mean_field = {
        "network": network,
        "x_train": x_train,
        "x_test": x_test,
        "y_train": y_train,
        "f0_train": f0_train,
        "f0_test": f0_test,
        "k_train_train": {"nngp": k_dd.nngp, "ntk": k_dd.ntk},
        "k_test_train": {"nngp": k_td.nngp, "ntk": k_td.ntk},
        "k_test_test": {"nngp": k_tt.nngp, "ntk": k_tt.ntk},
        "learning_rate_of_the_peer": lr,
        "lr_for_reduction_sum": lr / y_train.size,
        "lr_for_reduction_mean": lr / outputs,
        "noise": NOISE,
    }
    mean_field["gradient_flow"] = [
        _flow(get, t, k_dd, k_td, y_train, lr, f0_train, f0_test) for get in ("nngp", "ntk") for t in TIMES
    ]
    mean_field["ensemble"] = [
        _ensemble(get, t, noise, kernel_fn, x_train, y_train, x_test, lr)
        for noise in (0.0, NOISE)
        for get in ("nngp", "ntk")
        for t in TIMES
    ]
    mean_field["gp_inference"] = [
        _inference(get, noise, k_dd, k_td, k_tt, y_train) for noise in (0.0, NOISE) for get in ("nngp", "ntk", "ntkgp")
    ]
    mean_field["max_learning_rate"] = [
        {
            "momentum": momentum,
            "value_for_the_peer": nt.predict.max_learning_rate(k_dd.ntk, y_train_size=y_train.size, momentum=momentum),
        }
        for momentum in (0.0, 0.9)
    ]
    return _lists(mean_field)


def _flow(get, t, k_dd, k_td, y_train, lr, f0_train, f0_test):
    predict = nt.predict.gradient_descent_mse(getattr(k_dd, get), y_train, learning_rate=lr)
    train, test = predict(t, f0_train, f0_test, getattr(k_td, get))
    return {"get": get, "t": t, "train": train, "test": test}


def _ensemble(get, t, noise, kernel_fn, x_train, y_train, x_test, lr):
    predict = nt.predict.gradient_descent_mse_ensemble(
        kernel_fn, x_train, y_train, learning_rate=lr, diag_reg=noise, diag_reg_absolute_scale=True
    )
    test = predict(t, x_test, get, compute_cov=True)
    row = {"get": get, "t": t, "noise": noise, "mean": test.mean, "covariance": test.covariance}
    if noise == 0.0:
        train = predict(t, None, get, compute_cov=True)
        row |= {"train_mean": train.mean, "train_covariance": train.covariance}
    return row


def _inference(get, noise, k_dd, k_td, k_tt, y_train):
    predict = nt.predict.gp_inference(k_dd, y_train, diag_reg=noise, diag_reg_absolute_scale=True)
    k_test_test = k_tt.ntk if get == "ntkgp" else k_tt.nngp
    result = predict(get, k_td, k_test_test)
    return {"get": get, "noise": noise, "mean": result.mean, "covariance": result.covariance}


def finite_width() -> dict:
    """Linearization, Taylor expansion and empirical kernels of a small network with stored parameters."""
    sizes = [4, 6, 5, 3]
    params = [{"W": _points(n_in, n_out), "b": _points(n_out)} for n_in, n_out in zip(sizes, sizes[1:])]
    moved = jax.tree_util.tree_map(lambda p: p + 0.3 * _points(*p.shape), params)
    x1, x2 = _pair(4, 3, 4)

    def f(params, x):
        for n, layer_params in enumerate(params):
            x = x @ layer_params["W"] / math.sqrt(layer_params["W"].shape[0]) + 0.1 * layer_params["b"]
            x = jnp.tanh(x) if n < len(params) - 1 else x
        return x

    full = nt.empirical_ntk_fn(f, trace_axes=())
    mean = nt.empirical_ntk_fn(f, trace_axes=(-1,))
    nngp = nt.empirical_nngp_fn(f, trace_axes=(-1,))
    result = {"params": params, "moved": moved, "x1": x1, "x2": x2, "f": f(params, x1), "f_moved": f(moved, x1)}
    result["linearize"] = nt.linearize(f, params)(moved, x1)
    result["taylor"] = {order: nt.taylor_expand(f, params, order)(moved, x1) for order in (0, 1, 2, 3, 4)}
    result["ntk_mean"], result["ntk_full"] = mean(x1, x2, params), full(x1, x2, params)
    result["ntk_mean_self"], result["ntk_full_self"] = mean(x1, None, params), full(x1, None, params)
    result["nngp"] = nngp(x1, x2, params)
    k_dd, k_td = full(x1, None, params), full(x2, x1, params)
    y, lr = _points(4, 3), 0.4
    predict = nt.predict.gradient_descent_mse(k_dd, y, learning_rate=lr, trace_axes=())
    result["y"], result["lr_for_reduction_sum"] = y, lr / y.size
    result["flow"] = []
    for t in TIMES:
        train, test = predict(t, f(params, x1), f(params, x2), k_td)
        result["flow"].append({"t": t, "train": train, "test": test})
    return _lists(result)


def _lists(tree):
    """Arrays as nested lists of floats."""
    return jax.tree_util.tree_map(lambda leaf: leaf.tolist() if hasattr(leaf, "tolist") else leaf, tree)


def main():
    stored = {
        "made with": {"neural-tangents": nt.__version__, "jax": jax.__version__, "numpy": np.__version__},
        "inputs": {name: {"x1": x1.tolist(), "x2": x2.tolist()} for name, (x1, x2) in INPUTS.items()},
        "kernels": kernel_rows(),
        "predictors": predictors(),
        "finite width": finite_width(),
    }
    path = Path(__file__).with_name("neural_tangents.json")
    rows = ",\n".join(json.dumps(row) for row in stored["kernels"])
    rest = {key: value for key, value in stored.items() if key != "kernels"}
    path.write_text(json.dumps(rest)[:-1] + ',\n"kernels": [\n' + rows + "\n]}\n")
    print(f"{path.name}: {len(stored['kernels'])} networks, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
