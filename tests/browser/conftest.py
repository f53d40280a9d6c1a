"""JupyterLab on this machine and a headless Chromium, started once for all browser tests."""

import os
from pathlib import Path

import pytest
from lab import Lab, chromium_path, start_server


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


@pytest.fixture
def lab(browser, server):
    """A fresh page on the server. At the end: no page error, and no request that left this machine."""
    page = browser.new_page(viewport={"width": 1400, "height": 1200}, device_scale_factor=2)
    lab = Lab(page, *server)
    yield lab
    errors, outside = list(lab.errors), list(lab.outside)
    lab.close()
    assert not errors, f"errors on the page: {errors}"
    assert not outside, f"requests that left this machine: {outside}"


@pytest.fixture(scope="session")
def artifacts():
    """Where screenshots go, to be looked at."""
    folder = Path(__file__).parents[2] / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder
