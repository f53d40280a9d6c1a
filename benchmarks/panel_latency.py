"""Every panel of the book, from key press to new picture in a real browser, beside `interact` on the same figure.

`python benchmarks/panel_latency.py` opens JupyterLab and a headless Chromium here and takes all panels, or those
named; each row is stored as soon as it is taken, beside the earlier ones. For each panel, one notebook holds it and
`ipywidgets.interact` with the same computation, the same figure (at half the resolution, as notebooks do) and sliders
at the same places; keys are pressed on the one, then on the other. The times are the browser's, from the key to the
decoded picture. Beside them: the time of a move in Python alone, and of the sharp picture when the handle rests; a
flood of keys; and the memory of a panel that is moved two thousand times. On a quiet machine, please.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import pairing

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import lab as browser  # noqa: E402

PRESSES = 8  # on each handle
FLOOD = 31  # an odd number: to and fro, it ends beside where it began
SETUP = """import jax
jax.config.update('jax_enable_x64', True)
from ntkbook.panels import PANELS
panel = PANELS[{!r}]()
panel"""
INTERACT = """
import matplotlib.pyplot as plt
from ipywidgets import IntSlider, interact
from ntkbook import plots
plots.style()

def show(**indices):
    values = {name: panel.definitions[name].value_at(index) for name, index in indices.items()}
    data, _ = panel.spec.computed({**panel.state(), **values})
    panel.spec.build(plt.figure(figsize=panel.spec.size), data)
    plt.show()

starts = panel.state()
sliders = {name: IntSlider(control.index_of(starts[name]), 0, control.steps)
           for name, control in panel.definitions.items() if not control.is_toggle}
