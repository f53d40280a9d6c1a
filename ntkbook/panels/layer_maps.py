"""Chapter 10: one layer as a map of a variance and a correlation, with the cobwebs of a pair of inputs.

The maps are steps of `propagate` from many starts at once; activations and fixed points are those of the phase diagram.
"""

import jax.numpy as jnp
import numpy as np

from .. import plots
from ..networks.propagation import propagate
from ..panel import Panel, slider
from .depth_and_phase import ACTIVATIONS, LARGEST, NAMES, NETWORK, fixed_point

LONGEST, STEPS = 3.0, 30  # the largest q that is shown; layers of an orbit
Q_MAP, C_MAP = np.linspace(0.0, LONGEST, 41), np.linspace(-1.0, 1.0, 41)
ELSEWHERE = [(q, c) for q in (0.2, 1.2, 2.6) for c in (-0.8, 0.0, 0.8)]  # other starts, drawn thin


def _stairs(values):
    """The corners of a cobweb: up to the map, across to the diagonal, again and again."""
    values = np.clip(values, -1e3, 1e3)
    return np.repeat(values, 2)[:-1], np.append(values[0], np.repeat(values[1:], 2))


def map_arrays(W_std, b_std, kind, q, c):
    """What the panel draws: orbits of (q, c), the two maps of one layer, and the cobwebs of the chosen start."""
    activation, point = ACTIVATIONS[int(kind)], fixed_point(int(kind), W_std, b_std)
    q_star = float(np.clip(point["q_star"], 1e-6, LARGEST))
    starts = np.array([(q, c), (q_star, c), *ELSEWHERE])
    orbit_q, orbit_c = (
        np.minimum(np.asarray(part), 2 * LONGEST) if i == 0 else np.asarray(part)
        for i, part in enumerate(
            propagate(activation, W_std, b_std, STEPS, q=jnp.asarray(starts[:, 0]), c=jnp.asarray(starts[:, 1]))
        )
    )
    grid_q = np.concatenate([np.maximum(Q_MAP, 1e-9), np.full(C_MAP.size, q_star)])
    grid_c = np.concatenate([np.zeros(Q_MAP.size), C_MAP])
    maps = propagate(activation, W_std, b_std, 1, q=jnp.asarray(grid_q), c=jnp.asarray(grid_c))
    q_map, c_map = np.asarray(maps[0])[1, : Q_MAP.size], np.asarray(maps[1])[1, Q_MAP.size :]
    return {
        "q_orbits": orbit_q[:, 2:].T,
        "c_orbits": orbit_c[:, 2:].T,
        "q_orbit": orbit_q[:, 0],
        "c_orbit": orbit_c[:, 0],
        "q_map": q_map,
        "c_map": c_map,
        "q_web": np.stack(_stairs(orbit_q[:, 0])),
        "c_web": np.stack(_stairs(orbit_c[:, 1])),
        "fixed": np.array([min(point["q_star"], 2 * LONGEST), point["c_star"]]),
        "slope": np.asarray(point["chi_1"]),
        "xi": np.asarray(min(point["xi_c"], 1e6)),
    }


