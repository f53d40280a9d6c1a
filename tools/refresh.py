"""Runs notebooks from the top and saves them with their outputs: `make notebooks`, or `make notebooks ONLY=03`.

What would make a diff without a meaning is taken out: times, versions, widget state. A notebook in which a
cell raises is left as it was. Prints the time and the largest memory of each.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from ntkbook.cli import Failure, execute

ROOT = Path(__file__).resolve().parent.parent


def main(words):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # as in the checks
    if words[:1] == ["--one"]:
        return refresh(Path(words[1]))
    found = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    chosen = [path for path in found if not words or any(word in path.name for word in words)]
    if not chosen:
        print(f"Expected notebooks with {' or '.join(words) or 'any name'} in notebooks/, found none.", file=sys.stderr)
        return 1
    # one process for each, so that the memory of one is not counted for the next
    results = [subprocess.run([sys.executable, __file__, "--one", str(path)]).returncode for path in chosen]
    return max(results)


def refresh(path):
    """Runs and saves one notebook; returns an exit status."""
    print(f"{path.relative_to(ROOT)} ...", end="", flush=True)
    start = time.perf_counter()
    try:
        notebook = execute(path)
    except Failure as failure:
        print(f" {failure}", flush=True)
        return 1
    clean(notebook)
    nbformat.validate(notebook)
    partial = path.with_suffix(".part")
    partial.write_text(nbformat.writes(notebook) + "\n")
    os.replace(partial, path)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    print(f" {time.perf_counter() - start:.1f} s, {peak:.0f} MB", flush=True)
    return 0


def clean(notebook):
    """Takes out what changes from run to run without telling anything."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        for name in ("execution", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)
    number_widgets(notebook)


def number_widgets(notebook):
    """Names of widgets are drawn at random: here they are counted."""
    numbers = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
            if view:
                view["model_id"] = f"{numbers.setdefault(view['model_id'], len(numbers)):032x}"


def merged(outputs):
    """Consecutive pieces of one stream as one: where the pieces break depends on the moment."""
    result = []
    for output in outputs:
        last = result[-1] if result else None
        if last and output.output_type == "stream" and last.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            result.append(output)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
