"""A panel's controls, picture and reading line as core ipywidgets: what a reader sees and touches.

Only widgets that every front end has: no `interact` and no `Output`, which clear and refill a cell at each move. A
control has two faces that follow each other: a labelled field for exact values (and for screen readers), and a slider.
"""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets

from .accessible import names_html
from .controls import Control
from .spec import PanelSpec

Moved = Callable[..., None]
Places = Sequence[Sequence[float]]


class ControlView:
    """The widgets of one control. `moved({name: value})` is called when the reader moves one; `show` moves them all.

    The handle counts steps and knows no values: a front end rounds a value to the handle's grid and sends it back, and
    a value set from code would not stay what it is.
    """

    def __init__(self, name: str, control: Control, value: float, moved: Moved, label_width: int):
        self.name, self.control, self._moved = name, control, moved
        self._is_showing = False
        self.field = _field(control, value, label_width)
        self.field.observe(self._on_field, names="value")
        self.counters: list[Any] = [] if control.is_toggle else [_handle(control, value)]
        if control.play:
            self.counters.append(_play_button(control, value))
        for counter in self.counters:
            counter.observe(self._on_counter, names="value")
        self.row = ipywidgets.HBox([self.field, *self.counters], layout={"align_items": "center"})
        self.row.add_class("ntkbook-control")

    def show(self, value: float) -> None:
        """Let every widget of this control show `value`, without telling the panel."""
        self._is_showing = True
        try:
            self.field.value = _in_field(self.control, value)
            for counter in self.counters:
                counter.value = self.control.index_of(value)
        finally:
            self._is_showing = False

    def _on_field(self, change: Mapping[str, Any]) -> None:
        if not self._is_showing:
            self._moved({self.name: float(change["new"])})

    def _on_counter(self, change: Mapping[str, Any]) -> None:
        if not self._is_showing:
            self._moved({self.name: self.control.value_at(change["new"])}, is_dragged=True)


class PanelView:
    """The whole panel: caption, controls, buttons, picture, reading line. It knows no panel, and calls `moved`."""

    def __init__(
        self, spec: PanelSpec, values: Mapping[str, float], png: bytes, reading: str, is_error: bool, moved: Moved
    ):
        label_width = _label_width(spec.controls.values())
        self.controls = {
            name: ControlView(name, control, values[name], moved, label_width)
            for name, control in spec.controls.items()
        }
        width = f"{spec.size[0] * 100:.0f}px"
        self._spec = spec
        self.image = _picture(spec, png, {"width": width, "max_width": "100%", "object_fit": "contain"})
        self.reading = ipywidgets.HTML(reading_html(reading, is_error=is_error))
        self.buttons = [_button(label, preset, moved) for label, preset in spec.presets.items()]
        self.buttons.append(_button("Reset", spec.defaults, moved))
        wrap = {"display": "flex", "flex_flow": "row wrap", "align_items": "center"}
        columns = {"display": "grid", "grid_template_columns": f"repeat(auto-fit, minmax({label_width + 300}px, 1fr))"}
        folded = [name for name in self.controls if name not in spec.main]
        points = [pair for pair in spec.drag if set(pair) <= set(folded)]
        if len(points) > 1:  # the picture moves them: numbers are enough here, one column for each point
            folded = [name for name in folded if not any(name in pair for pair in points)]
        others = [self.controls[name].row for name in folded]
        if len(points) > 1:
            others.append(self._table_of(points))
        for name in spec.main:
            for counter in self.controls[name].counters[:1]:
                counter.layout.max_width = None
        self.folded = ipywidgets.Box(others, layout={**columns, "display": "none"})
        self.fold = ipywidgets.ToggleButton(description="More controls", icon="sliders", layout={"width": "auto"})
        unfolded = lambda is_open: "grid" if is_open else "none"
        self.fold.observe(lambda change: setattr(self.folded.layout, "display", unfolded(change["new"])), names="value")
        head = [ipywidgets.HTML(_head_html(spec))] if spec.title or spec.caption else []
        self.box = ipywidgets.VBox(
            [
                *head,
                self.image,
                *[self.controls[name].row for name in spec.main],
                self.reading,
                ipywidgets.Box([*self.buttons, *([self.fold] if others else [])], layout=wrap),
                self.folded,
                ipywidgets.HTML(names_html(), layout={"display": "none"}),
            ],
            layout={"max_width": f"{max(1.0, spec.size[0]) * 100:.0f}px"},
        )
        self.box.add_class("ntkbook-panel")

    def _table_of(self, points: Sequence[tuple[str, str]]) -> Any:
        """The fields of points, without handles: x above y, as many columns as there is room for."""
        columns, longest = [], max(len(_label(self.controls[name].control)) for pair in points for name in pair)
        for pair in points:
            for name in pair:
                view = self.controls[name]
                view.field.style.description_width = f"{round(6.5 * longest) + 4}px"
                view.field.layout.width = f"{round(6.5 * longest) + 82}px"
                view.row.children = [view.field]
            columns.append(ipywidgets.VBox([self.controls[name].row for name in pair]))
        look = {"display": "flex", "flex_flow": "row wrap", "grid_column": "1 / -1"}
        return ipywidgets.Box(columns, layout=look)

    def listen(self, places: Places, dragged: Any, stepped: Any) -> None:
        """Let the points of the picture be dragged from `places`, if the picture can do that."""
        self._place(places)
        if hasattr(self.image, "points"):
            self.image.listen(dragged, stepped)

    def _place(self, places: Places) -> None:
        if hasattr(self.image, "points"):
            self.image.points = places
            value = lambda name: self.controls[name].control.words(self.controls[name].field.value)
            label = lambda name: f"{_label(self.controls[name].control)} {value(name)}"
            self.image.names = [f"Point to drag: {label(x)}, {label(y)}" for x, y in self._spec.drag]

    def show(
        self, values: Mapping[str, float], png: bytes, reading: str, places: Places = (), *, is_error: bool
    ) -> None:
        """Show other values, with their picture and reading, and the places of its points."""
        for name, value in values.items():
            self.controls[name].show(value)
        self.image.value = png
        self._place(places)
        self.show_reading(reading, is_error=is_error)

    def show_reading(self, text: str, *, is_error: bool) -> None:
        self.reading.value = reading_html(text, is_error=is_error)

    def bundle(self) -> dict[str, Any]:
        return view_bundle(self.box)


