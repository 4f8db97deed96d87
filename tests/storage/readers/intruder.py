"""A document that took over its reader: instead of reading, a confined program attempts forbidden acts.

DOCMILL_TEST_INTRUDER names in JSON the `program`, and what the intruder knows about the machine (`file`, `tcp`,
`unix`, `abstract`, `parent`). The program answers with the outcome of each attempt, or with a given `answer`.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docmill.storage.readers.confinement import send

KNOWN = json.loads(os.environ.get("DOCMILL_TEST_INTRUDER", "{}"))
_LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206  # unlike an attach, it does not stop the process
CLONE_NEWUSER = 0x10000000


def main() -> None:
    program: Any = importlib.import_module(f"docmill.storage.readers.{KNOWN['program']}")
    if KNOWN["program"] == "dataset":
        program._stream = lambda _: None  # the test does not read the data set itself
        program._table = intrude
    else:
        program.serve = lie if "answer" in KNOWN else intrude
    program.main()


def lie(*_: Any) -> None:
    """Send an answer, and neither end nor read on."""
    sys.stdout.write(KNOWN["answer"])
    sys.stdout.flush()
    signal.pause()


def intrude(*_: Any) -> None:
    """Answer with the outcome of each attempt: "done", or the name of the error."""
    outcomes = {name: _outcome(attempt) for name, attempt in ATTEMPTS.items()}
    again: dict[str, str] = {}
    thread = threading.Thread(target=lambda: again.update({name: _outcome(ATTEMPTS[name]) for name in ATTEMPTS}))
    thread.start()
    thread.join()
    outcomes |= {f"{name} in a thread": outcome for name, outcome in again.items()}
    send(sys.stdout.buffer, {"outcomes": outcomes})
    sys.exit()


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except Exception as error:
        return type(error).__name__
    return "done"


def _file() -> Path:
    return Path(KNOWN["file"])


def _overwrite() -> None:
    with _file().open("r+b") as file:
        file.write(b"overwritten")


def _overwrite_by_memory() -> None:
    with _file().open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0:1] = b"o"


def _rename() -> None:
    moved = _file().rename(_file().with_name("moved"))
    moved.rename(_file())


def _connect(family: socket.AddressFamily, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(30)
        client.connect(address)


def _datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"told", ("127.0.0.1", 9))


def _call(name: str, *arguments: int) -> None:
    if getattr(_LIBC, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def _fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _environment_of_the_parent() -> None:
    assert Path(f"/proc/{KNOWN['parent']}/environ").read_bytes()


ATTEMPTS: dict[str, Callable[[], object]] = {
    "empty a file": lambda: _file().open("w").close(),
    "cut a file": lambda: os.truncate(_file(), 0),
    "overwrite a file": _overwrite,
    "overwrite a file by its memory": _overwrite_by_memory,
    "append to a file": lambda: os.close(os.open(_file(), os.O_WRONLY | os.O_APPEND)),
    "make a file": lambda: _file().with_name("new").open("x").close(),
    "make a nameless file": lambda: os.close(os.open(_file().parent, os.O_TMPFILE | os.O_RDWR)),
    "make a folder": lambda: _file().with_name("new-folder").mkdir(),
    "make a link": lambda: _file().with_name("new-link").symlink_to("/etc"),
    "make a hard link": lambda: os.link(_file(), _file().with_name("new-hard-link")),
    "rename a file": _rename,
    "remove a file": lambda: _file().with_name("removable").unlink(),
    "open a file to others": lambda: _file().chmod(0o666),
    "change a file's time": lambda: os.utime(_file()),
    "change a file's attributes": lambda: os.setxattr(_file(), "user.docmill", b"x"),
    "start a process": _fork,
    "run a program": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "signal the parent": lambda: os.kill(KNOWN["parent"], signal.SIGCONT),
    "signal a thread of the parent": lambda: _call("tgkill", KNOWN["parent"], KNOWN["parent"], 0),
    "trace the parent": lambda: _call("ptrace", PTRACE_SEIZE, KNOWN["parent"], 0, 0),
    "limit the parent": lambda: _call("prlimit", KNOWN["parent"], 7, 0, 0),
    "leave for another namespace": lambda: _call("unshare", CLONE_NEWUSER),
    "connect to a socket's name": lambda: _connect(socket.AF_UNIX, KNOWN["unix"]),
    "connect to a socket without a file": lambda: _connect(socket.AF_UNIX, KNOWN["abstract"]),
    "connect to a port": lambda: _connect(socket.AF_INET, tuple(KNOWN["tcp"])),
    "send a datagram": _datagram,
    "read a file": lambda: _file().read_bytes(),
    "list a folder": lambda: list(_file().parent.iterdir()),
    "read the parent's environment": _environment_of_the_parent,
    "open the parent's memory": lambda: os.close(os.open(f"/proc/{KNOWN['parent']}/mem", os.O_RDONLY)),
}
NETWORK = ("connect to a port", "send a datagram")


if __name__ == "__main__":
    main()
