"""Chapter 14: a network learns a differential equation: the weight of its boundary, the frequency of its solution.

u'' = f on [0, 1], u(0) = u(1) = 0, with the solution sin(a pi x). What is trained are u at the two ends and u'' at 100
points, and both are linear in what the linearized network adds to its start. So training is one formula of the
Jacobian, whose rows are written out here for one hidden layer of 500 tanh units. The rows are first brought into few
dimensions by a QR decomposition; each weight of the boundary is then one small SVD.
"""

import functools

import numpy as np

from .. import plots
from ..panel import Panel, choice
from .masked_network import SUNK

WIDTH, SEED = 500, 0
INNER = np.linspace(0, 1, 100)  # where the equation is asked for
ENDS = np.array([0.0, 1.0])
GRID = np.linspace(0, 1, 101)
MIDDLE, SPREAD = INNER.mean(), INNER.std()  # inputs are scaled by these, as in the code of the paper
WEIGHTS = (1.0, 3.0, 10.0, 30.0, 100.0, 164.0, 300.0, 1e3, 3e3, 1e4)  # of the boundary; that of the inner points is 1
TRACE_WEIGHT = 164.0  # tr K_rr / tr K_uu of this network, rounded
STEPS = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)  # of the rate 1 / lambda_max
FREQUENCIES = tuple(float(a) for a in range(1, 11))
MANY_STEPS = (0.0, *(10.0**i for i in range(2, 13)))


def draw(seed=SEED, width=WIDTH):
    """(W, b, v, c) of u(x) = v . tanh(W z + b) / sqrt(width) + c with z = (x - middle) / spread, all N(0, 1)."""
    rng = np.random.default_rng(seed)
    return (*rng.standard_normal((3, width)), rng.standard_normal())


def network(params, x):
    """u (n,), u'' (n,) and their Jacobians (n, 3 width + 1) at the points x (n,); derivatives are those in x."""
    W, b, v, _ = params
    s, z = W.size**-0.5, ((np.asarray(x) - MIDDLE) / SPREAD)[:, None]
    h = np.tanh(z * W + b)
    h1 = 1 - h * h
    h2, h3 = -2 * h * h1, h1 * (6 * h * h - 2)  # second and third derivative of tanh
    one = np.ones((len(z), 1))
    of_u = np.concatenate([s * v * h1 * z, s * v * h1, s * h, one], 1)
    of_curve = np.concatenate([s * v * (2 * W * h2 + W**2 * h3 * z), s * v * W**2 * h3, s * W**2 * h2, 0 * one], 1)
    return s * h @ v + params[3], s * h2 @ (W**2 * v) / SPREAD**2, of_u, of_curve / SPREAD**2


@functools.cache
def _rows():
    """What the network is at the start, and its Jacobians in an orthonormal basis of all their rows.

    (u at the ends, u'' inside, u inside, u on the grid), and the same four of the Jacobian.
    """
    params = draw()
    (ends, _, j_ends, _), (inner, curve, j_inner, j_curve), (grid, _, j_grid, _) = (
        network(params, x) for x in (ENDS, INNER, GRID)
    )
    values, rows = (ends, curve, inner, grid), (j_ends, j_curve, j_inner, j_grid)
    reduced = np.asarray(np.linalg.qr(np.concatenate(rows).T, mode="r")).T
    return values, np.split(reduced, np.cumsum([len(row) for row in rows])[:-1])


def _solution(a, x):
    return np.sin(a * np.pi * x)


def _force(a):
    return -((a * np.pi) ** 2) * _solution(a, INNER)


@functools.lru_cache(maxsize=32)
def _modes(weight):
    """Modes of the weighted loss: weight * mean of u^2 at the ends + mean of (u'' - f)^2 inside."""
    _, (j_ends, j_curve, _, _) = _rows()
    root = np.concatenate([np.full(2, weight), np.full(len(INNER), 2 / len(INNER))]) ** 0.5  # of the slope's factors
    left, s, right = np.linalg.svd(root[:, None] * np.concatenate([j_ends, j_curve]), full_matrices=False)
    return root, left, s, right


