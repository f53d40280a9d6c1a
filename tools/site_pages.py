"""Pages of the site that are made of something else: the book, the library, claims, benchmarks, wrong answers."""

import ast
import html
import importlib
import json
import re
import sys
from itertools import groupby
from pathlib import Path
from textwrap import indent

from ntkbook import claims
from ntkbook.exercises.checking import Exercise

sys.path.insert(0, str(Path(__file__).resolve().parent))
from readme import CHAPTERS

# pages of the API: title, and the folders or files of the package that it holds
API = {
    "networks": ("Networks and their kernels", "networks"),
    "finite": ("Finite width", "finite"),
    "dynamics": ("Training in function space", "dynamics"),
    "scale": ("Past one machine's memory", "scale"),
}
DOORS_OF_THE_REST = {
    "data": "digits circle sine mnist cifar10",
    "claims": "Claim table between below above equal near",
    "panel": "Panel slider whole choice toggle powers_of_two Predict Mission link",
    "plots": "columns frame line points band",
    "torch_models": "from_torch",
    "kernel_report": "report",
}


# what a reader may want to know, and the chapter that answers
ANSWERS = {
    "00": "what this is about, in ten minutes",
    "01": "what a training step on one example does to the others",
    "02": "why random wide networks are Gaussian processes",
    "03": "where the tangent kernel comes from, and why it stays",
    "04": "in what sense a wide network is a linear model",
    "05": "how long training takes, which rate is stable, what momentum does",
    "06": "what an ensemble predicts, with which uncertainty",
    "07": "what is learnt first, and when to stop",
    "08": "what changes with cross-entropy, batches, momentum",
    "09": "which parameterization is mine, and which rates transfer between widths",
    "10": "how deep a network can be, and how to choose the scales of weights and biases",
    "11": "why low frequencies come first, and what Fourier features change",
    "12": "where the theory ends: when features are learnt",
    "13": "how much data is enough, and why the error can peak",
    "14": "why a physics-informed network trains unevenly",
    "15": "what convolution, pooling and attention do to the kernel",
    "16": "how to use the kernels with other libraries, and with a model of mine",
}


def made(root):
    """Path below docs/ -> text."""
    pages = {"claims.md": claims_page(root), "benchmarks.md": benchmarks_page(root)}
    pages |= {"changelog.md": (root / "CHANGELOG.md").read_text(), "contributing.md": contributing(root)}
    pages |= {"index.md": start_page(root), "book/index.md": book_page(root)}
    pages |= {"book/solutions/index.md": solutions_page(root), "teaching.md": teaching_page(root)}
    return pages | {f"api/{name}.md": text for name, text in api_pages(root).items()}


# ---------------------------------------------------------------- the book


def chapters(root):
    return sorted((root / "notebooks").glob("[0-9]*.ipynb"))


def title_of(path):
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    return first.splitlines()[0].lstrip("# ")


def start_page(root):
    """The start page, with the table of questions."""
    rows = [(ANSWERS.get(path.stem[:2], title_of(path)), path) for path in chapters(root)]
    lines = [f"| {answer} | [{title_of(path)}](book/{path.stem}) |" for answer, path in rows]
    table = "\n".join(["| I want to know | chapter |", "|---|---|", *lines])
    return (root / "docs" / "index.md").read_text().replace("<!-- which chapter -->", table)


def solutions_page(root):
    """Solutions, apart from the chapters."""
    names = [path.stem for path in sorted((root / "notebooks" / "solutions").glob("*.ipynb"))]
    lines = "\n".join(names)
    return f"# Solutions\n\nOf the exercises, each accepted by its check.\n\n```{{toctree}}\n{lines}\n```\n"


def book_page(root):
    lines = ["# The book", "", "| chapter | theorem | what the slider shows | claims |", "|---|---|---|---|"]
    for path in chapters(root):
        theorem, slider = CHAPTERS[path.stem]
        rows = claims.claims_in(json.loads(path.read_text()))
        lines.append(f"| [{title_of(path)}]({path.stem}) | {theorem} | {slider} | {claims.summary(rows)} |")
    names = "\n".join(path.stem for path in chapters(root))
    return "\n".join(lines) + f"\n\n```{{toctree}}\n:hidden:\n{names}\n```\n"


