"""Takes all benchmarks (`python benchmarks/run.py`), or those named (`... dense convolution`), and prints the table.

On a quiet machine, please: each result records how many processes were waiting. `--quick` only tries that all of them
run and that the values agree, and stores nothing.
"""

import subprocess
import sys
import time
from pathlib import Path

import peer

FOLDER = Path(__file__).resolve().parent
ALL = ["import_time", "slider", "dense", "other_kernels", "empirical_ntk", "predict", "convolution", "growth"]


def main(arguments: list[str]) -> int:
    quick = ["--quick"] if "--quick" in arguments else []
    names = [argument for argument in arguments if argument not in quick]
    if unknown := set(names) - set(ALL):
        raise SystemExit(f"Expected names out of {', '.join(ALL)}, got {', '.join(sorted(unknown))}.")
    peer.make()
    begin, failed = time.perf_counter(), []
    for name in names or ALL:
        print(f"{name} ...", flush=True)
        if subprocess.run([sys.executable, FOLDER / f"{name}.py", *quick]).returncode:
            failed.append(name)
    print(f"\nAll in {time.perf_counter() - begin:.0f} s.\n", flush=True)
    if not quick:
        subprocess.run([sys.executable, FOLDER / "table.py"], check=True)
    if failed:
        print(f"\nFailed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
