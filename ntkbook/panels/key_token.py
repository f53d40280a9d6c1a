"""Chapter 15: attention as a kernel, on a sequence with one long token, beside finite networks."""

import functools

import numpy as np

from .. import plots
from ..panel import Panel, choice, slider
from .architectures import relu_step

SHARPEST, LONG, TOWARDS, TOPIC = 6.0, 3.0, 0.4, 0.5
SHARPNESS = np.linspace(0, SHARPEST, 25)
TRIED = np.linspace(0, SHARPEST, 7)  # by finite networks
FINITE = 4


def sequences(tokens):
    """x, one with its key token and other tokens, one with another key and its tokens: (3, tokens, 2 tokens).

    The key token, the first, is three times as long as the others, which point to it by 0.4 and have a topic of their
    own. All inner products over the number of channels.
    """
    channels = 2 * tokens + 2
    unit = np.eye(channels) * channels**0.5
    rest = tokens - 1

    def one(key, topic):
        own = TOPIC**0.5 * unit[topic] + (1 - TOPIC) ** 0.5 * unit[topic + 1 : topic + 1 + rest]
        return np.concatenate([LONG * unit[key][None], TOWARDS * unit[key] + (1 - TOWARDS**2) ** 0.5 * own])

    return np.stack([one(0, 2), one(0, 2 + tokens), one(1, 2)])


