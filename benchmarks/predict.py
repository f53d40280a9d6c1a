"""Mean and covariance of the trained ensemble at 20 times: 2000 training points, 200 test points, in float64."""

import numpy as np

TITLE = "mean and covariance at 200 test points and 20 times, n = 2000, float64"
TIMES = np.logspace(0, 5, 20)
CASES = [
    {"label": "20 times in one call, after a first one", "do": "array", "repeats": 5},
    {"label": "20 calls of one time each, after a first one", "do": "calls", "repeats": 3},
    {"label": "from the data: kernels, eigendecomposition, 20 times in one call", "do": "set-up", "repeats": 3},
]
CASES = [{**case, "float64": True, "n": 2000, "n_test": 200, "agree_to": 1e-6, "budget_s": 15} for case in CASES]
W_STD, B_STD = 1.5, 0.1


def inputs(case: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x, x_test = random.normal(size=(case["n"], 20)), random.normal(size=(case["n_test"], 20))
    return x, x_test, np.sin(x[:, :1])


def bound(case: dict) -> dict | None:
    """One product of (test, train) by (train, train) for each time."""
    n, m = case["n"], case["n_test"]
    return None if case["do"] == "set-up" else {"product": (len(TIMES) * m, n, n)}


def ours(case: dict):
    import jax.numpy as jnp

    import ntkbook as nb

    x, x_test, y = map(jnp.asarray, inputs(case))
    net = nb.serial(
        nb.Dense(64, W_STD, B_STD), nb.Erf(), nb.Dense(64, W_STD, B_STD), nb.Erf(), nb.Dense(1, W_STD, B_STD)
    )
    set_up = lambda: nb.ensemble(net, x, y, reduction="mean")
    trained = set_up()

    def run(step):
        if case["do"] == "calls":
            results = [trained.predict(t, x_test) for t in TIMES]
            return jnp.stack([r.mean for r in results]), jnp.stack([r.covariance for r in results])
        result = (set_up() if case["do"] == "set-up" else trained).predict(TIMES, x_test)
        return result.mean, result.covariance

    return run


def peer(case: dict):
    import jax
    import neural_tangents as nt
    from neural_tangents import stax

    x, x_test, y = map(jax.numpy.asarray, inputs(case))
    layers = [stax.Dense(64, W_STD, B_STD), stax.Erf()] * 2
    kernel_fn = jax.jit(stax.serial(*layers, stax.Dense(1, W_STD, B_STD))[2], static_argnums=2)
    set_up = lambda: nt.predict.gradient_descent_mse_ensemble(kernel_fn, x, y)
    trained = set_up()

    def run(step):
        if case["do"] == "calls":
            results = [trained(t, x_test, "ntk", compute_cov=True) for t in TIMES]
            return jax.numpy.stack([r.mean for r in results]), jax.numpy.stack([r.covariance for r in results])
        predictor = set_up() if case["do"] == "set-up" else trained
        result = predictor(TIMES, x_test, "ntk", compute_cov=True)
        return result.mean, result.covariance

    return run


if __name__ == "__main__":
    import pairing

    pairing.main()
