"""A reader's first minutes in JupyterLab: run all, press keys, answer, and see the picture and the reading follow."""

import statistics
from pathlib import Path

import pytest
from demo_panel import demo
from lab import notebook

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tests" / "demo_panel.py"

CELLS = (
    "from demo_panel import build, curves, demo, reading, update\nfrom ntkbook.panel import Mission, Panel, Predict\n"
    "panel = demo()\npanel",
    "demo()",
    "import numpy as np\n"
    "draft = lambda t, rate, width, is_trained: {**curves(t, rate, width, is_trained), 'is_draft': np.array(1.0)}\n"
    "words = lambda data, state: 'draft' if 'is_draft' in data else f\"full at {state['t']:.4g}\"\n"
    "Panel(curves, build, update, demo().definitions, words, draft=draft)",
    "Predict('What comes with time?', {'nothing': 'Look.', 'fit': 'Yes.'}, 'fit', panel=panel, look={'t': 20.0})",
    "mission = Mission(panel, 'Be late and narrow.', lambda data, state: state['t'] >= 50 and state['width'] == 4)\n"
    "mission",
    "demo().bake('width', frames=5)",
    "panel.set(t=3.3)",
)


@pytest.fixture(scope="module")
def shown(new_lab):
    """One notebook with the demonstration panel, a second copy, one with drafts, guides, and a baked one."""
    with new_lab() as lab:
        lab.open(notebook(*CELLS), "demo.ipynb", beside=(DEMO,))
        lab.run_all()
        yield lab


@pytest.fixture
def panel(shown):
    """The first panel, reset."""
    first = shown.panels()[0]
    first.box.get_by_role("button", name="Reset").click()
    first.wait_for_reading("At t = 1,")
    return first


def test_a_slider_moved_by_keyboard_moves_the_picture_and_the_reading(shown, panel, artifacts):
    times = [panel.press(0, "ArrowRight") for _ in range(15)]
    panel.wait_for_reading("At t = 3.98,")  # fifteen steps of a hundredth of four powers of ten
    for theme in ("Light", "Dark"):
        shown.theme(f"JupyterLab {theme}")
        panel.screenshot(artifacts / f"demo_{theme.lower()}.png")
    print(f"median {statistics.median(times):.0f} ms from key to picture, of {len(times)} presses")


def test_everything_has_a_name(shown, panel):
    handles = panel.box.get_by_role("slider")
    names = [handles.nth(i).get_attribute("aria-label") for i in range(handles.count())]
    assert names == ["time", "learning rate (1/step)", "width (units)"]
    panel.press(0, "ArrowRight")
    panel.wait_for_reading("At t = 1.1,")
    assert handles.first.get_attribute("aria-valuetext") == "1.096"
    for label in ("time", "learning rate (1/step)"):
        assert panel.box.get_by_role("spinbutton", name=label).count() == 1
    assert panel.box.get_by_role("combobox", name="width (units)").count() == 1
    assert panel.box.get_by_role("checkbox", name="trained").count() == 1
    assert panel.box.locator("img.widget-image").get_attribute("alt").startswith("A demonstration. At t = 1.1,")
    live = panel.box.locator("[aria-live=polite]")
    assert live.count() == 1 and live.inner_text().startswith("At t = 1.1,")


def test_time_plays_to_its_end(shown, panel):
    panel.box.get_by_role("button", name="Play time").click()
    panel.wait_for_reading("At t = 100,")
    assert panel.field(0).input_value() == "100" and panel.is_at_its_end(0)


def test_exact_values_are_typed_and_stay(shown, panel):
    panel.field(0).fill("12.3456")
    panel.field(0).press("Enter")
    panel.wait_for_reading("At t = 12.3,")
    panel.field(2).select_option("4")
    panel.wait_for_reading("At t = 12.3,")
    assert panel.field(0).input_value() == "12.346"
    shown.run_cell(6)
    panel.wait_for_reading("At t = 3.3,")
    assert panel.field(0).input_value() == "3.3"


def test_the_last_picture_of_a_flood_is_the_right_one(shown, panel):
    flood = panel.flood(0, ["ArrowRight"], 30, demo().definitions["t"].value_at)
    panel.wait_for_reading("At t = 15.8,")  # thirty steps
    assert panel.field(0).input_value() == "15.85"
    print(f"{flood['pictures']} pictures for 30 presses, the last one {flood['late_ms']:.0f} ms after its key")


