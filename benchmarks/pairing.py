"""How a benchmark is taken: ours and the peer on the same inputs, in turn, in one run, after their values agree.

A benchmark is a module with `TITLE`, `CASES`, and `ours(case)` and `peer(case)`, which import what they need and return
a function of the step that does the work once; `summaries(rows)` too, if the rows say something together. A case may
name another function in place of `peer` ("against", in our environment), be run only once ("once": then it must compile
before), and have a `bound(case)`: work that any program must do, whose time here is measured in the same run. Each case
starts two fresh processes, so that compilation and peak memory are its own. Each row goes to `results/NAME.json` as
soon as it is taken, with where and when; a case that fails is told, and leaves its earlier row.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import peer

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"


def main():
    """Measures the benchmark that is run as a script; with `--quick`, two runs of each case, and nothing is stored."""
    measure(sys.modules["__main__"], quick="--quick" in sys.argv)


def measure(module, *, quick: bool = False) -> None:
    """All cases of a benchmark module, each written to its file in `results/` when it is there, unless `quick`."""
    name, taken, failed = Path(module.__file__).stem, {}, []
    labels = [case["label"] for case in module.CASES]
    if not quick and (path := RESULTS / f"{name}.json").exists():
        taken = {row["case"]["label"]: row for row in json.loads(path.read_text())["rows"]}
    for case in module.CASES:
        if quick:
            case = {**case, "repeats": 2, "budget_s": 0} | ({"n": 10} if case.get("once") else {})
        try:
            row = pair(name, case, getattr(module, "bound", None))
        except (RuntimeError, ValueError, OSError) as error:
            failed.append(case["label"])
            print(f"  {case['label']}: FAILED, {error}", flush=True)
            continue
        taken[case["label"]] = row
        print(f"  {describe(row)}", flush=True)
        if not quick:
            write(name, module.TITLE, [taken[label] for label in labels if label in taken])
    if not quick and not failed and hasattr(module, "summaries"):
        rows = [taken[label] for label in labels]
        write(name, module.TITLE, rows, module.summaries(rows))
    if failed:
        raise SystemExit(1)


def pair(module: str, case: dict, bound=None) -> dict:
    """One case: first calls, agreement, then `repeats` runs of each side in turn (fewer past `budget_s` seconds)."""
    against, is_once = case.get("against", "peer"), case.get("once", False)
    sides = ["ours"] if case.get("ours_only") else ["ours", "peer"]
    workers = {}
    try:
        for side, function in zip(sides, ("ours", against)):
            workers[side] = Worker(module, function, function == "peer", case)
        row = {"case": case}
        for side in sides:
            row[side] = {"first_call_s": workers[side].ask(do="start", case=case)["seconds"]}
        if len(sides) == 2 and not is_once:
            row["largest_gap"] = _agree(workers, case)
        seconds, cpu = {side: [] for side in sides}, {side: [] for side in sides}
        begin = time.perf_counter()
        for step in range(1, 1 + (1 if is_once else case["repeats"])):
            for side in sides:
                for _ in range(5 if is_once and side == "ours" else 1):
                    answer = workers[side].ask(do="run", step=step)
                    seconds[side].append(answer["seconds"])
                    cpu[side].append(answer["cpu_seconds"])
            if step >= 2 and time.perf_counter() - begin > case.get("budget_s", 20):
                break
        if len(sides) == 2 and is_once:
            row["largest_gap"] = _agree(workers, case)
        for side in sides:
            row[side] |= summary(seconds[side]) | {"median_cpu_s": float(np.median(cpu[side]))}
            row[side] |= workers[side].ask(do="describe")
        if bound and (work := bound(case)):
            row["bound_s"] = workers["ours"].ask(do="bound", **work)["seconds"]
    finally:
        for worker in workers.values():
            worker.stop()
    if len(sides) == 2:
        row["times_faster"] = row["peer"]["median_s"] / row["ours"]["median_s"]
        row["times_faster_by_minimum"] = row["peer"]["minimum_s"] / row["ours"]["minimum_s"]
    return row | {"date": time.strftime("%Y-%m-%d")}


def _agree(workers: dict, case: dict) -> dict:
    """The largest difference relative to the largest entry; raises if it exceeds the case's `agree_to`.

    With `diagonal_apart`, the diagonal is only reported: the peer loses digits in the angle of a point with itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {side: str(Path(folder) / f"{side}.npz") for side in workers}
        for side, worker in workers.items():
            worker.ask(do="save", path=files[side])
        ours, theirs = (list(np.load(files[side]).values()) for side in ("ours", "peer"))
    shapes = [a.shape for a in ours], [a.shape for a in theirs]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected results of the same shapes, got {shapes[0]} from ours and {shapes[1]} from the peer."
        )
    gaps = {"everywhere": _gap(ours, theirs)}
    judged = "everywhere"
    if case.get("diagonal_apart"):
        judged = "off_diagonal"
        gaps[judged] = _gap([a * (1 - np.eye(*a.shape)) for a in ours], [a * (1 - np.eye(*a.shape)) for a in theirs])
    if not gaps[judged] <= case["agree_to"]:
        raise ValueError(f"Expected results that agree to {case['agree_to']} {judged}, got gaps {gaps}.")
    return gaps


def _gap(ours: list, theirs: list) -> float:
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs))


class Worker:
    """A process that runs one side; see `worker.py`. It is ended where one answer takes more than `limit_s` seconds."""

    def __init__(self, module: str, function: str, is_peer: bool, case: dict):
        command = [str(peer.make())] if is_peer else [sys.executable]
        self.limit = case.get("limit_s", 240)
        self.process = subprocess.Popen(
            [*command, str(FOLDER / "worker.py"), module, function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=peer.environment(float64=case.get("float64", False)),
        )

    def ask(self, **order) -> dict:
        patience = threading.Timer(self.limit, self.process.kill)
        patience.start()
        try:
            print(json.dumps(order), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        finally:
            patience.cancel()
        if not answer:
            raise RuntimeError(
                f"Expected an answer to {order['do']!r} within {self.limit} s, got none: that process ended. "
                "See its error above."
            )
        return json.loads(answer)

    def stop(self):
        try:
            self.process.stdin.close()
            self.process.wait(timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()


def summary(seconds: list[float]) -> dict:
    return {
        "median_s": float(np.median(seconds)),
        "minimum_s": min(seconds),
        "maximum_s": max(seconds),
        "runs": len(seconds),
    }


def write(name: str, title: str, rows: list[dict], summaries: dict | None = None) -> dict:
    """Stores a benchmark's result and where it was taken."""
    result = {"title": title, "environment": environment(), **(summaries or {}), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    half = RESULTS / f"{name}.json.new"
    half.write_text(json.dumps(result, indent=1) + "\n")
    half.replace(RESULTS / f"{name}.json")  # whole, or not at all
    return result


def environment() -> dict:
    """The machine in words: nothing that tells which one it is."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "load_average_1_min": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def describe(row: dict) -> str:
    """A case in one line, for the terminal."""
    text = f"{row['case']['label']}: ours {duration(row['ours']['median_s'])}"
    text += f" (bound {duration(row['bound_s'])})" if "bound_s" in row else ""
    if "peer" not in row:
        return text
    other = row["case"].get("named", "peer")
    return f"{text}, {other} {duration(row['peer']['median_s'])}: {row['times_faster']:.3g} times faster"


def duration(seconds: float) -> str:
    """Two or three digits and a unit."""
    for limit, scale, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (float("inf"), 1.0, "s")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError
