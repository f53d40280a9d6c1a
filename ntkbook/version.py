"""The version of ntkbook, written here alone: the package, its wheel and `ntkbook --version` read it."""

__version__ = "0.1.0"
