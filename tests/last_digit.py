"""A plugin for the run of the notebooks: a printed decimal may differ by one unit of its last digit, nothing else may.

Processors sum in different orders, and a number at the border of two printed ones falls to either side: 63.4999 % is
63 % here, 64 % there. Whole numbers, words and verdicts are compared as they are. `tools/check.py` loads it for nbval.
"""

import re
from decimal import Decimal

NUMBER = re.compile(r"([-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)( ?%)?")


def close(one, other):
    """Whether two printed numbers differ by at most one unit of the last digit of the finer one."""
    numbers = [Decimal(text.replace("−", "-")) for text in (one, other)]
    units = [Decimal(1).scaleb(int(number.as_tuple().exponent)) for number in numbers]
    return abs(numbers[0] - numbers[1]) <= min(units)


def is_rounded(number, percent):
    return bool(percent) or "." in number or "e" in number


def same(one, other):
    """Whether two texts are the same but for last digits, and for the blanks that align them in a line."""
    words = [[line.split() for line in NUMBER.sub(r"#\2", text).splitlines()] for text in (one, other)]
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other))
    return words[0] == words[1] and all(
        a[0] == b[0] or (is_rounded(*a) or is_rounded(*b)) and close(a[0], b[0]) for a, b in pairs
    )


class Printed(str):
    """A text that equals another one to the last digit."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return isinstance(other, str) and same(self, other)

    def __ne__(self, other):
        return not self == other


def printed(output):
    """An output with what is measured in it as `Printed`.

    That of a table of claims is a dictionary with a list of dictionaries: their criteria and sentences are no results.
    """
    if isinstance(output, dict):
        is_result = lambda key, value: key in ("measured", "rival") or not isinstance(value, str)
        return {key: printed(value) if is_result(key, value) else value for key, value in output.items()}
    if isinstance(output, list):
        return [printed(value) for value in output]
    return Printed(output) if isinstance(output, str) else output


def pytest_configure(config):
    from nbval.plugin import IPyNbCell

    sanitize = IPyNbCell.sanitize
    IPyNbCell.sanitize = lambda cell, output: printed(sanitize(cell, output))
