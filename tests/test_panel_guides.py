"""Predictions, missions, linked panels, drafts, and panels baked into HTML."""

import base64
import html
import io
import itertools
import json
import re

import numpy as np
import pytest
from demo_panel import at, build, curves, demo, reading, update
from PIL import Image

from ntkbook import plots
from ntkbook.panel import Mission, Panel, Predict, link, slider
from ntkbook.panel import panel as engine

# ---------------------------------------------------------------- predictions


def a_question(panel=None, look=None) -> Predict:
    options = {"it halves": "That would be 1/n.", "it shrinks by 1/sqrt 2": "Fluctuations go as 1/sqrt n."}
    return Predict("Width doubles: the spread?", options, "it shrinks by 1/sqrt 2", panel=panel, look=look)


def test_a_prediction_is_recorded_answered_and_sets_the_panel():
    panel = demo()
    question = a_question(panel, {"width": 4, "t": 10})
    assert repr(question) == "Predict: Width doubles: the spread? (not answered yet)" and not question.is_right
    assert question.choose("it halves") == "Not quite. That would be 1/n." and not question.is_right
    assert panel.state()["width"] == 4.0 and panel.state()["t"] == 10.0
    assert question.choose("it shrinks by 1/sqrt 2") == "Right. Fluctuations go as 1/sqrt n." and question.is_right
    assert question.choice == "it shrinks by 1/sqrt 2"


def test_each_option_may_look_elsewhere():
    panel = demo()
    question = a_question(panel, {"it halves": {"width": 4}, "it shrinks by 1/sqrt 2": {"width": 1024}})
    question.choose("it halves")
    assert panel.state()["width"] == 4.0
    question.choose("it shrinks by 1/sqrt 2")
    assert panel.state()["width"] == 1024.0


def test_a_prediction_clicked_shows_its_feedback():
    question = a_question(demo(), {"width": 4})
    bundle = question._repr_mimebundle_()
    assert "<details><summary>Answer</summary>it shrinks by 1/sqrt 2." in bundle["text/html"]
    view = question._view
    assert view.radio.value is None and view.feedback.value == ""
    view.radio.value = "it halves"
    assert question.choice == "it halves" and "Not quite. That would be 1/n." in view.feedback.value
    question.choose("it shrinks by 1/sqrt 2")
    assert view.radio.value == "it shrinks by 1/sqrt 2" and "Right." in view.feedback.value


def test_wrong_answers_and_settings_are_refused():
    with pytest.raises(ValueError, match="Expected option to be one of"):
        a_question().choose("it doubles")
    with pytest.raises(ValueError, match="Expected answer"):
        Predict("?", {"a": "A."}, "b")
    with pytest.raises(ValueError, match="Expected controls among"):
        a_question(demo(), {"depth": 3})


# ---------------------------------------------------------------- missions


def close_to_target(data, state) -> bool:
    return abs(data["mean"] - data["target"]).max() < 0.05


def test_a_mission_is_judged_at_each_move_and_stays_done():
    panel = demo()
    mission = Mission(panel, "Bring the mean within 0.05 of the target.", close_to_target, hint="Late.", hint_after=2)
    assert not mission.done and repr(mission) == "○ Mission. Bring the mean within 0.05 of the target."
    panel.set(t=2.0)
    panel.set(t=3.0)
    assert not mission.done and mission.status.endswith("Hint: Late.")
    panel.set(t=10.0)
    assert mission.done and mission.status.startswith(
        "✓ Done with (t=10.0, rate=0.5, width=64, is_trained=True) in 3 moves."
    )
    panel.set(t=0.1)
    assert mission.done and mission.moves == 3


def test_a_mission_is_seen():
    panel = demo()
    mission = Mission(panel, "Bring the mean close.", close_to_target)
    mission._repr_mimebundle_()
    assert "○ Mission" in mission._view.line.value and "#009E73" not in mission._view.line.value
    panel.set(t=50.0)
    assert "✓ Done" in mission._view.line.value and "#009E73" in mission._view.line.value


