"""The panel engine: values to data to picture, events, errors, and what is compiled when."""

import base64
import copy
import gc
import io
import pickle
import sys
import textwrap
import threading
from fractions import Fraction
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import psutil
import pytest
from demo_panel import at, build, curves, demo, reading, update
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import ntkbook.panel
from ntkbook import plots
from ntkbook.panel import Mission, Panel, Predict, Range, choice, powers_of_two, slider, toggle
from ntkbook.panel.picture import Picture, png_bytes


def a_panel(compute, **controls) -> Panel:
    """The smallest panel on `compute`, which returns an array `y` of eleven numbers."""

    def draw(fig, data):
        (ax,) = plots.columns(fig)
        plots.frame(ax, "x", "y", xlim=(0, 10), ylim=(-10, 10))
        return {"y": plots.line(ax, np.arange(11.0), data["y"], "ntk", label="curve")}

    def move(artists, data):
        artists["y"].set(np.arange(11.0), data["y"])

    return Panel(compute, draw, move, controls, lambda data, state: f"y_0 = {data['y'][0]:.3f}", density=1.0)


def field(panel: Panel, name: str):
    return panel.view().controls[name].field


def handle(panel: Panel, name: str):
    return panel.view().controls[name].counters[0]


def picture(panel: Panel) -> Picture:
    panel.png()
    return panel.picture()


# ---------------------------------------------------------------- what a program asks and sets


def test_state_data_reading_and_controls():
    panel = demo()
    assert panel.state() == {"t": 1.0, "rate": 0.5, "width": 64.0, "is_trained": 1.0}
    assert panel.controls["t"] == (0.01, 100.0) == Range(0.01, 100.0)
    assert (
        panel.reading
        == f"At t = 1, the mean is at most {np.exp(-0.5) * abs(np.sin(panel.data()['x'])).max():.3f} from the target."
    )
    assert panel.data()["nets"].shape == (5, 200)
    assert repr(panel) == "Panel(t=1.0, rate=0.5, width=64, is_trained=True)"


def test_set_changes_data_and_reading_and_computes_once():
    calls = []

    def compute(a, b):
        calls.append((a, b))
        return {"y": np.full(11, a + 10 * b)}

    panel = a_panel(compute, a=slider("a", 0, 1, 0.5), b=slider("b", 0, 1, 0.0))
    calls.clear()
    panel.set(a=1, b=np.float32(0.5))
    assert calls == [(1.0, 0.5)] and all(type(v) is float for v in calls[0])
    assert panel.reading == "y_0 = 6.000"
    panel.set(a=1.0)  # nothing new
    assert len(calls) == 1
    panel.reset()
    assert panel.state() == {"a": 0.5, "b": 0.0}


@pytest.mark.parametrize(
    "values", [{"tt": 1.0}, {"t": 1e3}, {"t": 0.0}, {"t": float("nan")}, {"rate": 1.0, "width": 2}]
)
def test_wrong_settings_are_refused_and_nothing_moves(values):
    panel = demo()
    before = panel.state()
    with pytest.raises(ValueError, match="Expected"):
        panel.set(**values)
    assert panel.state() == before


@pytest.mark.parametrize("value", ["late", np.array("late"), np.array("1.5"), np.array(None), 1j, np.array(1j), [1.0]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="Expected a to be a number"):
        slider("a", 0, 2, 1).clean("a", value)


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), np.inf, np.array(np.nan), Fraction(10**400)], ids=lambda value: type(value).__name__
)
def test_numbers_beyond_every_range_are_refused(value):
    with pytest.raises(ValueError, match="Expected a between 0 and 2"):
        slider("a", 0, 2, 1).clean("a", value)


def test_numbers_of_every_kind_become_floats():
    for value in (True, 1, np.int8(1), np.array(1.0), jax.numpy.array(1.0, "bfloat16"), Fraction(1)):
        cleaned = slider("a", 0, 2, 1).clean("a", value)
        assert cleaned == 1.0 and type(cleaned) is float


def test_stops_take_the_nearest_in_ratio():
    panel = demo()
    assert at(panel, width=100).state()["width"] == 128.0
    assert at(panel, width=90).state()["width"] == 64.0
    assert at(panel, is_trained=False).state()["is_trained"] == 0.0


