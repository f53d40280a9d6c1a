"""The command `ntkbook`: `lab` opens the book, `claims` runs it, `export` makes pages, `course` assignments.

`gram` and `solve` are in commands.py.

The notebooks travel inside the wheel. A reader's copy is hers: a file that she changed is never written over.
"""

import argparse
import asyncio
import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import claims
from . import commands as scale
from .version import __version__

MANIFEST = ".ntkbook.json"
LOG = ".ntkbook.log"
FIRST = "00_start_here.ipynb"


class Failure(Exception):
    """A sentence for the person at the terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Could not go on: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def book() -> Path:
    """The folder of the notebooks: inside the installed package, or beside it in a checkout.

    Raises:
        Failure: where neither holds a notebook.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if any(folder.glob("*.ipynb")):
            return folder
    raise Failure("Expected the notebooks inside the package, found none. Install ntkbook again.")


def chapters(folder: Path, words: Sequence[str] = ()) -> list[Path]:
    """The chapters of a folder in order; with words, those whose name contains one of them."""
    found = [path for path in sorted(folder.glob("*.ipynb")) if not words or any(word in path.name for word in words)]
    if not found:
        chosen = f" with {' or '.join(words)} in their names" if words else ""
        raise Failure(f"Expected notebooks{chosen} in {folder}, found none.")
    return found


