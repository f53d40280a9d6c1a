"""Claims: what a paper says, what was measured here, and the verdict that a stated criterion gives.

Every chapter ends with `table(claims)`. A verdict is never typed in: it is computed from the measured
number, its spread and the criterion. A claim that has neither a measured spread nor a reason for its
criterion is not a claim, and raises. A claim names a rival, another theory with the number that it would
give, and passes only if its criterion excludes that number. What is shown is rounded, so that the table
can be compared word by word on another machine, and it carries its rows as data, so that the claims of
the book can be collected.
"""

import html
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, SupportsFloat

MIME = "application/vnd.ntkbook.claims+json"
WIDTH = 100


@dataclass(frozen=True)
class Criterion:
    """A test with its printed form: `test(measured, spread)` says whether the claim holds.

    `spread` is None where none was measured.
    """

    text: str
    test: Callable[[float, float | None], bool]
    needs_spread: bool = False


@dataclass(frozen=True)
class Rival:
    """Another theory: its `name` in words, and the `value` that would be measured if it held, computed as well.

    `spread` is the spread of that value, where it is not the claim's own.
    """

    name: str
    value: Any
    _: KW_ONLY
    spread: Any = None

    def __post_init__(self):
        if not self.name.strip():
            raise ValueError("Expected a rival's name in words, got an empty one. Which theory is excluded?")
        object.__setattr__(self, "value", _number(self.value, "the rival's value"))
        if self.spread is not None:
            object.__setattr__(self, "spread", _number(self.spread, "the rival's spread"))


@dataclass(frozen=True)
class Claim:
    """One claim: a sentence, its source, the number measured here, and the criterion that judges it.

    Args:
        sentence: what is claimed, in words.
        source: the paper and the place in it, as in "Lee et al. 2019, Fig. 1".
        measured: one number, computed a moment ago.
        criterion: a pair (low, high), or `between`, `below`, `above`, `equal`, `near`, or a `Criterion`.
        spread: one standard deviation (or standard error) of `measured`, itself measured.
        reason: why the criterion is what it is. Needed where there is no spread.
        digits: significant digits shown; fewer where another machine rounds differently.
        rival: the theory that the claim excludes. Where the criterion would accept the rival's number as well, the
            measurement decides nothing, and the verdict is FAIL.

    Raises:
        ValueError: without spread and reason, for a spread that is not positive, for empty words, for a
            criterion that cannot fail, or for one that needs a spread where there is none.
        TypeError: for a measured value that is not one number, or a criterion without a printed form.
    """

    sentence: str
    source: str
    measured: Any
    criterion: Any
    _: KW_ONLY
    spread: Any = None
    reason: str | None = None
    digits: int = 3
    rival: Rival | None = None

    def __post_init__(self):
        for name in ("sentence", "source"):
            if not getattr(self, name).strip():
                raise ValueError(f"Expected a {name} in words, got an empty one. What is claimed, and where?")
        object.__setattr__(self, "measured", _number(self.measured, "measured"))
        object.__setattr__(self, "criterion", _as_criterion(self.criterion))
        if self.spread is not None:
            object.__setattr__(self, "spread", _number(self.spread, "spread"))
            if self.spread <= 0:
                raise ValueError(
                    f"Expected a positive spread, got {self.spread}. "
                    "Measure it over seeds, or leave it out and give a reason for the criterion."
                )
        if self.spread is None and self.criterion.needs_spread:
            raise ValueError(
                f"Expected a measured spread for the criterion {self.criterion.text!r}, got none. Pass spread=... ."
            )
        if self.spread is None and not (self.reason or "").strip():
            raise ValueError(
                "Expected a measured spread or a reason for the criterion, got neither. "
                "Pass spread=..., or reason='why this bound and not another'."
            )
        if self.digits < 1:
            raise ValueError(f"Expected digits to be at least 1, got {self.digits}.")

    @property
    def verdict(self) -> str:
        """PASS or FAIL, computed. NaN always fails, and so does a criterion that the rival meets too."""
        return "PASS" if self._holds(self.measured, self.spread) and self.excludes_rival else "FAIL"

    @property
    def excludes_rival(self) -> bool:
        """Would the rival's number fail the criterion? True without a rival; a number that is NaN excludes nothing."""
        if self.rival is None:
            return True
        spread = self.spread if self.rival.spread is None else self.rival.spread
        return not math.isnan(self.rival.value) and not self._holds(self.rival.value, spread)

    def _holds(self, measured: float, spread: float | None) -> bool:
        known = not math.isnan(measured) and not (spread is not None and math.isnan(spread))
        return known and bool(self.criterion.test(measured, spread))

    def _shown_digits(self) -> int:
        """As many digits as asked for, or more where the rounded number would get the other verdict."""
        return self._telling_digits(self.measured, self.spread)

    def _telling_digits(self, value: float, spread: float | None) -> int:
        digits, holds = self.digits, self._holds(value, spread)
        while digits < 12 and self._holds(float(_rounded(value, digits)), spread) != holds:
            digits += 1
        return digits

    def _shown_rival(self) -> str:
        """The rival's name, its number, and whether the criterion excludes it."""
        assert self.rival is not None
        spread = self.spread if self.rival.spread is None else self.rival.spread
        value = _rounded(self.rival.value, self._telling_digits(self.rival.value, spread))
        return f"{self.rival.name.strip()}: {value} ({'excluded' if self.excludes_rival else 'not excluded'})"

    def row(self) -> dict[str, str]:
        """What is shown, as words: sentence, source, measured, criterion, reason, rival if there is one, verdict."""
        measured = _rounded(self.measured, self._shown_digits())
        if self.spread is not None:
            measured += f" ± {_rounded(self.spread, 1)}"
        return {
            "sentence": self.sentence.strip(),
            "source": self.source.strip(),
            "measured": measured,
            "criterion": self.criterion.text,
            "reason": (self.reason or "").strip(),
            **({"rival": self._shown_rival()} if self.rival else {}),
            "verdict": self.verdict,
        }


