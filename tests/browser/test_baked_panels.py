"""A baked panel in a file, with no kernel and no network: the slider moves, and without scripts there is a picture."""

import statistics

import numpy as np
import pytest
from demo_panel import at, demo
from playwright.sync_api import expect

from ntkbook import plots
from ntkbook.panel import Panel, slider

pytestmark = pytest.mark.browser

_WATCH = """() => {
    window.pressed = window.shown = null;
    const img = document.querySelectorAll('.ntkbook-picture img')[1];
    const options = {capture: true, once: true};
    window.addEventListener('keydown', () => { window.pressed = performance.now() }, options);
    img.addEventListener('load', () => { window.shown = performance.now() }, options);
}"""


def test_a_baked_panel_moves_from_a_file(page, tmp_path, artifacts):
    panel = demo()
    panel.bake("t", "width", frames=24).save(tmp_path / "panel.html")
    page.page.goto((tmp_path / "panel.html").as_uri())
    reading, front = page.page.locator(".ntkbook-reading"), page.page.locator(".ntkbook-picture img").nth(1)
    assert reading.inner_text() == panel.reading
    time = page.page.get_by_role("slider", name="time")
    time.focus()
    before, times = front.get_attribute("src"), []
    for _ in range(2):
        page.page.evaluate(_WATCH)
        page.page.keyboard.press("ArrowRight")
        page.page.wait_for_function("() => window.shown !== null")
        times.append(page.page.evaluate("() => window.shown - window.pressed"))
    assert front.get_attribute("src") != before
    value = float(time.get_attribute("aria-valuetext"))
    assert value > 1 and reading.inner_text() == at(panel, t=value).reading
    page.page.get_by_role("slider", name="width (units)").focus()
    page.page.keyboard.press("Home")
    assert reading.inner_text() == at(panel, width=4).reading
    for scheme in ("light", "dark"):
        page.page.emulate_media(color_scheme=scheme)
        page.page.screenshot(path=str(artifacts / f"baked_{scheme}.png"), full_page=True)
    page.page.set_viewport_size({"width": 390, "height": 844})  # the picture scrolls, the page does not
    picture, natural = page.page.locator(".ntkbook-picture"), 100 * panel.spec.size[0]
    assert natural / 2 < picture.bounding_box()["width"] < natural
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390
    print(f"median {statistics.median(times):.1f} ms from key to picture, without a kernel")


def test_two_baked_panels_on_a_page_are_independent(page, tmp_path):
    one = demo().bake("width", frames=3)
    (tmp_path / "two.html").write_text(one.html + one.html)
    page.page.goto((tmp_path / "two.html").as_uri())
    sliders = page.page.get_by_role("slider")
    assert sliders.count() == 2
    sliders.first.focus()
    page.page.keyboard.press("End")
    assert [sliders.nth(i).get_attribute("aria-valuetext") for i in range(2)] == ["1024 units", "64 units"]


def plane() -> Panel:
    """A point in a square, from 0 to 8 in both directions."""

    def build(fig, data):
        (ax,) = plots.columns(fig)
        plots.frame(ax, "east", "north", xlim=(-1, 9), ylim=(-1, 9))
        return {"here": plots.points(ax, data["here"][:1], data["here"][1:], "data")}

    compute = lambda x, y: {"here": np.array([x, y])}
    update = lambda artists, data: artists["here"].set(data["here"][:1], data["here"][1:])
    controls = {"x": slider("east", 0, 8, 4, step=1), "y": slider("north", 0, 8, 4, step=1)}
    words = lambda data, state: f"At {state['x']:.0f}, {state['y']:.0f}."
    return Panel(compute, build, update, controls, words, size=(4, 3), point="here")


def test_a_point_is_dragged_from_frame_to_frame(page, tmp_path):
    plane().bake(frames=200).save(tmp_path / "panel.html")
    page.page.goto((tmp_path / "panel.html").as_uri())
    reading, point = page.page.locator(".ntkbook-reading"), page.page.locator(".ntkbook-point")
    front, values = page.page.locator(".ntkbook-picture img").nth(1), page.page.get_by_role("slider")
    shown = lambda: [int(values.nth(i).input_value()) for i in range(2)]
    assert reading.inner_text() == "At 4, 4." and "east, north" in point.get_attribute("aria-label")

    point.focus()
    for key, place in (("ArrowRight", (5, 4)), ("ArrowUp", (5, 5)), ("ArrowLeft", (4, 5)), ("ArrowDown", (4, 4))):
        page.page.keyboard.press(key)
        assert reading.inner_text() == f"At {place[0]}, {place[1]}." and shown() == list(place)

    centre = lambda: [point.bounding_box()[side] + 22 for side in "xy"]
    places = []
    for x, y in ((0, 0), (8, 8)):
        for input, value in zip(values.all(), (x, y)):
            input.fill(str(value))
        places.append(centre())
    (left, low), (right, high) = places
    across, up = (right - left) / 8, (low - high) / 8
    at_place = lambda x, y: (left + across * x, low - up * y)
    before = front.get_attribute("src")
    page.page.mouse.move(*at_place(8, 8))
    page.page.mouse.down()
    page.page.mouse.move(*at_place(2.3, 6.2), steps=5)
    assert reading.inner_text() == "At 2, 6." and shown() == [2, 6] and front.get_attribute("src") != before
    page.page.mouse.move(*at_place(-3, 20))  # it goes no farther than its controls
    assert reading.inner_text() == "At 0, 8."
    page.page.mouse.up()
    page.page.mouse.move(*at_place(4, 4))
    assert reading.inner_text() == "At 0, 8."
    page.page.mouse.click(*at_place(3.1, 0.8))
    assert reading.inner_text() == "At 3, 1." and np.hypot(*np.subtract(centre(), at_place(3, 1))) < 1.5
    assert reading.get_attribute("aria-live") == "polite"


def test_a_finger_drags_a_point_and_taps_where_it_shall_go(browser, tmp_path):
    plane().bake(frames=200).save(tmp_path / "panel.html")
    context = browser.new_context(has_touch=True, offline=True, viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto((tmp_path / "panel.html").as_uri())
    reading, point = page.locator(".ntkbook-reading"), page.locator(".ntkbook-point")
    box = point.bounding_box()
    x, y = box["x"] + 22, box["y"] + 22
    assert box["width"] == box["height"] == 44
    page.touchscreen.tap(x + 60, y)
    expect(reading).to_have_text("At 7, 4.")  # a click follows a touch when the page gets round to it
    box = point.bounding_box()
    x, y = box["x"] + 22, box["y"] + 22
    touch = context.new_cdp_session(page)
    for kind, where in (("Start", (x, y)), ("Move", (x - 40, y - 30)), ("Move", (x - 500, y - 500)), ("End", None)):
        points = [{"x": where[0], "y": where[1]}] if where else []
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    expect(reading).to_have_text("At 0, 8.")
    context.close()


def test_without_scripts_a_baked_panel_is_a_picture(browser, tmp_path):
    demo().bake("width", frames=3).save(tmp_path / "panel.html")
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((tmp_path / "panel.html").as_uri())
    picture = page.locator(".ntkbook-baked img")
    assert picture.count() == 1 and page.get_by_role("slider").count() == 0
    assert picture.get_attribute("alt").startswith("A demonstration. At t = 1,")
    assert picture.bounding_box()["height"] > 100
    context.close()
