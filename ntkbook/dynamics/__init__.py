"""Training in function space: what gradient descent does to a linear model with a given kernel, at any time.

Doors: `gradient.py` (flow), `steps.py` (steps, momentum), `extremes.py` (learning rates), `losses.py` (any loss),
`ensemble.py` (means and covariances over time), `posterior.py`, `spectrum.py`, `evidence.py`, `learning_curves.py`,
`fluctuations.py`. Plumbing: `filters.py`, `modes.py`, `protocol.py`, `large.py`, `gaussian.py`.
"""
