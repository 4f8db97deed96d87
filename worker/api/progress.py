"""Progress of the Python API's calls."""

from __future__ import annotations

from docmill.worker.jobs.listener import Listener


def listen(progress: bool) -> Listener:
    """Return a listener that shows bars and sentences on stderr, or one that shows nothing."""
    if not progress:
        return Listener()
    from docmill.worker.terminal import Terminal

    return Terminal()
