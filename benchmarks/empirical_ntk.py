"""Tangent kernels of finite networks with themselves, in float32: our default beside the peer's best.

Dense: ReLU, 784-w-w-w-o. Convolution: two 3x3 layers on images, global pooling, Dense. The peer has three methods and
takes the slowest of them by default, so it is told to use the fastest ("structured derivatives"); one case shows its
default.
"""

import numpy as np

TITLE = "empirical NTK averaged over the outputs: ReLU networks 784-w-w-w-o, and two convolutions, float32"
W_STD, B_STD = 2**0.5, 0.1
GRID = [(o, width, n) for o in (1, 10) for width in (128, 1024) for n in (16, 256)]


def _case(o: int, width: int, n: int, implementation: str = "STRUCTURED_DERIVATIVES") -> dict:
    default = ", its default" if implementation == "AUTO" else ""
    return {
        "label": f"{o} outputs, width {width}, n = {n}{default}",
        "outputs": o,
        "width": width,
        "n": n,
        "implementation": implementation,
        "repeats": 21,
        "budget_s": 3,
        "agree_to": 1e-4,
    }


def _image_case(side: int, width: int, n: int) -> dict:
    case = _case(10, width, n)
    return case | {"side": side, "label": f"convolutions, {side}x{side}x3, {width} channels, 10 outputs, n = {n}"}


CASES = [
    *(_case(*point) for point in GRID),
    _case(10, 512, 64),
    _case(10, 512, 64, "AUTO"),
    _image_case(8, 64, 32),
    _image_case(16, 32, 16),
]


def inputs(case: dict) -> tuple[np.ndarray, list[np.ndarray]]:
    """Inputs, and the parameters one after another: both sides get the same."""
    random = np.random.default_rng(0)
    o, width = case["outputs"], case["width"]
    if "side" in case:
        shape = (case["side"], case["side"], 3)
        weights = [(3, 3, 3, width), (3, 3, width, width), (width, o)]
    else:
        shape = (784,)
        weights = [(784, width), (width, width), (width, width), (width, o)]
    x = random.normal(size=(case["n"], *shape)).astype(np.float32)
    return x, [random.normal(size=s).astype(np.float32) for weight in weights for s in (weight, weight[-1:])]


def _network(library, case: dict):
    readout = library.Dense(case["outputs"], W_STD, B_STD)
    if "side" in case:
        conv = library.Conv(case["width"], (3, 3), padding="SAME", W_std=W_STD, b_std=B_STD)
        return library.serial(conv, library.Relu(), conv, library.Relu(), library.GlobalAvgPool(), readout)
    hidden = [library.Dense(case["width"], W_STD, B_STD), library.Relu()] * 3
    return library.serial(*hidden, readout)


def _filled(shapes, arrays):
    import jax

    leaves, structure = jax.tree_util.tree_flatten(shapes)
    return jax.tree_util.tree_unflatten(structure, [array.reshape(leaf.shape) for leaf, array in zip(leaves, arrays)])


def ours(case: dict):
    import jax
    import jax.numpy as jnp

    import ntkbook as nb
    from ntkbook.finite.empirical import empirical_ntk

    net = _network(nb, case)
    x, arrays = inputs(case)
    _, shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x.shape))
    params = jax.tree.map(jnp.asarray, _filled(shapes, arrays))
    x = jnp.asarray(x)
    return lambda step: empirical_ntk(net.apply, params, x)


def peer(case: dict):
    import jax
    import neural_tangents as nt
    from neural_tangents import stax

    init_fn, apply_fn, _ = _network(stax, case)
    x, arrays = inputs(case)
    params = jax.device_put(_filled(init_fn(jax.random.PRNGKey(0), x.shape)[1], arrays))
    x = jax.device_put(x)
    implementation = getattr(nt.NtkImplementation, case["implementation"])
    options = dict(trace_axes=(-1,), vmap_axes=0, implementation=implementation)
    kernel_fn = jax.jit(nt.empirical_ntk_fn(apply_fn, **options))
    return lambda step: kernel_fn(x, None, params)


if __name__ == "__main__":
    import pairing

    pairing.main()
