"""JupyterLab on this machine, a headless Chromium and the site, each started or built once for all browser tests.

The step `browser` of tools/check.py builds the site before it starts pytest, and names its folder in NTKBOOK_SITE.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # for the demonstration panel, which the other tests use too
from check import SITE  # noqa: E402
from lab import Lab, Page, chromium_path, start_server  # noqa: E402

# they come first, with the files that they are in: a worker takes a file, and none is left alone with a long one
LONGEST = ("test_every_", "test_a_chapter_")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not (item.path.parent == Path(__file__).parent and item.name.startswith(LONGEST)))


@pytest.fixture(scope="session")
def chromium():
    """Path of the browser. Without one the tests skip, or fail where NTKBOOK_REQUIRE_BROWSER=1 demands one."""
    path = chromium_path()
    if path is None:
        why = "no Chromium found: install it (apt-get install chromium) or point CHROMIUM to it"
        if os.environ.get("NTKBOOK_REQUIRE_BROWSER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return path


@pytest.fixture(scope="session")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(chromium, tmp_path_factory):
    """A JupyterLab server on 127.0.0.1 with settings of its own: (address, folder that it serves)."""
    with start_server(tmp_path_factory.mktemp("jupyter")) as running:
        yield running


@pytest.fixture(scope="session")
def new_lab(browser, server):
    """`with new_lab() as lab:` is a fresh page of JupyterLab."""

    @contextmanager
    def make() -> Iterator[Lab]:
        lab = Lab(browser, *server)
        try:
            yield lab
        finally:
            lab.close()
        lab.assert_quiet()

    return make


@pytest.fixture
def lab(new_lab):
    with new_lab() as lab:
        yield lab


@pytest.fixture
def page(browser):
    """A page without a network, as a reader has who was sent a file."""
    page = Page(browser, offline=True)
    yield page
    page.close()
    page.assert_quiet()


@pytest.fixture(scope="session")
def artifacts():
    """Where screenshots go, to be looked at."""
    folder = ROOT / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def html(chromium, tmp_path_factory):
    """The folder with the pages."""
    if named := os.environ.get("NTKBOOK_SITE"):
        assert Path(named, "index.html").exists(), f"there is no site in {named}"
        return Path(named)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, *SITE, "--to", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "html"
