"""Use cases of the command line, the Python API and the web page. They return values and tell a listener."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class Bar:
    """The progress of a piece of work. This base class shows nothing."""

    def update(
        self, completed: float, *, total: float | None = None, note: str = "", count: str = "", remark: str = ""
    ) -> None:
        """Take the progress so far, a remark or a count beside it, and a note of some lines below it."""

    def say(self, message: str) -> None:
        """Hear a sentence for the person who watches."""


class Listener:
    """A listener to a use case. This base class ignores everything."""

    def say(self, message: str) -> None:
        """Hear a sentence for the person who waits."""

    def bar(self, name: str, total: float | None = None) -> AbstractContextManager[Bar]:
        """Hear of a piece of work that begins, and of its progress until the block ends."""
        return nullcontext(Bar())

    def computing(self) -> AbstractContextManager[None]:
        """Hear that processes are started in the block, which may write to stderr."""
        return nullcontext()
