"""Prints the stored results as a table in Markdown, as the README quotes it."""

import json

import pairing

ORDER = ["dense", "convolution", "other_kernels", "predict", "slider", "empirical_ntk", "instead", "import_time"]


def main():
    paths = [pairing.RESULTS / f"{name}.json" for name in [*ORDER, "panel_latency", "growth"]]
    results = {path.stem: json.loads(path.read_text()) for path in paths if path.exists()}
    print("| work | ntkbook | bound | neural-tangents | ratio |")
    print("|---|---|---|---|---|")
    for name in [name for name in ORDER if name in results]:
        print(f"| **{results[name]['title']}** | | | | |")
        for row in shown(results[name]["rows"]):
            print(line(row))
    if "panel_latency" in results:
        print("\n| from key press to new picture, in JupyterLab | ntkbook | `interact`, same figure |")
        print("|---|---|---|")
        print(*panels(results["panel_latency"]["rows"]), sep="\n")
    if "growth" in results:
        print("\n| cost grows, over the largest sizes that both took, as | ntkbook | neural-tangents |")
        print("|---|---|---|")
        exponents = results["growth"]["exponents"]
        for what in dict.fromkeys(key.split(", ")[1] for key in exponents):
            print(f"| {what}^p | {exponents[f'ours, {what}']} | {exponents[f'peer, {what}']} |")
    print("\n" + provenance(results))


def shown(rows: list[dict]) -> list[dict]:
    """All rows, or out of many the smallest, the middle and the largest ratio."""
    if len(rows) <= 6:
        return rows
    ordered = sorted(rows, key=lambda row: row["times_faster"])
    words = ((0, "smallest"), (len(rows) // 2, "middle"), (-1, "largest"))
    return [
        {**ordered[i], "case": {"label": f"{word} ratio of {len(rows)} cases: {ordered[i]['case']['label']}"}}
        for i, word in words
    ]


def panels(rows: list[dict]) -> list[str]:
    """The quickest panel, the middle one, and the slowest."""
    ordered = sorted(rows, key=lambda row: row["ours"]["median_s"])
    words = ((0, "quickest"), (len(rows) // 2, "middle"), (-1, "slowest"))
    chosen = [(f"{word} of {len(rows)} panels: {ordered[i]['case']['label']}", ordered[i]) for i, word in words]
    times = lambda row: " | ".join(pairing.duration(row[side]["median_s"]) for side in ("ours", "interact"))
    return [f"| {label} | {times(row)} |" for label, row in chosen]


def line(row: dict) -> str:
    """A row: our time, what the machine alone would take, the other's time, and how many times faster we are."""
    shown = lambda side: pairing.duration(row[side]["median_s"])
    bound = pairing.duration(row["bound_s"]) if "bound_s" in row else ""
    begin = f"| {row['case']['label']} | {shown('ours')} | {bound} |"
    if "jax" in row:
        return f"{begin} (jax: {shown('jax')}) | {row['share_of_jax']:.2f} |"
    if "peer" not in row:
        return f"{begin} | |"
    named = f" ({row['case']['named']})" if "named" in row["case"] else ""
    return f"{begin} {shown('peer')}{named} | {row['times_faster']:.3g}x |"


def provenance(results: dict) -> str:
    """One sentence on where and when."""
    environments = [result["environment"] for result in results.values()]
    days = [row.get("date", result["environment"]["date"]) for result in results.values() for row in result["rows"]]
    dates = " to ".join(sorted({min(days), max(days)}))
    loads = [environment["load_average_1_min"] for environment in environments]
    pairs = [row for result in results.values() for row in result["rows"] if "peer" in row]
    ours, theirs = (pairs[0][side]["versions"] if pairs else {} for side in ("ours", "peer"))
    first = environments[0]
    return (
        "Bound: the machine's time for the least work, measured in the same run: half of the product of the inputs "
        "with themselves and the result written once (dense, tanh), one product for each time (predictions).\n\n"
        f"Medians of alternating runs after agreement of the values; {dates}, {first['processor']}, "
        f"{first['cores']} cores, load {min(loads)} to {max(loads)}; jax {ours.get('jax')} beside "
        f"neural-tangents {theirs.get('neural-tangents')} with jax {theirs.get('jax')}."
    )


if __name__ == "__main__":
    main()
