"""The pages of the book in a browser, each in light and dark, wide and as narrow as a phone.

The site is built from what is committed, with few positions of each slider; `make site` bakes more of them with the
same code. NTKBOOK_SITE names a folder that is built already.
"""

import functools
import re
import sys
import threading
from html.parser import HTMLParser
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import jax
import numpy as np
import pytest
from lab import Page

import ntkbook as nb

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from build_site import LARGEST, Quiet  # noqa: E402

pytestmark = pytest.mark.browser
jax.config.update("jax_enable_x64", True)

WIDE, PHONE = {"width": 1366, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def pages(html):
    """Addresses of the pages, below the folder."""
    found = sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html"))
    return [name for name in found if not name.startswith("_static/")]


@pytest.fixture(scope="module")
def address(html):
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=html)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def visitor(browser):
    """A page that also remembers what the console and the server complained about."""
    shown = Page(browser)
    shown.page.on("console", lambda m: shown.errors.append(m.text) if m.type in ("error", "warning") else None)
    shown.page.on("response", lambda r: shown.errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    yield shown
    shown.close()


# What is wrong with a page as it stands now, as sentences.
LOOK = """() => {
    const wrong = [], wide = document.documentElement.scrollWidth;
    const beyond = [...document.querySelectorAll('article *')].filter(e => !e.closest('pre, table, .math')
        && e.getBoundingClientRect().right > innerWidth + 1).slice(0, 3).map(e => e.outerHTML.slice(0, 120));
    if (wide !== innerWidth) wrong.push(`${wide} px in a window of ${innerWidth}: ${beyond.join(' ')}`);
    for (const img of document.images) {
        if (!img.alt.trim() && !img.ariaHidden) wrong.push(`no words for ${img.src.slice(0, 80)}`);
        if (/\\.(png|svg)$/.test(img.alt)) wrong.push(`a file name is no description: ${img.alt}`);
    }
    for (const img of document.querySelectorAll('.ntkbook-baked img')) {
        const {backgroundColor, filter} = getComputedStyle(img);
        if (backgroundColor !== 'rgba(0, 0, 0, 0)' || filter !== 'none') wrong.push('a ground under axes');
    }
    return wrong;
}"""


def test_every_page_in_light_and_dark_wide_and_narrow(visitor, address, pages):
    page, wrong = visitor.page, []
    for name in pages:
        page.set_viewport_size(WIDE)
        page.emulate_media(color_scheme="light")
        page.goto(f"{address}/{name}")
        page.wait_for_function(
            "() => !window.MathJax?.startup?.promise || window.ntkbookTypeset"
            " || (window.MathJax.startup.promise.then(() => window.ntkbookTypeset = true), false)"
        )
        for size, theme in ((WIDE, "light"), (WIDE, "dark"), (PHONE, "dark"), (PHONE, "light")):
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=theme)
            page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
            wrong += [f"{name}, {theme}, {size['width']}: {sentence}" for sentence in page.evaluate(LOOK)]
        wrong += [f"{name}: {error}" for error in visitor.errors]
        visitor.errors.clear()
    assert len(pages) > 40 and not wrong, "\n".join(wrong)
    visitor.assert_quiet()


def test_points_are_dragged_without_a_kernel_and_the_page_computes_what_the_library_does(visitor, address):
    page = visitor.page
    page.set_viewport_size(WIDE)
    page.goto(f"{address}/book/00_start_here.html")
    box, law = page.locator(".ntkbook-five-points"), "element => element.law"
    box.scroll_into_view_if_needed()
    before, point = box.evaluate(law), box.locator("circle").nth(1).bounding_box()
    reading = box.locator(".ntkbook-five-reading").inner_text()
    page.mouse.move(point["x"] + 9, point["y"] + 9)
    page.mouse.down()
    page.mouse.move(point["x"] + 70, point["y"] - 50, steps=4)
    page.mouse.up()
    page.keyboard.press("ArrowDown")  # the point that was dragged has the focus
    box.locator("input").fill("24")
    after = box.evaluate(law)
    moved = [i for i in range(5) if (before["x"][i], before["y"][i]) != (after["x"][i], after["y"][i])]
    assert moved == [1] and reading != box.locator(".ntkbook-five-reading").inner_text()
    hidden, output = ({"W_std": 3.0, "b_std": 2.0}, {"W_std": 1.0, "b_std": 0.1})
    net = nb.serial(nb.Dense(64, **hidden), nb.Erf(), nb.Dense(1, **output))
    theory = nb.ensemble(net, np.array(after["x"])[:, None], np.array(after["y"])).predict(
        after["t"], np.linspace(-np.pi, np.pi, 81)[:, None]
    )
    np.testing.assert_allclose(after["mean"], theory.mean, atol=1e-9)
    np.testing.assert_allclose(after["sd"], theory.std, atol=1e-7)
    visitor.assert_quiet()


def test_every_slider_moves_the_picture_and_what_it_says(visitor, address, html, pages):
    page, moved, wrong = visitor.page, set(), []
    for name in pages:
        shown = re.findall(r'data-panel="[^"]*/(\w+)\.html"', (html / name).read_text())
        if set(shown) <= moved:
            continue
        page.set_viewport_size(PHONE)
        page.goto(f"{address}/{name}")
        boxes = page.locator(".ntkbook-panel")
        assert boxes.count() == len(shown)
        for box, panel in zip(boxes.all(), shown):
            box.scroll_into_view_if_needed()
            box.locator(".ntkbook-baked[data-awake]").wait_for()
            if panel not in moved:
                moved.add(panel)
                wrong += [f"{name}, {panel}: {sentence}" for sentence in stuck(page, box)]
        wrong += [f"{name}: {sentence}" for sentence in page.evaluate(LOOK)]
    assert not wrong, "\n".join(wrong)
    assert moved == {path.stem for path in (html / "_static" / "panels").glob("*.html")} and len(moved) > 15
    visitor.assert_quiet()