def copy_book(source: Path, folder: Path) -> list[str]:
    """Copies the book; returns a line for each file that is kept because the reader changed it.

    A file is updated only if it still is what an earlier copy wrote there.
    """
    if folder.exists() and not folder.is_dir():
        raise Failure(f"Expected a folder, got the file {folder}. Name another: ntkbook lab my-folder.")
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() == source.resolve():
        return []
    manifest = _read_manifest(folder)
    kept = []
    for path in sorted(source.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        name = path.relative_to(source).as_posix()
        target = folder / name
        new = path.read_bytes()
        if target.exists() and _digest(target.read_bytes()) not in (manifest.get(name), _digest(new)):
            kept.append(f"Kept your changed {name}; move it away to get the book's own.")
            continue
        if not target.exists() or target.read_bytes() != new:
            _write(target, new)
        manifest[name] = _digest(new)
    _write(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return kept


def execute(path: Path) -> dict[str, Any]:
    """Runs a notebook in a fresh kernel and returns it, with its outputs, as parsed JSON.

    Raises:
        Failure: for the first cell that raises, with its error.
    """
    try:
        import nbformat
        from nbclient import NotebookClient, exceptions
    except ImportError as error:
        raise Failure(_missing(error)) from error
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises what the content makes it stumble over
        raise _no_notebook(path) from error
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
        record_timing=False,
    )
    try:
        _run(client)
    except exceptions.CellExecutionError as error:
        raise Failure(f"{path.name} stopped: {error.ename}: {error.evalue}") from error
    except (exceptions.CellTimeoutError, exceptions.DeadKernelError) as error:
        raise Failure(f"{path.name} stopped: {str(error).strip().splitlines()[0]}") from error
    return notebook


def _run(client: Any) -> None:
    """Executes a notebook in a thread, where Ctrl-C does not reach nbclient; the kernel ends with us."""
    with ThreadPoolExecutor(1) as worker:
        running = worker.submit(lambda: asyncio.run(client.async_execute()))
        try:
            running.result()
        except KeyboardInterrupt:
            while not running.done():
                kernel = client.km and client.km.provisioner and client.km.provisioner.process
                if kernel:
                    kernel.kill()
                time.sleep(0.05)
            raise


def _lab(options: argparse.Namespace) -> int:
    if not options.folder.strip():
        raise Failure("Expected the name of a folder, got an empty one. As in: ntkbook lab my-folder.")
    if options.port is not None and not 1 <= options.port <= 65535:
        raise Failure(f"Expected a port from 1 to 65535, got {options.port}.")
    folder = Path(options.folder).expanduser()
    for line in copy_book(book(), folder):
        print(line)
    if options.copy_only:
        print(f"The book is in {folder.resolve()}.")
        return 0
    try:
        import jupyterlab  # noqa: F401
    except ImportError as error:
        raise Failure(_missing(error)) from error
    command = [sys.executable, str(Path(__file__).with_name("lab_server.py")), str(folder.resolve() / LOG)]
    command.append(f"--ServerApp.root_dir={folder.resolve()}")
    if (folder / FIRST).exists():
        command.append(f"--LabApp.default_url=/lab/tree/{FIRST}")
    if options.no_browser:
        command.append("--no-browser")
    if options.port:
        command.append(f"--ServerApp.port={options.port}")
    sys.stdout.flush()
    environment = os.environ | compilation_cache(os.environ)
    if os.name == "posix":
        os.execve(sys.executable, command, environment)  # this process becomes the server: Ctrl-C and signals reach it
    return subprocess.call(command, env=environment)


def compilation_cache(environment: Mapping[str, str]) -> dict[str, str]:
    """What to set so that kernels keep compiled programs from one session to the next; nothing where a reader chose.

    In `ntkbook/programs` of the user's cache, one folder for each kind of processor: a program fits no other.
    JAX writes each program once and reads broken ones as missing, so kernels may share it.
    """
    if {"JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"} & set(environment):
        return {}
    from .openml import cache_folder

    folder = cache_folder() / "programs" / hashlib.sha256(_processor().encode()).hexdigest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}
    fresh = time.time() - 90 * 24 * 3600
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another lab may be at it too
            if path.stat().st_mtime < fresh:
                path.unlink()
    return {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05"}


def _processor() -> str:
    """The processor in words, with what it can do where that is told."""
    words = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        words += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return words


def _claims(options: argparse.Namespace) -> int:
    folder = Path(options.folder) if options.folder else book()
    if not folder.is_dir():
        raise Failure(f"Expected a folder with notebooks, got {folder}.")
    rows, troubles = [], []
    for path in chapters(folder, options.only):
        start = time.perf_counter()
        try:
            found = _stored(path) if options.stored else claims.claims_in(execute(path))
        except Failure as error:
            troubles.append(str(error))
            print(f"{path.stem}: {error}", file=sys.stderr, flush=True)
            continue
        rows += [{"chapter": path.stem, **row} for row in found]
        passed = sum(row["verdict"] == "PASS" for row in found)
        seconds = "" if options.stored else f" in {time.perf_counter() - start:.0f} s"
        print(f"{path.stem}: {passed} of {len(found)} claims pass{seconds}", file=sys.stderr, flush=True)
        if not found:
            troubles.append(f"{path.stem} states no claim")
    if rows:
        print(claims.as_markdown(rows) if options.markdown else _by_chapter(rows))
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles or any(row["verdict"] != "PASS" for row in rows) else 0


def _export(options: argparse.Namespace) -> int:
    folder = Path(options.folder).expanduser()
    if not 4 <= options.frames <= 400:
        raise Failure(f"Expected from 4 to 400 frames for each panel, got {options.frames}.")
    found = chapters(book(), options.chapters)
    try:
        from . import export

        if options.to == "pdf":
            export.browser()  # asked for before minutes of work, not after
        folder.mkdir(parents=True, exist_ok=True)
        for path in found:
            print(f"{path.stem} ...", end="", flush=True)
            page = export.to_html(path, functools.cache(lambda name: _baked(name, options.frames)))
            file = folder / f"{path.stem}.{options.to}"
            if options.to == "html":
                _write(file, page.encode())
            else:
                with tempfile.TemporaryDirectory() as place:
                    (whole := Path(place) / f"{path.stem}.html").write_text(page, encoding="utf-8")
                    export.to_pdf(whole, file)
            print(f" {file}, {file.stat().st_size / 1e6:.1f} MB", flush=True)
    except ImportError as error:
        raise Failure(_missing(error, "export")) from error
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        raise Failure(str(error)) from error
    return 0


def _course(options: argparse.Namespace) -> int:
    from . import course

    if not re.fullmatch(r"[\w-]+", options.term):
        raise Failure(f"Expected a term of letters, digits, - and _, as in 2027-spring, got {options.term!r}.")
    folder = Path(options.folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Failure(f"Expected a new or an empty folder, got {folder}. Nothing of a running course is written over.")
    for line in course.write(folder, chapters(book(), options.chapters), options.term):
        print(line)
    return 0


def _baked(name: str, frames: int) -> str:
    """A panel of the book as HTML, computed as the chapters compute, in double precision."""
    import jax

    from .panels import PANELS

    jax.config.update("jax_enable_x64", True)
    return PANELS[name]().bake(frames=frames).html


def _stored(path: Path) -> list[dict[str, str]]:
    """The claims that a notebook holds as it was saved."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        rows = claims.claims_in(notebook)
        complete = isinstance(notebook["cells"], list) and all(row.keys() >= {"sentence", "verdict"} for row in rows)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_notebook(path) from error
    if not complete:
        raise _no_notebook(path)
    return rows


def _no_notebook(path: Path) -> Failure:
    return Failure(f"Expected a notebook, got something else in {path.name}. Move it away, or name chapters by --only.")


def _by_chapter(rows: Sequence[dict[str, str]]) -> str:
    blocks = []
    for chapter in dict.fromkeys(row["chapter"] for row in rows):
        blocks += [chapter, claims.as_text([row for row in rows if row["chapter"] == chapter]), ""]
    return "\n".join([*blocks, f"The book: {claims.summary(rows)}"])


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}  # a lost manifest only means that nothing is updated over what is there
    return manifest if isinstance(manifest, dict) else {}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # whole or not at all: an interrupted copy must not look like a reader's change
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _missing(error: ImportError, extra: str = "notebook") -> str:
    needed = {"notebook": "JupyterLab", "export": "what makes pages"}[extra]
    return f'Expected {needed} beside ntkbook, but {error.name} is missing. Run: pip install "ntkbook[{extra}]".'


def _in_a_sentence(run: Any) -> Any:
    """A command whose checks of values speak to the person at the terminal."""

    def told(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except (ValueError, TypeError, ImportError) as error:
            raise Failure(str(error)) from error

    return told


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ntkbook", description="An interactive book on the Neural Tangent Kernel.")
    parser.add_argument("--version", action="version", version=f"ntkbook {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    lab = commands.add_parser("lab", help="copy the book to a folder and open it in JupyterLab")
    lab.add_argument("folder", nargs="?", default="ntk-book", help="where the book goes (default: %(default)s)")
    lab.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    lab.add_argument("--port", type=int, help="port on 127.0.0.1 (default: 8888, or a free one)")
    lab.add_argument("--copy-only", action="store_true", help="copy the book and stop")
    lab.set_defaults(run=_lab)
    judge = commands.add_parser("claims", help="run the book and print its claims with their verdicts")
    judge.add_argument("folder", nargs="?", help="a folder of notebooks (default: the book itself)")
    judge.add_argument("--only", nargs="+", default=[], metavar="WORD", help="chapters with a word in their name")
    judge.add_argument("--stored", action="store_true", help="read the saved outputs instead of running")
    judge.add_argument("--markdown", action="store_true", help="print one Markdown table")
    judge.set_defaults(run=_claims)
    pages = commands.add_parser("export", help="make one file of each chapter: a page whose sliders move, or a PDF")
    pages.add_argument("chapters", nargs="*", metavar="CHAPTER", help="as in 03 (default: all)")
    pages.add_argument("--to", choices=("html", "pdf"), default="html", help="kind of file (default: %(default)s)")
    pages.add_argument("--folder", default=".", help="where the files go (default: here)")
    pages.add_argument("--frames", type=int, default=60, help="pictures of each panel (default: %(default)s)")
    pages.set_defaults(run=_export)
    course = commands.add_parser("course", help="make assignments for nbgrader, recall cards and figures")
    course.add_argument("folder", help="a new folder for all of it")
    course.add_argument("chapters", nargs="*", metavar="CHAPTER", help="as in 03 (default: all)")
    course.add_argument("--term", default="course", help="a word; each draws other numbers (default: %(default)s)")
    course.set_defaults(run=_course)
    scale.add_parsers(commands, _in_a_sentence)
    return parser


if __name__ == "__main__":
    sys.exit(main())