def test_a_mission_that_is_done_at_the_start_is_refused():
    with pytest.raises(ValueError, match="does not meet"):
        Mission(demo(), "Nothing to do.", lambda data, state: True)


# ---------------------------------------------------------------- linked panels


def test_linked_panels_share_controls_both_ways_and_compute_once_each():
    one, two, three = demo(), demo(), demo()
    counts = [0, 0]
    one.on_change(lambda panel: counts.__setitem__(0, counts[0] + 1))
    two.on_change(lambda panel: counts.__setitem__(1, counts[1] + 1))
    link(one, two, names=("t", "rate"))
    one.set(t=5.0, width=4)
    assert two.state() == {"t": 5.0, "rate": 0.5, "width": 64.0, "is_trained": 1.0}
    two.view().controls["rate"].field.value = 1.5
    assert one.state()["rate"] == 1.5 and three.state()["rate"] == 0.5
    assert counts == [2, 2]


def test_linking_what_is_not_shared_is_refused():
    other = Panel(
        lambda a: {"y": np.zeros(2)}, lambda f, d: {}, lambda a, d: None, {"a": slider("a", 0, 1, 0)}, lambda d, s: ""
    )
    for panels, names in (((demo(),), None), ((demo(), other), None), ((demo(), demo()), ("depth",))):
        with pytest.raises(ValueError, match="share controls"):
            link(*panels, names=names)


# ---------------------------------------------------------------- drafts


class Loop:
    """An event loop that waits until the test says `rest`."""

    def __init__(self):
        self.calls = []

    def call_later(self, seconds, function):
        self.calls.append(function)
        return self

    def cancel(self):
        self.calls.clear()

    def rest(self):
        self.calls.pop()()


def drafted() -> tuple[Panel, list[str]]:
    log: list[str] = []

    def with_name(name):
        def compute(t, rate, width, is_trained):
            log.append(name)
            return curves(t=t, rate=rate, width=width, is_trained=is_trained)

        return compute

    panel = Panel(with_name("full"), build, update, demo().definitions, reading, draft=with_name("draft"), warm=[])
    panel.view()
    log.clear()
    return panel, log


def test_a_dragged_handle_shows_drafts_and_the_full_picture_at_rest(monkeypatch):
    loop = Loop()
    monkeypatch.setattr(engine.asyncio, "get_running_loop", lambda: loop)
    panel, log = drafted()
    handle = panel.view().controls["t"].counters[0]
    handle.value, handle.value = 60, 75
    assert log == ["draft", "draft"] and panel.state()["t"] == 10.0 and len(loop.calls) == 1
    loop.rest()
    assert log == ["draft", "draft", "full"] and not panel.is_draft
    handle.value = 80
    panel.set(t=panel.state()["t"])  # code asks for the full picture at once
    assert log[-2:] == ["draft", "full"] and not loop.calls
    panel.view().controls["t"].field.value = 3.0  # typing is no dragging
    assert log[-1] == "full" and not loop.calls


def dots(panel: Panel) -> int:
    """Width of the picture that the reader sees."""
    return Image.open(io.BytesIO(panel.view().image.value)).width


def test_a_dragged_picture_is_coarse_and_sharp_at_rest_from_the_same_data(monkeypatch):
    loop = Loop()
    monkeypatch.setattr(engine.asyncio, "get_running_loop", lambda: loop)
    log: list[float] = []

    def compute(t, rate, width, is_trained):
        log.append(t)
        return curves(t=t, rate=rate, width=width, is_trained=is_trained)

    panel = Panel(compute, build, update, demo().definitions, reading, warm=[])
    assert dots(panel) == 1720
    panel.view().controls["t"].counters[0].value = 75
    coarse = panel.view().image.value
    assert dots(panel) == 860 and log == [1.0, 10.0] and panel.reading.startswith("At t = 10,")
    assert panel.png() != coarse  # who asks for the picture gets the sharp one
    loop.rest()
    assert dots(panel) == 1720 and log == [1.0, 10.0] and panel.view().image.value == panel.png()
    panel.view().controls["t"].field.value = 3.0  # typing is no dragging
    assert dots(panel) == 1720 and not loop.calls


