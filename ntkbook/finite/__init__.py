"""Finite width: any function f(params, x), its linearization, its tangent kernel, its training.

Doors: `linearize.py`, `empirical.py`, `train.py`, `torch_models.py`. Plumbing of the fast kernel: `functions.py`,
`layerwise.py`, `taps.py`; of training: `descent.py`, `history.py`.
"""
