"""Every panel of the book, in all corners of its controls: finite, nothing compiled, and never a stale picture."""

import re
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from demo_panel import at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ntkbook.panel import Panel
from ntkbook.panels import PANELS

OPTIMIZED = True

_made: dict[str, Panel] = {}

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)

# A dragged point of these panels trains many networks: with few units at the corners, with any number at random.
NARROW = {"sine_ensemble": {"width": 64}, "two_ensembles": {"width": 64}}

each_panel = pytest.mark.parametrize("name", PANELS)


def panel_of(name: str) -> Panel:
    """The panel at its default state; built once, for building compiles."""
    if name not in _made:
        _made[name] = PANELS[name]()
    _made[name].reset()
    return _made[name]


def assert_is_sound(panel: Panel) -> None:
    for key, array in panel.data().items():
        if np.issubdtype(array.dtype, np.number):
            assert np.isfinite(array).all(), f"{key} is not finite in {panel!r}"
    reading = panel.reading
    assert reading and "\n" not in reading and not panel.failed
    assert not {"nan", "inf", "-inf"} & set(reading.lower().replace(",", " ").replace("%", " ").split()), reading


def corners(name: str) -> list[dict[str, float]]:
    """The ends and the middle of each control, the others where `at_rest` leaves them."""
    found = []
    for key, control in panel_of(name).definitions.items():
        found += [{key: control.value_at(index)} for index in (0, control.steps // 2, control.steps)]
    return found


def at_rest(name: str) -> Panel:
    """The panel at its defaults, with few units where many take long."""
    return at(panel_of(name), **NARROW.get(name, {}))


def differs(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return any(not np.array_equal(one[key], two[key]) for key in one)


@pytest.fixture
def compilations():
    """The events in which JAX compiles, as they come."""
    events: list[str] = []
    is_over = False

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and not is_over:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    is_over = True  # older releases of JAX cannot take a listener back


def test_compilations_are_heard(compilations):
    jax.jit(lambda x: x * 1.25 + 7)(1.0)
    assert compilations


@pytest.mark.slow
@each_panel
def test_words_are_there(name):
    panel = panel_of(name)
    assert panel.title and panel.caption and len(repr(panel)) < 110
    for control in panel.definitions.values():
        assert control.label and "$" not in control.label and len(control.label) <= 32
    for label, values in panel.presets.items():
        panel.reset()
        panel.set(**values)
        assert_is_sound(panel)
        assert len(label) <= 40


def promised(caption, controls, baked, point=""):
    """What a caption speaks of, and a page without a kernel does not have."""
    words = [control.label.lower() for name, control in controls.items() if name not in baked]
    words += ["button", "preset", *(() if point else ("the dot", "a point", "click"))]
    words += [] if any(controls[name].is_toggle for name in baked) else ["tick"]
    return [word for word in words if re.search(rf"\b{re.escape(word)}\b", caption.lower())]


@pytest.mark.slow
@each_panel
def test_a_caption_without_a_kernel_promises_what_is_there(name):
    spec = panel_of(name).spec
    assert len(spec.baked) == min(2, len(spec.controls)) and not spec.controls[spec.baked[0]].is_toggle
    assert promised(spec.baked_caption or spec.caption, spec.controls, spec.baked, spec.point) == []


def test_a_promise_is_seen():
    spec = panel_of("mode_filter").spec
    controls = spec.controls
    assert promised("Press the button, tick trained.", controls, ("step", "rate")) == ["button", "tick"]
    assert promised("Drag a point, or click.", controls, ("step", "rate")) == ["a point", "click"]
    assert promised("Drag a point, or click.", controls, ("step", "rate"), "here") == []
    assert promised("Then move momentum β.", controls, ("step", "rate")) == ["momentum β"]
    assert promised("Then move momentum β.", controls, ("step", "momentum")) == []


@pytest.mark.slow
@each_panel
def test_ends_and_middle_of_every_control_are_sound_and_the_picture_is_never_stale(name, compilations):
    panel = panel_of(name)
    panel.png()
    compilations.clear()
    times = []
    for values in corners(name):
        at_rest(name)
        start = time.perf_counter()
        at(panel, **values).png()
        times.append(time.perf_counter() - start)
        assert_is_sound(panel)
    print(f"{name}: {1000 * statistics.median(times):.0f} ms per move, {len(compilations)} compilations")
    assert not compilations, f"{name} compiles {len(compilations)} times in its callbacks"
    figure = panel.figure()
    figure.set_dpi(100 * panel.spec.density)
    FigureCanvasAgg(figure).draw()
    fresh = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    moved = panel.picture().rgba()
    wrong = int((moved != fresh).any(-1).sum())
    assert wrong == 0, f"{name}: moved to {panel!r}, {wrong} pixels are not as if drawn afresh there"


@pytest.mark.slow
def test_every_panel_opens_where_double_precision_is_off():
    """As in a reader's own notebook. In a process of its own: what is cached here was computed in double precision."""
    code = """
from ntkbook.panels import PANELS
for name in PANELS:
    panel = PANELS[name]()
    assert not panel.failed and "nan" not in panel.reading, (name, panel.reading)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@each_panel
def test_the_reading_changes_when_the_data_change(name):
    panel = at_rest(name)
    start, reading = panel.data(), panel.reading
    moved = []
    for values in corners(name):
        at_rest(name)
        panel.set(**values)
        if differs(start, panel.data()):
            moved.append(values)
            assert panel.reading != reading, f"{name}: {values} changes the data, and the reading stays {reading!r}"
    touched = {next(iter(values)) for values in moved}
    assert touched == set(panel.controls), f"{name}: {set(panel.controls) - touched} changes nothing"
    at_rest(name)
    assert not differs(start, panel.data()) and panel.reading == reading  # compute is pure


@pytest.mark.slow
@each_panel
def test_random_settings_are_sound(name, compilations):
    panel = panel_of(name)
    compilations.clear()
    between = lambda control: st.floats(control.low, control.high).map(lambda value: control.clean("it", value))
    places = {
        key: st.integers(0, control.steps).map(control.value_at) | between(control)
        for key, control in panel.definitions.items()
    }

    @settings(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=SLOW)
    @given(st.fixed_dictionaries(places))
    def check(where):
        panel.set(**where)
        assert_is_sound(panel)

    check()
    assert not compilations, f"{name} compiles {len(compilations)} times in its callbacks"
