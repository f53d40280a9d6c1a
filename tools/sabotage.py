"""Breaks a chapter on purpose and asks which claims notice: `tools/sabotage.py 00 05:time`.

That is all of chapter 00, and of 05 those with "time" in their name. With `--write` they go to docs/sabotage.md.
A sabotage is an edit of a chapter's code (`tools/sabotages.toml`): another kernel in the theory, time times 1.2, one
layer too many. The chapter runs once as it is; then, for each sabotage, the edited cells run again, and those
that depend on them, with the same random numbers. Asserts are off: it is the claims that have to speak.
"""

import ast
import contextlib
import copy
import io
import json
import os
import symtable
import sys
import tomllib
from pathlib import Path

import numpy as np

from ntkbook.claims import ClaimsTable

ROOT = Path(__file__).resolve().parent.parent
SABOTAGES, PAGE = ROOT / "tools" / "sabotages.toml", ROOT / "docs" / "sabotage.md"
HEAD = """# Sabotage: what each claim would catch

A claim that passes whatever the theory says is worth nothing. Here each chapter of part one is broken on purpose,
one way at a time, and its claims are judged again. A row says what was changed and which claims turn from PASS to
FAIL, by their numbers in the chapter's table. Nothing here is typed: the edits stand in `tools/sabotages.toml`,
and `tools/sabotage.py --write 00 05` breaks chapters 00 and 05 once more and writes their tables.
"""


def main(words):
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    planned, missed = plans(), 0
    for word in [word for word in words if word != "--write"] or sorted(planned):
        number, _, part = word.partition(":")
        chapter = Chapter(code_cells(number))
        rows = written().get(number, {}) if part else {}
        for sabotage in planned[number]:
            if part in sabotage["name"]:
                caught = chapter.broken_by(sabotage["edits"])
                missed += not caught
                numbers = ", ".join(map(str, caught)) or "none"
                rows[sabotage["name"]] = f"{numbers} (of {len(chapter.verdicts)})"
                print(f"{number} | {sabotage['name']} | {rows[sabotage['name']]}", flush=True)
        if "--write" in words:
            pages = written() | {number: {s["name"]: rows.get(s["name"], "not tried") for s in planned[number]}}
            PAGE.write_text(HEAD + "".join(section(*page) for page in sorted(pages.items())))
    return int(missed > 0)


def section(number, rows):
    """A chapter's table on the page."""
    lines = [f"\n## Chapter {number}\n", "| sabotage | claims that turn FAIL |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {told} |" for name, told in rows.items())]) + "\n"


def plans():
    """Chapter -> its sabotages, each a name and edits."""
    return tomllib.loads(SABOTAGES.read_text())


def written():
    """Chapter -> the rows of its table on the page as it stands: name -> claims that turn FAIL."""
    parts = PAGE.read_text().split("## Chapter ")[1:] if PAGE.exists() else []
    rows = lambda part: [line[2:-2].rsplit(" | ", 1) for line in part.splitlines() if line[:2] == "| "][1:]
    return {part[:2]: dict(rows(part)) for part in parts}


def code_cells(number):
    """The sources of the code cells of a chapter."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def edited(sources, edits):
    """The sources with each `[old, new]` in place, wherever `old` stands; it has to stand somewhere."""
    for old, new in edits:
        if not any(old in source for source in sources):
            raise ValueError(f"Expected a cell with {old!r}, found none. Has the chapter changed?")
        sources = [source.replace(old, new) for source in sources]
    return sources


class Chapter:
    """A chapter whose last cell is its table of claims, run once; only cells that the table depends on."""

    def __init__(self, sources):
        self.sources, self.namespace = sources, {"__name__": "__main__"}
        self.names = [names_of(source) for source in sources]
        needed, self.live = set(self.names[-1][0]), [len(sources) - 1]
        for i in range(len(sources) - 2, -1, -1):
            reads, writes = self.names[i]
            if writes & needed:
                needed = (needed - writes) | reads
                self.live.insert(0, i)
        self.before, self.random, self.after, last = {}, {}, {}, None
        for i in self.live:
            self.before[i] = dict(self.namespace)
            self.random[i] = {k: copy.deepcopy(v) for k, v in self.namespace.items() if is_random(v)}
            last = execute(sources[i], self.namespace)
            self.after[i] = dict(self.namespace)
        self.verdicts = verdicts(last)

    def broken_by(self, edits):
        """Numbers of the claims that pass in the chapter and fail after the edits."""
        sources = edited(self.sources, edits)
        first = next((i for i in self.live if sources[i] != self.sources[i]), None)
        if first is None:
            raise ValueError(f"Expected an edit in a cell that the claims depend on, got {edits}.")
        self.namespace.clear()  # the same dict: functions of earlier cells look their names up in it
        self.namespace.update(self.before[first])
        tainted, last = set(), None
        for i in [i for i in self.live if i >= first]:
            reads, writes = names_of(sources[i])
            if sources[i] != self.sources[i] or reads & tainted or i == self.live[-1]:
                self.namespace.update(copy.deepcopy(self.random[i]))
                last = execute(sources[i], self.namespace)
                tainted |= writes
            else:
                self.namespace.update({name: self.after[i][name] for name in writes if name in self.after[i]})
                tainted -= writes
        pairs = enumerate(zip(self.verdicts, verdicts(last)), start=1)
        return [n for n, (old, new) in pairs if (old, new) == ("PASS", "FAIL")]


def verdicts(table):
    """PASS or FAIL of every claim; a chapter that does not end in a table of claims has none to break."""
    if not isinstance(table, ClaimsTable):
        raise TypeError(f"Expected a chapter that ends in a table of claims, got {type(table).__name__}.")
    return [claim.verdict for claim in table.claims]


def is_random(value):
    return isinstance(value, np.random.Generator)


def execute(source, namespace):
    """Runs a cell without its asserts and in silence; returns the value of its last line."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(tree, "<cell>", "exec", optimize=1), namespace)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval", optimize=1), namespace) if last else None
    if "plt" in namespace:
        namespace["plt"].close("all")
    return value


def names_of(source):
    """The names that a cell takes from other cells, and those that it makes or changes."""
    order = InOrder()
    order.visit(ast.parse(source))
    inside = set()
    scopes = list(symtable.symtable(source, "<cell>", "exec").get_children())
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        inside |= {s.get_name() for s in scope.get_symbols() if s.is_global() and s.is_referenced()}
    return order.reads | (inside - order.writes), order.writes


class InOrder(ast.NodeVisitor):
    """Names at the top level of a cell: read before they are written there, and written."""

    def __init__(self):
        self.reads, self.writes = set(), set()

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self.reads |= {node.id} - self.writes
        else:
            self.writes.add(node.id)

    def visit_Assign(self, node):
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node):
        for name in [n for n in ast.walk(node) if isinstance(n, ast.Name)]:
            self.reads |= {name.id} - self.writes
        self.changed(node.target)

    def visit_For(self, node):
        for part in (node.iter, node.target, *node.body, *node.orelse):
            self.visit(part)

    def visit_Subscript(self, node):
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Store):
            self.changed(node)

    def changed(self, node):
        while not isinstance(node, ast.Name):
            node = node.value
        self.writes.add(node.id)

    def visit_FunctionDef(self, node):
        for part in (*node.decorator_list, *node.args.defaults):
            self.visit(part)
        self.writes.add(node.name)

    def visit_Lambda(self, node):
        for part in node.args.defaults:
            self.visit(part)

    def comprehension(self, node):
        self.visit(node.generators[0].iter)  # its own names are no names of the cell; the others by the symbol table

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension

    def visit_Import(self, node):
        self.writes |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}

    def visit_ImportFrom(self, node):
        self.writes |= {alias.asname or alias.name for alias in node.names}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
