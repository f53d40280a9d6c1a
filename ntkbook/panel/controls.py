"""What a reader may change: a label, a unit, a range and a default, with no widget attached.

Its constructors: `slider` (linear or logarithmic), `whole` (whole numbers, such as a depth), `choice` and
`powers_of_two` (a few stops, so that each can be compiled or cached beforehand), and `toggle`. `Control.clean` is the
one place where a value on its way to a computation becomes a Python float: JAX compiles again for an int or a numpy
scalar where a float came before.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

Number = int | float  # what a caller may write; a `Control` holds floats


class Range(NamedTuple):
    """The lowest and the highest value that a control takes."""

    low: float
    high: float


@dataclass(frozen=True)
class Control:
    """One thing that a reader may change; made by `slider`, `whole`, `choice`, `powers_of_two` or `toggle`."""

    label: str
    low: float
    high: float
    default: float
    unit: str = ""
    step: float = 0.0
    is_log: bool = False
    is_toggle: bool = False
    is_whole: bool = False
    stops: tuple[float, ...] = ()
    play: bool = False
    names: tuple[str, ...] = ()

    @property
    def range(self) -> Range:
        return Range(self.low, self.high)

    def clean(self, name: str, value: Any) -> float:
        """`value` as a Python float inside the range; a control with stops, or of whole numbers, takes the nearest.

        Raises:
            TypeError: for what is no number.
            ValueError: outside the range, or NaN.
        """
        is_zero_dim = getattr(value, "ndim", None) == 0 and hasattr(getattr(value, "dtype", None), "kind")
        plain = value.item() if is_zero_dim else value
        if not isinstance(plain, numbers.Real):
            raise TypeError(f"Expected {name} to be a number, got {type(value).__name__} {str(value)[:40]!r}.")
        number = _as_float(plain)
        slack = 1e-9 * max(abs(self.low), abs(self.high))  # 10**log10(high) may come out a rounding error above high
        if not self.low - slack <= number <= self.high + slack:
            raise ValueError(
                f"Expected {name} between {show(self.low)} and {show(self.high)}, got {show(number)}. "
                "The panel's `controls` lists every range."
            )
        if self.stops:
            near = math.log(number) if self.is_log else number
            return min(self.stops, key=lambda stop: abs((math.log(stop) if self.is_log else stop) - near))
        return min(max(float(round(number)) if self.is_whole else number, self.low), self.high)

    def words(self, value: float) -> str:
        """The value as a reader sees it: a stop by its name, if stops have names."""
        if self.is_toggle:
            return "on" if value else "off"
        return self.names[self.stops.index(value)] if self.names else show(value)

    @property
    def steps(self) -> int:
        """How many key presses lead from the lowest value to the highest."""
        if self.stops:
            return len(self.stops) - 1
        span = math.log10(self.high / self.low) if self.is_log else self.high - self.low
        return max(1, math.ceil(span / self.step - 1e-9))

    def value_at(self, index: int) -> float:
        """The value after `index` steps from the lowest one, as a round number."""
        if self.stops:
            return self.stops[index]
        if index <= 0 or index >= self.steps:
            return self.low if index <= 0 else self.high
        if self.is_log:
            return float(f"{self.low * 10 ** (index * self.step):.4g}")
        return float(f"{self.low + index * self.step:.10g}")

    def index_of(self, value: float) -> int:
        """The step nearest to `value`."""
        if self.stops:
            return self.stops.index(value)
        if value >= self.high:
            return self.steps
        distance = math.log10(value / self.low) if self.is_log else value - self.low
        return min(round(distance / self.step), self.steps)


def slider(
    label: str,
    low: Number,
    high: Number,
    default: Number,
    *,
    unit: str = "",
    step: Number | None = None,
    log: bool = False,
    play: bool = False,
) -> Control:
    """A continuous control. `step` is what one key press adds: by default a round number near a hundredth of the range.

    With `log=True` steps are equal factors, and `step` is in powers of ten. With `play=True` a button moves it
    through its range: meant for time.

    Raises:
        ValueError: unless low <= default <= high and low < high; for `log`, unless 0 < low.
    """
    low, high, default = float(low), float(high), float(default)
    if not (low < high and low <= default <= high):
        raise ValueError(f"Expected low <= default <= high for {label!r}, got {low}, {default}, {high}.")
    if log and low <= 0:
        raise ValueError(f"Expected a logarithmic slider {label!r} to begin above 0, got {low}.")
    if step is None:
        step = math.log10(high / low) / 100 if log else _round_step((high - low) / 100)
    if step <= 0:
        raise ValueError(f"Expected a positive step for {label!r}, got {step}.")
    return Control(label, low, high, default, unit, float(step), log, play=play)


def whole(label: str, low: int, high: int, default: int, *, unit: str = "", play: bool = False) -> Control:
    """A control of whole numbers, such as a depth. Take `choice` where each number means a compilation of its own."""
    made = slider(label, low, high, default, unit=unit, step=1, play=play)
    return replace(made, is_whole=True)


def choice(
    label: str,
    stops: Sequence[Number],
    default: Number,
    *,
    unit: str = "",
    log: bool = False,
    play: bool = False,
    names: Sequence[str] = (),
) -> Control:
    """A control with a few stops, in rising order. `log=True` says that their distances are ratios.

    With `names` the reader sees a name for each stop in place of its number.

    Raises:
        ValueError: unless the stops rise and hold the default, and have as many names or none.
    """
    values = tuple(float(stop) for stop in stops)
    if len(values) < 2 or list(values) != sorted(set(values)) or float(default) not in values:
        raise ValueError(f"Expected rising stops that hold the default for {label!r}, got {values} and {default}.")
    if len(names) not in (0, len(values)) or len(set(names)) != len(names):
        raise ValueError(f"Expected a name for each of the {len(values)} stops of {label!r}, got {tuple(names)}.")
    low, high = values[0], values[-1]
    return Control(label, low, high, float(default), unit, 0.0, log, stops=values, play=play, names=tuple(names))


def powers_of_two(label: str, low: int, high: int, default: int, *, unit: str = "") -> Control:
    """Stops at the powers of two from `low` to `high`: the control for a width."""
    first, last = round(math.log2(low)), round(math.log2(high))
    return choice(label, [2.0**i for i in range(first, last + 1)], default, unit=unit, log=True)


def toggle(label: str, default: bool = False) -> Control:
    """On or off: 1.0 or 0.0 for the computation."""
    return Control(label, 0.0, 1.0, float(default), is_toggle=True, stops=(0.0, 1.0))


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, the nearest to `rough` from above but for a quarter."""
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(m * unit for m in (1, 2, 5, 10) if m * unit >= 0.8 * rough)


def _as_float(value: Any) -> float:
    """A whole number may be larger than all floats: that is infinity, which no range holds."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def show(value: Number) -> str:
    """A number for people: four significant digits, whole numbers without a point."""
    return f"{value:.0f}" if abs(value) < 1e6 and value == round(value) else f"{value:.4g}"
