"""What a panel is, apart from where it stands: functions, controls and words. Picture, page and widgets read it.

A specification is frozen and has no state, so that a copy of a panel, its baked page and its widgets can share one.
"""

import inspect
import pickle
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .controls import Control, Number

Compute = Callable[..., Mapping[str, Any]]
Build = Callable[[Figure, dict[str, Any]], dict[str, Any]]
Update = Callable[[dict[str, Any], dict[str, Any]], None]
Reading = Callable[[dict[str, Any], dict[str, float]], str]


@dataclass(frozen=True, eq=False)
class PanelSpec:
    """The definition of a panel; `Panel` explains the fields.

    Raises:
        ValueError: when the names of `controls`, of `compute`'s arguments and of the presets do not agree.
    """

    compute: Compute
    build: Build
    update: Update
    controls: Mapping[str, Control]
    reading: Reading
    title: str = ""
    caption: str = ""
    presets: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    size: tuple[Number, Number] = (8.6, 3.6)
    density: Number = 2.0
    draft: Compute | None = None
    main: tuple[str, ...] = ()
    drag: tuple[tuple[str, str], ...] = ()
    baked: tuple[str, ...] = ()
    baked_caption: str = ""
    point: str = ""

    def __post_init__(self):
        _same_names(self.compute, self.controls)
        object.__setattr__(self, "controls", dict(self.controls))
        main = self.main or tuple([n for n, c in self.controls.items() if c.play] or list(self.controls))[:1]
        baked = tuple(self.baked) or (main[0], *[name for name in self.controls if name != main[0]][:1])
        drag = tuple(tuple(pair) for pair in self.drag)
        for name, value in (("main", tuple(main)), ("drag", drag), ("baked", baked)):
            object.__setattr__(self, name, value)
        self.clean({name: self.controls[name].default if name in self.controls else 0 for name in (*main, *baked)})
        for pair in self.drag:
            if len(pair) != 2 or any(name not in self.controls for name in pair):
                raise ValueError(f"Expected two controls for each point to drag, got {pair}.")
        presets = {label: self.clean(values) for label, values in self.presets.items()}
        object.__setattr__(self, "presets", presets)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), **{name: _address(getattr(self, name)) for name in _FUNCTIONS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            is_address = name in _FUNCTIONS and value is not None
            object.__setattr__(self, name, pkgutil.resolve_name(value) if is_address else value)  # pyright: ignore

    @property
    def defaults(self) -> dict[str, float]:
        """Name -> the value at the start."""
        return {name: control.default for name, control in self.controls.items()}

    def clean(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The values as Python floats within their ranges.

        Raises:
            ValueError: for unknown names, and what `Control.clean` refuses.
        """
        unknown = [name for name in values if name not in self.controls]
        if unknown:
            raise ValueError(f"Expected controls among {', '.join(self.controls)}, got {', '.join(unknown)}.")
        return {name: self.controls[name].clean(name, value) for name, value in values.items()}

    def computed(self, values: Mapping[str, float], *, is_draft: bool = False) -> tuple[dict[str, np.ndarray], str]:
        """The arrays, which nobody can write to, and the reading at these values.

        Raises:
            TypeError: if `compute` does not return a dict.
        """
        arrays = ((self.draft if is_draft else None) or self.compute)(**values)
        if not isinstance(arrays, Mapping):
            raise TypeError(f"Expected compute to return a dict of arrays, got {type(arrays).__name__}.")
        data = {name: _read_only(array) for name, array in arrays.items()}
        return data, " ".join(str(self.reading(dict(data), dict(values))).split())


_FUNCTIONS = ("compute", "build", "update", "reading", "draft")


def _address(function: Any) -> str | None:
    """Where a function can be imported from: pickled by itself, a jitted one cannot be found again.

    Raises:
        PicklingError: for a function that has no name in a module.
    """
    if function is None:
        return None
    address = f"{function.__module__}:{function.__qualname__}"
    try:
        found = pkgutil.resolve_name(address)
    except (AttributeError, ImportError, ValueError):
        found = None
    if found is not function:
        raise pickle.PicklingError(
            f"Expected functions that can be imported by name, got {function.__qualname__}. "
            "Define them in a module; or keep panel.state(), and `set` a new panel to it."
        )
    return address


def _read_only(array: Any) -> np.ndarray:
    """A view: what `compute` keeps for later moves, and hands out again, cannot be changed through it."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _same_names(compute: Compute, controls: Mapping[str, Control]) -> None:
    parameters = inspect.signature(compute).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = {p.name for p in parameters}
    required = {p.name for p in parameters if p.default is p.empty}
    if not (required <= set(controls) <= names):
        raise ValueError(
            f"Expected a control for each argument of compute, got arguments {sorted(names)} and "
            f"controls {sorted(controls)}. Use the same names."
        )
