"""A document that took its reader over: each of the confined programs, where it would read, tries what it must not.

DOCMILL_TEST_INTRUDER says in JSON which `program`, what it knows of the machine (`file`, `folder`, `tcp`, `unix`,
`abstract`, `parent`). The answer is a frame with what each attempt came to, or the `answer` that it gives.
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

TOLD = json.loads(os.environ.get("DOCMILL_TEST_INTRUDER", "{}"))
_LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206  # unlike an attach, it does not stop the process
CLONE_NEWUSER = 0x10000000


def main() -> None:
    program: Any = importlib.import_module(f"docmill.storage.readers.{TOLD['program']}")
    if TOLD["program"] == "dataset":
        program._stream = lambda _: None  # the data set itself is not what is looked at
        program._table = intrude
    else:
        program.serve = lie if "answer" in TOLD else intrude
    program.main()


def lie(*_: Any) -> None:
    """Send an answer, and neither end nor read on."""
    sys.stdout.write(TOLD["answer"])
    sys.stdout.flush()
    signal.pause()


def intrude(*_: Any) -> None:
    """Answer with what came of each attempt: "done", or the name of the error."""
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
    return Path(TOLD["file"])


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
    assert Path(f"/proc/{TOLD['parent']}/environ").read_bytes()


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
    "signal the parent": lambda: os.kill(TOLD["parent"], signal.SIGCONT),
    "signal a thread of the parent": lambda: _call("tgkill", TOLD["parent"], TOLD["parent"], 0),
    "trace the parent": lambda: _call("ptrace", PTRACE_SEIZE, TOLD["parent"], 0, 0),
    "limit the parent": lambda: _call("prlimit", TOLD["parent"], 7, 0, 0),
    "leave for another namespace": lambda: _call("unshare", CLONE_NEWUSER),
    "connect to a socket's name": lambda: _connect(socket.AF_UNIX, TOLD["unix"]),
    "connect to a socket without a file": lambda: _connect(socket.AF_UNIX, TOLD["abstract"]),
    "connect to a port": lambda: _connect(socket.AF_INET, tuple(TOLD["tcp"])),
    "send a datagram": _datagram,
    "read a file": lambda: _file().read_bytes(),
    "list a folder": lambda: list(_file().parent.iterdir()),
    "read the parent's environment": _environment_of_the_parent,
    "open the parent's memory": lambda: os.close(os.open(f"/proc/{TOLD['parent']}/mem", os.O_RDONLY)),
}
NETWORK = ("connect to a port", "send a datagram")


if __name__ == "__main__":
    main()
