"""A baked panel in a file, with no kernel and no network: the slider moves, and without scripts there is a picture."""

import statistics

import pytest
from demo_panel import at, demo

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
