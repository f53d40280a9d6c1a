"""Results of the library drawn on axes: a spectrum, the search for hyperparameters. Looks are those of plots.py."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from . import plots


def draw_spectrum(ax: Axes, spectrum: Any) -> None:
    """Eigenvalues against their number, both on log axes; and the target's share in each mode, where there is one.

    >>> import jax.numpy as jnp
    >>> from matplotlib.figure import Figure
    >>> from ntkbook import spectrum
    >>> draw_spectrum(Figure().subplots(), spectrum(jnp.eye(3), jnp.ones(3)))
    """
    number = 1 + np.arange(len(spectrum.eigenvalues))
    values = np.where(np.asarray(spectrum.eigenvalues) > 0, spectrum.eigenvalues, np.nan)
    plots.frame(ax, "mode", "eigenvalue", xscale="log", yscale="log")
    plots.points(ax, number, values, "ntk", label="eigenvalue")
    shown = [values]
    if spectrum.coefficients is not None:
        power = np.where(np.asarray(spectrum.power) > 0, spectrum.power, np.nan)
        plots.line(ax, number, power, "data", label="share of the target")
        shown.append(power)
    plots.limits(ax, x=number, y=shown)
    plots.arrange_labels(ax)  # the ends have moved


def draw_fit(left: Axes, right: Axes, fit: Any) -> None:
    """The evidence (left) and each hyperparameter (right) after each step of `fit`."""
    steps = np.arange(len(fit.evidence))
    plots.frame(left, "step", "log marginal likelihood (nats)")
    plots.line(left, steps, fit.evidence, "nngp")
    plots.limits(left, x=steps, y=fit.evidence)
    plots.frame(right, "step", "hyperparameter")
    for (name, values), dashes in zip(fit.path.items(), ("-", "--", "-.", ":") * len(fit.path)):
        plots.line(right, steps, values, "nngp", label=name, linestyle=dashes)
    plots.limits(right, x=steps, y=list(fit.path.values()))


def draw_report(left: Axes, right: Axes, report: Any) -> None:
    """A `report`: the spectrum with the labels in it (left), and the share of each layer in the trace (right).

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from matplotlib.figure import Figure
    >>> from ntkbook import report
    >>> f = lambda params, x: jnp.tanh(x @ params["W"]) @ params["v"]
    >>> found = report(f, {"W": jnp.eye(2), "v": jnp.ones((2, 1))}, jax.random.normal(jax.random.key(0), (5, 2)))
    >>> draw_report(*Figure().subplots(1, 2), found)
    """
    draw_spectrum(left, report.spectrum)
    place = np.arange(len(report.layers))
    plots.frame(right, "", "share of the trace", xlim=(-0.6, len(place) - 0.4), ylim=(0.0, 1.0))
    plots.bars(right, place, report.shares, "finite")
    shown = place[:: 1 + len(place) // 8]
    right.set_xticks(shown, [report.layers[i] for i in shown], rotation=30 if len(shown) > 3 else 0)