def _trained(modes, jacobian, error, time):
    """What is added to the start at the points of `jacobian` (m, dims), and the errors left, at each time.

    `time` holds functions of the eigenvalues: exp(-lambda t) or (1 - lr lambda)^t.
    """
    root, left, s, right = modes
    kept = s > 1e-9 * s[0]
    parts = left.T @ (root * error)
    left_over = np.stack([decay(s**2) for decay in time])  # (times, modes)
    steps = np.where(kept, (left_over - 1) / np.where(kept, s, 1) * parts, 0)
    return steps @ (jacobian @ right.T).T, (left_over * parts) @ left.T / root


@functools.lru_cache(maxsize=32)
def weighted_runs(weight):
    """For each of STEPS: u on the grid (steps, 101); errors of the boundary, of the equation and of u (3, steps)."""
    (ends, curve, _, grid), jacobians = _rows()
    modes = _modes(weight)
    rate = 1 / modes[2][0] ** 2
    decays = [functools.partial(lambda lam, t: (1 - rate * lam) ** t, t=t) for t in STEPS]
    added, error = _trained(modes, jacobians[3], np.concatenate([ends, curve - _force(1)]), decays)
    u = grid + added
    size = lambda e: np.sqrt((e**2).mean(1))
    off = size(u - _solution(1, GRID)) / size(_solution(1, GRID)[None])
    return u, np.stack([size(error[:, :2]), size(error[:, 2:]) / size(_force(1)[None]), off]), rate


def boundary_arrays(weight, t):
    """What the panel draws: u at this step, and the three errors at this step for every weight."""
    at, now = STEPS.index(int(t)), WEIGHTS.index(float(weight))
    runs = [weighted_runs(w) for w in WEIGHTS]
    errors = np.stack([run[1][:, at] for run in runs], 1)
    boundary, equation, off = np.maximum(errors, SUNK)
    u = runs[now][0][at]
    return {
        "u": u,
        "line": u[0] * (1 - GRID) + u[-1] * GRID,  # the solution is 0 at both ends
        "boundary": boundary,
        "equation": equation,
        "off": off,
        "now": np.asarray(now),
        "rate": np.asarray(runs[now][2]),
    }


def _build_boundary(fig, data):
    left, right = plots.columns(fig, 1, 1.1, label_room=(0.85, 0.85), gap=0.75)
    plots.frame(left, "place x", "solution u", xlim=(0, 1), ylim=(-1.1, 2.3))
    plots.frame(
        right,
        "weight of the boundary",
        title="error at this step",
        xscale="log",
        yscale="log",
        xlim=(0.8, 1.25e4),
        ylim=(1e-4, 4),
    )
    plots.vertical(right, TRACE_WEIGHT)
    plots.direct_label(right, 1.15 * TRACE_WEIGHT, 1.5e-4, "trace weight", "guide")
    plots.points(left, GRID[::4], _solution(1, GRID[::4]), "data", markersize=3)
    now = int(data["now"])
    return {
        "u": plots.line(left, GRID, data["u"], "linearized", label="u"),
        "line": plots.line(left, GRID, data["line"], "guide", label="line between\nits ends"),
        "boundary": plots.line(
            right, WEIGHTS, data["boundary"], "linearized", label="boundary", linewidth=1, marker="s", markersize=4
        ),
        "equation": plots.line(
            right, WEIGHTS, data["equation"], "linearized", label="equation", linewidth=1, marker="^", markersize=4
        ),
        "off": plots.line(right, WEIGHTS, data["off"], "linearized", label="u", linewidth=2.6),
        "at": plots.points(right, WEIGHTS[now : now + 1], data["off"][now : now + 1], "linearized", markersize=9),
    }


def _update_boundary(artists, data):
    for name in ("u", "line"):
        artists[name].set(GRID, data[name])
    for name in ("boundary", "equation", "off"):
        artists[name].set(WEIGHTS, data[name])
    now = int(data["now"])
    artists["at"].set(WEIGHTS[now : now + 1], data["off"][now : now + 1])