def teaching_page(root):
    """The page for teachers, with the wrong answers that the checks know by name."""
    text = (root / "docs" / "teaching.md").read_text()
    begin, end = "<!-- mistakes -->", "<!-- end of mistakes -->"
    before, after = text.split(begin)[0], text.split(end)[1]
    before = before.replace("<!-- order -->", "\n".join(order(root)))
    return before + "\n".join(mistakes(root)) + after


def order(root):
    """Lines of a table: chapter, its minutes, those of its sections, exercises, what it needs."""
    yield from ("| chapter | minutes | of them | exercises | needs |", "|---|---|---|---|---|")
    for path in chapters(root):
        cells = json.loads(path.read_text())["cells"]
        goal = " ".join("".join(cells[0]["source"]).split())
        stated, needs = re.search(r"About (\d+) minutes", goal), re.search(r"You need:? ([^.(*;]*)", goal)
        if stated is None or needs is None:
            raise ValueError(f"Expected 'About N minutes' and 'You need' in the first cell of {path.name}, got {goal}.")
        sections = minutes(cells, int(stated[1]))
        exercises = sum("exercise" in cell["metadata"].get("tags", []) for cell in cells)
        words = " · ".join(f"{title.replace('|', '')} ({share})" for title, share in sections)
        yield f"| [{title_of(path)}](book/{path.stem}) | {stated[1]} | {words} | {exercises} | {needs[1].strip()} |"


def minutes(cells, total):
    """(title, whole minutes) of each section of a chapter but exercises and claims, together about `total`."""
    weights = {}
    for cell in cells[1:]:
        text, title = "".join(cell["source"]), next(reversed(weights), "")
        if cell["cell_type"] == "markdown":
            for line in text.splitlines():
                if found := re.match(r"## (?:\d+\. )?(.*)", line):
                    title = found[1]
                weights[title] = weights.get(title, 0.0) + len(line.split()) / 130
        else:
            is_alive = any("widget" in kind for output in cell["outputs"] for kind in output.get("data", ()))
            weights[title] = weights.get(title, 0.0) + (4 if is_alive else 1.5)
    kept = {title: weight for title, weight in weights.items() if title and title not in ("Exercises", "Claims")}
    scale = total / sum(kept.values())
    return [(title, max(1, round(weight * scale))) for title, weight in kept.items()]


def mistakes(root):
    """Lines of Markdown: chapter, exercise, and each named mistake's sentence."""
    for path in chapters(root):
        module = importlib.import_module(f"ntkbook.exercises.chapter_{path.stem[:2]}")
        yield f"\n### {title_of(path)}\n"
        for exercise in vars(module).values():
            if isinstance(exercise, Exercise):
                yield f"\n**{exercise.name.removeprefix('check_').replace('_', ' ')}**\n"
                yield from (f"- {mistake.message}" for mistake in exercise.mistakes)


def repository(root):
    """account/ntkbook, by the Binder badge of the README: `make owner` writes it."""
    found = re.search(r"mybinder\.org/v2/gh/([^/\s]+/ntkbook)/HEAD", (root / "README.md").read_text())
    if found is None:
        raise ValueError("Expected a Binder badge in README.md, got none.")
    return found[1]


def installing(root):
    """The first cell of a notebook that is taken from the site: it installs on Colab, and only there."""
    # without the extra for notebooks, and with the JAX that is there: Colab's own packages stay as they are
    place = f"ntkbook @ git+https://github.com/{repository(root)}"
    return (
        "# on Colab this installs the book; anywhere else it does nothing\nimport subprocess\nimport sys\n"
        "from importlib.metadata import version\n\n"
        'if "google.colab" in sys.modules:\n'
        '    there = [f"{name}=={version(name)}" for name in ("jax", "jaxlib")]\n'
        f'    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *there, "{place}"], check=True)'
    )