def between(low: SupportsFloat, high: SupportsFloat) -> Criterion:
    """low <= measured <= high. A spread of more than half of that range decides nothing, and fails."""
    low, high = _number(low, "low"), _number(high, "high")
    if not low < high:
        raise ValueError(f"Expected low < high, got ({low}, {high}). For one exact value use equal(...).")
    if math.isinf(low) and math.isinf(high):
        raise ValueError("Expected a criterion that can fail, got (-inf, inf). Which values would refute the claim?")
    if math.isinf(low):
        return below(high)
    if math.isinf(high):
        return above(low)

    def test(measured: float, spread: float | None) -> bool:
        return low <= measured <= high and (spread is None or spread <= (high - low) / 2)

    return Criterion(f"from {low:.6g} to {high:.6g}", test)


def below(limit: SupportsFloat) -> Criterion:
    """measured <= limit."""
    high = _number(limit, "limit")
    return Criterion(f"at most {high:.6g}", lambda measured, spread: measured <= high)


def above(limit: SupportsFloat) -> Criterion:
    """measured >= limit."""
    low = _number(limit, "limit")
    return Criterion(f"at least {low:.6g}", lambda measured, spread: measured >= low)


def equal(expected: SupportsFloat) -> Criterion:
    """measured == expected: for counts and ranks."""
    value = _number(expected, "expected")
    return Criterion(f"equal to {value:.6g}", lambda measured, spread: measured == value)


def near(expected: SupportsFloat, *, spreads: SupportsFloat = 3.0, max_spread: SupportsFloat) -> Criterion:
    """|measured - expected| <= spreads * spread, with a spread of at most `max_spread`.

    The limit on the spread keeps a noisy measurement from agreeing with everything. The claim needs a spread.
    """
    center, count, limit = _number(expected, "expected"), _number(spreads, "spreads"), _number(max_spread, "max_spread")

    def test(measured: float, spread: float | None) -> bool:
        return spread is not None and abs(measured - center) <= count * spread and spread <= limit

    text = f"within {count:.6g} spreads of {center:.6g}, spread at most {limit:.6g}"
    return Criterion(text, test, needs_spread=True)


class ClaimsTable:
    """The claims of a chapter: aligned text, an HTML table, and the rows as data under one mime type."""

    def __init__(self, claims: Sequence[Claim]):
        self.claims = tuple(claims)

    @property
    def rows(self) -> list[dict[str, str]]:
        """One dict of words per claim."""
        return [claim.row() for claim in self.claims]

    @property
    def passed(self) -> bool:
        """Do all claims pass?"""
        return all(claim.verdict == "PASS" for claim in self.claims)

    def __repr__(self) -> str:
        return as_text(self.rows)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": as_html(self.rows), MIME: {"claims": self.rows}}


