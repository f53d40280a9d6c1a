"""`ntkbook course`: the exercises as assignments for nbgrader, recall cards for Anki, and the figures.

An assignment is made of a chapter (question and stub) and of its solutions. Its points are the cases that a check goes
through. In each term these have numbers of their own.
"""

import ast
import base64
import json
import re
import textwrap
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Cell = dict[str, Any]

CHECK = re.compile(r"exercises\.(check_\w+)\((\w+)\)")
QUESTIONS, ANSWERS = "**Five questions", "## Five answers"

CONFIG = """# Written by `ntkbook course`. Go on with `nbgrader generate_assignment NAME`, for each folder of source/.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "{term}"
"""


def assignment(chapter: dict[str, Any], solutions: dict[str, Any], term: str) -> dict[str, Any]:
    """The notebook of an assignment, with solutions marked as nbgrader wants them.

    Raises:
        ValueError: for an exercise of the chapter without a solution.
    """
    stubs, answers = _checked(chapter), _checked(solutions)
    if missing := stubs.keys() - answers.keys():
        raise ValueError(f"Expected a solution of every exercise, found none of {', '.join(sorted(missing))}.")
    title = _source(chapter["cells"][0]).splitlines()[0]
    imports = next(cell for cell in solutions["cells"] if cell["cell_type"] == "code")
    term_first = f'import os\n\nos.environ["NTKBOOK_TERM"] = "{term}"  # the numbers of this term\n\n'
    cells = [
        _markdown(
            "title", f"{title}\n\nReplace what is marked. The cell after each answer checks it as often as you like."
        ),
        _code("imports", term_first + _source(imports), {"grade": False, "solution": False, "locked": True}),
    ]
    for name, where in stubs.items():
        question = _source(chapter["cells"][where - 1])
        question = question[question.rfind("**Exercise") :]
        given, solved = _marked(_source(chapter["cells"][where]), _source(solutions["cells"][answers[name]]), question)
        function = CHECK.findall(_source(chapter["cells"][where]))[0][1]
        check = f"result = exercises.{name}({function})\nprint(result)\nresult.score"
        test = {"grade": True, "solution": False, "locked": True, "points": _points(chapter, name)}
        cells.append(_markdown(f"question-{function}", question))
        if given:
            cells.append(_code(f"given-{function}", given, {"grade": False, "solution": False, "locked": True}))
        cells += [
            _code(f"answer-{function}", solved, {"grade": False, "solution": True, "locked": False}),
            _code(f"check-{function}", check, test),
        ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def recall_cards(chapter: dict[str, Any], solutions: dict[str, Any]) -> list[tuple[str, str]]:
    """(question, answer) from the end of a chapter and from its solutions, with formulas as Anki writes them."""
    questions, answers = (
        re.findall(r"^\d+\. (.+?)(?=^\d+\. |\n\n\*\*|\Z)", _after(notebook, mark), re.S | re.M)
        for notebook, mark in ((chapter, QUESTIONS), (solutions, ANSWERS))
    )
    return [(_anki(question), _anki(answer)) for question, answer in zip(questions, answers)]


def figures(chapter: dict[str, Any]) -> Iterator[bytes]:
    """The pictures that a chapter holds, as PNG files, each once."""
    seen = set()
    for cell in chapter["cells"]:
        for output in cell.get("outputs", []):
            encoded = "".join(output.get("data", {}).get("image/png", ""))
            if encoded and encoded not in seen:
                seen.add(encoded)
                yield base64.b64decode(encoded)


def write(folder: Path, chapters: Sequence[Path], term: str) -> list[str]:
    """Writes source/, nbgrader_config.py, recall.tsv and figures.zip; returns a line for each."""
    cards: list[tuple[str, str]] = []
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "figures.zip", "w") as packed:
        for path in chapters:
            chapter = json.loads(path.read_text(encoding="utf-8"))
            solutions = json.loads((path.parent / "solutions" / path.name).read_text(encoding="utf-8"))
            cards += recall_cards(chapter, solutions)
            target = source / path.stem / path.name
            target.parent.mkdir(exist_ok=True)
            made = json.dumps(assignment(chapter, solutions, term), ensure_ascii=False, indent=1)
            target.write_text(made + "\n", encoding="utf-8")
            for number, png in enumerate(figures(chapter), 1):
                packed.writestr(f"{path.stem}/{number:02d}.png", png)
    (folder / "recall.tsv").write_text("".join(f"{front}\t{back}\n" for front, back in cards), encoding="utf-8")
    (folder / "nbgrader_config.py").write_text(CONFIG.format(term=term), encoding="utf-8")
    return [
        f"{len(chapters)} assignments in {source}; nbgrader reads {folder / 'nbgrader_config.py'}",
        f"{len(cards)} recall cards in {folder / 'recall.tsv'}, to import in Anki",
        f"{len(packed.namelist())} figures in {folder / 'figures.zip'}",
    ]


