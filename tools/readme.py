"""Writes the tables that are made of something stored: chapters and benchmarks in README.md, claims in docs/claims.md.

    python tools/readme.py            write them
    python tools/readme.py --check    only say whether they are up to date
    python tools/readme.py --owner X  let all Binder links, in notebooks too, lead to the account X

Each stands between `<!-- name -->` and `<!-- end of name -->`; the rest is written by hand.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from ntkbook import claims

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PLACE = re.compile(r"(mybinder\.org/v2/gh/)[^/\s]+(/ntkbook/HEAD)")

# what a chapter shows, and what its slider does; a chapter appears once its notebook exists
CHAPTERS = {
    "00_start_here": ("an ensemble of wide networks is a Gaussian process", "time and width, five points on a sine"),
    "01_kernel_gradient": ("training follows the kernel gradient", "what one example does to the others"),
    "02_wide_networks_are_gaussian": ("wide networks are Gaussian (NNGP)", "convergence in width and samples"),
    "03_infinite_width_ntk": ("the NTK converges and stays (Jacot, Thm. 1 and 2)", "width, depth, training on and off"),
    "04_linearization": ("wide networks are linear models (Lee, Thm. 2.1)", "how far weights and kernels move"),
    "05_closed_form_dynamics": ("each eigenmode decays on its own", "learning rate up to the edge, momentum"),
    "06_ensembles": ("mean and band of trained ensembles (Lee, Fig. 2)", "network, ensemble, NNGP, kernel regression"),
    "07_kernel_principal_components": ("fast directions are learnt first (Jacot, Fig. 3)", "when to stop"),
    "08_beyond_squared_loss": ("cross-entropy, momentum, SGD (Lee, Fig. 3, 4)", "network against linearization"),
    "09_parameterizations": ("NTK, standard and mu-P scaling", "learning rates that transfer"),
    "10_depth_and_phase": ("order, chaos and depth scales", "weight and bias variance on the phase diagram"),
    "11_spectral_bias": ("low frequencies first", "eigenvalues, Fourier features"),
    "12_lazy_and_rich": ("where the theory ends: lazy and rich training", "output scale, kernel drift"),
    "13_generalization": ("learning curves, double descent", "sample size, ridge, noise"),
    "14_physics_informed": ("why PINNs train unevenly (Wang, Fig. 2)", "weights of the losses"),
    "15_architectures": ("convolution, pooling, attention as kernels", "layers in and out"),
    "16_kernels_at_work": ("kernels in scikit-learn, GPyTorch, tinygp; your PyTorch or Flax model", "learned kernels"),
}


def main(words):
    if words[:1] == ["--owner"]:
        return put_owner(words[1])
    old = {path: path.read_text() for path in TABLES}
    new = {path: updated(text, TABLES[path]) for path, text in old.items()}
    if "--check" in words:
        return 0 if new == old else 1
    for path, text in new.items():
        path.write_text(text)
    return 0


def updated(text, tables):
    """The text with each table made again, by the function of its name in `tables`."""
    for name, make in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
        if not pattern.search(text):
            raise SystemExit(f"Expected {begin} and {end} in the text, got none.")
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


def put_owner(owner):
    """Writes the account that hosts the repository into every Binder link."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", owner):
        raise SystemExit(f"Expected the name of an account, got {owner!r}. As in: make owner OWNER=name.")
    for path in [README, *sorted((ROOT / "notebooks").rglob("*.ipynb"))]:
        text = path.read_text()
        path.write_text(PLACE.sub(rf"\g<1>{owner}\g<2>", text))
    return 0


def binder_link():
    """The address of the notebooks' folder on Binder, for the account that the badge names."""
    place = PLACE.search(README.read_text())
    if place is None:
        raise SystemExit("Expected a Binder badge in the README, got none.")
    return f"https://{place[0]}?urlpath=lab/tree/notebooks"


def existing():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def chapters():
    lines = ["| theorem | chapter | what the slider shows | |", "|---|---|---|---|"]
    for path in existing():
        theorem, slider = CHAPTERS[path.stem]
        title = path.stem.replace("_", " ")
        launch = f"[launch]({binder_link()}/{path.name})"
        lines.append(f"| {theorem} | [{title}](notebooks/{path.name}) | {slider} | {launch} |")
    return "\n".join(lines)


def book_claims():
    rows = []
    for path in existing():
        found = claims.claims_in(json.loads(path.read_text()))
        rows += [{"chapter": path.stem[:2], **row} for row in found]
    return f"{claims.as_markdown(rows)}\n\n{claims.summary(rows)}." if rows else "No chapter states claims yet."


def benchmarks():
    """The table of the stored results, as benchmarks/table.py prints it."""
    if not any((ROOT / "benchmarks" / "results").glob("*.json")):
        return "Not measured yet."
    command = [sys.executable, "benchmarks/table.py"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


TABLES = {
    README: {"chapters": chapters, "benchmarks": benchmarks},
    ROOT / "docs" / "claims.md": {"claims": book_claims},
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
