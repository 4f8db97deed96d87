"""Whether a process that wrote its number down still lives: only asked of those that share our numbers."""

from __future__ import annotations

import os
from pathlib import Path


def pid_space() -> str | None:
    """What names the space that our process numbers belong to; None where the system does not say.

    One boot of one kernel and, in it, one process namespace: two containers on a host have two spaces.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return f"{boot} {namespace}"


def is_gone(pid: int) -> bool:
    """Whether no process of our space has this number. A number that was given anew counts as the old one."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
