"""Code written for neural-tangents, which runs there and in the guest room.

`reference/make_room.py` runs it with the original and stores what comes out; `test_neural_tangents_room.py` runs the
same lines with `ntkbook.neural_tangents`, and compares. A case is a function of the library `nt`, to arrays by name.
"""

import jax
import jax.numpy as jnp
import numpy as np

RANDOM = np.random.default_rng(7)
FLAT, FLAT2 = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=(4, 3))
IMAGES, IMAGES2 = RANDOM.normal(size=(3, 5, 4, 2)), RANDOM.normal(size=(2, 5, 4, 2))
SEQUENCES, SEQUENCES2 = RANDOM.normal(size=(3, 4, 5)), RANDOM.normal(size=(2, 4, 5))
TARGETS = RANDOM.normal(size=(5, 2))
PARAMS = [(RANDOM.normal(size=(3, 6)), RANDOM.normal(size=6)), (RANDOM.normal(size=(6, 2)), RANDOM.normal(size=2))]
MOVED = [(W + 0.1 * RANDOM.normal(size=W.shape), b) for W, b in PARAMS]
STD = dict(W_std=1.3, b_std=0.2)


def own_nngp(k, q1, q2):
    """The average of erf, as a guest would write it."""
    return 2 / np.pi * jnp.arcsin(2 * k / jnp.sqrt((1 + 2 * q1) * (1 + 2 * q2)))


ACTIVATIONS = {
    "Relu": lambda s: s.Relu(),
    "Relu stabilized": lambda s: s.Relu(do_stabilize=True),
    "LeakyRelu": lambda s: s.LeakyRelu(0.3),
    "ABRelu": lambda s: s.ABRelu(-0.5, 1.4),
    "ABRelu without gain": lambda s: s.ABRelu(0.2, 1.0),
    "Abs": lambda s: s.Abs(),
    "Sign": lambda s: s.Sign(),
    "Erf": lambda s: s.Erf(),
    "Erf scaled": lambda s: s.Erf(0.7, 1.3, 0.4),
    "Sigmoid_like": lambda s: s.Sigmoid_like(),
    "Gelu": lambda s: s.Gelu(),
    "Sin": lambda s: s.Sin(0.8, 1.2, 0.3),
    "Cos": lambda s: s.Cos(0.8, 1.2, 0.3),
    "Rbf": lambda s: s.Rbf(0.6),
    "Exp": lambda s: s.Exp(1.0, 0.4),
    "Exp scaled": lambda s: s.Exp(1.5, 0.4),
    "Gaussian": lambda s: s.Gaussian(),
    "Gaussian scaled": lambda s: s.Gaussian(1.2, -0.3),
    "Gabor": lambda s: s.Gabor(),
    "Polynomial": lambda s: s.Polynomial([0.3, -0.5, 0.2]),
    "Monomial": lambda s: s.Monomial(3),
    "RectifiedMonomial": lambda s: s.RectifiedMonomial(1),
    "ExpNormalized": lambda s: s.ExpNormalized(0.7, -0.9),
    "Elementwise": lambda s: s.Elementwise(jax.scipy.special.erf, own_nngp),
}


def dense(s, width=32, **options):
    """A dense layer with a bias."""
    return s.Dense(width, **{**STD, **options})


def conv(s, *shape, **options):
    """A convolution with a bias."""
    return s.Conv(8, shape, **{**STD, **options})


def flattened(s):
    """The end of a network."""
    return s.serial(s.Flatten(), dense(s, 1))


def pooled(s):
    """Another end."""
    return s.serial(s.GlobalAvgPool(), dense(s, 1))


def residual(s):
    """A path beside the identity."""
    path = s.serial(s.Relu(), dense(s))
    return s.serial(dense(s), s.FanOut(2), s.parallel(path, s.Identity()), s.FanInSum(), s.Erf(), dense(s, 1))


def three_paths(s):
    """A sum of three paths, two of them with weights, as in a wide residual network."""
    shortcut, path = conv(s, 1, 1, padding="SAME"), s.serial(s.Relu(), conv(s, 3, 2, padding="SAME"))
    fans = [s.FanOut(3), s.parallel(shortcut, path, s.Identity()), s.FanInSum()]
    return s.serial(conv(s, 2, 2), *fans, s.Relu(), pooled(s))


