"""Pictures with sliders: one definition is alive in a notebook, a picture without a kernel, and a figure for a paper.

A panel is a pure function from numbers to arrays, a function that draws the arrays once, one that moves what was
drawn, and its controls; every chapter's panels in `ntkbook/panels` are made of these. Make your own panel:

    import jax.numpy as jnp
    from ntkbook import plots
    from ntkbook.panel import Panel, slider

    time = jnp.linspace(0, 10, 200)

    def compute(t, lr):
        now = jnp.array([t])
        return {"time": time, "loss": jnp.exp(-2 * lr * time), "t": now, "now": jnp.exp(-2 * lr * now)}

    def build(fig, data):
        (ax,) = plots.columns(fig)
        plots.frame(ax, "time", "loss", xlim=(0, 10), ylim=(0, 1))
        curve = plots.line(ax, data["time"], data["loss"], "ntk", label="prediction")
        return {"curve": curve, "now": plots.points(ax, data["t"], data["now"], "ntk")}

    def update(artists, data):
        artists["curve"].set(data["time"], data["loss"])
        artists["now"].set(data["t"], data["now"])

    controls = {"t": slider("time", 0, 10, 2, play=True), "lr": slider("learning rate", 0.1, 2, 0.5)}
    panel = Panel(compute, build, update, controls, lambda data, state: f"The loss is {data['now'][0]:.3f}.")

`docs/make_your_own_panel.md` has a kernel in it, and what to know.
"""

from .controls import Control as Control
from .controls import Range as Range
from .controls import choice as choice
from .controls import powers_of_two as powers_of_two
from .controls import slider as slider
from .controls import toggle as toggle
from .controls import whole as whole
from .guides import Mission as Mission
from .guides import Predict as Predict
from .guides import link as link
from .panel import Panel as Panel
