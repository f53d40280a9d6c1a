"""Takes the benchmarks (`python benchmarks/run.py`), or those named (`... dense growth`), and writes the README.

Under ten minutes on two quiet cores. Each result records how many processes were waiting, and is stored as soon as it
is taken. `growth` is taken only by name, and panel_latency.py by itself: together they take as long again. `--quick`
only tries that all of them run, the minutes-long cases at ten images, and that the values agree; it stores nothing.
"""

import subprocess
import sys
import time
from pathlib import Path

import peer

FOLDER = Path(__file__).resolve().parent
ALL = ["dense", "predict", "instead", "other_kernels", "slider", "empirical_ntk", "import_time", "convolution"]


def main(arguments: list[str]) -> int:
    quick = ["--quick"] if "--quick" in arguments else []
    names = [argument for argument in arguments if argument not in quick]
    if unknown := set(names) - {*ALL, "growth"}:
        raise SystemExit(f"Expected names out of {', '.join(ALL)}, growth, got {', '.join(sorted(unknown))}.")
    peer.make()
    begin, failed = time.perf_counter(), []
    for name in names or ALL:
        print(f"{name}, at {time.perf_counter() - begin:.0f} s ...", flush=True)
        if subprocess.run([sys.executable, FOLDER / f"{name}.py", *quick]).returncode:
            failed.append(name)
    print(f"\nAll in {time.perf_counter() - begin:.0f} s.\n", flush=True)
    if not quick:
        subprocess.run([sys.executable, FOLDER / "table.py"], check=True)
        subprocess.run([sys.executable, FOLDER.parent / "tools" / "readme.py"], cwd=FOLDER.parent, check=True)
    if failed:
        print(f"\nFailed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