def side_by_side(s):
    """Two paths as channels of one."""
    fans = [s.FanOut(2), s.parallel(conv(s, 2, 1, padding="SAME"), s.Identity()), s.FanInConcat()]
    return s.serial(conv(s, 2, 2), s.Relu(), *fans, conv(s, 2, 2), s.Relu(), flattened(s))


def edges(s):
    """Means and sums over windows that reach beyond the edge."""
    first = [conv(s, 2, 2), s.Relu(), s.AvgPool((2, 2), None, "SAME"), conv(s, 1, 2), s.ABRelu(-0.5, 1.4)]
    return s.serial(*first, s.AvgPool((2, 1), (2, 1), "SAME", True), s.SumPool((1, 2), None, "CIRCULAR"), pooled(s))


def sums(s):
    """Sums over all positions."""
    return s.serial(conv(s, 2, 2), s.Relu(), s.GlobalSumPool(), s.Dropout(0.5, mode="test"), dense(s, 1))


def channels_first(s):
    """Features first, examples last."""
    axes = dict(batch_axis=1, channel_axis=0)
    return s.serial(s.Dense(9, 1.3, 0.2, **axes), s.Relu(), s.Dense(1, 1.3, 0.2, **axes))


def order_of_axes(s):
    """Images as (n, channels, height, width), and filters as they come."""
    first = conv(s, 2, 3, strides=(1, 2), dimension_numbers=("NCHW", "OWHI", "NCHW"), padding="SAME")
    return s.serial(first, s.Relu(), s.GlobalAvgPool(0, 1), dense(s, 1))


def attention(s):
    """Softmax attention."""
    return s.serial(dense(s), s.GlobalSelfAttention(8, 8, 8, 2, W_key_std=1.2, b_std=0.1), pooled(s))


def attention_with_positions(s):
    """Linear attention that sees positions."""
    options = dict(attention_mechanism="IDENTITY", pos_emb_type="SUM", W_pos_emb_std=0.5)
    return s.serial(dense(s), s.GlobalSelfAttention(8, 8, 8, 2, **options), flattened(s))


def attention_on_images(s):
    """Every pixel looks at every other, and sees where they are."""
    options = dict(attention_mechanism="SOFTMAX", pos_emb_type="SUM", W_pos_emb_std=0.5, b_std=0.1)
    return s.serial(conv(s, 3, 2), s.GlobalSelfAttention(8, 8, 8, 2, **options), s.Relu(), pooled(s))


# name: (network, the kind of its inputs)
NETWORKS = {
    "defaults": (lambda s: s.serial(s.Dense(8), s.Relu(), s.Dense(3)), "flat"),
    "standard": (
        lambda s: s.serial(dense(s, 7, parameterization="standard"), s.Erf(), dense(s, 1, parameterization="standard")),
        "flat",
    ),
    "standard, no bias": (
        lambda s: s.serial(s.Dense(7, parameterization="standard"), s.Erf(), s.Dense(1, parameterization="standard")),
        "flat",
    ),
    "nested": (lambda s: s.serial(dense(s), s.serial(s.Relu(), dense(s)), s.serial(s.Erf(), dense(s, 1))), "flat"),
    "repeated": (lambda s: s.serial(dense(s), s.repeat(s.serial(s.Relu(), dense(s)), 3), dense(s, 1)), "flat"),
    "layer norm": (lambda s: s.serial(dense(s), s.LayerNorm(), s.Relu(), dense(s, 1)), "flat"),
    "residual": (residual, "flat"),
    "three paths": (three_paths, "images"),
    "side by side": (side_by_side, "images"),
    "edges": (edges, "images"),
    "sums": (sums, "images"),
    "channels first": (channels_first, "flat, transposed"),
    "conv, flattened": (
        lambda s: s.serial(conv(s, 3, 2), s.Relu(), conv(s, 2, 2), s.Erf(), flattened(s)),
        "images",
    ),
    "conv, pooled": (
        lambda s: s.serial(conv(s, 3, 2, padding="SAME"), s.Relu(), s.AvgPool((2, 2)), conv(s, 2, 2), pooled(s)),
        "images",
    ),
    "conv, strides, circular": (
        lambda s: s.serial(conv(s, 3, 2, strides=(2, 1), padding="CIRCULAR"), s.Relu(), pooled(s)),
        "images",
    ),
    "conv, order of axes": (order_of_axes, "images, channels first"),
    "positions to the end": (lambda s: s.serial(conv(s, 2, 2), s.Relu(), conv(s, 2, 1)), "images"),
    "sequences": (lambda s: s.serial(conv(s, 2), s.Relu(), s.AvgPool((2,), (2,)), pooled(s)), "sequences"),
    "attention": (attention, "sequences"),
    "attention with positions": (attention_with_positions, "sequences"),
    "attention on images": (attention_on_images, "images"),
}
INPUTS = {
    "flat": (FLAT, FLAT2),
    "flat, transposed": (FLAT.T, FLAT2.T),
    "images": (IMAGES, IMAGES2),
    "images, channels first": (IMAGES.transpose(0, 3, 1, 2), IMAGES2.transpose(0, 3, 1, 2)),
    "sequences": (SEQUENCES, SEQUENCES2),
}


