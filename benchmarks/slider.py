"""One move of a slider: a value that was never seen before, on a kernel of 100 points, in float64.

The peer is given its best: W_std and b_std are traced, so that only a new depth compiles again.
"""

import functools

import numpy as np

TITLE = "a slider move, n = 100, float64: the kernel, or the predictions, for a value not seen before"
CASES = [
    {"label": "new W_std and b_std, 3 hidden layers", "move": "std", "repeats": 50},
    {"label": "new depth, from 2 to 12 hidden layers", "move": "depth", "repeats": 11},
    {"label": "new t, 50 test points", "move": "t", "repeats": 50},
]
CASES = [{**case, "float64": True, "agree_to": 1e-6, "budget_s": 12} for case in CASES]


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(100, 10)), random.normal(size=(50, 10)), random.normal(size=(100, 1))


def settings(case: dict, step: int) -> tuple[int, float, float]:
    """Depth, W_std, b_std: the place of the slider at this step."""
    depth = 1 + step if case["move"] == "depth" and step else 3
    moved = 0.01 * step if case["move"] == "std" else 0.0
    return depth, 1.2 + moved, 0.1 + moved


def time_at(step: int) -> float:
    return 100.0 + 10.0 * step


def ours(case: dict):
    import jax.numpy as jnp

    import ntkbook as nb

    x, x_test, y = map(jnp.asarray, inputs())

    def net(depth, W_std, b_std):
        hidden = nb.serial(nb.Relu(), nb.Dense(64, W_std, b_std))
        return nb.serial(nb.Dense(64, W_std, b_std), nb.Repeat(hidden, depth - 1), nb.Relu(), nb.Dense(1, W_std, b_std))

    if case["move"] == "t":
        start = net(*settings(case, 0))
        flow = nb.gradient_flow(nb.ntk(start, x), y, reduction="mean")
        k_test_train = nb.ntk(start, x_test, x)
        return lambda step: flow.test(time_at(step), k_test_train)
    return lambda step: nb.ntk(net(*settings(case, step)), x)


def peer(case: dict):
    import jax
    import neural_tangents as nt
    from neural_tangents import stax

    x, x_test, y = map(jax.numpy.asarray, inputs())

    @functools.partial(jax.jit, static_argnums=0)
    def ntk(depth, W_std, b_std, x1, x2):
        layers = [stax.Dense(64, W_std, b_std), stax.Relu()] * depth
        return stax.serial(*layers, stax.Dense(1, W_std, b_std))[2](x1, x2, "ntk")

    if case["move"] == "t":
        start = settings(case, 0)
        predict = nt.predict.gradient_descent_mse(ntk(*start, x, None), y)
        k_test_train = ntk(*start, x_test, x)
        return lambda step: predict(time_at(step), 0.0, 0.0, k_test_train)[1]
    return lambda step: ntk(*settings(case, step), x, None)


if __name__ == "__main__":
    import pairing

    pairing.main()
