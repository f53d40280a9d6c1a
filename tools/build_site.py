"""Builds the site from what is committed: `make site`; `make serve` shows it on this machine.

    python tools/build_site.py                stage, bake the panels, run Sphinx: docs/_build/html
    python tools/build_site.py --frames 6     the same with few positions of each slider, for a quick look and for tests
    python tools/build_site.py --to FOLDER    in another folder
    python tools/build_site.py --serve        serve docs/_build/html on 127.0.0.1

No notebook is executed: pages show the stored outputs, and a panel's widget becomes a picture whose sliders still move
(baked once for each panel, and kept as long as the code that draws it is the same).
"""

import argparse
import ast
import functools
import hashlib
import http.server
import importlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from html import escape
from importlib.metadata import version
from pathlib import Path

import site_pages
from tqdm.auto import tqdm

from ntkbook.export import WIDGET, described, panel_of, without_address

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "docs" / "_build"
LARGEST = 1_500_000  # characters of one panel
FRAMES = 105
DRAWN_WITH = ("jax", "jaxlib", "matplotlib", "numpy", "pillow", "scikit-learn")


def main(words):
    parser = argparse.ArgumentParser(description="Build the site, or serve it.")
    parser.add_argument("--to", type=Path, default=BUILD)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--port", type=int, default=0)
    chosen = parser.parse_args(words)
    if chosen.serve:
        return serve(chosen.to / "html", chosen.port)
    return build(chosen.to.resolve(), chosen.frames)


def build(folder, frames):
    start = time.perf_counter()
    source, html = folder / "source", folder / "html"
    fragments = bake_all(folder / "panels", frames)
    baked_after = time.perf_counter() - start
    stage(source)
    write_book(source, fragments)
    html.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(source), str(html)]
    if subprocess.run([*command, "-d", str(folder / "doctrees")]).returncode:
        print("The site was not built: see the lines above.", file=sys.stderr)
        return 1
    copy_notebooks(html)
    without_drawn_icons(html)
    size = sum(path.stat().st_size for path in html.rglob("*") if path.is_file())
    pages = [path for path in html.rglob("*.html") if path.parent.name != "panels"]
    largest = max(pages, key=lambda path: path.stat().st_size)
    print(
        f"{len(pages)} pages and {len(fragments)} panels in {time.perf_counter() - start:.0f} s (panels "
        f"{baked_after:.0f} s), {size / 1e6:.1f} MB; the largest page is {largest.relative_to(html)} with "
        f"{largest.stat().st_size / 1e6:.2f} MB. `make serve` shows it."
    )
    return 0