def test_names_must_agree():
    with pytest.raises(ValueError, match="a control for each argument"):
        a_panel(lambda a: {"y": np.zeros(11)}, b=slider("b", 0, 1, 0))
    with pytest.raises(ValueError, match="Expected controls among"):
        Panel(curves, build, update, demo().definitions, reading, presets={"late": {"time": 1.0}})
    with pytest.raises(TypeError, match="dict of arrays"):
        a_panel(lambda a: np.zeros(11), a=slider("a", 0, 1, 0))


def test_constructors_of_controls_refuse_nonsense():
    for make in (
        lambda: slider("a", 1, 0, 0.5),
        lambda: slider("a", 0, 1, 2),
        lambda: slider("a", 0, 1, 0.5, log=True),
        lambda: choice("a", [1, 3, 2], 1),
        lambda: choice("a", [1, 2], 3),
        lambda: choice("a", [1], 1),
        lambda: choice("a", [1, 2], 1, names=["one"]),
        lambda: choice("a", [1, 2], 1, names=["one", "one"]),
    ):
        with pytest.raises(ValueError, match="Expected"):
            make()


def test_stops_with_names_show_them():
    named = choice("model", [1, 2], 2, names=["line", "network"])
    panel = a_panel(lambda model: {"y": np.full(11, model)}, model=named)
    menu = panel.view().controls["model"].field
    assert menu.options == (("line", 1.0), ("network", 2.0)) and menu.label == "network"
    menu.label = "line"
    assert panel.state() == {"model": 1.0} and panel.reading == "y_0 = 1.000"
    assert "line" in panel.bake("model").html and "network" in panel.bake("model").html


@pytest.mark.parametrize(
    "control",
    [
        slider("a", -1, 3, 0),
        slider("a", 0.1, 2, 1),
        slider("a", 0, 1, 0, step=0.3),
        slider("a", 1e-3, 1e3, 1, log=True),
        powers_of_two("a", 2, 64, 8),
        toggle("a"),
    ],
    ids=["linear", "uneven", "coarse", "log", "stops", "toggle"],
)
def test_each_step_is_a_rising_value_in_range_and_knows_its_index(control):
    values = [control.value_at(i) for i in range(control.steps + 1)]
    assert values[0] == control.low and values[-1] == control.high and values == sorted(set(values))
    assert [control.index_of(value) for value in values] == list(range(control.steps + 1))
    assert [control.clean("a", value) for value in values] == values


def test_steps_are_round_numbers():
    assert [slider("a", 0.1, 2, 1).value_at(i) for i in (1, 2, 20)] == [0.12, 0.14, 0.5]
    assert slider("a", 0.01, 100, 1, log=True).value_at(65) == 3.981


def test_data_cannot_be_written_to_and_what_compute_keeps_is_safe():
    kept = np.zeros(11)
    panel = a_panel(lambda a: {"y": kept}, a=slider("a", 0, 1, 0.5))
    with pytest.raises(ValueError, match="read-only"):
        panel.data()["y"] += 1
    assert kept.flags.writeable and not kept.any()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda panel: pickle.loads(pickle.dumps(panel))])
def test_a_copy_stands_at_the_same_place_and_moves_alone(duplicate):
    panel = at(demo(), t=3.0)
    heard = []
    panel.on_change(heard.append)
    panel.view()
    other = duplicate(panel)
    assert other.state() == panel.state() and other.png() == panel.png()
    other.set(t=9.0)
    assert panel.state()["t"] == 3.0 and handle(panel, "t").value == panel.definitions["t"].index_of(3.0)
    assert not heard and other.widget is not panel.widget


def test_a_panel_of_local_functions_says_why_it_cannot_be_pickled():
    with pytest.raises(pickle.PicklingError, match="Expected functions that can be imported"):
        pickle.dumps(a_panel(lambda a: {"y": np.zeros(11)}, a=slider("a", 0, 1, 0.5)))