def _picture(spec: PanelSpec, png: bytes, layout: dict[str, str]) -> Any:
    """A picture whose points can be dragged, if there are any and anywidget is there; otherwise one to look at."""
    if spec.drag:
        try:
            from .dragging import DragPicture
        except ModuleNotFoundError:
            pass
        else:
            return DragPicture(value=png, layout=layout, points=[[0.5, 0.5]] * len(spec.drag))
    return ipywidgets.Image(value=png, format="png", layout=layout)


def view_bundle(box: Any) -> dict[str, Any]:
    """What tells a notebook to show a widget."""
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def reading_html(text: str, *, is_error: bool) -> str:
    """The reading line, as a live region: screen readers say it when it changes."""
    role, weight = ("alert", "600") if is_error else ("status", "400")
    return (
        f'<div class="ntkbook-reading" role="{role}" aria-live="polite" '
        f'style="font-size:14px;line-height:1.5;font-weight:{weight}">{html.escape(text)}</div>'
    )


def _head_html(spec: PanelSpec) -> str:
    title = f"<b>{html.escape(spec.title)}</b> " if spec.title else ""
    return (
        f'<div class="ntkbook-caption" data-title="{html.escape(spec.title)}" style="line-height:1.5">'
        f"{title}{html.escape(spec.caption)}</div>"
    )


def _label(control: Control) -> str:
    return f"{control.label} ({control.unit})" if control.unit else control.label


def _label_width(controls: Iterable[Control]) -> int:
    """Pixels for the longest label, so that fields and handles stand in columns."""
    return max((round(7.6 * len(_label(control))) + 8 for control in controls if not control.is_toggle), default=0)


def _field_width(control: Control) -> int:
    return max(90, round(7.6 * max(map(len, control.names), default=0)) + 32)


def _field(control: Control, value: float, label_width: int) -> Any:
    """Where a value is read and typed: a box with a real label, which a handle has not."""
    label, value = _label(control), _in_field(control, value)
    if control.is_toggle:
        layout = {"width": "auto", "margin": f"2px 2px 2px {label_width + 4}px"}
        return ipywidgets.Checkbox(value=value, description=label, indent=False, layout=layout)
    look = {
        "description": label,
        "style": {"description_width": f"{label_width}px"},
        "layout": {"width": f"{label_width + _field_width(control)}px", "flex": "0 0 auto"},
    }
    if control.stops:
        return ipywidgets.Dropdown(options=[(control.words(stop), stop) for stop in control.stops], value=value, **look)
    step = None if control.is_log else control.step
    return ipywidgets.BoundedFloatText(value=value, min=control.low, max=control.high, step=step, **look)


def _in_field(control: Control, value: float) -> Any:
    if control.is_toggle:
        return bool(value)
    return value if control.stops else float(f"{value:.5g}")


def _handle(control: Control, value: float) -> ipywidgets.IntSlider:
    layout = {"flex": "1 1 120px", "min_width": "110px", "max_width": "320px"}
    return ipywidgets.IntSlider(value=control.index_of(value), min=0, max=control.steps, readout=False, layout=layout)


def _play_button(control: Control, value: float) -> ipywidgets.Play:
    return ipywidgets.Play(
        value=control.index_of(value),
        min=0,
        max=control.steps,
        interval=80,
        show_repeat=False,
        layout={"width": "80px", "flex": "0 0 auto"},
    )


def _button(label: str, values: Mapping[str, float], moved: Moved) -> ipywidgets.Button:
    button = ipywidgets.Button(description=label, layout={"width": "auto"})
    button.on_click(lambda _: moved(values))
    return button