def doors(path, root):
    """Where a chapter can be run or taken along. Colab opens the copy of the site, on the branch gh-pages."""
    name = path.relative_to(root).as_posix()
    file = path.relative_to(root / "notebooks").as_posix()
    up = "../" * len(Path(file).parts)
    links = {
        "Open in Binder": f"https://mybinder.org/v2/gh/{repository(root)}/HEAD?urlpath=lab/tree/{name}",
        "Open in Colab": f"https://colab.research.google.com/github/{repository(root)}/blob/gh-pages/_static/notebooks/{file}",
    }
    items = [f'<a href="{html.escape(address)}">{word}</a>' for word, address in links.items()]
    items.append(f'<a href="{up}_static/notebooks/{file}" download>Download the notebook</a>')
    return f'<div class="ntkbook-doors">{" ".join(items)}</div>\n'


# ---------------------------------------------------------------- claims


def claims_page(root):
    """All claims as one table that can be filtered by word, chapter and verdict."""
    rows, counts = [], []
    columns = ("verdict", "sentence", "source", "measured", "criterion", "rival")  # what does not fit stands last
    for path in chapters(root):
        found = claims.claims_in(json.loads(path.read_text()))
        counts += found
        for row in found:
            cells = "".join(f"<td>{html.escape(str(row.get(name) or ''))}</td>" for name in columns)
            link = f'<td><a href="book/{path.stem}.html">{path.stem[:2]}</a></td>'
            rows.append(f'<tr data-chapter="{path.stem[:2]}" data-verdict="{row["verdict"]}">{link}{cells}</tr>')
    heads = ("chapter", "verdict", "claim", "source", "measured here", "criterion", "rival theory")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    options = "".join(f"<option>{path.stem[:2]}</option>" for path in chapters(root))
    return f"""---
html_theme.sidebar_secondary.remove: true
---

# Claims

Every chapter ends with a table: what a paper says, what was measured here, the criterion that was written down before
the measurement, and the rival theory that the criterion excludes. The numbers are the stored outputs of the notebooks,
and each test run compares them with what it computes anew. Today {claims.summary(counts)}.

<form class="ntkbook-filter">
<label>Word <input name="word" type="search"></label>
<label>Chapter <select name="chapter"><option value="">all</option>{options}</select></label>
<label>Verdict <select name="verdict"><option value="">all</option><option>PASS</option><option>FAIL</option></select>
</label><output role="status"></output></form>
<table class="ntkbook-claims"><thead><tr>{head}</tr></thead><tbody>
{chr(10).join(rows)}
</tbody></table>
"""


def glossary(root):
    """Term -> its first sentence, without marks: what a page shows when the pointer rests on a term."""
    text = (root / "docs" / "glossary.md").read_text()
    found = re.findall(r"^(\S.*)\n((?:  \S.*\n)+)", text, re.M)
    plain = lambda lines: re.sub(r"[`*]", "", " ".join(lines.split()))
    return {re.sub(r" \(.*\)", "", term): plain(lines) for term, lines in found if not term.startswith(":")}


# ---------------------------------------------------------------- the library


