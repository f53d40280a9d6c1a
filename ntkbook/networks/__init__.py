"""Infinite width: what a network becomes when every layer is wide.

Doors: `kernel.py` (kernel, ntk, nngp), `layers.py` and its kin (convolution, attention), the activations, `gram.py`
for many points, `propagation.py` for depth and phase. Plumbing: `positions.py`, `moments.py`, `averages.py`,
`quadrature.py`.
"""