_ = interact(show, **sliders)
"""

_WATCH_POINTER = """panel => {
    const img = panel.querySelector('img.widget-image');
    const watch = window.ntkbookWatch = {pressed: null, shown: null};
    window.addEventListener('pointermove', () => { watch.pressed ??= performance.now() }, {capture: true, once: true});
    img.addEventListener('load', () => { if (watch.pressed) watch.shown ??= performance.now() });
}"""
_WATCH_OUTPUT = """output => {
    window.ntkbookWatch = {pressed: null, shown: null};
    const watch = window.ntkbookWatch, options = {capture: true, once: true};
    window.addEventListener('keydown', () => { watch.pressed = performance.now() }, options);
    const seen = new MutationObserver(() => output.querySelectorAll('img').forEach(img => {
        if (watch.pressed === null || img.dataset.seen) return;
        img.dataset.seen = 'yes';
        const done = () => { if (watch.shown === null) { watch.shown = performance.now(); seen.disconnect() } };
        img.complete ? done() : img.addEventListener('load', done, {once: true});
    }));
    output.querySelectorAll('img').forEach(img => { img.dataset.seen = 'yes' });
    seen.observe(output, {childList: true, subtree: true, attributes: true, attributeFilter: ['src']});
}"""


def main(names: list[str]) -> None:
    import jax
    from playwright.sync_api import sync_playwright

    from ntkbook.panels import PANELS

    jax.config.update("jax_enable_x64", True)
    path = browser.chromium_path()
    if path is None:
        raise SystemExit("Expected a Chromium, found none. Install it, or point CHROMIUM to it.")
    panels = {name: PANELS[name]() for name in names or PANELS}
    alone = {name: asyncio.run(python_side(panel)) for name, panel in panels.items()}
    rows, together = stored()
    with tempfile.TemporaryDirectory() as home, browser.start_server(Path(home)) as server, sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
        chromium = play.chromium.launch(executable_path=path, args=flags)
        for name, panel in panels.items():
            row = {"case": {"label": name}, "date": time.strftime("%Y-%m-%d"), **alone[name]}
            row |= browser_side(chromium, server, name, panel)
            rows[name] = row | {"times_faster": row["interact"]["median_s"] / row["ours"]["median_s"]}
            store(rows, together)
            print(line(rows[name]), flush=True)
        chromium.close()
    if not names:
        store(rows, {"memory_of_2000_moves": memory(next(iter(panels.values())))})


def stored() -> tuple[dict, dict]:
    """The rows of earlier runs by their panels, and what else was measured then."""
    path = pairing.RESULTS / "panel_latency.json"
    earlier = json.loads(path.read_text()) if path.exists() else {"rows": []}
    together = {name: value for name, value in earlier.items() if name == "memory_of_2000_moves"}
    return {row["case"]["label"]: row for row in earlier["rows"]}, together


def store(rows: dict, together: dict) -> None:
    from ntkbook.panels import PANELS

    ordered = [rows[name] for name in PANELS if name in rows]
    pairing.write("panel_latency", "from key press to new picture", ordered, together)


def line(row: dict) -> str:
    ours, other, python = (pairing.duration(row[side]["median_s"]) for side in ("ours", "interact", "python"))
    flood = row["flood"]
    drag = f"; a point's drag {pairing.duration(row['drag']['median_s'])}" if "drag" in row else ""
    return (
        f"{row['case']['label']:28} {ours} from key to picture, interact {other}; python alone {python}, "
        f"at rest {pairing.duration(row['at_rest']['median_s'])}; "
        f"{flood['keys']} keys: {flood['pictures']} pictures, the last {flood['late_s'] * 1e3:.0f} ms late{drag}"
    )


def places(control) -> list[int]:
    """Where the keys of `press` lead, from the default."""
    start = control.index_of(control.default)
    step = -1 if start >= control.steps else 1
    return [min(max(start + step * i, 0), control.steps) for i in range(1, PRESSES + 1)]


async def python_side(panel) -> dict:
    """Moves of each handle, from the event to the bytes of the picture, and then the sharp pictures; no front end.

    Inside an event loop, as in a kernel: only there a panel makes drafts.
    """
    dragged, at_rest = [], []
    for view in panel.view().controls.values():
        for index in places(view.control) if view.counters else []:
            if view.counters[0].value != index:
                begin = time.perf_counter()
                view.counters[0].value = index
                dragged.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                panel.rest()
                at_rest.append(time.perf_counter() - begin)
        panel.reset()
    return {"python": pairing.summary(dragged), "at_rest": pairing.summary(at_rest)}


def browser_side(chromium, server, name: str, panel) -> dict:
    lab = browser.Lab(chromium, *server)
    try:
        lab.open(browser.notebook(SETUP.format(name), INTERACT), f"{name}.ipynb")
        lab.run_all()
        shown = lab.panels()[0]
        output = lab.page.locator(".jp-CodeCell").nth(1)
        output.locator("img").first.wait_for()
        ours = [t for handle in range(shown.handles.count()) for t in presses(shown, handle)]
        flood = flooded(shown, panel)
        drag = {"drag": pairing.summary(drags(shown))} if panel.spec.drag else {}
        theirs = [t for handle in range(shown.handles.count()) for t in presses_on_interact(lab, output, handle)]
    finally:
        lab.close()
    lab.assert_quiet()
    return {"ours": pairing.summary(ours), "interact": pairing.summary(theirs), "flood": flood, **drag}


def presses(shown, handle: int) -> list[float]:
    """Seconds of the presses on one handle of a panel."""
    return [shown.press(handle, key) / 1e3 for key in keys_with_room(shown.handles.nth(handle))]


def drags(shown) -> list[float]:
    """Seconds from a move of the pointer to the picture it brought, while the first point is dragged to and fro."""
    page, point = shown.lab.page, shown.box.locator(".ntkbook-point").first
    point.scroll_into_view_if_needed()
    place = point.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    found = []
    for i in range(3 * PRESSES):
        across = 12 * (i % PRESSES + 1) * (-1) ** (i // PRESSES)
        shown.box.evaluate(_WATCH_POINTER)
        page.mouse.move(x + across, y - 2 * (i % PRESSES))
        # a move along the end of a control's range brings no picture
        page.wait_for_function("() => ntkbookWatch.shown || performance.now() - ntkbookWatch.pressed > 2000")
        took = page.evaluate("() => ntkbookWatch.shown && ntkbookWatch.shown - ntkbookWatch.pressed")
        found += [] if took is None else [took / 1e3]
    page.mouse.up()
    return found


def presses_on_interact(lab, output, handle: int) -> list[float]:
    grip = output.locator(".noUi-handle").nth(handle)
    times = []
    for key in keys_with_room(grip):
        grip.focus()
        output.evaluate(_WATCH_OUTPUT)
        lab.page.keyboard.press(key)
        lab.page.wait_for_function("() => window.ntkbookWatch.shown !== null")
        times.append(lab.page.evaluate("() => window.ntkbookWatch.shown - window.ntkbookWatch.pressed") / 1e3)
    return times


def keys_with_room(grip) -> list[str]:
    """The keys to press: as many as asked for, or as lead from here to the end, in the direction that has room."""
    low, now, high = (round(float(grip.get_attribute(f"aria-value{word}"))) for word in ("min", "now", "max"))
    key, room = ("ArrowLeft", now - low) if now >= high else ("ArrowRight", high - now)
    return [key] * min(PRESSES, room)


def flooded(shown, panel) -> dict:
    """Keys as fast as they come, on the handle with the most steps: pictures shown, and how late the last one came."""
    main = panel.spec.main
    ordered = [*main, *(name for name in panel.definitions if name not in main)]  # as they stand on the page
    controls = [c for c in (panel.definitions[name] for name in ordered) if not c.is_toggle]
    controls = controls[: shown.handles.count()]  # points that are dragged come last, and have none
    handle = max(range(len(controls)), key=lambda i: controls[i].steps)
    there = "ArrowLeft" if shown.is_at_its_end(handle) else "ArrowRight"
    back = {"ArrowLeft": "ArrowRight", "ArrowRight": "ArrowLeft"}[there]
    keys = [there] if controls[handle].steps >= 60 else [there, back]
    found = shown.flood(handle, keys, FLOOD, controls[handle].value_at)
    return {"keys": FLOOD, "pictures": found["pictures"], "late_s": found["late_ms"] / 1e3}


def memory(panel) -> dict:
    """Resident megabytes of this process after 200 moves of a panel, and after 2000."""
    import psutil

    resident = lambda: psutil.Process().memory_info().rss / 1e6
    view = next(view for view in panel.view().controls.values() if view.counters)
    found = {}
    for move in range(1, 2001):
        view.counters[0].value = (view.counters[0].value + 1) % (view.control.steps + 1)
        if move in (200, 2000):
            found[f"after_{move}_moves_mb"] = round(resident(), 1)
    return found


if __name__ == "__main__":
    begin = time.perf_counter()
    main(sys.argv[1:])
    print(f"In {time.perf_counter() - begin:.0f} s.")
