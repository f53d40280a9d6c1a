"""The command `ntkbook`: a reader's file is never lost, and each failure is one sentence."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

import ntkbook
from ntkbook import cli


def notebook(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


CLAIM = (
    "from ntkbook.claims import Claim, table\n"
    "table([Claim('Two is even', 'arithmetic', {value}, (1.5, 2.5), reason='a count')])"
)


@pytest.fixture
def source(tmp_path):
    """A small book: two chapters and a solution."""
    folder = tmp_path / "source"
    (folder / "solutions").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    for name in ("00_start_here", "01_next", "solutions/01_next", ".ipynb_checkpoints/00-checkpoint"):
        (folder / f"{name}.ipynb").write_text(json.dumps({"cells": [], "name": name}))
    return folder


@pytest.fixture
def book(source, monkeypatch):
    monkeypatch.setattr(cli, "book", lambda: source)
    return source


def test_the_first_copy_holds_the_whole_book(source, tmp_path):
    folder = tmp_path / "new" / "mine"
    assert cli.copy_book(source, folder) == []
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.ipynb"))
    assert names == ["00_start_here.ipynb", "01_next.ipynb", "solutions/01_next.ipynb"]
    assert (folder / "01_next.ipynb").read_bytes() == (source / "01_next.ipynb").read_bytes()
    assert not list(folder.rglob("*.part"))


def test_a_changed_file_is_kept_and_named_and_the_rest_is_updated(source, tmp_path):
    folder = tmp_path / "mine"
    cli.copy_book(source, folder)
    (folder / "01_next.ipynb").write_text("my notes")
    for name in ("00_start_here", "01_next"):
        (source / f"{name}.ipynb").write_text("second edition")
    kept = cli.copy_book(source, folder)
    assert len(kept) == 1 and "01_next.ipynb" in kept[0]
    assert (folder / "01_next.ipynb").read_text() == "my notes"
    assert (folder / "00_start_here.ipynb").read_text() == "second edition"
    kept = cli.copy_book(source, folder)  # and once more, now that the manifest was written again
    assert len(kept) == 1 and (folder / "01_next.ipynb").read_text() == "my notes"


def test_a_file_that_was_there_before_the_book_is_kept(source, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "01_next.ipynb").write_text("older than the book")
    assert "01_next.ipynb" in cli.copy_book(source, folder)[0]
    assert (folder / "01_next.ipynb").read_text() == "older than the book"


@pytest.mark.parametrize("content", ["", "not json", "[1, 2]"])
def test_a_broken_manifest_loses_nothing(source, tmp_path, content):
    folder = tmp_path / "mine"
    cli.copy_book(source, folder)
    (folder / "01_next.ipynb").write_text("my notes")
    (folder / cli.MANIFEST).write_text(content)
    (source / "00_start_here.ipynb").write_text("second edition")
    kept = " ".join(cli.copy_book(source, folder))
    assert (folder / "01_next.ipynb").read_text() == "my notes" and "01_next" in kept
    assert "00_start_here" in kept  # without the manifest nobody knows whose version this is: keep it


def test_an_interrupted_copy_leaves_the_old_file_whole(source, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    cli.copy_book(source, folder)
    before = (folder / "00_start_here.ipynb").read_bytes()
    (source / "00_start_here.ipynb").write_text("second edition")

    def stop(old, new):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        cli.copy_book(source, folder)
    assert (folder / "00_start_here.ipynb").read_bytes() == before
    assert not list(folder.rglob("*.part"))


def test_the_checkout_itself_is_not_copied_over(source):
    assert cli.copy_book(source, source) == []
    assert not (source / cli.MANIFEST).exists()


def test_lab_copies_and_says_where(book, tmp_path, capsys):
    folder = tmp_path / "mine"
    assert cli.main(["lab", str(folder), "--copy-only"]) == 0
    assert str(folder) in capsys.readouterr().out and (folder / "00_start_here.ipynb").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["lab", "{file}", "--copy-only"], "Expected a folder, got the file"),
        (["lab", "{file}/below", "--copy-only"], "Could not go on"),
        (["lab", "", "--copy-only"], "Expected the name of a folder, got an empty one"),
        (["lab", " ", "--copy-only"], "Expected the name of a folder, got an empty one"),
        (["lab", "{empty}", "--port", "-5"], "Expected a port from 1 to 65535, got -5"),
        (["lab", "{empty}", "--port", "0"], "Expected a port from 1 to 65535, got 0"),
        (["lab", "{empty}", "--port", "70000"], "Expected a port from 1 to 65535, got 70000"),
        (["claims", "{file}"], "Expected a folder with notebooks"),
        (["claims", "{empty}"], "Expected notebooks in"),
        (["claims", "{book}", "--only", "99", "98"], "with 99 or 98 in their names"),
    ],
)
def test_failures_are_one_sentence(book, tmp_path, capsys, arguments, words):
    file, empty = tmp_path / "file", tmp_path / "empty"
    file.touch()
    empty.mkdir()
    places = dict(file=str(file), empty=str(empty), book=str(book))
    assert cli.main([argument.format(**places) for argument in arguments]) == 1
    said = capsys.readouterr().err.strip()
    assert words in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("how", [["--stored"], []])
def test_what_is_no_notebook_is_said(tmp_path, capsys, how):
    contents = [b"", b"\xff\xfe\x00", b"[]", b"3", b"{}", b'{"cells": 3}', b'{"cells": [3]}']
    contents += [b'{"cells": [{"outputs": [{"data": {"%s": {"claims": [3]}}}]}]}' % cli.claims.MIME.encode()]
    for number, content in enumerate(contents):
        (tmp_path / f"{number:02}.ipynb").write_bytes(content)
    assert cli.main(["claims", str(tmp_path), *how]) == 1
    said = capsys.readouterr().err
    assert all(f"{number:02}: Expected a notebook, got something else" in said for number in range(len(contents)))


@pytest.mark.slow
def test_ctrl_c_is_one_word_and_ends_the_kernel(tmp_path):
    nbformat.write(
        notebook("import os, time; print(os.getpid(), file=open('pid', 'w')); time.sleep(60)"), tmp_path / "00.ipynb"
    )
    nbformat.write(notebook("open('went on', 'w')"), tmp_path / "01.ipynb")
    # a shell that runs the tests in the background has switched Ctrl-C off for them: on again, as at a terminal
    listen = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-c", listen, sys.executable, "-m", "ntkbook", "claims", str(tmp_path)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:  # pyright: ignore[reportCallIssue]
        try:
            until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all that belong to it
            out, err = process.communicate(timeout=60)
        finally:
            stop(process)
    assert process.returncode == 130 and err.splitlines()[-1] == "Interrupted." and "Traceback" not in err and not out
    assert not (tmp_path / "went on").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_version_is_said_and_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == f"ntkbook {ntkbook.__version__}"
    citation = (Path(__file__).parent.parent / "CITATION.cff").read_text()
    assert f"\nversion: {ntkbook.__version__}\n" in citation


def test_help_names_every_command(capsys):
    for arguments, words in ((["--help"], ["lab", "claims"]), (["lab", "--help"], ["folder", "--port"])):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
        said = capsys.readouterr().out
        assert all(word in said for word in words)


def test_without_jupyterlab_it_says_what_to_install(book, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    assert cli.main(["lab", str(tmp_path / "mine")]) == 1
    assert 'pip install "ntkbook[notebook]"' in capsys.readouterr().err


@pytest.mark.slow
def test_claims_runs_the_book_and_collects_its_verdicts(tmp_path, capsys):
    nbformat.write(notebook(CLAIM.format(value=2)), tmp_path / "00_good.ipynb")
    nbformat.write(notebook(CLAIM.format(value=3)), tmp_path / "01_bad.ipynb")
    nbformat.write(notebook("1 / 0"), tmp_path / "02_broken.ipynb")
    assert cli.main(["claims", str(tmp_path), "--only", "00"]) == 0
    said = capsys.readouterr()
    assert "The book: 1 of 1 claims pass" in said.out and re.search(r"00_good: 1 of 1 claims pass in \d+ s", said.err)
    assert cli.main(["claims", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "The book: 1 of 2 claims pass" in said.out
    assert "02_broken.ipynb stopped: ZeroDivisionError: division by zero" in said.err


def test_stored_claims_are_read_without_running(tmp_path, capsys):
    row = dict(sentence="a | b", source="s", measured="1", criterion="c", reason="", verdict="PASS")
    book = notebook("raise SystemExit")
    book.cells[0].outputs = [nbformat.v4.new_output("display_data", {cli.claims.MIME: {"claims": [row]}})]
    nbformat.write(book, tmp_path / "00_good.ipynb")
    assert cli.main(["claims", str(tmp_path), "--stored", "--markdown"]) == 0
    assert "| 00_good | a \\| b | s | 1 | c | PASS |" in capsys.readouterr().out
    nbformat.write(notebook("1"), tmp_path / "01_silent.ipynb")
    assert cli.main(["claims", str(tmp_path), "--stored"]) == 1
    assert "01_silent states no claim" in capsys.readouterr().err


@pytest.fixture
def lab(source, tmp_path):
    """Starts `ntkbook lab` on the small book, with the reader's own settings; a `$` and a space stand in the path."""
    folder, config = tmp_path / "my $HOME book", tmp_path / "c"
    config.mkdir()
    (config / "jupyter_server_config.py").write_text("c.IdentityProvider.token = ''\n")
    code = f"import pathlib; from ntkbook import cli; cli.book = lambda: pathlib.Path({str(source)!r})\n"
    code += f"raise SystemExit(cli.main(['lab', {str(folder)!r}, '--no-browser', '--port', '{free_port()}']))"
    started = []

    def start(**environment):
        environment = {"JUPYTER_CONFIG_DIR": str(config), "JUPYTER_RUNTIME_DIR": str(tmp_path / "r"), **environment}
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        words = [sys.executable, "-c", code]
        started.append(subprocess.Popen(words, env=os.environ | environment, cwd=tmp_path, **pipes))
        return started[-1]

    yield start
    for server in started:
        stop(server)
        server.communicate()


