"""Driving JupyterLab as a reader would: open a notebook, run all, press keys, look.

Every wait is for a condition. Handles are moved by focus and arrow keys, which is how a keyboard user moves them, and
is steadier than dragging.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import nbformat

PATIENCE = 120_000  # milliseconds; only ever waited for when something is broken


def chromium_path() -> str | None:
    """The Chromium of $CHROMIUM or of the search path, or None."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def start_server(home: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab without a token, on 127.0.0.1 and a free port, with no setting of this machine's user."""
    folder = home / "notebooks"
    folder.mkdir()
    _write_settings(home / "settings")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = dict(os.environ)
    for name, sub in {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }.items():
        env[name] = str(home / sub)
    command = [
        *[sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"],
        *["--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.news_url="],
        *[
            "--LabApp.expose_app_in_browser=True",
            "--LabApp.extension_manager=readonly",
            f"--ServerApp.root_dir={folder}",
        ],
    ]
    log = home / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=home
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_it_answers(address, server, log)
            yield address, folder
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _write_settings(folder: Path) -> None:
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
        "notebook-extension/tracker": {"windowingMode": "none"},
        "docmanager-extension/plugin": {"autosave": False},
    }
    for name, values in settings.items():
        file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))


def _wait_until_it_answers(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/api", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


def notebook(*cells: str) -> nbformat.NotebookNode:
    """A notebook of code cells."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


class Page:
    """A page of the browser that remembers its errors, and the requests that left this machine."""

    def __init__(self, browser: Any, *, offline: bool = False):
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.context = browser.new_context(
            viewport={"width": 1400, "height": 1200}, device_scale_factor=2, offline=offline
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note_request)

    def _note_request(self, request: Any) -> None:
        where = urlparse(request.url)
        if where.scheme not in ("data", "blob", "about", "file") and where.hostname != "127.0.0.1":
            self.outside.append(request.url)

    def close(self) -> None:
        self.context.close()

    def assert_quiet(self) -> None:
        assert not self.errors, f"errors on the page: {self.errors}"
        assert not self.outside, f"requests that left this machine: {self.outside}"


class Lab(Page):
    """One page of JupyterLab."""

    def __init__(self, browser: Any, address: str, folder: Path):
        super().__init__(browser)
        self.address, self.folder = address, folder

    def open(self, file: Path | nbformat.NotebookNode, name: str = "", beside: tuple[Path, ...] = ()) -> None:
        """Open a copy of a notebook file, or a notebook made here, with the files `beside` it."""
        name = name or (file.name if isinstance(file, Path) else "made.ipynb")
        for other in beside:
            shutil.copy(other, self.folder / other.name)
        if isinstance(file, Path):
            shutil.copy(file, self.folder / name)
        else:
            nbformat.write(file, self.folder / name)
        self.page.goto(f"{self.address}/lab/tree/{quote(name)}?reset")
        self.page.wait_for_function(
            """name => { const w = window.jupyterapp?.shell?.currentWidget;
                return w?.context?.path === name && w.sessionContext?.session?.kernel?.status === 'idle' }""",
            arg=name,
        )

    def run_all(self) -> None:
        """Run every cell; an error in one fails here, with its text."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.page.wait_for_function(
            """() => { const w = window.jupyterapp.shell.currentWidget;
                const code = w.content.widgets.map(c => c.model).filter(m => m.type === 'code');
                return w.sessionContext.session.kernel.status === 'idle'
                    && code.every(m => m.executionCount || !m.sharedModel.source.trim()) }"""
        )
        raised = self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code')
                .flatMap(c => c.model.outputs.toJSON()).filter(o => o.output_type === 'error').map(o => o.evalue)"""
        )
        assert not raised, f"cells raised: {raised}"

    def run_cell(self, index: int) -> None:
        """Run one cell, without waiting for it."""
        self.page.evaluate(
            """index => { const w = window.jupyterapp.shell.currentWidget;
                w.content.activeCellIndex = index; window.jupyterapp.commands.execute('notebook:run-cell') }""",
            index,
        )

    def run_while_hidden(self, code: str) -> None:
        """Bring another tab to the front, run code in the notebook's kernel, and come back to the notebook."""
        hidden = self.page.evaluate(
            """async code => {
                const { shell, commands } = window.jupyterapp, notebook = shell.currentWidget;
                await commands.execute('launcher:create');
                await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame);
                const hidden = !notebook.isVisible;
                await notebook.sessionContext.session.kernel.requestExecute({code}).done;
                const launcher = shell.currentWidget;
                shell.activateById(notebook.id);
                launcher.close();
                return hidden }""",
            code,
        )
        assert hidden, "the notebook stayed visible"

    def restart(self) -> None:
        """Restart the kernel, clear what was there before, and wait until all is idle."""
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()",
        )
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
        )
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        self.page.wait_for_function("() => document.querySelectorAll('.ntkbook-panel').length === 0")

    def panels(self) -> list["ShownPanel"]:
        """The live panels of the notebook, from the top."""
        self.page.wait_for_selector(".ntkbook-panel img")
        found = self.page.locator(".ntkbook-panel")
        shown = [ShownPanel(self, found.nth(i)) for i in range(found.count())]
        for panel in shown:
            panel.unfold()
        return shown

    def theme(self, name: str) -> None:
        """Switch to "JupyterLab Light" or "JupyterLab Dark", and wait until it is there."""
        self.page.evaluate("n => window.jupyterapp.commands.execute('apputils:change-theme', {theme: n})", name)
        self.page.wait_for_function("n => document.body.dataset.jpThemeName === n", arg=name)

    def close(self) -> None:
        """Shut the kernel down, and close the page."""
        self.page.evaluate("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.shutdown?.()")
        super().close()


