"""What a public host would run: the files are well formed, and each target that they call exists."""

import json
import re
from pathlib import Path

import pytest
import yaml

import ntkbook

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


def commands(path):
    """The lines that the jobs of a workflow run, with each value of their matrix."""
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        goals = {*matrix.get("goal", []), *(extra["goal"] for extra in matrix.get("include", []))} or {""}
        for step in job["steps"]:
            for goal in goals:
                yield step.get("run", "").replace("${{ matrix.goal }}", goal)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_targets_of_a_workflow_exist(path):
    called = {target for line in commands(path) for target in re.findall(r"\bmake (?:--silent )?([\w-]+)", line)}
    assert called and called <= TARGETS


def test_there_are_checks_and_releases():
    assert [path.stem for path in WORKFLOWS] == ["check", "release"]


def test_checks_run_on_the_lowest_python_that_is_promised():
    matrix = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]["check"]["strategy"]["matrix"]
    (lowest,) = re.findall(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert lowest in matrix["python"] and len(matrix["python"]) == 2
    assert matrix["goal"] == ["check", "single"]  # of two Pythons, and of two precisions


def test_the_container_is_made_by_a_target():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"].removeprefix("make ") in TARGETS
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).exists()


def test_one_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", ntkbook.__version__) and "## Unreleased" in text
