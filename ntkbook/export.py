"""A chapter as one file that needs nothing else: a page whose sliders move without a kernel, or a PDF of it.

What is shown is what the notebook holds; only panels are computed, for their frames. Formulas become MathML, which
browsers draw by themselves.
"""

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")

_FORMULA = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.S)
_ADDRESS = re.compile(r"\s+On\s+Binder\s+the\s+address\s+is\s.*?hosts\s+the\s+copy\.", re.S)
_MARK = "formulanumber{}ends"  # a word that Markdown leaves as it is

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1.05rem/1.55 Georgia, serif }}
h1, h2, h3, .ntkbook-baked, table, summary {{ font-family: system-ui, sans-serif }}
pre, code {{ font: .85rem/1.4 ui-monospace, monospace }}
pre, .table {{ overflow-x: auto }}
:not(pre) > code {{ overflow-wrap: anywhere }}
math {{ font-size: 1.1em }}
.source {{ background: #8881; padding: .1rem .8rem; border-left: 3px solid #8885; margin: .8rem 0 }}
.source pre {{ margin: .4rem 0 }}
img {{ max-width: 100%; height: auto }}
table {{ border-collapse: collapse; font-size: .85rem }}
td, th {{ padding: .15rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8884 }}
.formula {{ display: block; overflow-x: auto; overflow-y: hidden; margin: .8rem 0 }}
blockquote {{ margin: 1rem 0; padding-left: 1rem; border-left: 3px solid #0072b2 }}
a {{ color: #0072b2 }}
@media (prefers-color-scheme: dark) {{ a {{ color: #56b4e9 }} }}
@media (max-width: 40rem) {{ p, ul, ol, blockquote {{ overflow-x: auto; overflow-y: hidden }} }}
@media print {{ body {{ max-width: none; margin: 0; font-size: 10pt }}
  .ntkbook-baked, figure {{ break-inside: avoid }} .ntkbook-picture {{ min-width: 0 !important }}
  .ntkbook-baked :is(label, button) {{ display: none !important }} pre, code {{ font-size: 8pt }}
  pre {{ white-space: pre-wrap }} }}
{style}
</style></head>
<body>
{body}
</body></html>
"""


def to_html(path: Path, bake: Callable[[str], str]) -> str:
    """The page of a notebook; `bake` gives the fragment of a panel by its name.

    Raises:
        ImportError: where nbconvert or latex2mathml is missing.
        ValueError, KeyError: for a file that is no notebook.
    """
    from pygments.formatters import HtmlFormatter

    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names: dict[str, str] = {}
    parts = []
    for where, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(prose(source))
        elif cell["cell_type"] == "code":
            name, names = panel_of(source, names)
            is_folded = bool(cell["metadata"].get("jupyter", {}).get("source_hidden"))
            parts.append(_source(source, is_folded))
            parts += [_output(output, name, bake, described(cells, where)) for output in cell["outputs"]]
    light, dark = (HtmlFormatter(style=style).get_style_defs(".source") for style in ("default", "github-dark"))
    style = f"{_without_ground(light)}\n@media (prefers-color-scheme: dark) {{ {_without_ground(dark)} }}"
    return _PAGE.format(title=html.escape(path.stem.replace("_", " ")), style=style, body="\n".join(parts))


def to_pdf(page: Path, file: Path) -> None:
    """Prints a page by a browser without a window.

    Raises:
        FileNotFoundError: where no Chromium is found.
        RuntimeError: where it leaves no file.
    """
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={profile}"]
        command = [browser(), *flags, f"--print-to-pdf={file.resolve()}", page.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if not file.exists():
        raise RuntimeError(f"Expected a PDF from the browser, got none: {done.stderr.strip()[-300:]}")


def browser() -> str:
    """The Chromium of this machine: the one that CHROMIUM names, or the first on the path."""
    named = os.environ.get("CHROMIUM")
    found = [named] if named and Path(named).exists() else [shutil.which(name) for name in BROWSERS]
    for place in found:
        if place:
            return place
    raise FileNotFoundError("Expected a Chromium or Chrome, found none. Install one, or let CHROMIUM name it")


def prose(text: str) -> str:
    """Markdown with formulas as HTML; links to chapters lead to their pages."""
    from latex2mathml.converter import convert
    from nbconvert.filters import markdown2html

    formulas: list[str] = []

    def keep(found: re.Match[str]) -> str:
        code, block, inline = found.groups()
        if code:
            return code
        made = convert((block or inline).replace(r"\|", r"\Vert "), display="block" if block else "inline")
        formulas.append(f'<span class="formula">{made}</span>' if block else made)
        return _MARK.format(len(formulas) - 1)

    made = markdown2html(_FORMULA.sub(keep, without_address(text)))
    made = re.sub(_MARK.format(r"(\d+)"), lambda found: formulas[int(found[1])], made)
    made = re.sub(r"<a class=\"anchor-link\".*?</a>", "", made)
    made = made.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    return re.sub(r'(href="[^":]+)\.ipynb', r"\1.html", made)


def without_address(text: str) -> str:
    """Markdown without the sentence on Binder's address: a page has, or needs, doors of its own."""
    return _ADDRESS.sub("", text)


def panel_of(source: str, names: dict[str, str]) -> tuple[str | None, dict[str, str]]:
    """(the panel that a cell shows, variables -> panels): `panel = PANELS["name"]()`, and later `panel` alone."""
    names = names | dict(re.findall(r'^(\w+) = PANELS\["(\w+)"\]\(\)', source, re.M))
    last = source.strip().splitlines()[-1] if source.strip() else ""
    alone = re.fullmatch(r'PANELS\["(\w+)"\]\(\)', last)
    return (alone[1] if alone else names.get(last)), names


def described(cells: Sequence[dict[str, Any]], where: int) -> str:
    """Words for the pictures of a cell: the caption under it, or else what its axes say; and the section."""
    before = [
        line
        for cell in cells[:where]
        if cell["cell_type"] == "markdown"
        for line in "".join(cell["source"]).splitlines()
    ]
    section = next((line.lstrip("# ") for line in reversed(before) if line.startswith("#")), "")
    follows = cells[where + 1 : where + 2]
    after = "".join(follows[0]["source"]) if follows and follows[0]["cell_type"] == "markdown" else ""
    caption = re.match(r"\*([^*].*?)\*(?!\*)", after, re.S)
    axes = re.findall(r'plots\.frame\(\s*\w+,\s*"([^"]*)",\s*"([^"]+)"', "".join(cells[where]["source"]))
    words = caption[1] if caption else "; ".join(f"{y} against {x}" if x else y for x, y in dict.fromkeys(axes))
    sentence = re.sub(r"[\s$`\\*]+", " ", f"Figure in “{section}”: {words}".rstrip(": ") + ".")
    return re.sub(r" (?=[.,;:])", "", sentence).replace("..", ".")


def _source(source: str, is_folded: bool) -> str:
    from nbconvert.filters import Highlight2HTML

    code = f'<div class="source">{Highlight2HTML(pygments_lexer="ipython3")(source)}</div>'
    return f"<details><summary>Code</summary>{code}</details>" if is_folded else code


def _output(output: dict[str, Any], panel: str | None, bake: Callable[[str], str], words: str) -> str:
    from nbconvert.filters import ansi2html

    data = output.get("data", {})
    whole = {kind: "".join(content) for kind, content in data.items() if isinstance(content, (str, list))}
    if WIDGET in data and panel:
        return bake(panel)
    if "text/html" in whole:
        return f'<div class="table">{whole["text/html"]}</div>'
    for kind in ("image/svg+xml", "image/png", "image/jpeg"):
        if kind in whole:
            encoded = whole[kind].replace("\n", "")
            width = output.get("metadata", {}).get(kind, {}).get("width")
            size = f' width="{width}"' if width else ""
            address = f"data:{kind};base64,{encoded}"
            return f'<figure><img{size} alt="{html.escape(words)}" src="{address}"></figure>'
    text = whole.get("text/plain") or "".join(output.get("text", output.get("traceback", "")))
    return f"<pre>{ansi2html(text)}</pre>" if text else ""


def _without_ground(style: str) -> str:
    """Colours of the code alone, inside a rule for dark themes too: the ground is the page's."""
    rules = re.findall(r"^\.source \.\w+ \{[^}]*\}", style, re.M)
    return "\n".join(rules)