def activation(nt, name):
    """Both kernels of a network of one hidden layer, between two sets of inputs."""
    kernel_fn = nt.stax.serial(dense(nt.stax), ACTIVATIONS[name](nt.stax), dense(nt.stax, 1))[2]
    both = kernel_fn(FLAT, FLAT2, ("ntk", "nngp"))
    assert both._fields == ("ntk", "nngp")
    return {"ntk": both.ntk, "nngp": both[1]}


def kernels(nt, name):
    """Both kernels between two sets and within one, and what else a Kernel says."""
    make, kind = NETWORKS[name]
    init_fn, _, kernel_fn = make(nt.stax)
    x1, x2 = map(jnp.asarray, INPUTS[kind])
    both = kernel_fn(x1, x2, ("ntk", "nngp"))
    own = kernel_fn(x1, None)
    assert own.cov2 is None and own.diagonal_batch and not own.is_input
    shape = np.array(init_fn(jax.random.PRNGKey(0), x1.shape)[0])
    out = {"ntk": both.ntk, "nngp": both[1], "own ntk": own.ntk, "own nngp": own.nngp, "cov1": own.cov1}
    return {**out, "shape": shape, "shape1": np.array(own.shape1), "is_gaussian": np.array(own.is_gaussian)}


# ---------------------------------------------------------------------------------------------------------- the rest


def finite(params, x, scale=1.0):
    """A network of the guest's own."""
    for n, (W, b) in enumerate(params):
        x = x @ W / W.shape[0] ** 0.5 + 0.1 * b
        x = jnp.tanh(x) if n < len(params) - 1 else x
    return scale * x


def erf_network(nt):
    """A small network and its kernel function."""
    return nt.stax.serial(dense(nt.stax), nt.stax.Erf(), dense(nt.stax, 2))[2]


def kernel_of_kernel(nt):
    """A kernel function takes the Kernel that another has made."""
    s = nt.stax
    kernel_fn = s.serial(dense(s), s.Relu())[2]
    twice = kernel_fn(kernel_fn(FLAT, FLAT2))
    own = kernel_fn(kernel_fn(FLAT, None), get=("ntk", "cov1"))
    first, last = s.serial(conv(s, 2, 2), s.Relu())[2], s.serial(conv(s, 2, 2), s.Relu(), pooled(s))[2]
    images = last(first(IMAGES, IMAGES2))
    spread = last(first(IMAGES, None, diagonal_spatial=False), get="ntk")
    ends = flattened(s)[2](first(IMAGES, None, diagonal_spatial=True), get="ntk")
    return {
        "ntk": twice.ntk,
        "cov2": twice.cov2,
        "own": own.ntk,
        "own cov1": own.cov1,
        "images": images.ntk,
        "images cov1": images.cov1,
        "spread": spread,
        "ends": ends,
    }


def own_layer(nt):
    """A layer of the guest's own: three functions in a decorator."""

    @nt.stax.layer
    def Double():
        scale = lambda k, **options: k.replace(
            nngp=4 * k.nngp, ntk=_scaled(k.ntk), cov1=4 * k.cov1, cov2=_scaled(k.cov2)
        )
        return lambda rng, shape, **options: (shape, ()), lambda params, x, **options: 2 * x, scale

    _scaled = lambda cov: None if cov is None else 4 * cov
    kernel_fn = nt.stax.serial(dense(nt.stax), Double(), nt.stax.Erf(), dense(nt.stax, 1))[2]
    return {"ntk": kernel_fn(FLAT, FLAT2, "ntk"), "own": kernel_fn(FLAT, None, "nngp")}


