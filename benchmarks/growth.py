"""How cost grows: with the number of points, with depth, and with the side of an image; fitted exponents."""

import convolution
import dense
import numpy as np

TITLE = "growth of the cost: dense ReLU kernel (d = 784) and 3x3 convolutions with global pooling, float32"
SIZES = {
    # what grows: (values, the largest that the peer takes too, how many of the largest the exponent is fitted to)
    "n": ((250, 500, 1000, 2000, 4000, 8000), 4000, 4),
    "depth": ((1, 2, 5, 10, 20, 50, 100), 20, 3),
    "side": ((4, 6, 8, 12, 16), 12, 3),
}
FIXED = {"n": {"depth": 3}, "depth": {"n": 1000}, "side": {"n": 16, "layers": 2}}
LABELS = {
    "n": "{} points, 3 hidden layers",
    "depth": "{} hidden layers, 1000 points",
    "side": "{0}x{0}x3 images, 2 convolutions, 16 of them",
}


def _case(what: str, value: int) -> dict:
    return {
        "label": LABELS[what].format(value),
        "grows": what,
        **FIXED[what],
        what: value,
        "ours_only": value > SIZES[what][1],
        "repeats": 3,
        "budget_s": 4,
        "agree_to": 1e-4,
        "diagonal_apart": True,
    }


CASES = [_case(what, value) for what, (values, _, _) in SIZES.items() for value in values]


def ours(case: dict):
    return convolution.ours(case) if case["grows"] == "side" else dense.ours(case)


def peer(case: dict):
    return convolution.peer(case) if case["grows"] == "side" else dense.peer(case)


def summaries(rows: list[dict]) -> dict:
    """Exponents p of time ~ size^p, by least squares on the logarithms of the largest sizes that both sides took."""
    exponents = {}
    for what, (_, _, count) in SIZES.items():
        for side in ("ours", "peer"):
            taken = [
                (r["case"][what], r[side]["minimum_s"]) for r in rows if r["case"]["grows"] == what and "peer" in r
            ]
            sizes, seconds = np.log(np.array(taken[-count:])).T
            exponents[f"{side}, {what}"] = round(float(np.polyfit(sizes, seconds, 1)[0]), 2)
    for name, exponent in exponents.items():
        print(f"  exponent of {name}: {exponent}")
    return {"exponents": exponents}


if __name__ == "__main__":
    import pairing

    pairing.main()