# The time from a key to the picture that it brought: the browser's own clock, from the event to the decoded image.
_WATCH = """panel => {
    const img = panel.querySelector('img.widget-image');
    const watch = window.ntkbookWatch = {pressed: null, shown: null};
    window.addEventListener('keydown', () => { watch.pressed ??= performance.now() }, {capture: true, once: true});
    // a sharp picture of the move before may come until the key is down
    img.addEventListener('load', () => { if (watch.pressed) watch.shown ??= performance.now() });
}"""


_COUNT = """panel => {
    window.ntkbookFlood = {pictures: 0, shown: 0, pressed: 0};
    window.addEventListener('keydown', () => { window.ntkbookFlood.pressed = performance.now() }, {capture: true});
    panel.querySelector('img.widget-image').addEventListener('load', () => {
        window.ntkbookFlood.pictures += 1; window.ntkbookFlood.shown = performance.now() });
}"""


class ShownPanel:
    """One panel on the page."""

    def __init__(self, lab: Lab, box: Any):
        self.lab, self.box = lab, box
        self.handles = box.locator(".noUi-handle")

    def unfold(self) -> None:
        """Bring all controls into sight."""
        fold = self.box.get_by_role("button", name="More controls")
        if fold.count() and not self.handles.last.is_visible():
            fold.click()
            self.handles.last.wait_for(state="visible")

    def reading(self) -> str:
        return self.box.locator(".ntkbook-reading").inner_text()

    def picture(self) -> str:
        """Address of the picture, another one for each picture."""
        return self.box.locator("img.widget-image").get_attribute("src")

    def press(self, handle: int, key: str) -> float:
        """Press a key on a handle, wait until the picture is another, and say how many milliseconds that took."""
        page, before = self.lab.page, self.picture()
        self.handles.nth(handle).focus()
        self.box.evaluate(_WATCH)
        page.keyboard.press(key)
        page.wait_for_function("() => window.ntkbookWatch.shown !== null")
        assert self.picture() != before
        return page.evaluate("() => window.ntkbookWatch.shown - window.ntkbookWatch.pressed")

    def wait_for_reading(self, start: str) -> str:
        """Wait until the reading begins with these words."""
        self.lab.page.wait_for_function(
            "([panel, start]) => panel.querySelector('.ntkbook-reading').innerText.startsWith(start)",
            arg=[self.box.element_handle(), start],
        )
        return self.reading()

    def wait_for_another_reading(self, than: str) -> str:
        self.lab.page.wait_for_function(
            "([panel, than]) => panel.querySelector('.ntkbook-reading').innerText !== than",
            arg=[self.box.element_handle(), than],
        )
        return self.reading()

    def is_at_its_end(self, handle: int) -> bool:
        """Is a handle at its highest value?"""
        found = self.handles.nth(handle)
        return float(found.get_attribute("aria-valuenow")) >= float(found.get_attribute("aria-valuemax"))

    def field(self, control: int) -> Any:
        """The number field or the menu of a control."""
        return self.box.locator(".ntkbook-control").nth(control).locator("input[type=number], select")

    def field_of_handle(self, handle: int) -> Any:
        """The number field or the menu beside a handle; a toggle has a field and no handle."""
        rows = self.box.locator(".ntkbook-control").filter(has=self.lab.page.locator(".noUi-handle"))
        return rows.nth(handle).locator("input[type=number], select")

    def flood(self, handle: int, keys: Sequence[str], presses: int, value_at: Callable[[int], float]) -> dict:
        """Press these keys in turn, many times and without waiting, until the panel shows the value of the last one.

        `value_at` says which value belongs to a step of the handle. Returns how many pictures were shown, and how many
        milliseconds after the last key the last one came.
        """
        page, grip, field = self.lab.page, self.handles.nth(handle), self.field_of_handle(handle)
        grip.focus()
        self.box.evaluate(_COUNT)
        for i in range(presses):
            page.keyboard.press(keys[i % len(keys)])
        stop = round(float(grip.get_attribute("aria-valuenow")))
        page.wait_for_function(
            """([field, stop, wanted]) => field.selectedOptions ? field.selectedIndex === stop
                : Math.abs(Number(field.value) - wanted) <= 1e-3 * Math.abs(wanted)""",
            arg=[field.element_handle(), stop, value_at(stop)],
        )
        # the picture is sent after the field, by the same callback: what is asked now is answered after it
        page.evaluate(
            """async () => {
                await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel
                    .requestExecute({code: '', silent: true}).done;
                await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame) }"""
        )
        box = self.box.element_handle()
        page.wait_for_function("panel => panel.querySelector('img.widget-image').complete", arg=box)
        flood = page.evaluate("() => window.ntkbookFlood")
        return {"pictures": flood["pictures"], "late_ms": flood["shown"] - flood["pressed"]}

    def dots(self) -> int:
        """Width of the picture as it was sent."""
        return self.box.locator("img.widget-image").evaluate("img => img.naturalWidth")

    def wait_for_dots(self, dots: int) -> None:
        """Wait until the picture has this width."""
        self.lab.page.wait_for_function(
            "([panel, dots]) => panel.querySelector('img.widget-image').naturalWidth === dots",
            arg=[self.box.element_handle(), dots],
        )

    def screenshot(self, file: Path) -> None:
        self.box.scroll_into_view_if_needed()
        self.box.screenshot(path=str(file))