def _build_maps(fig, data):
    left, middle, right = plots.columns(fig, 1, 1, 1, label_room=(0.1, 0.1, 0.2), gap=0.8)
    plots.frame(left, "variance q", "correlation c", xlim=(0, LONGEST), ylim=(-1.05, 1.05), title="layer after layer")
    plots.frame(middle, "q", "q of the next layer", xlim=(0, LONGEST), ylim=(0, LONGEST))
    plots.frame(right, "c", "c of the next layer", xlim=(-1, 1.02), ylim=(-1, 1.02))
    for ax, ends in ((middle, (0, LONGEST)), (right, (-1, 1))):
        plots.line(ax, ends, ends, "guide")
    q, c = data["fixed"]
    return {
        "others": [
            plots.line(left, x, y, "ntk", linewidth=0.8, alpha=0.6, marker=".", markersize=3)
            for x, y in zip(data["q_orbits"], data["c_orbits"])
        ],
        "orbit": plots.line(left, data["q_orbit"], data["c_orbit"], "ntk", linewidth=1.6, marker="o", markersize=4),
        "fixed": plots.points(left, [q], [c], "data", marker="*", markersize=14),
        "start": plots.points(left, data["q_orbit"][:1], data["c_orbit"][:1], "finite", markersize=10),
        "q_map": plots.line(middle, Q_MAP, data["q_map"], "ntk"),
        "q_web": plots.line(middle, data["q_web"][0], data["q_web"][1], "finite", linewidth=1.2),
        "q_fixed": plots.points(middle, [q], [q], "data", marker="*", markersize=14),
        "c_map": plots.line(right, C_MAP, data["c_map"], "ntk"),
        "c_web": plots.line(right, data["c_web"][0], data["c_web"][1], "finite", linewidth=1.2),
        "c_fixed": plots.points(right, [c], [c], "data", marker="*", markersize=14),
    }


def _update_maps(artists, data):
    q, c = data["fixed"]
    for mark, x, y in zip(artists["others"], data["q_orbits"], data["c_orbits"]):
        mark.set(x, y)
    artists["orbit"].set(data["q_orbit"], data["c_orbit"])
    artists["start"].set(data["q_orbit"][:1], data["c_orbit"][:1])
    artists["q_map"].set(Q_MAP, data["q_map"])
    artists["c_map"].set(C_MAP, data["c_map"])
    for name in ("q_web", "c_web"):
        artists[name].set(*data[name])
    for name, at in (("fixed", (q, c)), ("q_fixed", (q, q)), ("c_fixed", (c, c))):
        artists[name].set([at[0]], [at[1]])


def _read_maps(data, state):
    q, c = data["fixed"]
    q_star = f"q* = {q:.3f}" if q < 2 * LONGEST else "q grows without bound"
    return (
        f"{NAMES[int(state['kind'])]}, W_std {state['W_std']:.2f}, b_std {state['b_std']:.2f}: {q_star}, c* = {c:.3f}; "
        f"slope of the right map at c = 1: χ₁ = {float(data['slope']):.3f}. "
        f"From q = {state['q']:.2f}, c = {state['c']:.2f} to c = {data['c_orbit'][10]:.3f} after 10 layers, "
        f"{data['c_orbit'][-1]:.3f} after {STEPS}."
    )


def layer_maps() -> Panel:
    """Drag a pair of inputs, given by their variance and correlation: its way layer by layer, and the two cobwebs.

    The map of c is drawn at the fixed point of q. Poole et al. 2016, Fig. 1 and 2.
    """
    return Panel(
        map_arrays,
        _build_maps,
        _update_maps,
        {
            **NETWORK,
            "q": slider("variance at the start", 0.02, LONGEST, 2.4, step=0.02),
            "c": slider("correlation at the start", -1, 1, -0.4, step=0.02),
        },
        _read_maps,
        title="One layer is a map: of a variance and a correlation.",
        caption="Drag the blue dot, or click: the pair of inputs goes to the star (left), by two cobwebs (middle and "
        "right). Then drag the weight scale: at 1.2 the right curve touches the diagonal, and c* = 1.",
        presets={
            "Ordered": {"W_std": 1.0, "b_std": 0.22, "kind": 0},
            "Chaotic": {"W_std": 2.2, "b_std": 0.22, "kind": 0},
            "ReLU at its edge": {"W_std": 1.42, "b_std": 0.0, "kind": 2},
        },
        size=(9.5, 3.4),
        main=("W_std",),
        drag=[("q", "c")],
        baked=("W_std", "b_std"),
        baked_caption="Drag the weight scale W_std: a pair of inputs goes to the star (left), by two cobwebs (middle "
        "and right). At 1.2 the right curve touches the diagonal, and c* = 1.",
        warm=[{"kind": kind} for kind in range(len(NAMES))],
    )
