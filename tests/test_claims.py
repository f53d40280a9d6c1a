"""A claim is judged by its criterion, never by its author."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook import claims
from ntkbook.claims import Claim, Criterion, Rival, above, below, between, equal, near, table


def make(measured=0.5, criterion=(0.0, 1.0), **options):
    options.setdefault("reason", "for the test")
    return Claim("A sentence", "A paper, Fig. 1", measured, criterion, **options)


@pytest.mark.parametrize(
    "criterion, passes, fails",
    [
        ((0.4, 0.6), [0.4, 0.5, 0.6], [0.39, 0.61]),
        (between(-1, -0.5), [-0.7], [0.7, -0.4]),
        (between(-math.inf, 2), [-5, 2], [2.1]),
        (between(2, math.inf), [2, 5], [1.9]),
        (below(0.1), [-1, 0.1], [0.11]),
        (above(3), [3, 4], [2.99]),
        (equal(12), [12, 12.0], [11, 12.5]),
        (Criterion("an even number", lambda m, s: m % 2 == 0), [4], [5]),
        (Criterion("not above 3", lambda m, s: not m > 3), [3], [4]),  # true of NaN, which fails all the same
    ],
)
def test_the_verdict_follows_the_criterion(criterion, passes, fails):
    assert [make(m, criterion).verdict for m in passes] == ["PASS"] * len(passes)
    assert [make(m, criterion).verdict for m in fails] == ["FAIL"] * len(fails)
    assert make(math.nan, criterion).verdict == "FAIL"


def test_near_needs_agreement_and_precision():
    criterion = near(1.0, spreads=3, max_spread=0.1)
    assert make(1.2, criterion, spread=0.09).verdict == "PASS"
    assert make(1.4, criterion, spread=0.09).verdict == "FAIL"  # too far
    assert make(1.2, criterion, spread=0.5).verdict == "FAIL"  # close, but too noisy to say so
    with pytest.raises(ValueError, match="Expected a measured spread for the criterion 'within 3 spreads of 1"):
        make(1.0, criterion)  # when it is made, not when it is shown


def test_a_rival_is_put_in_the_place_of_what_was_measured():
    """The right number passes, the rival's fails; where both would pass, the claim decides nothing and fails."""
    claim = make(0.5, near(0.52, max_spread=0.05), spread=0.02, rival=Rival("NNGP in place of NTK", 0.7))
    assert claim.verdict == "PASS" and claim.excludes_rival
    assert dataclasses.replace(claim, measured=0.7).verdict == "FAIL"
    assert claim.row()["rival"] == "NNGP in place of NTK: 0.7 (excluded)"
    weak = dataclasses.replace(claim, criterion=(0.0, 1.0))
    assert weak.verdict == "FAIL" and not weak.excludes_rival
    assert weak.row()["rival"] == "NNGP in place of NTK: 0.7 (not excluded)"


def test_a_rival_may_have_a_spread_of_its_own_and_must_have_a_number():
    assert not make(0.0, near(0.0, max_spread=1), spread=0.1, rival=Rival("twice", 1.0, spread=0.5)).excludes_rival
    assert make(0.0, near(0.0, max_spread=1), spread=0.1, rival=Rival("twice", 1.0, spread=0.1)).excludes_rival
    assert make(0.5, rival=Rival("unknown", math.nan)).verdict == "FAIL"
    with pytest.raises(ValueError, match="rival's name"):
        Rival(" ", 1.0)
    with pytest.raises(TypeError, match="the rival's value to be one number"):
        Rival("NNGP", np.ones(2))


def test_every_form_of_the_table_shows_the_rival():
    shown = table([make(0.5, rival=Rival("time x 1.5", 7.6)), make(0.25)])
    assert repr(shown).count("rival: time x 1.5: 7.6 (excluded)") == 1
    assert "a rival would give" in claims.as_html(shown.rows) and "time x 1.5: 7.6" in claims.as_html(shown.rows)
    assert "| rival |" in claims.as_markdown(shown.rows) and "| rival |" not in claims.as_markdown([make().row()])


def test_a_rival_that_rounding_would_let_in_is_shown_with_more_digits():
    assert make(0.5, below(0.99), digits=1, rival=Rival("nothing", 0.994)).row()["rival"] == "nothing: 1 (excluded)"
    assert (
        make(0.5, below(0.99), digits=2, rival=Rival("nothing", 0.9904)).row()["rival"] == "nothing: 0.9904 (excluded)"
    )


