"""What guides a reader's eye: a question before the slider moves, a mission that the program judges, linked panels.

Each works without a notebook (`choose`, `done`), and shows itself in one with core widgets. Where there is no kernel, a
question is text with its answer folded away.
"""

import html
from collections.abc import Callable, Mapping
from typing import Any

from .. import checks
from .panel import Panel, has_widgets

Judge = Callable[[dict[str, Any], dict[str, float]], Any]

RIGHT, WRONG = "#009E73", "#D55E00"


def link(*panels: Panel, names: tuple[str, ...] | None = None) -> None:
    """Let panels share controls: moving one moves the others. By default all names that they have in common.

    Raises:
        ValueError: unless there are two panels that all have these controls.
    """
    common = [name for name in panels[0].controls if all(name in panel.controls for panel in panels)] if panels else []
    shared = common if names is None else list(names)
    if len(panels) < 2 or not shared or any(name not in common for name in shared):
        raise ValueError(f"Expected two panels or more that share controls, got {panels} sharing {common}.")

    def follow(moved: Panel) -> None:
        values = {name: moved.state()[name] for name in shared}
        for panel in panels:
            if panel is not moved and any(panel.state()[name] != value for name, value in values.items()):
                panel.follow(values, is_dragged=moved.is_draft)

    for panel in panels:
        panel.on_change(follow)


class Predict:
    """A question to answer before the slider moves; the feedback is per option, and sends the panel to where it shows.

    Args:
        question: what will happen?
        options: option -> the feedback that a reader who chooses it needs.
        answer: the right one of the options.
        panel, look: on any choice the panel is set to `look`, which shows the answer; or option -> values.

    >>> q = Predict("Width doubles. The spread?", {"halves": "It goes as its root.", "1/sqrt 2": "Yes."}, "1/sqrt 2")
    >>> q.choose("1/sqrt 2")
    'Right. Yes.'
    """

    def __init__(
        self,
        question: str,
        options: Mapping[str, str],
        answer: str,
        *,
        panel: Panel | None = None,
        look: Mapping[str, Any] | None = None,
    ):
        checks.one_of(answer, "answer", tuple(options))
        self.question, self.options, self.answer, self.panel = question, dict(options), answer, panel
        per_option = bool(look) and all(isinstance(values, Mapping) for values in (look or {}).values())
        self._look = {o: dict((look or {}).get(o, {}) if per_option else look or {}) for o in self.options}
        if panel is not None:
            self._look = {option: panel.spec.clean(values) for option, values in self._look.items()}
        self.choice: str | None = None
        self._view: Any = None

    @property
    def is_right(self) -> bool:
        """Was the last choice the right one?"""
        return self.choice == self.answer

    def choose(self, option: str) -> str:
        """Answer, move the panel to where the answer shows, and return the feedback.

        Raises:
            ValueError: for what is not among the options.
        """
        checks.one_of(option, "option", tuple(self.options))
        self.choice = option
        if self.panel is not None and self._look[option]:
            self.panel.set(**self._look[option])
        if self._view is not None:
            self._view.show()
        return self.feedback

    @property
    def feedback(self) -> str:
        if self.choice is None:
            return ""
        return f"{'Right.' if self.is_right else 'Not quite.'} {self.options[self.choice]}"

    def __repr__(self) -> str:
        return f"Predict: {self.question} {self.feedback or '(not answered yet)'}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        items = "".join(f"<li>{html.escape(option)}</li>" for option in self.options)
        why = html.escape(f"{self.answer}. {self.options[self.answer]}")
        if self._view is None and has_widgets():
            self._view = _PredictView(self)
        return {
            "text/plain": repr(self),
            "text/html": f"<p><b>Predict.</b> {html.escape(self.question)}</p><ul>{items}</ul>"
            f"<details><summary>Answer</summary>{why}</details>",
            **_bundle(self._view),
        }


