"""The screens of `docmill top`. Only its command imports this module, since it needs textual."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from docmill.features.top.frame import (
    FAILURE_COLUMNS,
    JOB_COLUMNS,
    LANE_COLUMNS,
    WORKER_COLUMNS,
    View,
    failure_rows,
    headline,
    job_row,
    lane_rows,
    worker_rows,
)
from docmill.storage.errors import StorageError
from docmill.storage.results.status import JobStatus
from docmill.worker.formatting import duration, of_status, printable

REFRESH_S = 2.0
Table = DataTable[Text]


class Seen(Message):
    """The store was read."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view


class Away(Message):
    """The store could not be read."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class TopApp(App[None]):
    """Jobs, lanes, workers and failures, read again every two seconds on a thread of their own.

    A slow store delays the figures and not the keys. While it does not answer, the last figures stay, with their age.
    """

    TITLE = "docmill top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #headline { height: 1; text-style: bold; }
    #jobs { height: 1fr; min-height: 5; }
    #lanes, #workers { height: auto; max-height: 6; margin-top: 1; }
    #failure { height: 1; margin-top: 1; }
    DataTable { overflow-x: hidden; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("f", "failures", "Failures"),
    ]

    def __init__(self, read: Callable[[], View], refresh_s: float = REFRESH_S) -> None:
        super().__init__()
        self._read = read
        self._refresh_s = refresh_s
        self._reading = False
        self._read_at = time.monotonic()
        self.view: View | None = None

    def compose(self) -> ComposeResult:
        yield Static("Reading the store …", id="headline", markup=False)
        yield _table("jobs", JOB_COLUMNS)
        yield _table("lanes", LANE_COLUMNS, cursor=False)
        yield _table("workers", WORKER_COLUMNS, cursor=False)
        yield Static("", id="failure", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#jobs", DataTable).focus()
        self.set_interval(self._refresh_s, self.look)
        self.look()

    def look(self) -> None:
        """Read the store again, unless the last reading is still under way."""
        if self._reading:
            self._say_age()
            return
        self._reading = True
        # A thread of our own ends with the process; textual would wait for its own before it ends.
        threading.Thread(target=self._look, name="look", daemon=True).start()

    def _look(self) -> None:
        try:
            view = self._read()
        except StorageError as error:
            self._tell(Away(str(error)))
        else:
            self._tell(Seen(view))

    def _tell(self, message: Message) -> None:
        with suppress(RuntimeError):  # it ended meanwhile
            self.post_message(message)

    def on_away(self, message: Away) -> None:
        """Say why the store does not answer; the figures stay."""
        self._reading = False
        self._headline(f"The store does not answer: {message.reason}")

    def _say_age(self) -> None:
        self._headline(f"The store has not answered for {duration(time.monotonic() - self._read_at)}.")

    def _headline(self, said: str) -> None:
        for widget in self.screen_stack[0].query("#headline").results(Static):
            widget.update(printable(said, keep=""))

    def on_seen(self, message: Seen) -> None:
        """Show a new view."""
        view = message.view
        self._reading, self._read_at, self.view = False, time.monotonic(), view
        self._headline(f"docmill top   {headline(view)}")
        main = self.screen_stack[0]
        if not main.query("#jobs"):  # it ends
            return
        jobs = [job_row(job, "━", "·") for job in view.jobs]
        _fill(main.query_one("#jobs", DataTable), jobs, keys=[str(job.id) for job in view.jobs])
        for name, rows in (("lanes", lane_rows(view)), ("workers", worker_rows(view))):
            _fill(main.query_one(f"#{name}", DataTable), rows)
        failures = view.failures
        last = "No failures in the last 24 hours."
        if failures:
            last = f"Last failure: job {failures[0].job}, {failures[0].reason}"
        main.query_one("#failure", Static).update(printable(last, keep=""))
        if isinstance(self.screen, JobScreen):
            self.screen.show(view)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show the job of the chosen row."""
        if event.data_table.id == "jobs" and event.row_key.value is not None:
            self.push_screen(JobScreen(int(event.row_key.value)))

    def action_failures(self) -> None:
        """Show the latest failures."""
        if self.view is not None and not isinstance(self.screen, FailuresScreen):
            self.push_screen(FailuresScreen(self.view))


class JobScreen(Screen[None]):
    """One job, as `docmill status` shows it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter", "dismiss", "Back")]

    def __init__(self, job: int) -> None:
        super().__init__()
        self._job = job

    def compose(self) -> ComposeResult:
        yield Static("", id="job", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        view = self.app.view if isinstance(self.app, TopApp) else None
        if view is not None:
            self.show(view)

    def show(self, view: View) -> None:
        """Show the job as a view has it; a job that the view has no more stays as it was."""
        status: JobStatus | None = next((job for job in view.jobs if job.id == self._job), None)
        if status is not None:
            lines = of_status(status)
            width = max(map(len, lines)) + 1
            said = "\n".join(
                name.ljust(width) + value.replace("\n", f"\n{' ' * width}") for name, value in lines.items()
            )
            self.query_one("#job", Static).update(said)


class FailuresScreen(Screen[None]):
    """The latest documents without a result, with the reasons."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f", "dismiss", "Back")]

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def compose(self) -> ComposeResult:
        yield Static(f"{len(self._view.failures)} latest failures", markup=False)
        yield _table("failures", FAILURE_COLUMNS)
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one("#failures", DataTable)
        _fill(table, failure_rows(self._view))
        table.focus()


def _table(name: str, columns: Sequence[str], *, cursor: bool = True) -> Table:
    made: Table = DataTable(id=name, cursor_type="row" if cursor else "none", cell_padding=1)
    made.can_focus = cursor
    for column in columns:
        made.add_column(column)
    return made


def _fill(table: Table, rows: Iterable[Sequence[str]], keys: Sequence[str] = ()) -> None:
    """Replace the rows; the cursor stays at its job."""
    before = None
    if keys and table.row_count and table.is_valid_row_index(table.cursor_row):
        before = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
    table.clear()
    for place, row in enumerate(rows):
        table.add_row(*(Text(printable(cell, keep="")) for cell in row), key=keys[place] if keys else None)
    if before in keys:
        table.move_cursor(row=list(keys).index(str(before)))
