"""Finite width: any function f(params, x), its linearization, its tangent kernel, its training.

Doors: `linearize.py`, `empirical.py`, `train.py`. Plumbing of the fast kernel: `programs.py`, `functions.py`,
`layerwise.py`, `taps.py`; of training: `descent.py`, `history.py`.
"""