def test_what_fails_while_a_handle_is_dragged_leaves_a_sharp_picture_and_the_error(monkeypatch):
    loop = Loop()
    monkeypatch.setattr(engine.asyncio, "get_running_loop", lambda: loop)

    def compute(t, rate, width, is_trained):
        if t > 5:
            raise ValueError("too late")
        return curves(t=t, rate=rate, width=width, is_trained=is_trained)

    panel = Panel(compute, build, update, demo().definitions, reading, warm=[])
    handle = panel.view().controls["t"].counters[0]
    handle.value = handle.value + 1
    assert dots(panel) == 860
    handle.value = 75
    loop.rest()
    assert dots(panel) == 1720 and "too late" in panel.reading and panel.state()["t"] < 5


def test_a_linked_panel_is_coarse_with_the_one_that_is_dragged(monkeypatch):
    loop = Loop()
    monkeypatch.setattr(engine.asyncio, "get_running_loop", lambda: loop)
    first, second = demo(), demo()
    link(first, second)
    for panel in (first, second):
        panel.view()
    first.view().controls["t"].counters[0].value = 75
    assert dots(first) == dots(second) == 860 and second.state()["t"] == 10.0
    while loop.calls:
        loop.rest()
    assert dots(first) == dots(second) == 1720


def test_a_linked_panel_that_is_not_shown_rests_without_an_error(monkeypatch):
    loop = Loop()
    monkeypatch.setattr(engine.asyncio, "get_running_loop", lambda: loop)
    first, hidden = demo(), demo()
    link(first, hidden)
    first.view().controls["t"].counters[0].value = 75
    while loop.calls:
        loop.rest()
    assert hidden.state()["t"] == 10.0 and not hidden.failed and not hidden.is_draft


def test_a_plain_program_without_an_event_loop_gets_full_pictures():
    panel, log = drafted()
    panel.view().controls["t"].counters[0].value = 75
    assert log == ["full"] and dots(panel) == 1720


# ---------------------------------------------------------------- baked panels


def content_of(baked) -> dict:
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', baked.html, flags=re.S)
    return json.loads(text.replace("<\\/", "</"))


def pixels(address: str) -> np.ndarray:
    return (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"), dtype=float) / 255
    )


def over(front: np.ndarray, back: np.ndarray) -> np.ndarray:
    """One picture on top of another, written out from the definition; (h, w, 4) with colours multiplied by alpha."""
    shares = [picture[..., 3:] for picture in (front, back)]
    colours = [picture[..., :3] * share for picture, share in zip((front, back), shares)]
    top, below = (np.concatenate(parts, -1) for parts in zip(colours, shares))
    return top + below * (1 - shares[0])


@pytest.mark.slow
def test_baked_frames_are_the_pictures_of_the_panel():
    panel = demo()
    baked = panel.bake("width", frames=9)
    content = content_of(baked)
    assert baked.frames == len(content["frames"]) == len(content["readings"]) == 9
    assert content["controls"][0]["values"][0] == "4" and content["controls"][0]["values"][-1] == "1024"
    assert "64" in content["controls"][0]["values"]
    assert len(content["backgrounds"]) == 1 and content["which"] == [0] * 9
    for place, width in ((0, 4), (1, 8), (8, 1024)):  # every other one is drawn first, to know their size
        panel.set(width=width)
        composed = over(pixels(content["frames"][place]), pixels(content["backgrounds"][0]))
        shown = over(pixels("," + base64.b64encode(panel.png()).decode()), np.zeros_like(composed))
        assert composed.shape == shown.shape and np.abs(composed - shown).max() < 0.02
        assert content["readings"][place] == panel.reading


