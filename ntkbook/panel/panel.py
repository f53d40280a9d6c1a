"""The panel itself: values to data to picture and reading, with or without a notebook around it."""

import asyncio
import base64
import functools
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from .bake import Baked, bake
from .controls import Control, Number, Range
from .picture import DOTS_PER_INCH, Picture, small_png
from .spec import Build, Compute, PanelSpec, Reading, Update

REST = 0.25  # seconds without a move, after which a draft gives way to the full picture
DRAFT_DENSITY = 1.0  # dots of a draft per dot of the page: a quarter of the sharp picture's, and half of its time

# One for all panels: linked panels move each other from any side, and matplotlib's style is one for the whole program.
_LOCK = threading.RLock()


def _one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with _LOCK:
            return method(*args, **kwargs)

    return locked


class Panel:
    """A picture with sliders. See the docstring of `ntkbook.panel` for a complete example.

    Args:
        compute: `compute(**values) -> dict of arrays`, pure; every control arrives as a Python float.
        build: `build(fig, data) -> dict`, makes the artists once, on an empty figure.
        update: `update(artists, data)`, moves what `build` returned.
        controls: name -> `slider`, `whole`, `choice`, `powers_of_two` or `toggle`, named as the arguments of `compute`.
        reading: `reading(data, state) -> str`, one line with the numbers that matter.
        title, caption: words above the picture: what to do, and what to see.
        presets: label of a button -> the values that it sets; the other controls stay.
        size: inches at 100 dots per inch; `density` dots of the picture per dot of the page. While a handle is dragged
            the picture has one dot per dot, and it is sharp when the handle rests for a moment.
        draft: a quicker, coarser `compute`, with the same arguments and arrays, for the time of the drag. For a
            compute slower than 40 ms.
        main: the controls that the panel is about: as wide as the picture, right under it; the others fold away. By
            default the one with a play button, or the first.
        baked: one or two controls that move on a page without a kernel; by default the first main control and the next
            of `controls`. `baked_caption` is the caption there, where the usual one speaks of others.
        point: name of an array (x, y) of `compute`, a place in the first axes that both baked controls move: on a page
            without a kernel the reader drags it, from frame to frame.
        drag: pairs of controls that are the coordinates of a point in the first axes: the reader drags that point.
        warm: settings computed once at construction, so that nothing compiles later. By default the defaults, and each
            stop of each `choice` and `toggle`.

    A copy is a panel of its own, at the same place. Threads may share a panel; their moves come one after the other.

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
        main: Sequence[str] = (),
        drag: Sequence[tuple[str, str]] = (),
        baked: Sequence[str] = (),
        baked_caption: str = "",
        point: str = "",
        warm: Sequence[Mapping[str, Number]] | None = None,
    ):
        words = {"title": title, "caption": caption, "presets": presets or {}}
        look = {"size": size, "density": density, "draft": draft, "main": tuple(main), "drag": tuple(drag)}
        look |= {"baked": tuple(baked), "baked_caption": baked_caption, "point": point}
        spec = PanelSpec(compute, build, update, controls, reading, **words, **look)
        for values in _stops_in_turn(spec.controls) if warm is None else warm:
            for is_draft in (False, True) if draft else (False,):
                spec.computed({**spec.defaults, **spec.clean(values)}, is_draft=is_draft)
        self._start(spec, spec.defaults)

    def _start(self, spec: PanelSpec, values: dict[str, float]) -> "Panel":
        self.spec = spec
        self._values, self._wanted = dict(values), dict(values)
        self._data, self._line = spec.computed(values)
        self._error, self.is_draft = "", False
        self._waiting: Any = None
        self._listeners: list[Callable[[Panel], None]] = []
        self._pictures: dict[bool, Picture] = {}  # of drafts and the others
        self._view: Any = None
        self._png: bytes | None = None
        return self

    def __copy__(self) -> "Panel":
        return object.__new__(Panel)._start(self.spec, self._values)

    def __deepcopy__(self, memo: Any) -> "Panel":
        return self.__copy__()

    def __reduce__(self) -> Any:
        return _restored, (self.spec, self._values)

    # ------------------------------------------------------------ what a program asks and sets

    @property
    def definitions(self) -> dict[str, Control]:
        """Name -> the control."""
        return dict(self.spec.controls)

    @property
    def controls(self) -> dict[str, Range]:
        """Name -> (low, high)."""
        return {name: control.range for name, control in self.spec.controls.items()}

    @property
    def presets(self) -> dict[str, dict[str, float]]:
        """Label of a button -> the values that it sets."""
        return {label: dict(values) for label, values in self.spec.presets.items()}

    @property
    def title(self) -> str:
        return self.spec.title

    @property
    def caption(self) -> str:
        return self.spec.caption

    def state(self) -> dict[str, float]:
        """Name -> the value that is shown."""
        return dict(self._values)

    def data(self) -> dict[str, np.ndarray]:
        """The arrays that are drawn, as views that cannot be written to."""
        return dict(self._data)

    @property
    def reading(self) -> str:
        """One line of text with the numbers that matter, or what went wrong."""
        return self._error or self._line

    @property
    def failed(self) -> bool:
        """Did the last move fail, so that `reading` tells the error?"""
        return bool(self._error)

    @_one_at_a_time
    def set(self, **values: Any) -> None:
        """Move controls, all at once: one computation, one new picture. A control with stops takes the nearest.

        Raises:
            ValueError: for an unknown name or a value outside its range; nothing has moved then.
        """
        self._move({**self._values, **self.spec.clean(values)})

    def reset(self) -> None:
        """Every control to its default."""
        self.set(**self.spec.defaults)

    def on_change(self, listener: Callable[["Panel"], None]) -> None:
        """Call `listener(panel)` after each move."""
        self._listeners.append(listener)

    # ------------------------------------------------------------ pictures

    @_one_at_a_time
    def png(self) -> bytes:
        """The picture as it is now, as a PNG file."""
        self._png = self._png or self.picture().png()
        return self._png  # pyright: ignore

    def _small_png(self) -> bytes:
        with Image.open(io.BytesIO(self.png())) as image:
            return small_png(image)

    @_one_at_a_time
    def picture(self, *, is_draft: bool = False) -> Picture:
        """The picture of the present state, as an object: kept, and moved in place."""
        if is_draft in self._pictures:
            self._pictures[is_draft].move(self._data)
        else:
            density = min(DRAFT_DENSITY, self.spec.density) if is_draft else self.spec.density
            self._pictures[is_draft] = Picture(self.spec, self._data, density=density, is_draft=is_draft)
        return self._pictures[is_draft]

    @_one_at_a_time
    def figure(self) -> Figure:
        """A new, plain matplotlib figure of the present state, for a paper: `panel.figure().savefig("name.pdf")`."""
        return Picture(self.spec, self._data, density=1.0).figure

    @_one_at_a_time
    def bake(self, *names: str, frames: int = 60, budget: int = 2_000_000) -> Baked:
        """One piece of HTML in which the controls `names` (one or two) still move, without a kernel or a network.

        By default those of the argument `baked` of the panel. The other controls stay as they are now, and are named.
        The fragment has at most `budget` characters: frames are as sharp as that allows.

        Raises:
            ValueError: for unknown names, for three, and where even the plainest frames pass the budget.
        """
        known = self.spec.controls
        chosen = names or self.spec.baked
        if len(chosen) > 2 or any(name not in known for name in chosen):
            raise ValueError(f"Expected one or two of {', '.join(known)} to bake, got {', '.join(chosen)}.")
        return bake(self.spec, self._values, chosen, frames, budget)

    @property
    def widget(self) -> Any:
        """The widgets: made when first asked for.

        Raises:
            ModuleNotFoundError: without ipywidgets.
        """
        view = self.view()
        if view is None:
            raise ModuleNotFoundError("Expected ipywidgets, which is not installed: pip install 'ntkbook[notebook]'.")
        return view.box

    def __repr__(self) -> str:
        defaults, dragged = self.spec.defaults, {name for pair in self.spec.drag for name in pair}
        told = {n: v for n, v in self._values.items() if n not in dragged or v != defaults[n]}
        return "Panel(" + ", ".join(f"{n}={_short(self.spec.controls[n], v)}" for n, v in told.items()) + ")"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """A live widget where there is a kernel; elsewhere a picture, and failing that one line of text."""
        bundle = {"text/plain": repr(self), "image/png": base64.b64encode(self._small_png()).decode()}
        view = self.view()
        if view is not None:
            bundle |= view.bundle()
        width, height = (round(inches * DOTS_PER_INCH) for inches in self.spec.size)
        alt = f"{self.title} {self.reading}".strip()
        return bundle, {"image/png": {"width": width, "height": height, "alt": alt}}

    # ------------------------------------------------------------ moves

    def _move(self, values: dict[str, float], *, is_draft: bool = False) -> None:
        """Compute, and only then change anything."""
        self._stop_waiting()
        if values == self._values and not self._error and not self.is_draft:
            return
        data, line = self.spec.computed(values, is_draft=is_draft)
        self._values, self._wanted, self._data, self._line, self._error = values, dict(values), data, line, ""
        self.is_draft, self._png = is_draft, None
        self._show()
        for listener in self._listeners:
            listener(self)

    def _show(self) -> None:
        if self._view is not None:
            png = self.picture(is_draft=True).png() if self.is_draft else self.png()
            self._view.show(self._values, png, self.reading, self._places(), is_error=self.failed)

    @_one_at_a_time
    def _on_widget(self, values: Mapping[str, float], *, is_dragged: bool = False) -> None:
        """A reader moved controls. What fails is told in the reading line: an exception here would vanish unseen."""
        try:
            self._wanted |= self.spec.clean(values)
            self.follow(dict(self._wanted), is_dragged=is_dragged)
        except Exception as error:
            self._tell(error)

    def _places(self) -> list[list[float]]:
        if not self.spec.drag:
            return []
        picture = self.picture(is_draft=self.is_draft)
        return [picture.place_of(self._values[x], self._values[y]) for x, y in self.spec.drag]

    @_one_at_a_time
    def _on_drag(self, point: int, u: float, v: float) -> None:
        """A reader dragged a point to a place of the picture: it goes as far as its controls let it."""
        pair = self.spec.drag[point]
        xy = self.picture(is_draft=self.is_draft).point_at(u, v)
        ranges = (self.spec.controls[name].range for name in pair)
        values = {name: min(max(to, low), high) for name, to, (low, high) in zip(pair, xy, ranges)}
        self._on_widget(values, is_dragged=True)

    @_one_at_a_time
    def _on_step(self, point: int, right: int, up: int) -> None:
        """A reader pressed arrow keys on a point: so many steps of its controls."""
        stepped = {}
        for name, steps in zip(self.spec.drag[point], (right, up)):
            if steps:
                control = self.spec.controls[name]
                index = control.index_of(self._wanted[name]) + steps
                stepped[name] = control.value_at(min(max(index, 0), control.steps))
        self._on_widget(stepped, is_dragged=True)

    @_one_at_a_time
    def follow(self, values: Mapping[str, float], *, is_dragged: bool) -> None:
        """Move; while a handle is dragged to a draft, which gives way to the full picture when the handle rests."""
        loop = event_loop() if is_dragged else None
        try:
            self._move({**self._values, **self.spec.clean(values)}, is_draft=loop is not None)
        finally:
            if loop is not None:
                self._stop_waiting()
                self._waiting = loop.call_later(REST, self.rest)

    @_one_at_a_time
    def rest(self) -> None:
        """The handle rests: the full picture, from data that are there if they are no draft."""
        try:
            if self.spec.draft is not None and not self._error:
                self._move(dict(self._values))
            else:
                self.is_draft = False
                self._show()
        except Exception as error:
            self._tell(error)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _tell(self, error: Exception) -> None:
        self._error = f"This setting failed, and the picture is the last good one. {type(error).__name__}: {error}"
        if self._view is not None:
            self._view.show_reading(self.reading, is_error=True)

    @_one_at_a_time
    def view(self) -> Any:
        """What a reader sees and touches, made when first asked for; None without ipywidgets."""
        if self._view is None and has_widgets():
            from .widgets import PanelView

            now = self._values, self.png(), self.reading, self.failed
            self._view = PanelView(self.spec, *now, self._on_widget)
            self._view.listen(self._places(), self._on_drag, self._on_step)
            if event_loop() is not None:
                self.picture(is_draft=True).png()  # its axes are drawn now: the first drag need not wait for them
        return self._view


def has_widgets() -> bool:
    """Is ipywidgets there? A notebook shows pictures without it."""
    try:
        import ipywidgets  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def event_loop() -> Any:
    """The loop of the kernel, which can wait until the reader rests; None in a plain program, which gets no drafts."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _restored(spec: PanelSpec, values: dict[str, float]) -> Panel:
    return object.__new__(Panel)._start(spec, values)


def _stops_in_turn(controls: Mapping[str, Control]) -> list[dict[str, float]]:
    return [{name: stop} for name, control in controls.items() for stop in control.stops]


def _short(control: Control, value: float) -> str:
    if control.is_toggle:
        return str(bool(value))
    if (control.stops or control.is_whole) and value == round(value):
        return str(round(value))
    return repr(float(f"{value:.4g}"))
