"""The one look: colours that are seen on white and on dark, artists that hold the arrays, labels apart."""

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure

from ntkbook import plots

X = np.linspace(0.0, 1.0, 30)


@pytest.fixture
def ax():
    fig = Figure((6, 3))
    FigureCanvasAgg(fig)
    (ax,) = plots.columns(fig)
    return plots.frame(ax, "x", "y", xlim=(0, 1), ylim=(-1, 1))


# ---------------------------------------------------------------- colours


def luminance(colour) -> float:
    """Relative luminance of the WCAG, written out from its definition."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_wcag():
    assert contrast("white", "black") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.005)  # the guideline's own well-known example


@pytest.mark.parametrize("meaning", plots.MEANINGS)
@pytest.mark.parametrize("page", ["white", "#111111"])
def test_every_colour_keeps_three_to_one(meaning, page):
    assert contrast(plots.meaning_of(meaning).colour, page) >= (4.0 if meaning == "data" else 3.0)


def test_no_two_meanings_share_both_colour_and_dashes():
    looks = [(m.colour, str(m.dashes), m.marker) for m in plots.MEANINGS.values()]
    assert len(set(looks)) == len(looks)
    coloured = [m for word, m in plots.MEANINGS.items() if word not in ("data", "guide")]
    assert len({m.marker for m in coloured}) == len({m.colour for m in coloured}) == len(coloured)
    # finite networks and the infinite-width NTK are both solid: a thin line and a thick one tell them apart
    assert len({(str(m.dashes), m.width > 2) for m in coloured}) == len(coloured)


def test_unknown_meanings_are_refused(ax):
    with pytest.raises(ValueError, match="Expected meaning to be one of 'finite'"):
        plots.line(ax, X, X, "blue")


# ---------------------------------------------------------------- marks


def test_marks_hold_their_arrays_and_move(ax):
    y, sd = np.sin(X), 0.1 + X
    line = plots.line(ax, X, y, "ntk")
    line.set(2 * X, 3 * y)
    np.testing.assert_array_equal(line.artists[0].get_xydata(), np.stack([2 * X, 3 * y], 1))
    band = plots.band(ax, X, y, sd, "nngp")
    band.set(X, 2 * y, sd)
    vertices = band.artists[0].get_paths()[0].vertices
    assert vertices[:, 1].max() == (2 * y + 2 * sd).max() and vertices[:, 1].min() == (2 * y - 2 * sd).min()
    np.testing.assert_array_equal(band.artists[1].get_ydata(), 2 * y)
    dots = plots.points(ax, X, y)
    dots.set(X[:5], y[:5])
    assert len(dots.artists[0].get_xdata()) == 5
    bars = plots.bars(ax, [0, 1, 2], [1.0, 2.0, 3.0], "finite")
    bars.set([3.0, 2.0, -1.0])
    assert [bar.get_height() for bar in bars.artists] == [3.0, 2.0, -1.0]
    rule, level = plots.vertical(ax, 0.2), plots.horizontal(ax, 0.2)
    rule.set(0.7)
    level.set(-0.5)
    assert list(rule.artists[0].get_xdata()) == [0.7, 0.7] and list(level.artists[0].get_ydata()) == [-0.5, -0.5]
    words = plots.direct_label(ax, 0.1, 0.2, "here", "data")
    words.set(0.3, 0.4, "there")
    assert words.artists[0].get_position() == (0.3, 0.4) and words.artists[0].get_text() == "there"


@pytest.mark.parametrize("start, n", [(3, 1), (3, 3), (3, 7), (0, 2)])
def test_an_ensemble_may_change_its_size(ax, start, n):
    nets = plots.lines(ax, X, np.ones((start, 1)) * X, "finite", label="networks")
    wanted = np.arange(n)[:, None] + X
    nets.set(X, wanted)
    drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata())]
    np.testing.assert_array_equal(np.stack(drawn), wanted)


def test_an_image_fills_its_axes_and_spans_its_values(ax):
    image = plots.image(ax, np.arange(12.0).reshape(3, 4))
    assert ax.get_xlim() == (-0.5, 3.5) and ax.get_ylim() == (2.5, -0.5)
    image.set(10 * np.arange(12.0).reshape(3, 4))
    assert image.artists[0].get_clim() == (0.0, 110.0)
    fixed = plots.image(ax, np.zeros((2, 2)), limits=(0, 1))
    fixed.set(np.full((2, 2), 0.5))
    assert fixed.artists[0].get_clim() == (0, 1)


# ---------------------------------------------------------------- limits


def stepped(values) -> tuple[float, float]:
    found = plots.stepped_range(np.array(values, dtype=float))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([0, 1], (0, 1)), ([-0.9, 0.95], (-1, 1)), ([3, 97], (0, 100)), ([0.02, 0.0191], (0.019, 0.02))],
)
def test_limits_are_round(values, wanted):
    assert stepped(values) == pytest.approx(wanted)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(10**6), 10**6).map(lambda i: i / 1000), min_size=2, max_size=5, unique=True))
def test_limits_hold_the_values_and_waste_little(values):
    low, high = stepped(values)
    span = max(values) - min(values)
    assert low <= min(values) + 1e-6 * span and high >= max(values) - 1e-6 * span
    assert high - low <= 2 * span * (1 + 1e-6)  # a step is at most half of the span


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-8, 1e9])
def test_limits_of_a_constant_are_a_range_around_it(value):
    low, high = stepped([value, value])
    assert low < value < high


def test_limits_of_logarithmic_axes_are_powers_of_ten_and_nothing_finite_means_no_limits():
    assert plots.stepped_range(np.array([0.0, 3e-4, 20.0]), is_log=True) == pytest.approx((1e-4, 100.0))
    assert plots.stepped_range(np.array([10.0]), is_log=True) == (10.0, 100.0)
    assert plots.stepped_range([np.array([np.nan]), np.array([np.inf])]) is None


def test_limits_that_stay_leave_the_axes_untouched(ax):
    plots.limits(ax, y=np.array([0.0, 0.93]))
    ax.figure.canvas.draw()
    ax.figure.stale = False
    plots.limits(ax, y=np.array([0.01, 0.94]))
    assert not ax.figure.stale
    plots.limits(ax, y=np.array([0.01, 1.94]))
    assert ax.figure.stale


# ---------------------------------------------------------------- labels


def test_labels_stand_at_the_ends_of_their_curves(ax):
    plots.line(ax, X, 0.8 * X, "ntk", label="up")
    plots.line(ax, X, -0.8 * X, "nngp", label="down")
    assert [text.get_position()[1] for text in ax.texts] == pytest.approx([0.9, 0.1])
    assert [text.get_color() for text in ax.texts] == ["#D55E00", "#CC79A7"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=5))
def test_labels_never_overlap(ends):
    fig = Figure((6, 3))
    canvas = FigureCanvasAgg(fig)
    ax = plots.frame(plots.columns(fig)[0], "x", "y", xlim=(0, 1), ylim=(-1, 1))
    marks = [plots.line(ax, X, 0 * X, "ntk", label=f"label {i}") for i in range(len(ends))]
    for mark, end in zip(marks, ends):
        mark.set(X, end * X)
    plots.arrange_labels(ax)
    boxes = sorted((t.get_window_extent(canvas.get_renderer()) for t in ax.texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 0.5 for below, above in zip(boxes, boxes[1:]))


def test_a_key_names_curves_in_a_corner_in_their_own_looks(ax):
    marks = {"thick": plots.line(ax, X, X, "ntk"), "thin": plots.lines(ax, X, [X, -X], "finite", linewidth=0.5)}
    plots.key(ax, marks, corner="lower right")
    canvas = ax.get_figure().canvas
    canvas.draw()
    key = ax.get_legend()
    assert [words.get_text() for words in key.get_texts()] == list(marks)
    assert [words.get_color() for words in key.get_texts()] == [m.artists[0].get_color() for m in marks.values()]
    assert [line.get_linewidth() for line in key.get_lines()] == [2.4, 0.5]
    box = key.get_window_extent(canvas.get_renderer()).transformed(ax.transAxes.inverted())
    assert box.x0 > 0.5 and box.y1 < 0.5 and box.x1 <= 1 and box.y0 >= 0


# ---------------------------------------------------------------- style


def test_style_is_transparent_and_midway():
    with matplotlib.rc_context():
        plots.style()
        fig = Figure()
        ax = fig.subplots()
        assert to_rgba(fig.get_facecolor())[3] == to_rgba(ax.get_facecolor())[3] == 0
        assert ax.xaxis.label.get_color() == plots.INK and not ax.spines["top"].get_visible()
    assert matplotlib.rcParams["axes.edgecolor"] == "black"
