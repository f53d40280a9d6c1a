"""Writes `room.json`: what neural-tangents 0.6.5 makes of `../guest_code.py`, for `tests/test_neural_tangents_room.py`.

Run it as `python benchmarks/peer.py tests/reference/make_room.py`, with names of cases after it to make only these.
"""

import json
import sys
import warnings
from pathlib import Path

import jax
import neural_tangents as nt
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from guest_code import CASES  # noqa: E402

warnings.filterwarnings("ignore")
assert jax.config.jax_enable_x64, "the stored values are float64"
PATH = Path(__file__).with_name("room.json")


def plain(array):
    """An array as its shape and its entries, with ten digits."""
    array = np.asarray(array, float)
    return {"shape": list(array.shape), "values": [float(f"{value:.10g}") for value in array.ravel()]}


stored = json.loads(PATH.read_text()) if PATH.exists() else {}
for name in sys.argv[1:] or CASES:
    stored[name] = {key: plain(array) for key, array in CASES[name](nt).items()}
    print(name, flush=True)
    PATH.write_text(json.dumps({name: stored[name] for name in CASES if name in stored}, separators=(",", ":")) + "\n")
