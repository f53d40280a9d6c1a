"""Doors to other libraries: estimators for scikit-learn here, kernels for its Gaussian processes, GPyTorch and tinygp.

Each kernel is a module of its own, imported by who has that library: `ntkbook.interop.sklearn`,
`ntkbook.interop.gpytorch`, `ntkbook.interop.tinygp`. Nothing else in this library imports them.
"""

from .estimators import NNGPRegressor as NNGPRegressor
from .estimators import NTKClassifier as NTKClassifier
from .estimators import NTKRegressor as NTKRegressor
