"""Run a program, given as text, with its arguments and with warnings as errors."""

from __future__ import annotations

import json
import sys
import warnings


def main() -> None:
    """Read an order from the standard input and carry it out in this process."""
    order = json.load(sys.stdin)
    sys.argv = ["-c", *order["arguments"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(order["program"], "<program>", "exec"), {"__name__": "__main__"})
