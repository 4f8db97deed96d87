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
    """Whether no process of our space has this number. A number that was given anew counts as the old one.

    One that is dead and that nobody has asked about yet is gone: its parent may have died first, and the first
    process of a container seldom asks.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_dead(pid)


def _is_dead(pid: int) -> bool:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError:  # it went just now, or the system has no /proc
        return Path("/proc/self/stat").exists()
    except OSError:
        return False
    state = facts.rpartition(")")[2].split()[0]  # the name before it may hold anything
    return state in {"Z", "X"}
