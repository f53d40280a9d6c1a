"""A panel's controls, picture and reading line as core ipywidgets: what a reader sees and touches.

Only widgets that every front end has: no `interact` and no `Output`, which clear and refill a cell at each move. A
control has two faces that follow each other: a labelled field for exact values (and for screen readers), and a slider.
"""

import html
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import ipywidgets

from .controls import Control, Number, show

if TYPE_CHECKING:
    from .panel import Panel

Moved = Callable[[str, float], None]


class ControlView:
    """The widgets of one control. `moved(name, value)` is called when the reader moves one; `show` moves them all."""

    def __init__(self, name: str, control: Control, value: float, moved: Moved):
        self.name, self.control, self._moved = name, control, moved
        self._is_showing = False
        self._faces = _faces(control, value)
        self.play = _play_button(control, value) if control.play else None
        for face in self._faces:
            face.observe(self._on_face, names="value")
        if self.play is not None:
            self.play.observe(self._on_play, names="value")
        children = [*self._faces] if self.play is None else [*self._faces, self.play]
        self.row = ipywidgets.HBox(children, layout={"align_items": "center", "margin": "0 24px 0 0"})

    def show(self, value: float) -> None:
        """Let every widget of this control show `value`, without telling the panel."""
        self._is_showing = True
        try:
            for face in self._faces:
                shown = _rounded(value) if isinstance(face, ipywidgets.BoundedFloatText) else value
                face.value = bool(value) if self.control.is_toggle else shown
            if self.play is not None:
                self.play.value = round(self.control.position(value) * self.play.max)
        finally:
            self._is_showing = False

    def _on_face(self, change: Mapping[str, Any]) -> None:
        if not self._is_showing:
            self._moved(self.name, float(change["new"]))

    def _on_play(self, change: Mapping[str, Any]) -> None:
        if not self._is_showing and self.play is not None:
            self._moved(self.name, self.control.at(change["new"] / self.play.max))


class PanelView:
    """The whole panel: caption, controls, buttons, picture, reading line."""

    def __init__(self, panel: "Panel"):
        state = panel.state()
        self.controls = {
            name: ControlView(name, control, state[name], panel._on_widget)
            for name, control in panel.definitions.items()
        }
        width = f"{panel.size[0] * 100:.0f}px"
        self.image = ipywidgets.Image(
            value=panel.png(), format="png", layout={"width": width, "max_width": "100%", "object_fit": "contain"}
        )
        self.reading = ipywidgets.HTML(reading_html(panel.reading, is_error=panel.failed))
        buttons = [_button(label, values, panel) for label, values in panel.presets.items()]
        buttons.append(_button("Reset", {n: c.default for n, c in panel.definitions.items()}, panel))
        wrap = {"display": "flex", "flex_flow": "row wrap", "align_items": "center"}
        head = [ipywidgets.HTML(_head_html(panel))] if panel.title or panel.caption else []
        self.box = ipywidgets.VBox(
            [
                *head,
                ipywidgets.Box([view.row for view in self.controls.values()], layout=wrap),
                ipywidgets.Box(buttons, layout=wrap),
                self.image,
                self.reading,
            ],
            layout={"max_width": "1100px"},
        )
        self.box.add_class("ntkbook-panel")

    def refresh(self, panel: "Panel") -> None:
        """Show the panel's values, picture and reading."""
        for name, value in panel.state().items():
            self.controls[name].show(value)
        self.image.value = panel.png()
        self.show_reading(panel.reading, is_error=panel.failed)

    def show_reading(self, text: str, *, is_error: bool) -> None:
        self.reading.value = reading_html(text, is_error=is_error)


def reading_html(text: str, *, is_error: bool) -> str:
    """The reading line, as a live region: screen readers say it when it changes."""
    role, weight = ("alert", "600") if is_error else ("status", "400")
    return (
        f'<div class="ntkbook-reading" role="{role}" aria-live="polite" '
        f'style="font-size:14px;line-height:1.5;font-weight:{weight}">{html.escape(text)}</div>'
    )


def _head_html(panel: "Panel") -> str:
    title = f"<b>{html.escape(panel.title)}</b> " if panel.title else ""
    return f'<div class="ntkbook-caption" style="line-height:1.5">{title}{html.escape(panel.caption)}</div>'


def _faces(control: Control, value: float) -> list[Any]:
    label = f"{control.label} ({control.unit})" if control.unit else control.label
    wide = {"description_width": "initial"}
    if control.is_toggle:
        return [ipywidgets.Checkbox(value=bool(value), description=label, indent=False, layout={"width": "auto"})]
    field_layout = {"width": f"{8 * len(label) + 100}px"}
    slider_layout = {"width": "190px"}
    if control.stops:
        options = [(show(stop), stop) for stop in control.stops]
        return [
            ipywidgets.Dropdown(options=options, value=value, description=label, style=wide, layout=field_layout),
            ipywidgets.SelectionSlider(options=options, value=value, readout=False, layout=slider_layout),
        ]
    if control.is_log:
        slider: Any = ipywidgets.FloatLogSlider(
            value=value,
            base=10,
            min=math.log10(control.low),
            max=math.log10(control.high),
            step=control.step,
            readout=False,
        )
    else:
        slider = ipywidgets.FloatSlider(
            value=value, min=control.low, max=control.high, step=control.step, readout=False
        )
    slider.layout = slider_layout
    field = ipywidgets.BoundedFloatText(
        value=_rounded(value),
        min=control.low,
        max=control.high,
        step=None if control.is_log else control.step,
        description=label,
        style=wide,
        layout=field_layout,
    )
    return [field, slider]


def _play_button(control: Control, value: float) -> Any:
    steps = len(control.stops) - 1 if control.stops else 100
    return ipywidgets.Play(
        value=round(control.position(value) * steps), min=0, max=steps, interval=80, layout={"width": "150px"}
    )


def _button(label: str, values: Mapping[str, Number], panel: "Panel") -> ipywidgets.Button:
    button = ipywidgets.Button(description=label, layout={"width": "auto"})
    button.on_click(lambda _: panel._on_preset(values))
    return button


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
