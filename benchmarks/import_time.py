"""`import ntkbook` beside `import jax`: fresh processes, in turn."""

import statistics
import subprocess
import sys
import time

import pairing

TITLE = "import, in a fresh process"
REPEATS = 7


def seconds(statement: str) -> float:
    """What the statement takes inside a fresh process, without the start of Python."""
    program = f"import time; begin = time.perf_counter(); {statement}; print(time.perf_counter() - begin)"
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def main():
    quick = "--quick" in sys.argv
    statements = {"ours": "import ntkbook", "jax": "import jax"}
    for statement in statements.values():
        seconds(statement)  # fills the caches of bytecode and of the disk
    taken = {name: [] for name in statements}
    begin = time.perf_counter()
    for _ in range(2 if quick else REPEATS):
        for name, statement in statements.items():
            taken[name].append(seconds(statement))
        if time.perf_counter() - begin > 25:
            break
    row = {"case": {"label": "import ntkbook, against import jax"}}
    row |= {name: pairing.summary(values) for name, values in taken.items()}
    row["share_of_jax"] = statistics.median(taken["ours"]) / statistics.median(taken["jax"])
    row["share_of_jax_by_minimum"] = min(taken["ours"]) / min(taken["jax"])
    print(f"  import ntkbook takes {row['share_of_jax']:.2f} of import jax ({pairing.describe(row)})")
    if not quick:
        pairing.write("import_time", TITLE, [row])


if __name__ == "__main__":
    main()