@pytest.mark.slow
def test_lab_serves_the_book_on_this_machine_to_those_with_the_token(lab, tmp_path):
    server = lab()
    line = server.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/lab/tree/00_start_here\.ipynb\?token=(\w+)", line)
    assert found, line + server.stderr.read()
    port, token = found.groups()
    address = f"http://127.0.0.1:{port}/api/contents/01_next.ipynb?content=0"
    assert status(f"{address}&token={token}") == 200
    assert status(address) == 403
    with pytest.raises(OSError), socket.create_connection((outer_address(), int(port)), timeout=1):
        pass
    assert token not in Path(f"/proc/{server.pid}/cmdline").read_text()  # which all users may read
    stop(server)
    assert server.stderr.read() == "" and "Jupyter Server" in (tmp_path / "my $HOME book" / cli.LOG).read_text()


@pytest.mark.slow
def test_a_lab_that_cannot_start_says_why_in_one_sentence(lab, tmp_path):
    (tmp_path / "file").touch()
    server = lab(JUPYTER_RUNTIME_DIR=str(tmp_path / "file" / "below"))
    out, err = server.communicate(timeout=120)
    assert server.returncode == 1 and not out
    assert len(err.splitlines()) == 1 and "JupyterLab could not start" in err and "JUPYTER_RUNTIME_DIR" in err


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status(address):
    """The answer of a server that may still be starting: it prints its address before it listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def outer_address():
    """Another address of this machine: a server bound to 127.0.0.1 does not listen there."""
    return "127.0.0.2"


def stop(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        time.sleep(0.1)


@pytest.mark.slow
def test_programs_are_kept_between_sessions_and_shared(tmp_path, monkeypatch):
    """Two processes at once fill one cache, a third reads it, and a broken entry is computed again."""
    monkeypatch.setenv("NTKBOOK_DATA", str(tmp_path / "cache"))
    assert cli.compilation_cache({"JAX_COMPILATION_CACHE_DIR": "/mine"}) == {}
    assert cli.compilation_cache({"JAX_ENABLE_COMPILATION_CACHE": "0"}) == {}
    settings = cli.compilation_cache({})
    folder = Path(settings["JAX_COMPILATION_CACHE_DIR"])
    assert folder.is_dir() and folder.is_relative_to(tmp_path)
    code = "import jax, jax.numpy as jnp; print(float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((2, 2)))[0, 0]))"
    environment = {**os.environ, **settings, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"}
    start = lambda: subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = [process.communicate(timeout=120) for process in (start(), start())]
    kept = sorted(path for path in folder.iterdir() if path.name.startswith("jit_"))
    assert kept
    said.append(start().communicate(timeout=120))
    assert len({out for out, _ in said}) == 1 and not any(err for _, err in said)
    assert sorted(path for path in folder.iterdir() if path.name.startswith("jit_")) == kept  # nothing compiled again
    for path in kept:
        path.write_bytes(b"broken")
    assert start().communicate(timeout=120)[0] == said[0][0]
    os.utime(kept[0], (0, 0))
    cli.compilation_cache({})
    assert not kept[0].exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NTKBOOK_DATA", str(tmp_path / "file"))
    assert cli.compilation_cache({}) == {}
