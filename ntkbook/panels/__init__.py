"""Every panel of the book by name, each built when it is asked for."""

from collections.abc import Callable
from importlib import import_module

from ..panel import Panel


def _lazy(chapter: str, function: str) -> Callable[[], Panel]:
    """A function that imports `panels/<chapter>.py` when called, and calls `function` there."""

    def make() -> Panel:
        return getattr(import_module(f"{__name__}.{chapter}"), function)()

    make.__name__, make.__module__ = function, f"{__name__}.{chapter}"
    return make


PANELS: dict[str, Callable[[], Panel]] = {
    "sine_ensemble": _lazy("start_here", "sine_ensemble"),
    "random_outputs": _lazy("wide_networks_are_gaussian", "random_outputs"),
    "one_example": _lazy("kernel_gradient", "one_example"),
    "two_outputs": _lazy("kernel_gradient", "two_outputs"),
    "circle_kernel": _lazy("infinite_width_ntk", "circle_kernel"),
    "digits_kernel": _lazy("infinite_width_ntk", "digits_kernel"),
    "linearization": _lazy("linearization", "linearization"),
    "mode_filter": _lazy("closed_form_dynamics", "mode_filter"),
    "units_of_time": _lazy("closed_form_dynamics", "units_of_time"),
    "two_ensembles": _lazy("ensembles", "two_ensembles"),
    "straight_line": _lazy("kernel_principal_components", "straight_line"),
    "noisy_labels": _lazy("kernel_principal_components", "noisy_labels"),
    "classifier": _lazy("beyond_squared_loss", "classifier"),
    "parameterizations": _lazy("parameterizations", "parameterizations"),
    "phase_diagram": _lazy("depth_and_phase", "phase_diagram"),
    "layer_maps": _lazy("layer_maps", "layer_maps"),
    "spectral_bias": _lazy("spectral_bias", "spectral_bias"),
    "image_bandwidth": _lazy("spectral_bias", "image_bandwidth"),
    "lazy_and_rich": _lazy("lazy_and_rich", "lazy_and_rich"),
    "catapult": _lazy("lazy_and_rich", "catapult"),
    "double_descent": _lazy("generalization", "double_descent"),
    "learnt_degrees": _lazy("generalization", "learnt_degrees"),
    "boundary_weight": _lazy("physics_informed", "boundary_weight"),
    "frequency": _lazy("physics_informed", "frequency"),
    "who_helps": _lazy("kernels_at_work", "who_helps"),
    "ten_pictures": _lazy("kernels_at_work", "ten_pictures"),
    "shifted_digit": _lazy("architectures", "shifted_digit"),
    "key_token": _lazy("key_token", "key_token"),
    # name -> _lazy(file in this folder, function that returns a Panel at its default state)
}
