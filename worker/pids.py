"""Processes of this machine: the command that starts one of ours, and a check if one lives, by its number."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def command_of(module: str) -> list[str]:
    """Return the command that runs one of docmill's modules in a new process, whatever its folder."""
    return [sys.executable, "-P", "-m", "docmill", module]


def pid_space() -> str | None:
    """Return an identifier of this process's PID namespace; None if the system does not give it.

    It names a boot of a kernel and a namespace in it, so that two containers on a host have two identifiers.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return f"{boot} {namespace}"


def is_gone(pid: int) -> bool:
    """Return True if no process of this PID namespace has this number. A reused number counts as the old process.

    A zombie is gone, too: its parent may have died first, and the first process of a container seldom reaps.
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