@pytest.mark.slow
def test_two_controls_make_a_grid_in_row_order():
    panel = demo()
    content = content_of(panel.bake("t", "width", frames=8))
    first, second = (control["values"] for control in content["controls"])
    assert len(first) * len(second) == len(content["frames"]) and "1" in first and "64" in second
    panel.set(t=100.0)  # the last of t, the first of width
    assert content["readings"][(len(first) - 1) * len(second)] == panel.reading


@pytest.mark.slow
def test_baking_leaves_the_panel_alone_and_keeps_to_its_budget():
    panel = at(demo(), t=3.0)
    baked = panel.bake("t", frames=3, budget=140_000)
    assert panel.state()["t"] == 3.0 and len(baked.html) <= 140_000
    assert baked.names == ("t",) and repr(baked).startswith("Baked(t: ")
    (control,) = content_of(baked)["controls"]
    assert control["values"][control["start"]] == "3"
    with pytest.raises(ValueError, match="Bake fewer frames"):
        panel.bake("t", frames=3, budget=20_000)
    for names in (("depth",), ("t", "rate", "width")):
        with pytest.raises(ValueError, match="one or two of"):
            panel.bake(*names)


@pytest.mark.slow
def test_a_baked_panel_moves_two_controls_and_names_those_that_it_holds():
    panel = at(demo(), width=16)
    baked = panel.bake(frames=4)
    assert baked.names == panel.spec.baked == ("t", "rate")
    assert "Held here, alive in a notebook: width 16 units, trained on." in baked.html
    content = content_of(panel.bake("t", "is_trained", frames=10))
    time, switch = content["controls"]
    assert len(content["frames"]) == 2 * len(time["values"]) in (10, 12)
    assert switch["kind"] == "toggle" and switch["values"] == ["off", "on"] and switch["start"] == 1


@pytest.mark.slow
def test_a_point_is_where_the_picture_of_each_frame_shows_it():
    controls = {"x": slider("x", -1, 1, 0.3), "y": slider("y", 0, 2, 2)}
    build = lambda fig, data: plots.frame(plots.columns(fig)[0], "x", "y", xlim=(-1, 1), ylim=(0, 2)) or {}
    compute = lambda x, y: {"here": np.array([x, y])}
    panel = Panel(compute, build, lambda artists, data: None, controls, lambda data, state: "-", point="here")
    baked = panel.bake(frames=32)
    content = content_of(baked)
    xs, ys = ([float(value) for value in control["values"]] for control in content["controls"])
    assert baked.frames == len(xs) * len(ys) == len(content["places"]) == 32 and 0.3 in xs and ys[-1] == 2
    (left, low), (right, high) = content["places"][0], content["places"][-1]
    for (x, y), (u, v) in zip(itertools.product(xs, ys), content["places"]):
        assert abs(u - (left + (right - left) * (x + 1) / 2)) < 1e-4  # straight axes, written out
        assert abs(v - (low + (high - low) * y / 2)) < 1e-4
    assert 0 < left < 0.2 and 0.8 < right < 1 and 0 < low < high < 1
    assert content_of(panel.bake("x", frames=3))["places"] == []  # one control moves no point


def test_a_baked_panel_is_a_picture_without_scripts_and_has_no_address_in_it(tmp_path):
    panel = demo()
    baked = panel.bake("width", frames=3)
    still = re.sub(r"<script.*?</script>", "", baked.html, flags=re.S)
    assert still.count("<img alt=") == 1 and "<input" not in still and html.escape(panel.reading) in still
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]*", "", baked.html))
    baked.save(tmp_path / "page.html")
    assert baked._repr_html_() in (tmp_path / "page.html").read_text()


def test_what_a_reading_says_cannot_end_the_script():
    panel = Panel(
        lambda a: {"a": np.array(a)},
        lambda fig, data: {},
        lambda artists, data: None,
        {"a": slider("a", 0, 1, 0)},
        lambda data, state: f"</script><b>{state['a']}",
    )
    content = content_of(panel.bake(frames=2))
    assert content["readings"][0] == "</script><b>0.0"