def table(claims: Sequence[Any]) -> ClaimsTable:
    """The claims table that ends a chapter; make it the last expression of its cell.

    Raises:
        ValueError: for no claims. TypeError: for what is not a `Claim`.
    """
    claims = tuple(claims)
    if not claims:
        raise ValueError("Expected at least one claim, got none. What does this chapter claim?")
    for claim in claims:
        if not isinstance(claim, Claim):
            raise TypeError(f"Expected claims of type Claim, got {type(claim).__name__}.")
    return ClaimsTable(claims)


def as_text(rows: Sequence[dict[str, str]]) -> str:
    """The rows as aligned text, at most 100 columns, with a count at the end."""
    blocks = []
    for number, row in enumerate(rows, start=1):
        lines = [f"{number:>2}  {row['verdict']}  ", " " * 10, " " * 10]
        parts = [row["sentence"], row["source"], f"measured {row['measured']}; criterion: {row['criterion']}"]
        if row["reason"]:
            lines.append(" " * 10)
            parts.append(f"because {row['reason']}")
        if row.get("rival"):
            lines.append(" " * 10)
            parts.append(f"rival: {row['rival']}")
        blocks += [
            textwrap.fill(part, WIDTH, initial_indent=head, subsequent_indent=" " * 12)
            for head, part in zip(lines, parts)
        ]
    return "\n".join([*blocks, summary(rows)])


def as_html(rows: Sequence[dict[str, str]]) -> str:
    """The rows as an HTML table that needs no style of its own and says its verdicts in words."""
    names = ("sentence", "source", "measured", "criterion", "rival", "verdict")
    heads = ("claim", "source", "measured here", "criterion", "a rival would give", "verdict")
    head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in heads)
    body = []
    for row in rows:
        cells = {name: html.escape(row.get(name, "")) for name in names}
        if row["reason"]:
            cells["criterion"] += f"<br><small>{html.escape(row['reason'])}</small>"
        cells["verdict"] = f"<strong>{cells['verdict']}</strong>"
        body.append("".join(f'<td style="text-align:left">{cells[name]}</td>' for name in names))
    lines = "".join(f"<tr>{cells}</tr>" for cells in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table><p>{summary(rows)}</p>"


def as_markdown(rows: Sequence[dict[str, str]]) -> str:
    """The rows as a Markdown table; a row's `chapter`, where it has one, is its first column."""
    columns = ("chapter", "sentence", "source", "measured", "criterion", "rival", "verdict")
    names = [name for name in columns if any(row.get(name) for row in rows)]
    lines = ["| " + " | ".join(names).replace("sentence", "claim") + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(row.get(name, "").replace("|", "\\|") for name in names) + " |" for row in rows]
    return "\n".join(lines)


def summary(rows: Sequence[dict[str, str]]) -> str:
    """How many of the claims pass, in one line."""
    passed = sum(row["verdict"] == "PASS" for row in rows)
    return f"{passed} of {len(rows)} claims pass"


def claims_in(notebook: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of every claims table among the outputs of a notebook, given as its parsed JSON."""
    rows: list[dict[str, str]] = []
    for cell in notebook.get("cells", []):
        for output in cell.get("outputs", []):
            rows += output.get("data", {}).get(MIME, {}).get("claims", [])
    return rows


def _as_criterion(criterion: Any) -> Criterion:
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, (tuple, list)) and len(criterion) == 2:
        return between(*criterion)
    raise TypeError(
        f"Expected criterion as (low, high), between(...), below(...), above(...), equal(...), near(...) or "
        f"Criterion('printed form', test), got {type(criterion).__name__}."
    )


def _number(value: Any, name: str) -> float:
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"Expected {name} to be one number, got {value!r}.")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Expected {name} to be one number, got {type(value).__name__} {str(value)[:40]!r}. "
            "Reduce an array first, as in float(values.max())."
        ) from error


def _rounded(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    # -0 and 0, or 1e+02 and 100, are the same number: show it one way
    if "e" in text and 1e-4 <= abs(value) < 1e6:
        text = f"{float(text):.6g}"
    return text.removeprefix("-") if float(text) == 0 else text
