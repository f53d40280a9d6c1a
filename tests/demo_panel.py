"""A small panel for the tests: every kind of control, curves, a band, labels, and an image."""

import jax
import jax.numpy as jnp

from ntkbook import plots
from ntkbook.panel import Panel, powers_of_two, slider, toggle

X = jnp.linspace(-jnp.pi, jnp.pi, 200)


@jax.jit
def curves(rate, t, width, is_trained):
    target = jnp.sin(X)
    mean = is_trained * (1 - jnp.exp(-rate * t)) * target
    sd = 0.05 + 0.4 * jnp.exp(-rate * t) * jnp.abs(jnp.cos(X / 2))
    seeds = jnp.arange(5.0)[:, None]
    nets = mean + sd * jnp.sin(3 * X + seeds) * (1 + 4 / jnp.sqrt(width))
    kernel = jnp.exp(-rate * (X[::8, None] - X[None, ::8]) ** 2)
    return {"x": X, "target": target, "mean": mean, "sd": sd, "nets": nets, "kernel": kernel}


def build(fig, data):
    left, right = plots.columns(fig, 2, 1, label_room=(1.0, 0.1))
    plots.frame(left, "angle (rad)", "output", xlim=(-3.2, 3.2), ylim=(-3, 3))
    plots.frame(right, "example", "example", title="kernel")
    return {
        "nets": plots.lines(left, data["x"], data["nets"], "finite", label="networks"),
        "band": plots.band(left, data["x"], data["mean"], data["sd"], "ntk", label="infinite width"),
        "target": plots.points(left, data["x"][::25], data["target"][::25], label="data"),
        "kernel": plots.image(right, data["kernel"], limits=(0, 1)),
    }


def update(artists, data):
    artists["nets"].set(data["x"], data["nets"])
    artists["band"].set(data["x"], data["mean"], data["sd"])
    artists["kernel"].set(data["kernel"])


def reading(data, state):
    gap = float(abs(data["mean"] - data["target"]).max())
    return f"At t = {state['t']:.3g}, the mean is at most {gap:.3f} from the target."


def demo() -> Panel:
    return Panel(
        curves,
        build,
        update,
        {
            "t": slider("time", 0.01, 100, 1.0, log=True, play=True),
            "rate": slider("learning rate", 0.1, 2.0, 0.5, unit="1/step"),
            "width": powers_of_two("width", 4, 1024, 64, unit="units"),
            "is_trained": toggle("trained", True),
        },
        reading,
        title="A demonstration.",
        caption="Drag time to the right and watch the networks close on the data.",
        presets={"Start": {"t": 0.01}, "Narrow and late": {"t": 50.0, "width": 4}},
    )


def at(panel: Panel, **values) -> Panel:
    """The same panel, moved."""
    panel.set(**values)
    return panel