def _read_boundary(data, state):
    now = int(data["now"])
    boundary, equation, off = (_percent(data[name][now]) for name in ("boundary", "equation", "off"))
    return (
        f"Weight {state['weight']:.0f}, step {state['t']:.0f} at the rate {float(data['rate']):.2g} = 1/λmax: error of "
        f"the boundary {boundary}, of the equation {equation}, of u {off}; the best weight at this step is "
        f"{WEIGHTS[data['off'].argmin()]:.0f}."
    )


def _percent(part):
    return f"{100 * part:.0f} %" if part >= 0.01 else f"{100 * part:.1g} %"


def _short(number):
    """1e+04 as 1e4."""
    return f"{number:.0e}".replace("e+0", "e").replace("e+", "e") if number else "0"


def boundary_weight() -> Panel:
    """A linearized network learns u'' = f with u = 0 at both ends; the weight of the boundary in its loss.

    Wang, Yu, Perdikaris 2022, in closed form.
    """
    names = ["164 (trace)" if weight == TRACE_WEIGHT else f"{weight:.0f}" for weight in WEIGHTS]
    return Panel(
        boundary_arrays,
        _build_boundary,
        _update_boundary,
        {
            "weight": choice("weight of the boundary", WEIGHTS, 1.0, log=True, names=names),
            "t": choice("step", STEPS, 30, play=True),
        },
        _read_boundary,
        title="Two losses, two speeds.",
        caption="Left: the solution (dots), u in training (green), the straight line between its ends (dotted). "
        "Right: three errors at this step, for every weight. Drag the weight up: the line goes to zero. Drag it too "
        "far: the rate has to be small, and the equation waits. Then drag the step.",
        presets={"Equal weights": {"weight": 1}, "Trace weights": {"weight": TRACE_WEIGHT}},
        warm=[{"weight": 1.0}],
    )


# ---------------------------------------------------------------- the frequency of the solution

RATE = 1e-5  # per step of gradient descent on the loss with means, as in the paper; so small that steps are a flow
FAR = 1e13  # no step that is looked for lies beyond


@functools.cache
def _plain_modes():
    """Modes of the plain regression: mean of (u - u*)^2 at the inner points."""
    _, (_, _, j_inner, _) = _rows()
    root = np.full(len(INNER), (2 / len(INNER)) ** 0.5)
    left, s, right = np.linalg.svd(root[:, None] * j_inner, full_matrices=False)
    return root, left, s, right


def _error_left(kind, a, steps):
    """Part of the error that is left after `steps` (array), from the start u = 0: of u'' inside, or of u (plain)."""
    (root, left, s, _), target = (
        (_modes(TRACE_WEIGHT), np.concatenate([ENDS * 0, _force(a)]))
        if kind == "equation"
        else (
            _plain_modes(),
            _solution(a, INNER),
        )
    )
    # what the features cannot tell from rounding is not learnt
    lam = np.where(s > 1e-7 * s[0], s**2, 0)
    parts = left.T @ (root * target)
    error = (np.exp(-RATE * np.multiply.outer(np.asarray(steps, float), lam)) * parts) @ left.T
    part = slice(2, None) if kind == "equation" else slice(None)
    return np.linalg.norm(error[..., part], axis=-1) / np.linalg.norm((root * target)[part])


@functools.cache
def steps_to_a_tenth(kind):
    """Steps after which a tenth of the error is left, for each of FREQUENCIES, (10,); FAR where it is later."""
    grid = np.logspace(0, np.log10(FAR), 521)
    found = []
    for a in FREQUENCIES:
        late = np.flatnonzero(_error_left(kind, a, grid) > 0.1)
        found.append(grid[min(late[-1] + 1, len(grid) - 1)])
    return np.array(found)


