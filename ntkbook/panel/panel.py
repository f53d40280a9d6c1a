"""The panel itself: values to data to picture and reading, with or without a notebook around it."""

import asyncio
import base64
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .bake import Baked, bake
from .controls import Control, Number, Range
from .picture import DOTS_PER_INCH, Build, Picture, Update

Compute = Callable[..., Mapping[str, Any]]
REST = 0.25  # seconds without a move, after which a draft gives way to the full picture
DRAFT_DENSITY = 1.0  # dots of a draft per dot of the page: a quarter of the sharp picture's, and half of its time

Reading = Callable[[dict[str, Any], dict[str, float]], str]


class Panel:
    """A picture with sliders. See the docstring of `ntkbook.panel` for a complete example.

    Args:
        compute: `compute(**values) -> dict of arrays`, pure; every control arrives as a Python float.
        build: `build(fig, data) -> dict`, makes the artists once, on an empty figure.
        update: `update(artists, data)`, moves what `build` returned.
        controls: name -> `slider`, `whole`, `choice`, `powers_of_two` or `toggle`, named as the arguments of `compute`.
        reading: `reading(data, state) -> str`, one line with the numbers that matter.
        title, caption: words above the controls: what to do, and what to see.
        presets: label of a button -> the values that it sets; the other controls stay.
        size: inches at 100 dots per inch; `density` dots of the picture per dot of the page. While a handle is dragged
            the picture has one dot per dot, and it is sharp when the handle rests for a moment.
        draft: a quicker, coarser `compute`, with the same arguments and arrays, for the time of the drag. For a
            compute slower than 40 ms.
        warm: settings computed once at construction, so that nothing compiles later. By default the defaults, and each
            stop of each `choice` and `toggle`.

    Raises:
        ValueError: when the names of `controls`, of `compute`'s arguments and of the presets do not agree.
    """

    def __init__(
        self,
        compute: Compute,
        build: Build,
        update: Update,
        controls: Mapping[str, Control],
        reading: Reading,
        *,
        title: str = "",
        caption: str = "",
        presets: Mapping[str, Mapping[str, Number]] | None = None,
        size: tuple[Number, Number] = (8.6, 3.6),
        density: Number = 2.0,
        draft: Compute | None = None,
        warm: Sequence[Mapping[str, Number]] | None = None,
    ):
        self.definitions = dict(controls)
        self.title, self.caption, self.size, self.density = title, caption, size, density
        self._compute, self._build, self._update, self._read = compute, build, update, reading
        self._draft = draft
        self._waiting: Any = None
        self._listeners: list[Callable[[Panel], None]] = []
        self._pictures: dict[bool, Picture] = {}  # of drafts and the others
        self._view: Any = None
        self._png: bytes | None = None
        _same_names(compute, self.definitions)
        self._values = {name: control.default for name, control in self.definitions.items()}
        self._wanted = dict(self._values)
        self.presets = {label: self._clean(values) for label, values in (presets or {}).items()}
        for values in _stops_in_turn(self.definitions) if warm is None else warm:
            for function in (compute, draft) if draft else (compute,):
                self._computed({**self._values, **self._clean(values)}, function)
        self._data, self._line = self._computed(self._values)
        self._error = ""
        self._is_draft = False

    # ------------------------------------------------------------ what a program asks and sets

    @property
    def controls(self) -> dict[str, Range]:
        """Name -> (low, high)."""
        return {name: control.range for name, control in self.definitions.items()}

    def state(self) -> dict[str, float]:
        """Name -> the value that is shown."""
        return dict(self._values)

    def data(self) -> dict[str, np.ndarray]:
        """The arrays that are drawn."""
        return dict(self._data)

    @property
    def reading(self) -> str:
        """One line of text with the numbers that matter, or what went wrong."""
        return self._error or self._line

    @property
    def failed(self) -> bool:
        """Did the last move fail, so that `reading` tells the error?"""
        return bool(self._error)

    def set(self, **values: Any) -> None:
        """Move controls, all at once: one computation, one new picture. A control with stops takes the nearest.

        Raises:
            ValueError: for an unknown name or a value outside its range; nothing has moved then.
        """
        self._move({**self._values, **self._clean(values)})

    def reset(self) -> None:
        """Every control to its default."""
        self.set(**{name: control.default for name, control in self.definitions.items()})

    def on_change(self, listener: Callable[["Panel"], None]) -> None:
        """Call `listener(panel)` after each move."""
        self._listeners.append(listener)

    # ------------------------------------------------------------ pictures

    def png(self) -> bytes:
        """The picture as it is now, as a PNG file."""
        if self._png is None:
            self._png = self._drawn(self.density)
        return self._png

    def figure(self) -> Figure:
        """A new, plain matplotlib figure of the present state, for a paper: `panel.figure().savefig("name.pdf")`."""
        return Picture(self._build, self._update, self._data, size=self.size, density=1.0).figure

    def bake(self, *names: str, frames: int = 60, budget: int = 2_000_000) -> Baked:
        """One piece of HTML in which the controls `names` (one or two) still move, without a kernel or a network.

        By default the control with a play button, or the first one. The other controls stay as they are now. The
        fragment has at most `budget` characters: frames are as sharp as that allows.

        Raises:
            ValueError: for unknown names, for three, and where even the plainest frames pass the budget.
        """
        chosen = names or tuple([n for n, c in self.definitions.items() if c.play] or list(self.definitions))[:1]
        if len(chosen) > 2 or any(name not in self.definitions for name in chosen):
            raise ValueError(f"Expected one or two of {', '.join(self.definitions)} to bake, got {', '.join(chosen)}.")
        return bake(self, chosen, frames, budget)

    @property
    def widget(self) -> Any:
        """The widgets: made when first asked for."""
        return self._shown().box

    def __repr__(self) -> str:
        return "Panel(" + ", ".join(f"{n}={_short(self.definitions[n], v)}" for n, v in self._values.items()) + ")"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """A live widget where there is a kernel; elsewhere a picture, and failing that one line of text."""
        view = self._shown()
        bundle = {
            "text/plain": repr(self),
            "image/png": base64.b64encode(self.png()).decode(),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": view.box.model_id,
            },
        }
        width, height = (round(inches * DOTS_PER_INCH) for inches in self.size)
        return bundle, {"image/png": {"width": width, "height": height}}

    def _draft_png(self) -> bytes:
        return self._drawn(min(DRAFT_DENSITY, self.density), is_draft=True)

    def _drawn(self, density: Number, *, is_draft: bool = False) -> bytes:
        if is_draft in self._pictures:
            self._pictures[is_draft].move(self._data)
        else:
            look = {"size": self.size, "density": density, "is_draft": is_draft}
            self._pictures[is_draft] = Picture(self._build, self._update, self._data, **look)
        return self._pictures[is_draft].png()

    # ------------------------------------------------------------ moves

    def _clean(self, values: Mapping[str, Any]) -> dict[str, float]:
        unknown = [name for name in values if name not in self.definitions]
        if unknown:
            raise ValueError(f"Expected controls among {', '.join(self.definitions)}, got {', '.join(unknown)}.")
        return {name: self.definitions[name].clean(name, value) for name, value in values.items()}

    def _move(self, values: dict[str, float], *, is_draft: bool = False) -> None:
        """Compute, and only then change anything."""
        self._stop_waiting()
        if values == self._values and not self._error and not self._is_draft:
            return
        data, line = self._computed(values, self._draft if is_draft else None)
        self._values, self._wanted, self._data, self._line, self._error = values, dict(values), data, line, ""
        self._is_draft, self._png = is_draft, None
        if self._view is not None:
            self._view.refresh(self)
        for listener in self._listeners:
            listener(self)

    def _on_widget(self, name: str, value: float, *, is_dragged: bool = False) -> None:
        """A reader moved `name`. What fails is told in the reading line: an exception here would vanish unseen."""
        try:
            self._wanted[name] = self.definitions[name].clean(name, value)
            self._follow(dict(self._wanted), is_dragged=is_dragged)
        except Exception as error:
            self._tell(error)

    def _follow(self, values: dict[str, float], *, is_dragged: bool) -> None:
        """Move; while a handle is dragged to a draft, which gives way to the full picture when the handle rests."""
        loop = event_loop() if is_dragged else None
        try:
            self._move(values, is_draft=loop is not None)
        finally:
            if loop is not None:
                self._stop_waiting()
                self._waiting = loop.call_later(REST, self._on_rest)

    def _on_rest(self) -> None:
        """The handle rests: the full picture, from data that are there if they are no draft."""
        try:
            if self._draft is not None and not self._error:
                self._move(dict(self._values))
            else:
                self._is_draft = False
                if self._view is not None:  # a linked panel may not be shown
                    self._view.show_picture(self.png())
        except Exception as error:
            self._tell(error)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _on_preset(self, values: Mapping[str, Number]) -> None:
        try:
            self.set(**values)
        except Exception as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        self._error = f"This setting failed, and the picture is the last good one. {type(error).__name__}: {error}"
        if self._view is not None:
            self._view.show_reading(self.reading, is_error=True)

    def _computed(
        self, values: Mapping[str, float], compute: Compute | None = None
    ) -> tuple[dict[str, np.ndarray], str]:
        """The arrays and the reading at these values."""
        arrays = (compute or self._compute)(**values)
        if not isinstance(arrays, Mapping):
            raise TypeError(f"Expected compute to return a dict of arrays, got {type(arrays).__name__}.")
        data = {name: np.asarray(array) for name, array in arrays.items()}
        return data, " ".join(str(self._read(dict(data), dict(values))).split())

    def _shown(self) -> Any:
        if self._view is None:
            from .widgets import PanelView

            self._view = PanelView(self)
            if event_loop() is not None:
                self._draft_png()  # its axes are drawn now, so that the first drag need not wait for them
        return self._view


def event_loop() -> Any:
    """The loop of the kernel, which can wait until the reader rests; None in a plain program, which gets no drafts."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


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


def _stops_in_turn(controls: Mapping[str, Control]) -> list[dict[str, float]]:
    return [{name: stop} for name, control in controls.items() for stop in control.stops]


def _short(control: Control, value: float) -> str:
    if control.is_toggle:
        return str(bool(value))
    if (control.stops or control.is_whole) and value == round(value):
        return str(round(value))
    return repr(float(f"{value:.4g}"))