def softmax(logits):
    """Over the last axis."""
    grown = np.exp(logits - logits.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def softmax_kernel(x, sharpness):
    """Tangent kernels (3, 3) of attention with 1/d scaling and shared queries and keys, then the mean over tokens.

    The raw inputs have no tangent kernel, and queries and keys add none: 2 Z K Z^T. Hron et al. 2020.
    """
    K = np.einsum("iac,jbc->ijab", x, x) / x.shape[-1]
    Z = softmax(sharpness * np.einsum("iiab->iab", K)).mean(1)
    return 2 * np.einsum("ia,ijab,jb->ij", Z, K, Z)


def relu_kernel(x, sharpness):
    """The same for 1/sqrt(d) scaling, independent queries and keys, and zeta = relu."""
    K = np.einsum("iac,jbc->ijab", x, x) / x.shape[-1]
    own = np.einsum("iiaa->ia", K)
    pairs = K[:, :, :, :, None, None] * K[:, :, None, None]  # i, j, a, b, c, d
    sizes = own[:, None, :, None, None, None] * own[:, None, None, None, :, None]
    others = own[None, :, None, :, None, None] * own[None, :, None, None, None, :]
    average, slope = relu_step(pairs, 1.0, sizes, others)
    nngp = sharpness**2 * (average * K[:, :, None, None]).mean((2, 3)).sum((2, 3))
    trained = sharpness**2 * (slope * pairs * K[:, :, None, None]).mean((2, 3)).sum((2, 3))
    return 2 * (nngp + trained)


def finite_kernels(x, heads, scaling, seed, tried=TRIED):
    """Tangent kernels of one finite attention layer with one output by part, (sharpness, 3, n, n), and its attention.

    By hand: the parts are those of the output weights, the values, and the queries and keys together. `heads` is also
    the key and value width. The attention is that of the first head in the first sequence, (sharpness, s, s).
    """
    rng = np.random.default_rng(seed)
    channels, d = x.shape[-1], heads
    query, key, value = (rng.standard_normal((heads, channels, d)) for _ in range(3))
    out = rng.standard_normal((heads, d))
    is_softmax = scaling == 0
    key = query if is_softmax else key
    project = lambda weights: np.einsum("isc,hcd->ihsd", x, weights, optimize=True) / channels**0.5
    Q, K, V = map(project, (query, key, value))
    scale = 1 / d if is_softmax else d**-0.5
    logits = scale * np.einsum("ihsd,ihtd->ihst", Q, K, optimize=True)
    Vo = np.einsum("ihtd,hd->iht", V, out)
    kernels, seen = [], []
    for sharpness in tried:
        A = softmax(sharpness * logits) if is_softmax else np.maximum(sharpness * logits, 0)
        seen.append(A[0, 0])
        towards = Vo[:, :, None, :] / x.shape[1]
        if is_softmax:
            dG = A * (towards - (A * towards).sum(-1, keepdims=True))
        else:
            dG = (A > 0) * towards
        reads = A.mean(2)  # (i, h, t)
        dQ = np.einsum("ihst,ihtd->ihsd", dG, K, optimize=True)
        dK = np.einsum("ihst,ihsd->ihtd", dG, Q, optimize=True)
        steps = [dQ + dK] if is_softmax else [dQ, dK]
        back = [
            np.einsum("isc,ihsd->ihcd", x, step, optimize=True) * sharpness * scale / channels**0.5 for step in steps
        ]
        reader = np.einsum("iht,itc->ihc", reads, x) / channels**0.5
        gradients = [np.einsum("iht,ihtd->ihd", reads, V), reader[..., None] * out[:, None, :], *back]
        flat = [g.reshape(len(x), -1) for g in gradients]
        by_part = np.array([g @ g.T for g in flat]) / (heads * d)
        kernels.append([by_part[0], by_part[1], by_part[2:].sum(0)])
    return np.array(kernels), np.array(seen)


def likeness(kernels):
    """k(x, x') / sqrt(k(x, x) k(x', x')) of the first sequence with the other two, (..., 2)."""
    own = np.sqrt(np.einsum("...ii->...i", kernels))
    return kernels[..., 0, 1:] / (own[..., :1] * own[..., 1:])


@functools.cache
def curves(scaling, tokens):
    """Likeness in the limit, (sharpness, 2), and how the first sequence attends, (sharpness, tokens, tokens)."""
    x = sequences(tokens)
    kernel = softmax_kernel if scaling == 0 else relu_kernel
    K = x[0] @ x[0].T / x.shape[-1]
    # relu without queries gives nothing: the likeness is that of any other sharpness
    limit = [likeness(kernel(x, s if scaling == 0 else 1.0)) for s in SHARPNESS]
    return np.array(limit), softmax(SHARPNESS[:, None, None] * K)


@functools.cache
def dots(scaling, tokens, heads):
    """(networks, sharpness, 2) of finite networks, from the second sharpness on; and one head's attention."""
    found = [finite_kernels(sequences(tokens), heads, scaling, seed) for seed in range(FINITE)]
    return np.stack([likeness(k[1:].sum(1)) for k, _ in found]), found[0][1]


def key_arrays(sharpness, scaling, tokens, heads):
    """What the panel draws: an attention matrix, the likeness in the limit and of finite networks."""
    scaling, tokens, heads = int(scaling), int(tokens), int(heads)
    limit, attention = curves(scaling, tokens)
    finite, seen = dots(scaling, tokens, heads)
    at = int(np.argmin(np.abs(SHARPNESS - sharpness)))
    near = int(np.argmin(np.abs(TRIED - sharpness)))
    matrix = attention[at] if scaling == 0 else seen[near] / max(seen[near].max(), 1e-9)
    return {
        "matrix": matrix,
        "limit": limit,
        "finite": finite,
        "here": np.array([np.interp(sharpness, SHARPNESS, curve) for curve in limit.T]),
        "apart": np.abs(finite - limit[np.searchsorted(SHARPNESS, TRIED[1:] - 1e-9)]).mean(),
        "to_key": attention[at, 1:, 0].mean() if scaling == 0 else np.asarray(-1.0),
        "sharpness": np.asarray(sharpness),
    }


def _build_key(fig, data):
    left, right = plots.columns(fig, 1, 2.1, label_room=(0.0, 1.15), gap=0.75)
    marks = {"matrix": plots.image(left, data["matrix"], limits=(0, 1))}
    plots.frame(left, "is read (first: the key token)", "token that reads", title="attention in x")
    left.set_xticks([])
    left.set_yticks([])
    plots.frame(right, "sharpness σ_Q σ_K", "", xlim=(0, SHARPEST), ylim=(0, 1.03), title="likeness to x")
    right.set_yticks([0, 0.5, 1])
    for i, (name, dashes) in enumerate(
        (("same key,\nother tokens", "solid"), ("other key,\nsame tokens", (0, (5, 1.6))))
    ):
        marks[f"curve {i}"] = plots.line(
            right, SHARPNESS, data["limit"][:, i], "ntk", label=name, linestyle=dashes, clip_on=False
        )
        look = {"markersize": 4, "fillstyle": "none" if i else "full", "clip_on": False}
        marks[f"dots {i}"] = plots.points(right, *_dots(data, i), "finite", **look)
    marks["now"] = plots.vertical(right, data["sharpness"])
    plots.direct_label(right, 2.2, 0.48, "dots: finite networks", "finite")
    return marks


def _dots(data, i):
    return np.tile(TRIED[1:], FINITE), data["finite"][:, :, i].ravel()


def _update_key(marks, data):
    marks["matrix"].set(data["matrix"])
    marks["now"].set(data["sharpness"])
    for i in range(2):
        marks[f"curve {i}"].set(SHARPNESS, data["limit"][:, i])
        marks[f"dots {i}"].set(*_dots(data, i))


def _read_key(data, state):
    kind = "softmax, 1/d" if state["scaling"] == 0 else "relu, 1/√d"
    to_key = f"the other tokens give {100 * float(data['to_key']):.0f} % of their attention to the key token; "
    return (
        f"{kind}, {state['tokens']:.0f} tokens, sharpness {state['sharpness']:.2f}, {state['heads']:.0f} heads: "
        f"{to_key if state['scaling'] == 0 else ''}likeness to x {float(data['here'][0]):.3f} with the same key, "
        f"{float(data['here'][1]):.3f} with the same other tokens; finite networks are {float(data['apart']):.3f} off."
    )


def key_token() -> Panel:
    """Attention as a kernel: which of two sequences is like x, the one with its long token or the one with the rest?

    Curves in closed form at both scalings of Hron et al. 2020, dots four finite networks.
    """
    return Panel(
        key_arrays,
        _build_key,
        _update_key,
        {
            "sharpness": slider("sharpness σ_Q σ_K", 0.0, SHARPEST, 1.0, step=0.25, play=True),
            "scaling": choice("attention", [0.0, 1.0], 0.0, names=["softmax, 1/d", "relu, 1/√d"]),
            "tokens": choice("tokens", [4.0, 6.0, 8.0], 8.0, log=True),
            "heads": choice("heads, key and value width", [4.0, 12.0, 36.0], 36.0, log=True),
        },
        _read_key,
        title="What a sequence is about.",
        caption="Drag the sharpness: queries and keys get longer. Left: who attends to whom (for relu: in one finite "
        "head). Right: two sequences compared with x. Then change the attention, and drag again.",
        presets={"No queries": {"sharpness": 0.0, "scaling": 0.0}, "Sharp": {"sharpness": SHARPEST, "scaling": 0.0}},
        size=(9.2, 3.4),
        baked=("sharpness", "scaling"),
    )
