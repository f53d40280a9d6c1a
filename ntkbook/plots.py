"""Arrays in, artists out: the one look of the book, shared by its panels, its static figures and its site.

A colour has one meaning through the whole book, and a dash pattern and a marker say the same: finite networks are blue,
the infinite-width NTK vermillion, the linearized network green, the NNGP or Bayesian posterior purple, data and axes
grey. Backgrounds are transparent and the grey is midway, so that a picture reads on a white page and on a dark one.
Each function draws on an Axes and returns a `Mark`, whose `set` takes the same arrays again and moves the artists in
place. There is no mathematics here, only two standard deviations either side of a mean.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from . import checks

INK = "#777777"  # text, axes and data: 4.5 to 1 against white, 4.2 to 1 against #111
Number = int | float


@dataclass(frozen=True)
class Meaning:
    """How one idea of the book looks: a colour, and a dash pattern and marker that repeat what the colour says."""

    colour: str
    dashes: Any
    marker: str
    width: float


# The four colours of Okabe and Ito's palette that keep 3 to 1 on white and on #111.
MEANINGS = {
    "finite": Meaning("#0072B2", "solid", "o", 1.0),
    "ntk": Meaning("#D55E00", "solid", "D", 2.4),
    "linearized": Meaning("#009E73", (0, (5, 1.6)), "s", 2.0),
    "nngp": Meaning("#CC79A7", (0, (6, 1.5, 1.2, 1.5)), "^", 2.2),
    "data": Meaning(INK, "solid", "o", 1.6),
    "guide": Meaning(INK, (0, (1, 2)), "", 1.1),
}

RC: dict[Any, Any] = {
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.formatter.useoffset": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "font.size": 10,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "image.cmap": "cividis",
    "figure.figsize": (7.2, 3.4),
    "figure.dpi": 100,
    "svg.fonttype": "none",
    "svg.hashsalt": "ntkbook",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Mark:
    """Artists that belong together, and `set`, which takes the arrays of their creation again and moves them."""

    artists: tuple[Any, ...]
    set: Callable[..., None]


def style() -> None:
    """Give the figures that this notebook makes from now on the look of the book, as sharp as its panels."""
    for name, value in RC.items():
        matplotlib.rcParams[name] = value
    if hasattr(getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)(), "kernel"):
        from matplotlib_inline import backend_inline

        backend_inline.set_matplotlib_formats("retina")  # two dots for each dot of the page
        # The backend asks for a white box behind grey letters without a ground; these are read on a dark page too.
        backend_inline._fetch_figure_metadata = lambda figure: None


def meaning_of(word: str) -> Meaning:
    """The look of one of the words "finite", "ntk", "linearized", "nngp", "data", "guide".

    Raises:
        ValueError: for another word.
    """
    checks.one_of(word, "meaning", tuple(MEANINGS))
    return MEANINGS[word]


# ---------------------------------------------------------------- axes


def columns(
    fig: Figure, *ratios: Number, label_room: Number | Sequence[Number] = 0.95, gap: Number = 0.75
) -> list[Axes]:
    """Axes side by side, with widths in the `ratios`, and room for labels right of each; all room is in inches.

    The margins are fixed: axes stand still while their contents move. `columns(fig)` makes one.

    >>> left, right = columns(Figure(), 3, 2)
    """
    ratios = ratios or (1.0,)
    rooms = [float(label_room)] * len(ratios) if isinstance(label_room, (int, float)) else list(label_room)
    width, height = fig.get_size_inches()
    left, bottom, top = 0.70, 0.55, 0.30
    free = width - left - gap * (len(ratios) - 1) - sum(rooms)
    made, x = [], left
    for ratio, room in zip(ratios, rooms):
        inches = free * ratio / sum(ratios)
        ax = fig.add_axes((x / width, bottom / height, inches / width, (height - bottom - top) / height))
        made.append(ax)
        x += inches + room + gap
    return made


def frame(
    ax: Axes,
    xlabel: str = "",
    ylabel: str = "",
    *,
    xlim: tuple[Number, Number] | None = None,
    ylim: tuple[Number, Number] | None = None,
    xscale: str = "linear",
    yscale: str = "linear",
    title: str = "",
) -> Axes:
    """Quiet axes: two spines, labels with units, limits set once; a title only where two axes need telling apart."""
    ax.set_xscale(xscale)
    ax.set_yscale(yscale)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if title:
        ax.set_title(title)
    for name in ("top", "right"):
        ax.spines[name].set_visible(False)
    # ticks are made as late as the first drawing, when the style may be gone again
    ax.tick_params(which="both", color=INK, labelcolor=INK, labelsize=9)
    if xlim is not None:
        ax.set_xlim(*xlim)
    if ylim is not None:
        ax.set_ylim(*ylim)
    ax.autoscale(False)
    return ax


def limits(ax: Axes, *, x: Any = None, y: Any = None) -> None:
    """Limits that hold the arrays `x` and `y`, in steps, so that the axes are redrawn rarely and never tremble.

    Linear axes go outwards to a multiple of 1, 2 or 5 times a power of ten, logarithmic ones to a power of ten. The
    limits depend on the arrays alone, not on what was shown before.
    """
    for values, scale, get, put in (
        (x, ax.get_xscale(), ax.get_xlim, ax.set_xlim),
        (y, ax.get_yscale(), ax.get_ylim, ax.set_ylim),
    ):
        if values is None:
            continue
        wanted = stepped_range(values, is_log=scale == "log")
        if wanted is not None and not np.allclose(get(), wanted, rtol=1e-12, atol=0.0):
            put(*wanted)


def stepped_range(values: Any, *, is_log: bool = False) -> tuple[float, float] | None:
    """The range of finite `values`, outwards to round numbers; None where there is none to show."""
    parts = values if isinstance(values, (list, tuple)) else (values,)
    flat = np.concatenate([np.ravel(np.asarray(part, dtype=float)) for part in parts])
    flat = flat[np.isfinite(flat) & ((flat > 0) | (not is_log))]
    if flat.size == 0:
        return None
    low, high = float(flat.min()), float(flat.max())
    if is_log:
        bottom, top = np.floor(np.log10(low)), np.ceil(np.log10(high))
        return float(10.0**bottom), float(10.0 ** max(top, bottom + 1))
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a constant: a range around it
        room = 0.5 * abs(low) or 1.0
        low, high = low - room, high + room
    rough = (high - low) / 5
    unit = 10.0 ** np.floor(np.log10(rough))
    step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= rough)
    return float(step * np.floor(low / step + 1e-9)), float(step * np.ceil(high / step - 1e-9))


# ---------------------------------------------------------------- marks


def line(ax: Axes, x: Any, y: Any, meaning: str, *, label: str = "", **look: Any) -> Mark:
    """A curve. `set(x, y)` moves it; a `label` stands right of its end and follows it."""
    m = meaning_of(meaning)
    (curve,) = ax.plot(x, y, **{"color": m.colour, "linestyle": m.dashes, "linewidth": m.width, "zorder": 3, **look})
    return _labelled(ax, (curve,), lambda x, y: curve.set_data(x, y), curve, label)


def lines(ax: Axes, x: Any, ys: Any, meaning: str, *, label: str = "", **look: Any) -> Mark:
    """Many thin curves, `ys` of shape (number, points): the single networks of an ensemble. `set(x, ys)`.

    A number of curves that changes is drawn with as many as there are; the others wait out of sight.
    """
    m = meaning_of(meaning)
    look = {"color": m.colour, "linestyle": m.dashes, "linewidth": 1.0, "alpha": 0.8, "zorder": 2.5, **look}
    curves = list(ax.plot(np.asarray(x), np.asarray(ys).T, **look)) or list(ax.plot([], [], **look))  # none yet

    def move(x: Any, ys: Any) -> None:
        ys = np.asarray(ys)
        while len(curves) < len(ys):
            curves.extend(ax.plot([], [], **look))
        for curve, y in zip(curves, ys):
            curve.set_data(x, y)
        for curve in curves[len(ys) :]:
            curve.set_data([], [])

    return _labelled(ax, tuple(curves), move, curves[0], label)


def band(ax: Axes, x: Any, mean: Any, sd: Any, meaning: str, *, label: str = "", **look: Any) -> Mark:
    """A mean with a band of two standard deviations either side. `set(x, mean, sd)`."""
    m = meaning_of(meaning)
    x, mean, sd = (np.asarray(a, dtype=float) for a in (x, mean, sd))
    fill = ax.fill_between(x, mean - 2 * sd, mean + 2 * sd, color=m.colour, alpha=0.18, linewidth=0, zorder=2)
    (curve,) = ax.plot(x, mean, **{"color": m.colour, "linestyle": m.dashes, "linewidth": m.width, "zorder": 3, **look})

    def move(x: Any, mean: Any, sd: Any) -> None:
        x, mean, sd = (np.asarray(a, dtype=float) for a in (x, mean, sd))
        curve.set_data(x, mean)
        fill.set_data(x, mean - 2 * sd, mean + 2 * sd)  # type: ignore[attr-defined]

    return _labelled(ax, (fill, curve), move, curve, label)


def points(ax: Axes, x: Any, y: Any, meaning: str = "data", *, label: str = "", **look: Any) -> Mark:
    """Markers without a line: data, or one measurement each. `set(x, y)`."""
    m = meaning_of(meaning)
    look = {"color": m.colour, "marker": m.marker or "o", "markersize": 6, "zorder": 4, **look}
    (dots,) = ax.plot(x, y, linestyle="none", **look)
    return _labelled(ax, (dots,), lambda x, y: dots.set_data(x, y), dots, label)


def bars(ax: Axes, x: Any, heights: Any, meaning: str, *, width: Number = 0.8, **look: Any) -> Mark:
    """Bars from zero: `set(heights)`."""
    m = meaning_of(meaning)
    made = ax.bar(np.asarray(x), np.asarray(heights), **{"width": width, "color": m.colour, "zorder": 2, **look})

    def move(heights: Any) -> None:
        for bar, height in zip(made, np.asarray(heights, dtype=float)):
            bar.set_height(height)

    return Mark(tuple(made), move)


def image(
    ax: Axes, values: Any, *, limits: tuple[Number, Number] | None = None, cmap: str = "cividis", **look: Any
) -> Mark:
    """A matrix as an image, first row on top: `set(values)`. Without `limits` the colours span what they show."""
    values = np.asarray(values, dtype=float)
    # zorder 1: above the frame's background, so that it is part of what moves
    shown = ax.imshow(values, **{"cmap": cmap, "aspect": "equal", "interpolation": "nearest", "zorder": 1, **look})
    left, right, bottom, top = shown.get_extent()
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.spines[:].set_visible(False)

    def move(values: Any) -> None:
        values = np.asarray(values, dtype=float)
        ends = tuple(limits or (float(values.min()), float(values.max())))
        if shown.get_clim() != ends or not np.array_equal(values, np.asarray(shown.get_array())):  # else not stale
            shown.set(data=values, clim=ends)

    move(values)
    return Mark((shown,), move)


def vertical(ax: Axes, x: Any, meaning: str = "guide", **look: Any) -> Mark:
    """A vertical line through the axes: `set(x)`."""
    m = meaning_of(meaning)
    look = {"color": m.colour, "linestyle": m.dashes, "linewidth": m.width, "zorder": 1.5, **look}
    rule = ax.axvline(float(x), **look)
    return Mark((rule,), lambda x: rule.set_xdata([float(x), float(x)]))


def horizontal(ax: Axes, y: Any, meaning: str = "guide", **look: Any) -> Mark:
    """A horizontal line through the axes: `set(y)`."""
    m = meaning_of(meaning)
    look = {"color": m.colour, "linestyle": m.dashes, "linewidth": m.width, "zorder": 1.5, **look}
    rule = ax.axhline(float(y), **look)
    return Mark((rule,), lambda y: rule.set_ydata([float(y), float(y)]))


def direct_label(ax: Axes, x: Any, y: Any, text: str, meaning: str, **look: Any) -> Mark:
    """Words at a place in data coordinates, in the colour of their meaning: `set(x, y)` or `set(x, y, text)`."""
    m = meaning_of(meaning)
    look = {"color": m.colour, "fontsize": 9, "zorder": 5, **look}
    words = ax.text(float(x), float(y), text, **look)

    def move(x: Any, y: Any, text: str | None = None) -> None:
        words.set_position((float(x), float(y)))
        if text is not None:
            words.set_text(text)

    return Mark((words,), move)


def key(ax: Axes, marks: Mapping[str, Mark], corner: str = "upper left") -> None:
    """Words -> mark, in a corner of the axes: for curves whose ends coincide, where labels beside them say nothing."""
    look: Any = {"loc": corner, "frameon": False, "fontsize": 9, "labelcolor": "linecolor", "handlelength": 1.8}
    ax.legend([mark.artists[0] for mark in marks.values()], list(marks), **look).set_zorder(5)


# ---------------------------------------------------------------- labels at the ends of curves


def _labelled(ax: Axes, artists: tuple[Artist, ...], move: Callable[..., None], curve: Line2D, label: str) -> Mark:
    """The mark, with its label in the margin right of the axes where one is wanted."""
    if not label:
        return Mark(artists, move)
    words = ax.text(
        1.0, 0.5, label, transform=ax.transAxes, color=curve.get_color(), fontsize=9, va="center", ha="left", zorder=5
    )
    words.set_clip_on(False)
    words.set_gid(_END_LABEL)
    words.curve = curve  # type: ignore[attr-defined]
    arrange_labels(ax)
    return Mark((*artists, words), move)


_END_LABEL = "end-label"


def arrange_labels(ax: Axes) -> None:
    """Put each end label beside the end of its curve, and push apart those that would overlap."""
    labels = [text for text in ax.texts if text.get_gid() == _END_LABEL]
    if not labels:
        return
    heights = sorted(((_end_height(ax, label), label) for label in labels), key=lambda pair: pair[0])
    wide, tall = _inches(ax)
    rows = [1.25 * float(label.get_fontsize()) / 72 / tall * (1 + label.get_text().count("\n")) for _, label in heights]
    for (_, label), y in zip(heights, _pushed_apart([height for height, _ in heights], rows)):
        label.set_position((1.0 + 0.06 / wide, y))


def _inches(ax: Axes) -> tuple[float, float]:
    # the original position: asking for the active one moves the ticks, and the background would be drawn again
    box, size = ax.get_position(original=True), ax.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    return box.width * size[0], box.height * size[1]


def _end_height(ax: Axes, label: Text) -> float:
    """Height, from 0 to 1 in the axes, of the last finite point of the label's curve inside the limits of x."""
    xy = np.asarray(label.curve.get_xydata(), dtype=float)  # type: ignore[attr-defined]
    left, right = sorted(ax.get_xlim())
    seen = xy[np.isfinite(xy).all(axis=1) & (xy[:, 0] >= left) & (xy[:, 0] <= right)] if xy.size else xy
    if len(seen) == 0:
        return 0.5
    to_axes = ax.transScale + ax.transLimits  # data coordinates -> 0 to 1
    return float(np.clip(to_axes.transform(seen[np.argmax(seen[:, 0])])[1], 0.0, 1.0))


def _pushed_apart(wanted: Sequence[float], rows: Sequence[float]) -> list[float]:
    """Heights nearest to the sorted `wanted` ones at which labels of the given `rows` do not overlap.

    Labels that would touch form a block centred on its members' mean; blocks that meet merge.
    """
    blocks: list[list[int]] = []
    for i in range(len(wanted)):
        blocks.append([i])
        top = lambda block: _bottom(block, wanted, rows) + sum(rows[i] for i in block)
        while len(blocks) > 1 and _bottom(blocks[-1], wanted, rows) < top(blocks[-2]):
            last = blocks.pop()
            blocks[-1].extend(last)
    placed: list[float] = []
    for block in blocks:
        y = _bottom(block, wanted, rows)
        for i in block:
            placed.append(y + rows[i] / 2)
            y += rows[i]
    return placed


def _bottom(block: Sequence[int], wanted: Sequence[float], rows: Sequence[float]) -> float:
    return float(np.mean([wanted[i] for i in block])) - sum(rows[i] for i in block) / 2