def test_a_spread_wider_than_the_range_decides_nothing():
    assert make(0.5, (0.0, 1.0), spread=0.4).verdict == "PASS"
    assert make(0.5, (0.0, 1.0), spread=0.6).verdict == "FAIL"
    assert make(0.5, (0.0, 1.0), spread=math.nan).verdict == "FAIL"


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), jnp.array(0.5), jnp.array([0.5])[0], 1, True])
def test_measured_takes_one_number_of_any_kind(value):
    assert make(value).verdict == "PASS"


@pytest.mark.parametrize(
    "options, error, words",
    [
        (dict(reason=None), ValueError, "measured spread or a reason"),
        (dict(reason="  "), ValueError, "measured spread or a reason"),
        (dict(spread=0.0), ValueError, "positive spread"),
        (dict(spread=-0.1), ValueError, "positive spread"),
        (dict(measured="PASS"), TypeError, "one number"),
        (dict(measured=None), TypeError, "one number"),
        (dict(measured=np.ones(2)), TypeError, "one number"),
        (dict(criterion=lambda m: True), TypeError, "printed form"),
        (dict(criterion=(-math.inf, math.inf)), ValueError, "can fail"),
        (dict(criterion=(1.0, 0.0)), ValueError, "low < high"),
        (dict(digits=0), ValueError, "digits"),
    ],
)
def test_what_is_not_a_claim_raises(options, error, words):
    with pytest.raises(error, match=words):
        make(**options)


def test_empty_words_and_empty_tables_raise():
    with pytest.raises(ValueError, match="sentence"):
        Claim(" ", "paper", 1.0, (0, 2), reason="r")
    with pytest.raises(ValueError, match="source"):
        Claim("sentence", "", 1.0, (0, 2), reason="r")
    with pytest.raises(ValueError, match="at least one claim"):
        table([])
    with pytest.raises(TypeError, match="type Claim"):
        table(["It works"])


def test_the_text_shows_rounded_numbers_and_fits_the_width():
    long = "A claim of many words " * 12
    shown = repr(
        table([Claim(long, "Paper", 0.123456, (0, 1), spread=0.0123), make(2.0), make(3e-17, (-1, 1), reason="why")])
    )
    assert "measured 0.123 ± 0.01; criterion: from 0 to 1" in shown
    assert "1 of 3" not in shown and shown.endswith("2 of 3 claims pass")
    assert shown.count("PASS") == 2 and shown.count("FAIL") == 1
    assert "because why" in shown
    assert max(map(len, shown.splitlines())) <= claims.WIDTH


@pytest.mark.parametrize(
    "value, digits, shown",
    [(0.0, 3, "0"), (-0.0, 3, "0"), (12.0, 3, "12"), (123456.0, 2, "120000"), (1e-9, 3, "1e-09"), (99.99, 3, "100")],
)
def test_rounding_shows_one_number_one_way(value, digits, shown):
    assert claims._rounded(value, digits) == shown


@pytest.mark.parametrize(
    "value, criterion, shown",
    [(-1.44, (-1.4, -0.7), "-1.44"), (0.94, below(0.9), "0.94"), (-1.2, (-1.4, -0.7), "-1"), (1.5, equal(2), "1.5")],
)
def test_what_is_shown_never_contradicts_the_verdict(value, criterion, shown):
    """-1.44 fails a lower bound of -1.4; shown with one digit, as -1, it would seem to pass."""
    assert make(value, criterion, digits=1).row()["measured"] == shown


def test_last_bits_do_not_reach_the_reader():
    """What another processor rounds differently must not change one character of any form."""
    first = table([make(0.123456, spread=0.01)])
    second = table([make(0.123456 * (1 + 1e-13), spread=0.01 * (1 + 1e-13))])
    assert first._repr_mimebundle_() == second._repr_mimebundle_()


def test_html_escapes_and_says_the_verdict_in_words():
    shown = claims.as_html([make(criterion=below(1.0), reason="a < b").row()])
    assert "a &lt; b" in shown and "<strong>PASS</strong>" in shown and "<td" in shown


def test_rows_travel_through_a_notebook():
    bundle = table([make(), make(2.0)])._repr_mimebundle_()
    output = {"output_type": "execute_result", "data": bundle}
    cells = [{"outputs": [output, {"output_type": "stream"}]}, {"cell_type": "markdown"}]
    rows = claims.claims_in(json.loads(json.dumps({"cells": cells})))
    assert [row["verdict"] for row in rows] == ["PASS", "FAIL"]
    text = claims.as_markdown([{"chapter": "00", **row} for row in rows])
    assert text.splitlines()[0].startswith("| chapter | claim |") and len(text.splitlines()) == 4