def _checked(notebook: dict[str, Any]) -> dict[str, int]:
    """Name of a check -> the cell of code that calls it on a function."""
    found = {}
    for where, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code" and (names := CHECK.findall(_source(cell))):
            found.setdefault(names[0][0], where)
    return found


def _marked(stub: str, solution: str, question: str) -> tuple[str, str]:
    """(imports and helpers that the question names, the stub with the solution between the marks of nbgrader)."""
    (asked,) = [node for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)]
    *helpers, answer = [node for node in ast.parse(solution).body if not isinstance(node, ast.Expr)]
    if not isinstance(answer, ast.FunctionDef) or answer.name != asked.name:
        raise ValueError(f"Expected a solution that ends in the function {asked.name}, got {solution!r}.")
    is_given = lambda node: not isinstance(node, ast.FunctionDef) or f"`{node.name}`" in question
    given = "\n\n\n".join(_lines(solution, node, node) for node in helpers if is_given(node))
    body = [textwrap.indent(_lines(solution, node, node), "    ") for node in helpers if not is_given(node)]
    body.append(_lines(solution, answer.body[0], answer.body[-1]))
    head = "\n".join(stub.splitlines()[: asked.body[0].end_lineno])
    return given, f"{head}\n    ### BEGIN SOLUTION\n" + "\n".join(body) + "\n    ### END SOLUTION"


def _lines(source: str, first: ast.stmt, last: ast.stmt) -> str:
    return "\n".join(source.splitlines()[first.lineno - 1 : last.end_lineno])


def _points(chapter: dict[str, Any], name: str) -> int:
    """The cases of a check, from the library: an answer that attempts nothing tells how many there are."""
    import importlib

    number = _source(chapter["cells"][0])[2:4]
    exercises = importlib.import_module(f".exercises.chapter_{number}", __package__)
    return len(getattr(exercises, name)(lambda *arguments: ...).passed)


def _after(notebook: dict[str, Any], mark: str) -> str:
    for cell in notebook["cells"]:
        before, found, rest = _source(cell).partition(mark)
        if cell["cell_type"] == "markdown" and found:
            return rest
    return ""


def _anki(text: str) -> str:
    """One line; dollars become the brackets in which Anki finds formulas."""
    text = re.sub(r"\$\$?(.+?)\$?\$", r"\\(\1\\)", text, flags=re.S)
    return " ".join(text.split())


def _source(cell: Cell) -> str:
    return "".join(cell["source"])


def _markdown(name: str, source: str) -> Cell:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def _code(name: str, source: str, role: dict[str, Any]) -> Cell:
    told = {"schema_version": 3, "cell_type": "code", "grade_id": name, "task": False, **role}
    # names of cells have at most 64 characters of few kinds
    named = re.sub(r"[^\w-]", "-", name)[:64]
    metadata = {"nbgrader": told}
    return {
        "cell_type": "code",
        "id": named,
        "metadata": metadata,
        "execution_count": None,
        "outputs": [],
        "source": source,
    }