class Mission:
    """A small goal on a panel, judged by the program at every move, with a success that is seen and stays.

    Args:
        panel: the panel to move.
        goal: one sentence, such as "Find the smallest width with a kernel drift under 5 %."
        judge: `judge(data, state) -> bool`.
        hint: shown after `hint_after` moves without success.

    Raises:
        ValueError: if the goal is met before anything has moved.
    """

    def __init__(self, panel: Panel, goal: str, judge: Judge, *, hint: str = "", hint_after: int = 12):
        self.panel, self.goal, self.hint, self.hint_after = panel, goal, hint, hint_after
        self._judge = judge
        self.moves, self.found = 0, None
        self._view: Any = None
        if self._is_met():
            raise ValueError(f"Expected a goal that the panel's start does not meet, got {goal!r} met by {panel!r}.")
        panel.on_change(self._on_move)

    @property
    def done(self) -> bool:
        """Has the goal been met?"""
        return self.found is not None

    @property
    def status(self) -> str:
        """One line: the goal, and how it stands."""
        if self.found is not None:
            moves = "1 move" if self.moves == 1 else f"{self.moves} moves"
            return f"✓ Done with {self.found} in {moves}. {self.goal}"
        hint = f" Hint: {self.hint}" if self.hint and self.moves >= self.hint_after else ""
        return f"○ Mission. {self.goal}{hint}"

    def _is_met(self) -> bool:
        return bool(self._judge(self.panel.data(), self.panel.state()))

    def _on_move(self, panel: Panel) -> None:
        if self.done:
            return
        self.moves += 1
        if self._is_met():
            self.found = repr(panel).removeprefix("Panel")
        if self._view is not None:
            self._view.show()

    def __repr__(self) -> str:
        return self.status

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        if self._view is None and has_widgets():
            self._view = _MissionView(self)
        return {"text/plain": repr(self), **_bundle(self._view)}


# ---------------------------------------------------------------- as widgets


def _bundle(view: Any) -> dict[str, Any]:
    if view is None:
        return {}
    from .widgets import view_bundle

    return view_bundle(view.box)


class _PredictView:
    def __init__(self, predict: Predict):
        import ipywidgets

        self.predict = predict
        question = ipywidgets.HTML(f"<b>Predict.</b> {html.escape(predict.question)}")
        self.radio = ipywidgets.RadioButtons(
            options=list(predict.options), value=predict.choice, layout={"width": "auto"}
        )
        self.radio.observe(self._on_choice, names="value")
        self.feedback = ipywidgets.HTML()
        self.box = ipywidgets.VBox([question, self.radio, self.feedback])
        self.box.add_class("ntkbook-predict")
        self.show()

    def show(self) -> None:
        predict = self.predict
        self.radio.value = predict.choice
        self.feedback.value = _live(predict.feedback, RIGHT if predict.is_right else WRONG) if predict.choice else ""

    def _on_choice(self, change: Mapping[str, Any]) -> None:
        if change["new"] not in (None, self.predict.choice):
            try:
                self.predict.choose(change["new"])
            except Exception as error:  # an exception in a callback vanishes unseen
                self.feedback.value = _live(f"{type(error).__name__}: {error}", WRONG)


class _MissionView:
    def __init__(self, mission: Mission):
        import ipywidgets

        self.mission = mission
        self.line = ipywidgets.HTML()
        self.box = ipywidgets.VBox([self.line])
        self.box.add_class("ntkbook-mission")
        self.show()

    def show(self) -> None:
        self.line.value = _live(self.mission.status, RIGHT if self.mission.done else "#777777")


def _live(text: str, colour: str) -> str:
    """A line that screen readers say when it changes; its colour is a bar beside it, so that the words keep theirs."""
    style = f"border-left:5px solid {colour};padding:2px 10px;line-height:1.5"
    return f'<div role="status" aria-live="polite" style="{style}">{html.escape(text)}</div>'