def test_code_that_sets_a_control_while_it_is_moved_leaves_one_truth(shown, panel):
    panel.handles.nth(0).focus()
    for i in range(20):
        shown.page.keyboard.press("ArrowRight")
        if i == 10:
            shown.run_cell(6)
            panel.handles.nth(0).focus()
    before = panel.picture()
    panel.press(1, "ArrowRight")  # another control, after all that: everything that came before has been seen
    assert panel.picture() != before
    shown.page.wait_for_function(
        """panel => { const text = panel.querySelector('.ntkbook-reading').innerText;
            const field = Number(panel.querySelector('input[type=number]').value);
            return text.startsWith(`At t = ${Number(field.toPrecision(3))},`) }""",
        arg=panel.box.element_handle(),
    )


def test_a_panel_in_a_hidden_tab_is_up_to_date_when_the_reader_comes_back(shown, panel):
    before = panel.picture()
    shown.run_while_hidden("for t in (5.0, 20.0): panel.set(t=t)")
    panel.wait_for_reading("At t = 20,")
    assert panel.picture() != before and panel.field(0).input_value() == "20"
    panel.press(0, "ArrowRight")
    panel.wait_for_reading("At t = 22.9,")


def test_two_copies_do_not_move_each_other(shown, panel):
    second = shown.panels()[1]
    before = second.picture()
    panel.press(0, "ArrowRight")
    assert second.picture() == before and second.reading().startswith("At t = 1,")


def test_a_dragged_picture_is_coarse_and_sharp_at_rest(shown, panel):
    panel.wait_for_dots(1720)
    panel.press(0, "ArrowRight")
    assert panel.dots() == 860
    panel.wait_for_dots(1720)
    panel.wait_for_reading("At t = 1.1,")


def test_a_draft_gives_way_to_the_full_picture(shown):
    drafted = shown.panels()[2]
    drafted.press(0, "ArrowRight")
    drafted.wait_for_reading("full at 1.096")


def test_a_prediction_answers_and_moves_the_panel_and_a_mission_is_won(shown, panel):
    predict, mission = shown.page.locator(".ntkbook-predict"), shown.page.locator(".ntkbook-mission")
    assert "○ Mission. Be late and narrow." in mission.inner_text()
    predict.get_by_label("nothing").check()
    panel.wait_for_reading("At t = 20,")
    predict.get_by_text("Not quite. Look.").wait_for()
    predict.get_by_label("fit").check()
    predict.get_by_text("Right. Yes.").wait_for()
    panel.box.get_by_role("button", name="Narrow and late").click()
    mission.get_by_text("✓ Done with (t=50.0, rate=0.5, width=4, is_trained=True)").wait_for()


def test_a_baked_panel_takes_its_arrow_keys_in_lab(shown):
    baked = shown.page.locator(".ntkbook-baked")
    slider = baked.get_by_role("slider", name="width (units)")
    before = baked.locator("img").nth(1).get_attribute("src")
    assert slider.get_attribute("aria-valuetext") == "64 units"
    slider.focus()
    shown.page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "16 units"
    assert baked.locator("img").nth(1).get_attribute("src") != before


def test_after_a_restart_run_all_brings_the_panel_back(shown):
    shown.restart()
    shown.run_all()
    panel = shown.panels()[0]
    panel.wait_for_reading("At t = 3.3,")  # the last cell sets it
    panel.press(0, "ArrowRight")
    panel.wait_for_reading("At t = 3.63,")


def test_a_point_is_dragged_clicked_and_moved_by_keys(new_lab, artifacts):
    with new_lab() as lab:
        lab.open(notebook("from ntkbook.panels import PANELS\nPANELS['one_example']()"), "drag.ipynb")
        lab.run_all()
        panel, page = lab.panels()[0], lab.page
        point = panel.box.locator(".ntkbook-point")
        start, before = panel.reading(), panel.picture()
        box = point.bounding_box()
        page.mouse.move(box["x"] + 16, box["y"] + 16)
        page.mouse.down()
        page.mouse.move(box["x"] - 64, box["y"] + 76, steps=5)
        page.mouse.up()
        panel.wait_for_another_reading(start)
        panel.wait_for_dots(1900)  # at rest
        dragged, moved = panel.reading(), point.bounding_box()
        assert panel.picture() != before and moved["x"] < box["x"] - 40 and moved["y"] > box["y"] + 40
        point.press("ArrowUp")
        panel.wait_for_another_reading(dragged)
        assert "example x₀" in point.get_attribute("aria-label")
        panel.screenshot(artifacts / "dragged.png")