def stage(source):
    """A fresh copy of docs/ with the pages that are made of something else."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("_build"))
    for name, text in site_pages.made(ROOT).items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in source.glob("*.md"):  # doctest wants an empty line at the end of a session, a reader does not
        path.write_text(re.sub(r"(```python\n>>> (?:(?!```).)*?)\n\n```", r"\1\n```", path.read_text(), flags=re.S))
    site_pages.draw_benchmarks(ROOT, source / "_static")
    words = json.dumps(site_pages.glossary(ROOT), ensure_ascii=False)
    (source / "_static" / "glossary.json").write_text(words, encoding="utf-8")


# ---------------------------------------------------------------- the book


def notebooks():
    return sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def write_book(source, fragments):
    """The notebooks as pages, and each panel in a file of its own."""
    panels = source / "_static" / "panels"
    panels.mkdir(parents=True, exist_ok=True)
    for name, fragment in fragments.items():
        (panels / f"{name}.html").write_text(fragment, encoding="utf-8")
    start, panel = source / "index.md", lambda found: placeholder(found[1], fragments[found[1]], "")
    start.write_text(re.sub(r"<!-- panel: (\w+) -->", panel, start.read_text()))
    for path in notebooks():
        target = source / "book" / path.relative_to(ROOT / "notebooks")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(page(json.loads(path.read_text()), path, fragments)))


def page(notebook, path, fragments):
    """A notebook as the site shows it: panels baked, plumbing folded, doors under the title."""
    up = "../" * len(path.relative_to(ROOT / "notebooks").parts)
    names, seen = {}, set()
    for where, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        cell["metadata"]["mystnb"] = {"image": {"alt": described(notebook["cells"], where)}}
        name, names = panel_of("".join(cell["source"]), names)
        if cell.get("metadata", {}).get("jupyter", {}).get("source_hidden"):
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
        for output in cell["outputs"]:
            data = output.get("data", {})
            if WIDGET in data and name in fragments:
                own = five_points() if name == "sine_ensemble" and name not in seen else ""
                output["data"] = {"text/html": placeholder(name, fragments[name], up) + own}
                output["metadata"] = {}
                seen.add(name)
            data.pop(WIDGET, None)
    for cell in notebook["cells"]:  # the doors say it
        if cell["cell_type"] == "markdown":
            cell["source"] = without_address("".join(cell["source"]))
    first = notebook["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n")
    first["source"] = f"{title}\n\n{site_pages.doors(path, ROOT)}\n{rest}"
    return notebook


def five_points():
    """The points of chapter 00 once more, to be dragged: what follows them is computed by the page itself."""
    from ntkbook.panels import start_here as panel

    start = {
        "x": panel.X_TRAIN.tolist(),
        "y": panel.Y_TRAIN.tolist(),
        "times": (panel.LR * panel.STEPS).tolist(),
        "scales": [*panel.SCALES[0].values(), *panel.SCALES[1].values()],
        "range_x": panel.RANGE_X,
        "range_y": panel.RANGE_Y,
    }
    words = (
        "<b>Drag the points.</b> This picture needs no kernel: the page computes the law of infinitely wide networks "
        "(mean, and two standard deviations on either side), five equations with five unknowns at each move. By "
        "keyboard: choose a point by Tab, move it by the arrows."
    )
    return f'<div class="ntkbook-five-points" data-start="{escape(json.dumps(start))}"><div>{words}</div></div>'


def copy_notebooks(html):
    """The notebooks themselves, to download or to open in Colab, with a first cell that installs only there."""
    first = {"cell_type": "code", "execution_count": None, "id": "install", "metadata": {}, "outputs": []}
    first["source"] = site_pages.installing(ROOT)
    for path in notebooks():
        target = html / "_static" / "notebooks" / path.relative_to(ROOT / "notebooks")
        target.parent.mkdir(parents=True, exist_ok=True)
        notebook = json.loads(path.read_text())
        notebook["cells"].insert(0, first)
        target.write_text(json.dumps(notebook, ensure_ascii=False, indent=1))


def without_drawn_icons(html):
    """Drops a script of the theme, 1.6 MB for each reader, that draws icons which its font has already."""
    for path in html.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        lighter = re.sub(r"<script[^>]*/fontawesome\.js[^>]*></script>", "", text)
        if lighter != text:
            path.write_text(lighter, encoding="utf-8")
    (html / "_static" / "scripts" / "fontawesome.js").unlink(missing_ok=True)


# ---------------------------------------------------------------- panels


def shown_panels():
    """The panels that some page shows, by name."""
    found = set()
    for path in notebooks():
        names = {}
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                name, names = panel_of("".join(cell["source"]), names)
                found |= {name} - {None}
    return sorted(found)


def placeholder(name, fragment, up):
    """What stands in the page: the picture and its reading, until the panel is near the window."""
    still = fragment.split('<script type="application/json">')[0] + "</div>"
    return f'<div class="ntkbook-panel" data-panel="{up}_static/panels/{name}.html">{still}</div>'


def bake_all(folder, frames):
    """Name -> fragment, from the last build where nothing that a panel is made of has changed."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: folder / f"{name}-{digest(name, frames)}.html" for name in shown_panels()}
    missing = [name for name, path in kept.items() if not path.exists()]
    for old in set(folder.glob("*.html")) - set(kept.values()):
        old.unlink()
    if missing:
        os.environ["JAX_PLATFORMS"] = "cpu"
        jobs, spawn = min(len(missing), os.cpu_count() or 1, 4), multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
            baking = pool.map(bake, missing, [frames] * len(missing))
            for name, fragment in zip(missing, tqdm(baking, total=len(missing), desc="panels", disable=None)):
                kept[name].write_text(fragment, encoding="utf-8")
    return {name: path.read_text(encoding="utf-8") for name, path in kept.items()}


def bake(name, frames):
    """The fragment of a panel, with fewer frames if they would be too large."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from ntkbook.panels import PANELS

    panel = PANELS[name]()
    for fewer in (frames, frames * 2 // 3, frames // 3):
        try:
            return panel.bake(frames=max(4, fewer), budget=LARGEST).html
        except ValueError:
            continue
    raise ValueError(f"Expected a panel that fits in {LARGEST / 1e6:.1f} MB, got {name}.")


@functools.cache
def digest(name, frames):
    """Of this panel's file, of everything that it imports from the package, and of how and with what it is baked."""
    from ntkbook.panels import PANELS

    waiting, seen = [Path(importlib.import_module(PANELS[name].__module__).__file__ or "")], set()
    while waiting:
        path = waiting.pop()
        if path not in seen and path.exists():
            seen.add(path)
            waiting += imported(path)
    content = hashlib.sha256(f"{LARGEST} {frames} {[version(name) for name in DRAWN_WITH]}".encode())
    for path in sorted(seen):
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


@functools.cache
def imported(path):
    """The files of the package that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for place in (base, *(base / alias.name for alias in node.names)):
                found += [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()]
    return found


# ---------------------------------------------------------------- looking at it


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing about it."""

    def log_message(self, format, *args):
        pass


def serve(html, port):
    if not (html / "index.html").exists():
        print("There is no site yet: make site.", file=sys.stderr)
        return 1
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=html)) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
