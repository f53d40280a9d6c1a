"""Binder, checked without Docker: what would be built, from which pins, and where the links lead.

`make binder` does the whole of it in a new environment, and runs a chapter there.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
BINDER = ROOT / "binder"


def pins():
    lines = [line for line in (BINDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def same(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(n) for n in project["dependencies"] + project["optional-dependencies"]["notebook"]]


def test_pins_are_third_party_and_fit_what_the_project_needs():
    """A local line would be installed after the copy of the repository, again with every commit."""
    for line in (BINDER / "requirements.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line
    pinned = {same(name): version for name, version in pins().items()}
    for need in needs():
        if need.name not in ("jupyterlab", "ipywidgets"):  # Binder's base environment brings these
            assert same(need.name) in pinned, f"no pin for {need.name}: make lock"
            assert need.specifier.contains(pinned[same(need.name)])


def test_pins_are_those_of_the_tests():
    constraints = {same(line.split("==")[0]): line for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for name, version in pins().items():
        assert constraints[same(name)] == f"{name}=={version}"
    for need in needs():
        assert need.specifier.contains(constraints[same(need.name)].split("==")[1])


def test_the_runtime_is_a_python_that_the_project_supports():
    found = re.fullmatch(r"python-(3\.\d+)\n", (BINDER / "runtime.txt").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert found and Requirement(f"python{project['requires-python']}").specifier.contains(found[1])


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_scripts_can_be_run_and_stop_at_the_first_error(name):
    script = BINDER / name
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in text if name == "postBuild" else text.rstrip().endswith('exec "$@"')


def links():
    """Every launch link of the project, as (file, branch, path)."""
    pattern = re.compile(r"mybinder\.org/v2/gh/[^/\s]+/[^/\s]+/([^?\s)\"\\`]+)(?:\?urlpath=([^\s)\"\\`]+))?")
    for path in [ROOT / "README.md", *(ROOT / "notebooks").rglob("*.ipynb")]:
        if ".ipynb_checkpoints" not in path.parts:
            for found in pattern.finditer(path.read_text()):
                yield path.name, *found.groups()


def test_launch_links_open_a_chapter_that_exists():
    found = list(links())
    assert found
    for name, _, target in found:
        assert target and target.startswith("lab/tree/notebooks/"), f"{name}: {target}"
        assert (ROOT / target.removeprefix("lab/tree/")).exists(), f"{name}: {target}"
    assert len({ref for _, ref, _ in found}) == 1, "links to different versions"


@pytest.mark.slow
def test_the_rendered_dockerfile_keeps_the_layer_of_the_pins(tmp_path):
    """As Binder would build it: the pins before the copy of the repository, then postBuild, then start."""
    command = [sys.executable, "-W", "ignore", "-m", "repo2docker", "--no-build", "--debug", str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    said = result.stdout + result.stderr
    python = (BINDER / "runtime.txt").read_text().strip().removeprefix("python-")
    assert f"environment for python={python}" in said
    places = [
        said.index(words)
        for words in (
            'install --no-cache-dir -r "binder/requirements.txt"',
            "COPY --chown=0:0 src/ ",
            "RUN ./binder/postBuild",
            "binder/start",
        )
    ]
    assert places == sorted(places)