def kernel_by_hand(nt):
    """A Kernel of chosen variance and covariance through one layer: how phase diagrams are drawn."""
    q, c = jnp.array([[1.0, 1.5]]), jnp.array([[0.3, 0.9]])

    def one(q, k):
        made = nt.Kernel(
            cov1=jnp.array([q]),
            cov2=jnp.array([q]),
            nngp=jnp.array([[k]]),
            ntk=None,
            x1_is_x2=jnp.array(False),
            is_gaussian=True,
            is_reversed=False,
            is_input=True,
            diagonal_batch=True,
            diagonal_spatial=False,
            shape1=(1, 1024),
            shape2=(1, 1024),
            batch_axis=0,
            channel_axis=1,
            mask1=None,
            mask2=None,
        )
        out = nt.stax.serial(nt.stax.Erf(), nt.stax.Dense(1, 1.5, 0.1))[2](made)
        return out.nngp[0, 0], out.cov1[0]

    nngp, cov1 = jax.vmap(one)(q[0], q[0] * c[0])
    return {"nngp": nngp, "cov1": cov1}


def batched(nt):
    """Tiles of a network's kernel and of an empirical one."""
    kernel_fn = nt.batch(erf_network(nt), batch_size=2, device_count=0)
    x1, x2 = jnp.concatenate([FLAT, FLAT2[:1]]), jnp.asarray(FLAT2)
    whole = kernel_fn(x1, x2)
    own = kernel_fn(x1, None, "ntk")
    empirical = nt.batch(nt.empirical_ntk_fn(finite), batch_size=2, device_count=0, store_on_device=False)
    out = {"ntk": whole.ntk, "cov1": whole.cov1, "cov2": whole.cov2, "shape2": np.array(whole.shape2), "own": own}
    return {**out, "empirical": empirical(x1, x2, PARAMS), "empirical own": empirical(x1, None, PARAMS)}


def empirical(nt):
    """All axes of the output traced, diagonal, or kept."""
    out = {}
    for trace, diagonal in [((-1,), ()), ((), ()), ((), (0,)), ((), (1,)), ((0,), ()), ((0, 1), ()), ((-1,), (0,))]:
        for method in (1, 2) if (trace, diagonal) in [((-1,), ()), ((), ())] else (1,):
            ntk_fn = nt.empirical_ntk_fn(finite, trace, diagonal, 0 if 0 not in trace else None, method)
            out[f"ntk {trace} {diagonal} {method}"] = ntk_fn(FLAT, None if 0 in trace + diagonal else FLAT2, PARAMS)
        nngp_fn = nt.empirical_nngp_fn(finite, trace, diagonal)
        out[f"nngp {trace} {diagonal}"] = nngp_fn(FLAT, None if 0 in trace + diagonal else FLAT2, PARAMS)
    both = nt.empirical_kernel_fn(finite)(FLAT, None, ("ntk", "nngp"), PARAMS, scale=2.0)
    out["both ntk"], out["both nngp"] = both.ntk, both.nngp
    tree = lambda params, x: {"a": finite(params, x["b"]), "c": (finite(params, x["b"]) ** 2)[:, 0]}
    of_tree = nt.empirical_ntk_fn(tree, trace_axes=())({"b": FLAT}, None, PARAMS)
    out["tree a"], out["tree c"] = of_tree["a"], of_tree["c"]
    centred = lambda params, x: finite(params, x) - finite(params, x).mean(0)  # examples see each other
    out["coupled"] = nt.empirical_ntk_fn(centred)(FLAT, None, PARAMS)
    v = jnp.asarray(FLAT2[:, :2])
    out["vp"] = nt.empirical_ntk_vp_fn(finite, FLAT, FLAT2, PARAMS)(v)
    return out


def expansions(nt):
    """Linearization and second order."""
    return {
        "linear": nt.linearize(finite, PARAMS)(MOVED, FLAT, scale=0.5),
        "quadratic": nt.taylor_expand(finite, PARAMS, 2)(MOVED, FLAT),
    }


