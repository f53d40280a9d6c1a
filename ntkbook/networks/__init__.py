"""Infinite width: what a network becomes when every layer is wide.

Doors: `kernel.py` (kernel, ntk, nngp), `layers.py` and its kin (paths, convolution, attention), the activations,
`propagation.py` for depth and phase. Plumbing: `tiles.py` (many points), `signals.py`, `positions.py`, `offsets.py`,
`moments.py`, `averages.py`, `quadrature.py`.
"""
