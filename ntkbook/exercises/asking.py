"""A question before the slider: the reader commits to an answer, and is sent to a setting of the panel that decides.

`Question` shows as buttons where there is a kernel, and as text with the answers folded away elsewhere.
"""

import html
from collections.abc import Mapping
from typing import Any


class Question:
    """A question with a few options; each has feedback of its own, and one is right.

    Args:
        text: the question.
        options: letter -> (option, feedback). Feedback says why, and which setting of the panel shows it.
        right: the letter of the right option.

    >>> question.answer("b")
    """

    def __init__(self, text: str, options: Mapping[str, tuple[str, str]], right: str):
        if right not in options:
            raise ValueError(f"Expected right to be one of {', '.join(options)}, got {right!r}.")
        self.text, self.options, self.right = text, dict(options), right
        self.given: str | None = None
        self._box: Any = None

    def answer(self, letter: str) -> str:
        """Record an answer, and return its feedback.

        Raises:
            ValueError: for a letter that is no option.
        """
        if letter not in self.options:
            raise ValueError(f"Expected one of {', '.join(self.options)}, got {letter!r}.")
        self.given = letter
        return f"{'Right.' if letter == self.right else 'Not so.'} {self.options[letter][1]}"

    def __repr__(self) -> str:
        return "\n".join([self.text, *(f"  {letter}) {option}" for letter, (option, _) in self.options.items())])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self._widget().model_id}
        return {
            "text/plain": repr(self),
            "text/html": self._html(),
            "application/vnd.jupyter.widget-view+json": view,
        }

    def _html(self) -> str:
        rows = "".join(
            f"<li>{letter}) {html.escape(option)}<details><summary>I choose {letter}</summary>"
            f"{html.escape(('Right. ' if letter == self.right else 'Not so. ') + feedback)}</details></li>"
            for letter, (option, feedback) in self.options.items()
        )
        return f"<p>{html.escape(self.text)}</p><ul style='list-style:none'>{rows}</ul>"

    def _widget(self) -> Any:
        if self._box is not None:
            return self._box
        import ipywidgets

        reply = ipywidgets.HTML('<div role="status" aria-live="polite"></div>')

        def chosen(button: Any) -> None:
            letter = button.description[0]
            reply.value = f'<div role="status" aria-live="polite">{html.escape(self.answer(letter))}</div>'

        buttons = []
        for letter, (option, _) in self.options.items():
            button = ipywidgets.Button(description=f"{letter}) {option}", layout={"width": "auto"})
            button.style.text_align = "left"
            button.on_click(chosen)
            buttons.append(button)
        text = ipywidgets.HTML(f"<b>{html.escape(self.text)}</b>")
        self._box = ipywidgets.VBox([text, *buttons, reply], layout={"max_width": "1000px"})
        return self._box