def public_names(root):
    """(module below ntkbook, name) for each line of the table of contents."""
    for node in ast.parse((root / "ntkbook" / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            for alias in node.names:
                yield node.module, alias.asname or alias.name


def api_pages(root):
    listed = sorted(public_names(root))
    pages = {
        name: api_page(title, [n for n in listed if n[0].startswith(f"{folder}.")], root)
        for name, (title, folder) in API.items()
    }
    rest = [(module, name) for module, names in DOORS_OF_THE_REST.items() for name in names.split()]
    pages["rest"] = api_page("Data, claims, panels, plots, models", rest, root)
    pages["index"] = (
        "# The library\n\nGrouped as the folders of the package are.\n\n```{toctree}\n"
        + "\n".join([*API, "rest"])
        + "\n```\n"
    )
    return pages


def examples(root):
    """Name -> lines of a session, from docs/api_examples.md: shown where a docstring has none."""
    text = (root / "docs" / "api_examples.md").read_text()
    return dict(re.findall(r"^## (\w+)\n\n```python\n(.*?)\n\n```", text, re.M | re.S))


def api_page(title, names, root):
    """One section per module: what the room is for, then each public name."""
    shown = examples(root)
    parts = [f"# {title}\n\nExamples use `net, x, y, params, key` of [this page](../api_examples).\n"]
    for module, group in groupby(names, key=lambda pair: pair[0]):
        path = root.joinpath("ntkbook", *module.split("."))
        source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        first = (ast.get_docstring(ast.parse(source.read_text())) or "").split("\n\n")[0]
        parts.append(f"## {module.split('.')[-1].replace('_', ' ')}\n\n{first}\n")
        for _, name in group:
            kind = "autoclass" if name[0].isupper() else "autofunction"
            options = (
                "   :members:\n   :exclude-members: init, apply, kernel, dual, variance, requires, phi\n"
                if (kind == "autoclass" and not module.startswith("networks"))
                else ""
            )
            documented = getattr(importlib.import_module(f"ntkbook.{module}"), name).__doc__ or ""
            is_shown = name in shown and ">>>" not in documented
            session = f"\n{indent(shown[name], '   ')}\n" if is_shown else ""
            parts.append(f"```{{eval-rst}}\n.. {kind}:: ntkbook.{module}.{name}\n{options}{session}```\n")
    return "\n".join(parts)


def contributing(root):
    text = (root / "CONTRIBUTING.md").read_text()
    return re.sub(r"\]\((?:docs/)?([a-z_]+)\.md\)", r"](\1.md)", text)


# ---------------------------------------------------------------- benchmarks


def benchmarks_page(root):
    import subprocess

    shown = subprocess.run(
        [sys.executable, "benchmarks/table.py"], cwd=root, check=True, capture_output=True, text=True
    ).stdout
    return (
        "# Benchmarks\n\nBeside neural-tangents in one run on the same machine, after their values agreed; "
        "`make bench` measures again.\n\n"
        "![How many times faster each piece of work is here](_static/benchmarks.svg)\n\n" + shown
    )


def draw_benchmarks(root, folder):
    """One bar per piece of work: time of the peer over ours, on a log scale."""
    from matplotlib.figure import Figure

    bars = []
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        if path.stem in ("panel_latency", "instead"):
            continue  # beside other things than neural-tangents
        rows = [row for row in json.loads(path.read_text())["rows"] if "times_faster" in row]
        for row in rows if len(rows) <= 6 else sorted(rows, key=lambda row: row["times_faster"])[:: len(rows) // 4]:
            bars.append((f"{path.stem.replace('_', ' ')}: {row['case']['label']}", row["times_faster"]))
    figure = Figure(figsize=(9, 0.5 + 0.3 * len(bars)), layout="constrained")
    ax = figure.subplots()
    for place, (_, ratio) in enumerate(bars):  # to the left of 1 it is slower here
        ax.barh(place, ratio - 1, left=1, color="#D55E00" if ratio >= 1 else "#767676")
        words, side = f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}", 1 if ratio >= 1 else -1
        ax.annotate(words, (ratio, place), (4 * side, 0), textcoords="offset points", va="center", color="#767676",
                    ha="left" if side > 0 else "right", fontsize=8)  # fmt: skip
    ax.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=9)
    ax.set(xscale="log", xlabel="times faster than neural-tangents; left of 1, in gray: slower", xlim=(0.1, 500))
    ax.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    ax.minorticks_off()
    ax.axvline(1, color="gray", lw=1)
    ax.invert_yaxis()
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("#767676")
    ax.tick_params(which="both", color="#767676")
    for text in [*ax.get_yticklabels(), *ax.get_xticklabels(), ax.xaxis.label]:
        text.set_color("#767676")  # 4.5:1 on white, and readable on black
    figure.savefig(folder / "benchmarks.svg", transparent=True)