def descent(nt):
    """Training on the squared loss: all forms of starts, times, targets and axes."""
    kernel_fn = erf_network(nt)
    k, k_test = np.array(kernel_fn(FLAT, None, "ntk")), kernel_fn(FLAT2, FLAT, "ntk")
    predict = nt.predict.gradient_descent_mse(k, TARGETS, learning_rate=0.5, diag_reg=1e-3)
    out = {"train": predict(3.0), "end": predict(), "times": predict(np.array([[0.0, 1.0, 5.0]]))}
    both = predict(2.0, 0.1 * TARGETS, 0.3, k_test)
    out |= {"both train": both[0], "both test": both[1], "test alone": predict(None, None, 0.0, k_test)}
    absolute = nt.predict.gradient_descent_mse(k, TARGETS, diag_reg=0.1, diag_reg_absolute_scale=True)
    out["absolute"] = absolute(7.0)
    ntk_fn = nt.empirical_ntk_fn(finite, trace_axes=(), vmap_axes=0)
    full, full_test = ntk_fn(FLAT, None, PARAMS), ntk_fn(FLAT2, FLAT, PARAMS)
    predict = nt.predict.gradient_descent_mse(full, TARGETS, trace_axes=(), diag_reg=1e-2)
    out["full train"], out["full test"] = predict(4.0, finite(PARAMS, FLAT), finite(PARAMS, FLAT2), full_test)
    out["rate"] = nt.predict.max_learning_rate(k, y_train_size=10)
    out["full rate"] = nt.predict.max_learning_rate(full, momentum=0.9)
    return out


def any_loss(nt):
    """Cross-entropy in continuous time, with and without momentum."""
    kernel_fn = erf_network(nt)
    k, k_test = kernel_fn(FLAT, None, "ntk"), kernel_fn(FLAT2, FLAT, "ntk")
    labels = jnp.asarray(np.eye(2)[np.arange(5) % 2])
    loss = lambda fx, y: -jnp.mean(jax.nn.log_softmax(fx) * y)
    out = {}
    for momentum in (None, 0.9):
        predict = nt.predict.gradient_descent(loss, k, labels, 0.7, momentum)
        train, test = predict(np.array([1.0, 4.0]), 0.1 * TARGETS, 0.0, k_test)
        out |= {f"train {momentum}": train, f"test {momentum}": test}
    state = nt.predict.gradient_descent(loss, k, labels, 0.7)(2.0, nt.predict.ODEState(jnp.zeros((5, 2))))
    return {**out, "state": state.fx_train}


def ensembles(nt):
    """The law of many networks in training, and where it ends."""
    kernel_fn = erf_network(nt)
    out = {}
    for reg in (0.0, 1e-2):
        predict = nt.predict.gradient_descent_mse_ensemble(kernel_fn, FLAT, TARGETS, 0.5, diag_reg=reg)
        for t in (None, 3.0, np.array([0.0, 10.0])):
            both = predict(t, FLAT2, None, True)
            name = f"{reg} {t}"
            for get in ("nngp", "ntk"):
                law = getattr(both, get)
                out |= {f"{name} {get} mean": law.mean, f"{name} {get} covariance": law.covariance}
        own = predict(3.0, None, "ntk", True)
        out |= {f"{reg} own mean": own.mean, f"{reg} own covariance": own.covariance}
        own = predict(3.0, None, "nngp", True)
        out |= {f"{reg} own nngp mean": own.mean, f"{reg} own nngp covariance": own.covariance}
        own = predict(None, None, None, True)
        out |= {f"{reg} own end": own.ntk.mean, f"{reg} own end covariance": own.nngp.covariance}
        out[f"{reg} mean alone"] = predict(2.0, FLAT2, "nngp")
        infer = nt.predict.gp_inference(kernel_fn(FLAT, None, ("nngp", "ntk")), TARGETS, diag_reg=reg)
        for get in ("nngp", "ntk", "ntkgp"):
            law = infer(get, kernel_fn(FLAT2, FLAT), kernel_fn(FLAT2, None))
            out |= {f"{reg} {get} mean": law.mean, f"{reg} {get} covariance": law.covariance}
        out[f"{reg} inference mean"] = infer(("ntk",), kernel_fn(FLAT2, FLAT)).ntk
    alone = nt.predict.gp_inference(kernel_fn(FLAT, None, "nngp"), TARGETS, diag_reg=1e-2)
    return {**out, "array": alone("nngp", kernel_fn(FLAT2, FLAT, "nngp"))}


CASES = {f"kernels: {name}": (lambda nt, name=name: kernels(nt, name)) for name in NETWORKS}
CASES |= {f"activation: {name}": (lambda nt, name=name: activation(nt, name)) for name in ACTIVATIONS}
CASES |= {
    case.__name__: case
    for case in (
        kernel_of_kernel,
        own_layer,
        kernel_by_hand,
        batched,
        empirical,
        expansions,
        descent,
        any_loss,
        ensembles,
    )
}
