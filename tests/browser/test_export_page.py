"""A chapter as one file, opened from the disk: its sliders move, it asks nobody, and a browser prints it."""

import pytest

from ntkbook import cli

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(chromium, tmp_path_factory):
    made = tmp_path_factory.mktemp("export")
    assert cli.main(["export", "05", "--folder", str(made), "--frames", "6"]) == 0
    return made


@pytest.mark.parametrize("width, scheme", [(1366, "light"), (390, "dark")])
def test_a_page_from_the_disk(browser, folder, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto((folder / "05_closed_form_dynamics.html").as_uri())
    slider, reading = page.locator("input[type=range]").first, page.locator(".ntkbook-reading").first
    before = reading.inner_text(), page.locator(".ntkbook-picture img").nth(1).get_attribute("src")
    slider.focus()
    slider.press("ArrowRight")
    after = reading.inner_text(), page.locator(".ntkbook-picture img").nth(1).get_attribute("src")
    assert before[0] != after[0] and before[1] != after[1]
    assert [address for address in asked if not address.startswith(("file:", "data:"))] == [] and complaints == []
    assert page.evaluate("document.querySelectorAll('math').length") > 20
    assert page.evaluate("[...document.images].every(image => image.alt || image.ariaHidden)")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()


def test_a_browser_prints_it(folder, chromium, monkeypatch):
    monkeypatch.setenv("CHROMIUM", chromium)
    assert cli.main(["export", "05", "--to", "pdf", "--folder", str(folder), "--frames", "4"]) == 0
    content = (folder / "05_closed_form_dynamics.pdf").read_bytes()
    assert content.startswith(b"%PDF") and content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") >= 5
