"""Builds the site from what is committed: `make site`; `make serve` shows it on this machine.

    python tools/site.py            stage, bake the panels, run Sphinx
    python tools/site.py --serve    serve docs/_build/html on 127.0.0.1

No notebook is executed: pages show the stored outputs, and a panel's widget becomes a picture whose sliders still move
(baked once for each panel; what was baked is kept as long as the code that draws it is the same).
"""

import ast
import functools
import hashlib
import http.server
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import site_pages
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "docs" / "_build"
SOURCE, HTML, BAKED = BUILD / "source", BUILD / "html", BUILD / "panels"
WIDGET = "application/vnd.jupyter.widget-view+json"
LARGEST = 1_500_000  # characters of one panel


def main(words):
    if "--serve" in words:
        return serve()
    start = time.perf_counter()
    stage()
    fragments = {name: baked(name) for name in tqdm(sorted(shown_panels()), desc="panels", disable=None)}
    write_book(fragments)
    for folder in (SOURCE, HTML):
        folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(SOURCE), str(HTML)]
    if subprocess.run([*command, "-d", str(BUILD / "doctrees")]).returncode:
        print("The site was not built: see the lines above.", file=sys.stderr)
        return 1
    copy_notebooks()
    size = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file())
    pages = list(HTML.rglob("*.html"))
    largest = max(pages, key=lambda path: path.stat().st_size)
    print(
        f"{len(pages)} pages and panels in {time.perf_counter() - start:.0f} s, {size / 1e6:.1f} MB; the largest is "
        f"{largest.relative_to(HTML)} with {largest.stat().st_size / 1e6:.2f} MB. `make serve` shows it."
    )
    return 0


def stage():
    """A fresh copy of docs/ with the pages that are made of something else."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE, ignore=shutil.ignore_patterns("_build"))
    for name, text in site_pages.made(ROOT).items():
        path = SOURCE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    site_pages.draw_benchmarks(ROOT, SOURCE / "_static")


def notebooks():
    return sorted(
        path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )


def write_book(fragments):
    """The notebooks as pages, and each panel in a file of its own."""
    panels = SOURCE / "_static" / "panels"
    panels.mkdir(parents=True, exist_ok=True)
    for name, fragment in fragments.items():
        (panels / f"{name}.html").write_text(fragment, encoding="utf-8")
    for path in notebooks():
        notebook = json.loads(path.read_text())
        target = SOURCE / "book" / path.relative_to(ROOT / "notebooks")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(page(notebook, path, fragments)))


def page(notebook, path, fragments):
    """A notebook as the site shows it: panels baked, plumbing folded, doors under the title."""
    up = "../" * len(path.relative_to(ROOT / "notebooks").parts)
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        name, names = panel_of(source, names)
        if cell.get("metadata", {}).get("jupyter", {}).get("source_hidden"):
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
        for output in cell["outputs"]:
            data = output.get("data", {})
            if WIDGET in data and name in fragments:
                output["data"] = {"text/html": placeholder(name, fragments[name], up)}
                output["metadata"] = {}
            data.pop(WIDGET, None)
    add_doors(notebook, path)
    return notebook


def copy_notebooks():
    """The notebooks themselves, to download."""
    for path in notebooks():
        target = HTML / "_static" / "notebooks" / path.relative_to(ROOT / "notebooks")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def add_doors(notebook, path):
    first = notebook["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n")
    first["source"] = f"{title}\n\n{site_pages.doors(path, ROOT)}\n{rest}"


def panel_of(source, names):
    """(the panel that a cell shows, variables -> panels): `panel = PANELS["name"]()`, and later `panel` alone."""
    names = names | dict(re.findall(r'^(\w+) = PANELS\["(\w+)"\]\(\)', source, re.M))
    last = source.strip().splitlines()[-1] if source.strip() else ""
    alone = re.fullmatch(r'PANELS\["(\w+)"\]\(\)', last)
    return (alone[1] if alone else names.get(last)), names


def shown_panels():
    found = set()
    for path in notebooks():
        names = {}
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                name, names = panel_of("".join(cell["source"]), names)
                found |= {name} - {None}
    return found


def placeholder(name, fragment, up):
    """What stands in the page: the picture and its reading, until the panel is near the window."""
    still = fragment.split('<script type="application/json">')[0] + "</div>"
    return f'<div class="ntkbook-panel" data-panel="{up}_static/panels/{name}.html">{still}</div>'


def baked(name):
    """The fragment of a panel, from the last build if nothing that it is made of has changed."""
    kept = BAKED / f"{name}-{digest(name)}.html"
    if not kept.exists():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax

        jax.config.update("jax_enable_x64", True)
        from ntkbook.panels import PANELS

        BAKED.mkdir(parents=True, exist_ok=True)
        for old in BAKED.glob(f"{name}-*.html"):
            old.unlink()
        kept.write_text(site_pages.bake(PANELS[name](), LARGEST), encoding="utf-8")
    return kept.read_text(encoding="utf-8")


@functools.cache
def digest(name):
    """Of this panel's file and of everything that it imports from the package."""
    panels = importlib.import_module("ntkbook.panels")
    waiting, seen = [Path(sys.modules[panels.PANELS[name].__module__].__file__ or "")], set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        waiting += imported(path)
    content = hashlib.sha256(str(LARGEST).encode())
    for path in sorted(seen):
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def imported(path):
    """The files of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for found in (base, *(base / alias.name for alias in node.names)):
                yield from (file for file in (found.with_suffix(".py"), found / "__init__.py") if file.exists())


def serve():
    if not (HTML / "index.html").exists():
        print("There is no site yet: make site.", file=sys.stderr)
        return 1
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