def test_threads_that_share_a_panel_leave_one_truth():
    panel = a_panel(lambda a: {"y": np.full(11, a)}, a=slider("a", 0, 1, 0.5))
    view = panel.view()
    errors: list[BaseException] = []

    def move(start):
        try:
            for step in range(12):
                panel.set(a=(start + step) % 10 / 10)
                panel.png()
        except BaseException as error:  # a thread's own exception is lost
            errors.append(error)

    threads = [threading.Thread(target=move, args=(start,)) for start in (0, 3, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    fresh = copy.copy(panel)
    assert view.image.value == panel.png() == fresh.png() and panel.reading == fresh.reading


def test_without_ipywidgets_a_panel_is_a_picture(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    panel = demo()
    bundle, metadata = panel._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png"} and metadata["image/png"]["alt"]
    with pytest.raises(ModuleNotFoundError, match="Expected ipywidgets"):
        _ = panel.widget
    question = Predict("Which?", {"this": "Yes.", "that": "No."}, "this")
    assert set(question._repr_mimebundle_()) == {"text/plain", "text/html"}
    mission = Mission(panel, "Be late.", lambda data, state: state["t"] > 50)
    assert set(mission._repr_mimebundle_()) == {"text/plain"}


# ---------------------------------------------------------------- compilation


def test_a_sweep_of_sliders_compiles_once():
    traces = []

    @jax.jit
    def compute(a, width):
        traces.append(1)
        return {"y": a * jax.numpy.ones(11) + width}

    panel = a_panel(compute, a=slider("a", 0, 1, 0.5), width=powers_of_two("width", 1, 8, 2))
    for a in np.linspace(0, 1, 50):
        panel.set(a=a, width=2 ** round(3 * a))
    assert len(traces) == 1


def test_each_stop_is_computed_at_construction():
    seen = []

    def compute(a, width, on):
        seen.append((width, on))
        return {"y": np.full(11, a)}

    a_panel(compute, a=slider("a", 0, 1, 0.5), width=powers_of_two("width", 4, 16, 8), on=toggle("on"))
    assert set(seen) == {(4.0, 0.0), (8.0, 0.0), (16.0, 0.0), (8.0, 1.0)}


# ---------------------------------------------------------------- the picture


def test_artists_equal_the_data():
    panel = at(demo(), t=7.0, width=4)
    data, artists = panel.data(), picture(panel).artists
    fill, curve, _ = artists["band"].artists
    np.testing.assert_array_equal(curve.get_ydata(), data["mean"])
    vertices = fill.get_paths()[0].vertices
    assert vertices[:, 1].max() == (data["mean"] + 2 * data["sd"]).max()
    for drawn, net in zip(artists["nets"].artists, data["nets"]):
        np.testing.assert_array_equal(drawn.get_ydata(), net)
    np.testing.assert_array_equal(artists["kernel"].artists[0].get_array(), data["kernel"])


def pixels(figure) -> np.ndarray:
    """An oracle for the blitted picture: matplotlib's own complete draw of a plain figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_moved_picture_equals_a_fresh_complete_drawing():
    panel = demo()
    panel.png()
    panel.set(t=20.0, rate=1.5, width=4)
    panel.png()
    figure = panel.figure()
    figure.set_dpi(200)
    np.testing.assert_array_equal(picture(panel).rgba(), pixels(figure))


def test_text_is_drawn_once_while_limits_stay_and_again_when_they_move():
    def draw(fig, data):
        (ax,) = plots.columns(fig)
        plots.frame(ax, "x", "y", xlim=(0, 10))
        plots.limits(ax, y=data["y"])
        return {"y": plots.line(ax, np.arange(11.0), data["y"], "ntk"), "ax": ax}

    def move(artists, data):
        plots.limits(artists["ax"], y=data["y"])
        artists["y"].set(np.arange(11.0), data["y"])

    panel = Panel(
        lambda a: {"y": a * np.arange(11.0)}, draw, move, {"a": slider("a", 1, 100, 9.1)}, lambda d, s: str(s["a"])
    )
    panel.png()
    for a in (9.2, 9.3, 9.9):
        at(panel, a=a).png()
    assert picture(panel).full_draws == 1
    at(panel, a=90).png()
    assert picture(panel).full_draws == 2
    figure = panel.figure()
    figure.set_dpi(200)
    np.testing.assert_array_equal(picture(panel).rgba(), pixels(figure))


def test_png_is_the_picture_with_a_transparent_background():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (37, 53, 4), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(noise)))), noise)
    shown = Image.open(io.BytesIO(demo().png()))
    assert shown.size == (1720, 720) and shown.mode == "RGBA"
    assert np.asarray(shown)[3, 3, 3] == 0


def test_pictures_leave_no_trace_in_pyplot():
    before = plt.get_fignums()
    demo().png()
    assert plt.get_fignums() == before


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_figure_for_a_paper(tmp_path, suffix):
    file = tmp_path / f"figure.{suffix}"
    demo().figure().savefig(file)
    assert file.stat().st_size > 2000


def test_mime_bundle_is_a_widget_a_picture_and_a_line():
    panel = demo()
    bundle, metadata = panel._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"}
    assert bundle["text/plain"] == repr(panel)
    png = base64.b64decode(bundle["image/png"])
    kept, shown = (np.asarray(Image.open(io.BytesIO(one)).convert("RGBA"), int) for one in (png, panel.png()))
    assert len(png) < len(panel.png()) and np.abs(kept - shown).mean() < 1  # of few colours, and looks the same
    assert b"matplotlib" not in png.lower()
    assert metadata["image/png"] == {"width": 860, "height": 360, "alt": f"A demonstration. {panel.reading}"}


# ---------------------------------------------------------------- widgets


def test_a_slider_moved_by_the_reader_moves_field_picture_and_reading():
    panel = demo()
    view = panel.view()
    png, line = view.image.value, view.reading.value
    handle(panel, "t").value = 75  # of 100 steps over four powers of ten
    assert panel.state()["t"] == 10.0 and field(panel, "t").value == 10.0
    assert view.image.value != png and view.image.value == panel.png()
    assert "At t = 10," in view.reading.value != line
    field(panel, "t").value = 1.0
    assert panel.state()["t"] == 1.0 and handle(panel, "t").value == 50


def test_a_value_set_from_code_stays_exact_and_moves_every_widget():
    panel = demo()
    view = panel.view()
    panel.set(t=10.123456, width=4, is_trained=False)
    assert panel.state() == {"t": 10.123456, "rate": 0.5, "width": 4.0, "is_trained": 0.0}
    assert (field(panel, "t").value, handle(panel, "t").value) == (10.123, 75)
    assert (field(panel, "width").value, handle(panel, "width").value) == (4.0, 0)
    assert field(panel, "is_trained").value is False
    assert view.image.value == panel.png()


def test_fields_have_labels_and_units():
    panel = demo()
    labels = [field(panel, name).description for name in panel.controls]
    assert labels == ["time", "learning rate (1/step)", "width (units)", "trained"]


def test_presets_reset_and_play():
    panel = demo()
    view = panel.view()
    buttons = {button.description: button for button in view.buttons}
    assert list(buttons) == ["Start", "Narrow and late", "Reset"]
    buttons["Narrow and late"].click()
    assert panel.state() == {"t": 50.0, "rate": 0.5, "width": 4.0, "is_trained": 1.0}
    buttons["Reset"].click()
    assert panel.state()["t"] == 1.0
    play = view.controls["t"].counters[1]
    assert play.value == 50
    play.value = 100
    assert panel.state()["t"] == 100.0 and handle(panel, "t").value == 100


def test_an_error_lands_in_the_reading_and_the_next_good_move_clears_it():
    def compute(a):
        if a > 0.9:
            raise ArithmeticError("too <much>")
        return {"y": np.full(11, a)}

    panel = a_panel(compute, a=slider("a", 0, 1, 0.5))
    view = panel.view()
    png = view.image.value
    handle(panel, "a").value = 100
    assert panel.failed and "ArithmeticError: too <much>" in panel.reading
    assert "too &lt;much&gt;" in view.reading.value and 'role="alert"' in view.reading.value
    assert view.image.value == png and panel.state() == {"a": 0.5}
    handle(panel, "a").value = 50  # back where the picture is
    assert panel.reading == "y_0 = 0.500" and 'role="status"' in view.reading.value
    with pytest.raises(ArithmeticError):
        panel.set(a=1.0)
    assert panel.state() == {"a": 0.5} and not panel.failed


def test_two_copies_are_independent():
    one, two = demo(), demo()
    assert one.widget is not two.widget
    handle(one, "t").value = 90
    assert two.state()["t"] == 1.0 and one.png() != two.png()


def test_listeners_hear_each_move_once():
    panel, heard = demo(), []
    panel.view()
    panel.on_change(lambda p: heard.append(p.state()["t"]))
    field(panel, "t").value = 3.0
    panel.set(t=4.0, rate=1.0)
    assert heard == [3.0, 4.0]


@pytest.mark.slow
def test_a_flood_of_moves_leaves_nothing_behind():
    panel = demo()
    view = panel.view()
    for index in range(5):
        handle(panel, "t").value = index
    gc.collect()
    before = len(gc.get_objects())
    for index in range(40, 90):
        handle(panel, "t").value = index
    gc.collect()
    assert len(gc.get_objects()) - before < 50
    assert view.image.value == panel.png() and picture(panel).full_draws == 1


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_moves():
    demonstration = demo()
    panel = Panel(curves, build, update, demonstration.definitions, reading, density=0.5, size=(4.3, 1.8))
    counter, resident = handle(panel, "t"), []
    for move in range(1000):
        counter.value = (counter.value + 1) % 100
        if move in (300, 999):
            gc.collect()
            resident.append(psutil.Process().memory_info().rss / 1e6)
    assert resident[1] - resident[0] < 2  # megabytes: three thousand bytes a move


def draggable() -> Panel:
    def draw(fig, data):
        (ax,) = plots.columns(fig)
        plots.frame(ax, "x", "y", xlim=(0, 10), ylim=(-10, 10))
        return {"y": plots.points(ax, data["x"], data["y"])}

    controls = {"x": slider("x", 0, 10, 5, step=0.5), "y": slider("y", -10, 10, 0, step=1)}
    compute = lambda x, y: {"x": np.array([x]), "y": np.array([y])}
    move = lambda artists, data: artists["y"].set(data["x"], data["y"])
    words = lambda data, state: f"at {state['x']:.2f}, {state['y']:.2f}"
    return Panel(compute, draw, move, controls, words, density=1.0, drag=[("x", "y")])


def test_a_point_goes_where_it_is_dragged_and_no_farther_than_its_controls():
    panel = draggable()
    image = panel.view().image
    image.place = {"point": 0, "u": (u := panel.picture().place_of(2.0, 7.0))[0], "v": u[1]}
    assert panel.state() == pytest.approx({"x": 2.0, "y": 7.0}, abs=0.01)
    assert image.points == [panel.picture().place_of(*panel.state().values())] and image.value == panel.png()
    image.place = {"point": 0, "u": 2.0, "v": -1.0}
    assert panel.state() == {"x": 10.0, "y": -10.0} and not panel.failed


def test_keys_move_a_point_by_steps_and_merged_messages_lose_none():
    panel = draggable()
    image = panel.view().image
    image.steps = [[1, 0]]
    image.steps = [[3, -2]]  # three presses in one message
    assert panel.state() == {"x": 6.5, "y": -2.0} and "x 6.5, y -2" in image.names[0]


def test_without_anywidget_a_point_has_its_sliders(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "ntkbook.panel.dragging", raising=False)
    panel = draggable()
    assert type(panel.view().image).__name__ == "Image"
    handle(panel, "x").value = 20
    assert panel.state()["x"] == 10.0 and panel.view().image.value == panel.png()


def test_a_point_to_drag_needs_two_controls():
    with pytest.raises(ValueError, match="Expected two controls"):
        Panel(curves, build, update, demo().definitions, reading, drag=[("t", "nothing")])


# ---------------------------------------------------------------- the guide


def test_the_docstring_runs_as_written():
    code = textwrap.dedent(str(ntkbook.panel.__doc__).split("panel:\n")[1].split("\n`docs")[0])
    names: dict = {}
    exec(code, names)
    assert at(names["panel"], t=1.0).reading == "The loss is 0.368."
    assert len(names["panel"].png()) > 1000


def test_the_guide_runs_as_written_and_is_short():
    page = (Path(__file__).parents[1] / "docs" / "make_your_own_panel.md").read_text()
    code, guides = (block.split("```")[0] for block in page.split("```python\n")[1:])
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    names: dict = {}
    exec(code, names)
    panel = names["panel"]
    shallow = panel.reading
    at(panel, depth=50).png()
    # at great depth every angle but zero comes to have a quarter of the kernel of equal inputs
    assert panel.reading != shallow and 0.25 < panel.data()["ntk"][-1] / panel.data()["ntk"][0] < 0.3
    panel.set(b_std=1.0)
    assert panel.data()["ntk"][-1] / panel.data()["ntk"][0] > 0.3
    panel.reset()
    exec(guides, names)
    assert names["question"].choose("it stays zero").startswith("Not quite.") and panel.state()["depth"] == 20.0
    assert names["mission"].done
