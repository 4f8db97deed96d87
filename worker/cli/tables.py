"""Tables that fit a terminal of 80 columns: a row is one line, and a long name is shortened in its middle."""

from __future__ import annotations

from collections.abc import Collection

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from docmill.worker.cli.formatting import printable

SHORTEST = 8  # columns that are left of a shortened name


class Name:
    """A name or a source on one line; where there is no room, an ellipsis stands for its middle.

    The beginning tells of a path or a query where it lies, and the end what it is.
    """

    def __init__(self, name: str) -> None:
        self._name = " ".join(printable(name).split())

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = cell_len(self._name)
        return Measurement(min(width, SHORTEST), width).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(shortened(self._name, options.max_width), no_wrap=True, overflow="crop")


def shortened(name: str, width: int) -> str:
    """Return the name in at most `width` columns, without its middle where it is longer."""
    if cell_len(name) <= width:
        return name
    ending = (width - 1) // 2
    end = name[-ending:] if ending else ""
    while cell_len(end) > ending:
        end = end[1:]
    return f"{set_cell_size(name, width - 1 - cell_len(end)).rstrip()}…{end}"


def table(*headings: str, names: Collection[str] = (), numbers: Collection[str] = ()) -> Table:
    """Return a table without lines, whose columns of names give way and those of numbers are aligned at the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings:
        made.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=heading not in names)
    return made
