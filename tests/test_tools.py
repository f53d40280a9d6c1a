"""The two commands on machines where something is missing: each says one sentence, and the next call repairs."""

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """A checkout with nothing but what the installation reads."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture
def install(checkout, monkeypatch):
    """tools/install.py, working on that checkout."""
    module = load("install")
    monkeypatch.setattr(module, "ROOT", checkout)
    return module


def setup(checkout, level="notebook", **environment):
    words = ["/bin/sh", str(checkout / "tools" / "setup.sh"), level]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


def fake_python(folder, name, body):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def one_sentence(text):
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1 and "Traceback" not in text, text
    return lines[0]


def test_a_python_that_is_too_old_is_named(checkout):
    fake = checkout / "fake"
    fake_python(fake, "python3", 'case "$2" in *print*) echo "Python 3.9"; exit 0;; esac; exit 1')
    fake_python(fake, "python3.12", 'echo "version manager: not installed"; exit 127')  # a stub is no Python
    result = setup(checkout, PATH=str(fake))
    assert result.returncode == 1
    assert "Expected Python 3.11 or newer, got Python 3.9" in one_sentence(result.stderr)
    assert not (checkout / ".venv").exists()


def test_no_python_at_all_is_said(checkout):
    result = setup(checkout, PATH=str(checkout))
    assert result.returncode == 1 and "got none" in one_sentence(result.stderr)


def test_a_newer_python_beside_an_old_one_is_used(checkout):
    fake = checkout / "fake"
    fake_python(fake, "python3", "exit 1")
    fake_python(fake, "python3.12", f'echo "$@" >> {checkout}/calls; exit 0')
    assert setup(checkout, PATH=str(fake)).returncode == 0
    assert "tools/install.py notebook" in (checkout / "calls").read_text().splitlines()[-1]


@pytest.mark.slow
def test_without_a_network_one_sentence_says_so(checkout):
    # nothing listens on port 9 of this machine
    outside = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1"}
    result = setup(checkout, PATH=f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin", **outside)
    assert result.returncode == 1
    assert "Could not reach the package index" in one_sentence(result.stderr)
    assert (checkout / ".venv" / "ntkbook.incomplete").exists()


def test_a_full_disk_is_said_before_anything_is_made(install, monkeypatch, capsys):
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8))  # pyright: ignore
    assert install.main(["test"]) == 1
    assert "Expected 2.0 GB of free disk space for .venv, got 0.1 GB" in one_sentence(capsys.readouterr().err)
    assert not (install.ROOT / ".venv").exists()


@pytest.mark.parametrize(
    "talk, words",
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        ("WARNING: Retrying: Failed to establish a new connection: [Errno 111]", "Could not reach the package index"),
        ("ERROR: No matching distribution found for jaxlib>=0.6", "too new for these packages"),
        ("ERROR: something else", "pip could not install the packages: ERROR: something else"),
    ],
)
def test_what_pip_says_becomes_a_sentence(install, monkeypatch, capsys, talk, words):
    venv_with_pip(install, f'echo "{talk}"; exit 1')
    assert install.main(["notebook"]) == 1
    assert words in one_sentence(capsys.readouterr().err)
    assert not install.is_current(install.ROOT / ".venv", "notebook")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_while_writing_is_said(install, monkeypatch, capsys, code):
    def full(venv, level):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(install, "install", full)
    assert install.main(["test"]) == 1
    assert "The disk is full" in one_sentence(capsys.readouterr().err)


def venv_with_pip(install, body):
    """A .venv whose Python passes the version check, and whose pip is `body`."""
    binary = install.ROOT / ".venv" / "bin"
    binary.mkdir(parents=True)
    fake_python(binary, "python", f'case "$*" in *version_info*) exit 0;; esac\n{body}')


def test_the_second_call_installs_nothing(install):
    calls = install.ROOT / "calls"
    venv_with_pip(install, f'echo "$@" >> {calls}')
    assert install.main(["notebook"]) == 0 and install.main(["notebook"]) == 0
    assert len(calls.read_text().splitlines()) == 1
    assert install.main(["test"]) == 0 and install.main(["notebook"]) == 0  # the larger includes the smaller
    assert len(calls.read_text().splitlines()) == 2


def test_a_change_of_what_is_asked_for_installs_again(install):
    calls = install.ROOT / "calls"
    venv_with_pip(install, f'echo "$@" >> {calls}')
    install.main(["notebook"])
    with (install.ROOT / "pyproject.toml").open("a") as file:
        file.write("# another\n")
    install.main(["notebook"])
    (install.ROOT / "constraints.txt").write_text("jax==0.10.2\n")
    install.main(["notebook"])
    lines = calls.read_text().splitlines()
    assert len(lines) == 3 and "-c" not in lines[1].split() and "-c" in lines[2].split()


@pytest.mark.parametrize("damage", ["incomplete", "python gone", "folder empty"])
def test_a_half_made_environment_is_made_anew(install, monkeypatch, damage):
    venv_with_pip(install, "exit 0")
    venv = install.ROOT / ".venv"
    (venv / "leftover").touch()
    if damage == "incomplete":
        (venv / "ntkbook.incomplete").touch()
    elif damage == "python gone":
        (venv / "bin" / "python").unlink()
        (venv / "bin" / "python").symlink_to(install.ROOT / "gone")
    else:
        shutil.rmtree(venv)
        venv.mkdir()
    remade = []
    original = install.make

    def make(venv, level):
        # what `python -m venv` does, without its seconds
        monkeypatch.setattr(install.subprocess, "run", lambda *a, **k: venv_with_pip(install, "exit 0") or Done())
        original(venv, level)
        monkeypatch.undo()
        remade.append(level)

    class Done:
        returncode = 0

    monkeypatch.setattr(install, "starts", lambda venv: damage == "incomplete")
    monkeypatch.setattr(install, "make", make)
    monkeypatch.setattr(install, "pip", lambda venv, arguments: None)
    install.install(venv, "notebook")
    assert remade == ["notebook"]
    assert not (venv / "leftover").exists() and not (venv / "ntkbook.incomplete").exists()
    assert json.loads((venv / "ntkbook.json").read_text())["includes"] == ["notebook"]


def test_a_notebook_that_is_run_again_has_the_same_widget_names():
    kind = "application/vnd.jupyter.widget-view+json"
    view = lambda name: nbformat.v4.new_output("display_data", {kind: {"model_id": name}})

    def renamed(names):
        cells = [nbformat.v4.new_code_cell(outputs=[view(name)]) for name in names]
        notebook = nbformat.v4.new_notebook(cells=cells)
        load("refresh").clean(notebook)
        return [cell.outputs[0].data[kind]["model_id"] for cell in notebook.cells]

    first = renamed(["a" * 32, "b" * 32, "a" * 32])
    assert first == renamed(["c" * 32, "d" * 32, "c" * 32])
    assert first[0] == first[2] != first[1]