def stuck(page, box):
    """What does not move in a panel, by keyboard or, where it is a tick, by a click."""
    reading, front = box.locator(".ntkbook-reading"), box.locator(".ntkbook-picture img").nth(1)
    look = lambda: (reading.inner_text(), front.get_attribute("src"))
    assert reading.get_attribute("aria-live") == "polite"
    for control in box.locator("input").all():
        label = control.get_attribute("aria-label")
        if control.get_attribute("type") == "checkbox":
            before = look()
            control.click()
            after = look()
        else:
            control.focus()
            page.keyboard.press("Home")
            before = look()
            page.keyboard.press("End")
            after = look()
            if before[1] == after[1]:  # both ends of a way around a circle are one place
                page.keyboard.press("ArrowLeft")
                after = look()
        same = [what for what, old, new in zip(("reading", "picture"), before, after) if old == new]
        yield from (f"{label} leaves the {what}" for what in same)
    if box.get_by_role("slider").count() == 0:
        yield "no slider"


@pytest.mark.parametrize("chapter, panel", [("01", "two_outputs"), ("10", "phase_diagram")])
def test_a_point_is_dragged_on_a_page(visitor, address, html, chapter, panel):
    page = visitor.page
    page.set_viewport_size(WIDE)
    (path,) = (html / "book").glob(f"{chapter}_*.html")
    page.goto(f"{address}/book/{path.name}")
    box = page.locator(f'.ntkbook-panel[data-panel$="{panel}.html"]').first
    box.scroll_into_view_if_needed()
    point, reading = box.locator(".ntkbook-point"), box.locator(".ntkbook-reading")
    point.wait_for()
    slider = box.get_by_role("slider").first
    point.focus()
    before = reading.inner_text(), slider.input_value()
    page.keyboard.press("ArrowRight")
    assert reading.inner_text() != before[0] and slider.input_value() != before[1]
    here, size = point.bounding_box(), box.locator(".ntkbook-picture").bounding_box()
    x, y = here["x"] + here["width"] / 2, here["y"] + here["height"] / 2
    before = reading.inner_text()
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - size["width"] / 10, y - size["height"] / 5, steps=4)
    page.mouse.up()
    assert reading.inner_text() != before and point.bounding_box()["x"] < here["x"]
    visitor.assert_quiet()


def test_a_panel_plays(visitor, address):
    page = visitor.page
    page.goto(f"{address}/book/00_start_here.html")
    box = page.locator(".ntkbook-panel").first
    box.scroll_into_view_if_needed()
    slider = box.get_by_role("slider").first
    slider.focus()
    page.keyboard.press("Home")
    box.get_by_role("button", name="Play training time t").click()
    page.wait_for_function("input => input.value === input.max", arg=slider.element_handle())
    box.get_by_role("button", name="Play training time t").wait_for()  # it has come to rest


def test_the_claims_are_filtered(visitor, address):
    page = visitor.page
    page.goto(f"{address}/claims.html")
    rows, said = page.locator("table.ntkbook-claims tbody tr:visible"), page.locator(".ntkbook-filter output")
    everything = rows.count()
    page.get_by_label("Chapter").select_option("05")
    chapter = rows.count()
    page.get_by_label("Word").fill("momentum")
    assert everything > chapter > rows.count() > 0
    assert said.inner_text() == f"{rows.count()} of {everything} claims"


def test_a_term_shows_its_meaning(visitor, address):
    page = visitor.page
    page.goto(f"{address}/book/03_infinite_width_ntk.html")
    tip = page.locator("#ntkbook-tip")
    term = page.locator("a.ntkbook-term", has_text="neural tangent kernel").first
    term.hover()
    assert tip.is_visible() and "how much a step on x' moves the output at x" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    term.focus()
    assert tip.is_visible() and term.get_attribute("href").endswith("glossary.html")


# ---------------------------------------------------------------- without a browser


class Parts(HTMLParser):
    """Anchors and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]


def broken_links(html, pages):
    parts = {name: Parts((html / name).read_text()) for name in pages}
    for name, page in parts.items():
        for link in page.links:
            where, anchor = urldefrag(re.sub(r"\?[^#]*", "", link))
            if urlparse(where).scheme:
                continue
            path = ((html / name).parent / unquote(where)).resolve() if where else (html / name).resolve()
            target = path.relative_to(html.resolve()).as_posix() if path.is_relative_to(html.resolve()) else ""
            if not path.exists():
                yield f"{name}: {link} leads nowhere"
            elif anchor and target in parts and unquote(anchor) not in parts[target].anchors:
                yield f"{name}: {link} has no such place"


def test_no_link_is_broken(html, pages):
    assert not list(broken_links(html, pages))


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html">1</a><a href="a.html#x">2</a><a href="#y">3</a><p id="y">')
    assert len(list(broken_links(tmp_path, ["a.html"]))) == 2


def test_a_page_asks_for_no_large_script(html):
    scripts = {path.relative_to(html).as_posix(): path.stat().st_size for path in html.rglob("*.js")}
    assert [name for name, size in scripts.items() if size > 500_000 and "mathjax" not in name] == []
    assert "fontawesome.js" not in (html / "index.html").read_text()


def test_panels_are_small_and_stored_once(html, pages):
    stored = {path.stem: path.stat().st_size for path in (html / "_static" / "panels").glob("*.html")}
    assert stored and max(stored.values()) < LARGEST * 1.02  # characters beyond ASCII are two bytes
    for name in pages:
        assert '<script type="application/json">' not in (html / name).read_text()