@functools.lru_cache(maxsize=256)
def _at(a, t):
    """(u of the network that learns the equation, u of the one that learns u) on the grid, each (101,)."""
    _, jacobians = _rows()
    decay = [lambda lam: np.exp(-RATE * lam * t)]
    equation = _trained(_modes(TRACE_WEIGHT), jacobians[3], -np.concatenate([ENDS * 0, _force(a)]), decay)[0][0]
    plain = _trained(_plain_modes(), jacobians[3], -_solution(a, INNER), decay)[0][0]
    return equation, plain


def frequency_arrays(a, t):
    """What the panel draws: both networks at this step, and when each frequency is learnt."""
    equation, plain = _at(float(a), float(t))
    return {
        "equation": equation,
        "plain": plain,
        "solution": _solution(a, GRID),
        "steps_equation": steps_to_a_tenth("equation"),
        "steps_plain": steps_to_a_tenth("plain"),
        "left": np.array([_error_left(kind, a, t) for kind in ("equation", "plain")]),
        "a": np.asarray(a),
        "t": np.asarray(max(t, 1.0)),
    }


def _build_frequency(fig, data):
    left, right = plots.columns(fig, 1, 1.1, label_room=(0.95, 0.85), gap=0.75)
    plots.frame(left, "place x", "solution u", xlim=(0, 1), ylim=(-1.7, 1.7))
    plots.frame(
        right,
        "half waves a",
        title="steps until a tenth of its error is left",
        xlim=(0.6, 10.4),
        yscale="log",
        ylim=(1e2, 1e13),
    )
    right.set_xticks([1, 2, 4, 6, 8, 10])
    return {
        "solution": plots.line(left, GRID, data["solution"], "data", alpha=0.6),
        "plain": plots.line(left, GRID, data["plain"], "linearized", linewidth=1, label="from values\nof u"),
        "equation": plots.line(left, GRID, data["equation"], "linearized", label="from the\nequation"),
        "steps_plain": plots.line(
            right, FREQUENCIES, data["steps_plain"], "linearized", linewidth=1, marker="s", label="values"
        ),
        "steps_equation": plots.line(
            right, FREQUENCIES, data["steps_equation"], "linearized", marker="D", label="equation"
        ),
        "a": plots.vertical(right, data["a"]),
        "t": plots.horizontal(right, data["t"]),
    }


def _update_frequency(artists, data):
    artists["solution"].set(GRID, data["solution"])
    for name in ("plain", "equation"):
        artists[name].set(GRID, data[name])
        artists[f"steps_{name}"].set(FREQUENCIES, data[f"steps_{name}"])
    artists["a"].set(data["a"])
    artists["t"].set(data["t"])


def _read_frequency(data, state):
    at = FREQUENCIES.index(state["a"])
    equation, plain = (_percent(float(part)) for part in data["left"])
    return (
        f"a = {state['a']:.0f}, step {_short(state['t'])}: from the equation, {equation} of its error is left (a tenth "
        f"after {_short(data['steps_equation'][at])} steps); from values of u, {plain} (a tenth after "
        f"{_short(data['steps_plain'][at])} steps)."
    )


def frequency() -> Panel:
    """How long a linearized network needs for the solution sin(a pi x): from the equation, and from values of u.

    The spectral bias of Wang, Yu, Perdikaris 2022, in closed form.
    """
    return Panel(
        frequency_arrays,
        _build_frequency,
        _update_frequency,
        {
            "a": choice("half waves a of the solution", FREQUENCIES, 4.0),
            "t": choice("step", MANY_STEPS, 1e4, play=True),
        },
        _read_frequency,
        title="How long until the solution is learnt?",
        caption="Left: the solution (grey), the network that learns it from the equation (thick), and one that is told "
        "the values of u at the same points (thin), at this step. Right: when a tenth of the error is left, for every "
        "a. Drag a, then the step.",
        presets={"One half wave": {"a": 1, "t": 1e4}, "Ten": {"a": 10, "t": 1e4}},
        warm=[{"a": a} for a in FREQUENCIES],
    )
