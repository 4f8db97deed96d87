"""Run programs that read hostile formats, each in a process of its own that a document may kill.

Both sides send frames: a line of JSON with a "size", and that many bytes. The process has little memory, may write no
file and gets no secrets. It ends with its standard input and, on Linux, with the thread that started it. The kernel
takes rights from it: to files by Landlock, others by seccomp. Each works only on kernels that have it;
docs/security.md lists what remains without it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from errno import ENOSYS, EPERM
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from docmill.storage.readers.errors import BrokenStream

if TYPE_CHECKING:
    from pyseccomp import Arg, SyscallFilter

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_CLONE_THREAD = 0x00010000
_O_ACCMODE_WRITES = (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC)
_LAST_FAMILY = 64  # of socket families: more than Linux has
_NETWORK = frozenset(int(getattr(socket, name, -1)) for name in ("AF_INET", "AF_INET6", "AF_NETLINK"))
_NOT_STREAMS = (2, 3, 5)  # SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET: such a pair can be sent elsewhere by name
_OF_THE_NETWORK = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/host.conf", "/etc/services"),
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls", "/etc/pki/ca-trust", "/etc/ca-certificates"),
)
_WRITES = (
    *("creat", "truncate", "open_by_handle_at", "link", "linkat", "symlink", "symlinkat", "mknod", "mknodat"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "utimensat", "futimesat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat", "file_setattr"),
)
_PROCESSES = (
    *("fork", "vfork", "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise"),
    *("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kcmp"),
    *("setpriority", "ioprio_set", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"),
    *("migrate_pages", "move_pages", "process_mrelease"),
)
_KERNEL = (
    *("unshare", "setns", "mount", "umount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount"),
    *("fspick", "move_mount", "open_tree", "open_tree_attr", "mount_setattr", "swapon", "swapoff", "quotactl"),
    *("quotactl_fd", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter"),
    *("io_uring_register", "keyctl", "add_key", "request_key", "fanotify_init", "init_module", "finit_module"),
    *("delete_module", "kexec_load", "kexec_file_load", "reboot", "acct", "syslog", "sethostname"),
    *("setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm", "vhangup"),
    *("shmget", "shmat", "shmctl", "msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semtimedop"),
    *("semctl", "mq_open", "mq_unlink", "lookup_dcookie", "name_to_handle_at", "memfd_secret"),
)
_SERVERS = ("listen", "accept", "accept4")
_CLIENTS = ("connect", "bind")
# Filters cannot see arguments in memory, so programs fall back to the older calls.
_OPAQUE = ("openat2", "clone3")
TIME_S = 60.0
MEMORY = 2 * 2**30
_BLOCK = 1 << 16
_ENDED = "reading it took more memory than a document may, or ended the reader"
_KEPT = {"PATH", "LANG", "PYTHONPATH", "TMPDIR"}


def landlock_abi() -> int:
    """Return the version of Landlock that this kernel has; 0 where it has none."""
    try:
        import landlockpy

        return int(landlockpy.abi_version())
    except (ImportError, OSError, RuntimeError):
        return 0


def has_seccomp() -> bool:
    """Return True if this kernel filters system calls and libseccomp, which makes the filters, is installed."""
    return _seccomp() is not None and Path("/proc/sys/kernel/seccomp").exists()


def hide_memory() -> None:
    """Keep other processes of this user from reading this one's memory and environment, where passwords are."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def restrict_files(
    scratch: Path | None = None,
    readable: Iterable[Path] = (),
    writable: Iterable[Path] = (),
    *,
    network: bool = False,
) -> None:
    """Restrict this process to the libraries' files and those it needs, if the kernel has Landlock.

    It may write into `writable` folders until it is confined. `scratch` is its own folder, which it removes. Call it
    before there are threads: it holds for threads that start later.
    """
    _seccomp()  # finding libseccomp runs programs, which is forbidden afterwards
    if not landlock_abi():
        return
    from landlockpy import AccessFS, AccessNet, Ruleset, Scope

    read = AccessFS.READ_FILE | AccessFS.READ_DIR
    net = AccessNet.NONE if network else None  # None stands for all that the kernel knows
    with Ruleset(handled_net=net, scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL) as rules:
        system = _OF_THE_NETWORK if network else ()
        for path in (*_libraries(), *map(Path, system), *readable):
            with suppress(OSError):  # not every folder on Python's path exists
                rules.allow_path(path, read if path.is_dir() else AccessFS.READ_FILE)
        rules.allow_path(os.devnull, AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.TRUNCATE)
        for path in writable:
            rules.allow_path(path, rules.handled_fs)
        if scratch is not None:
            rules.allow_path(scratch, rules.handled_fs)
            rules.allow_path(scratch.parent, AccessFS.REMOVE_DIR)  # removing a folder is a right to its parent
        rules.restrict()


def _libraries() -> Iterator[Path]:
    """Yield the folders of Python and its libraries, and the files that programs of the system look up."""
    yield Path(__file__).parents[2]  # `docmill`, which may have a link to the next
    yield Path(__file__).resolve().parents[1]
    paths = sysconfig.get_paths()
    yield from (Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    yield from (Path(prefix, lib) for prefix in (sys.prefix, sys.base_prefix) for lib in ("lib", "lib64"))
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises for a user without an entry in passwd
    for entry in sys.path:
        folder = Path(entry).resolve()
        checkout = (folder / "pyproject.toml").exists()  # may also hold a `.env` with a password
        if not checkout and not Path(home).is_relative_to(folder):
            yield folder
    yield from map(Path, ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom"))


def _seccomp() -> ModuleType | None:
    try:
        return import_module("pyseccomp")
    except (ImportError, RuntimeError, OSError):  # no library, or none for this system
        return None


def _filter(seccomp: ModuleType, network: bool) -> SyscallFilter:
    """Return a filter that refuses system calls which change files, touch processes or send data."""
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    rules.set_attr(seccomp.Attr.CTL_TSYNC, 1)  # for the libraries' threads, too
    own = os.getpid()

    def refuse(call: str, *arguments: Arg, error: int = EPERM) -> None:
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, call)
        if number != -1:  # else libseccomp is older than the call
            with suppress(OSError):  # this processor's kernel may not have the call
                rules.add_rule(seccomp.ERRNO(error), number, *arguments)

    for call in (*_WRITES, *_PROCESSES, *_KERNEL, *_SERVERS, *(() if network else _CLIENTS)):
        refuse(call)
    for call in _OPAQUE:
        refuse(call, error=ENOSYS)
    for bit in _O_ACCMODE_WRITES:
        refuse("open", seccomp.Arg(1, seccomp.MASKED_EQ, bit, bit))
        refuse("openat", seccomp.Arg(2, seccomp.MASKED_EQ, bit, bit))
    refuse("clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0))
    for call in ("kill", "tgkill"):
        refuse(call, seccomp.Arg(0, seccomp.NE, own))
    refuse("prlimit64", seccomp.Arg(0, seccomp.NE, 0))
    _refuse_sockets(seccomp, refuse, _NETWORK if network else frozenset())
    return rules


def _refuse_sockets(seccomp: ModuleType, refuse: Callable[[str, Arg], None], families: frozenset[int]) -> None:
    for family in range(_LAST_FAMILY):
        if family not in families:
            refuse("socket", seccomp.Arg(0, seccomp.EQ, family))
    refuse("socket", seccomp.Arg(0, seccomp.GE, _LAST_FAMILY))
    for kind in _NOT_STREAMS:
        refuse("socketpair", seccomp.Arg(1, seccomp.MASKED_EQ, 0xF, kind))


class Confined:
    """A confined process, started when it is needed and again after it ended. Close it after use.

    A method that raises BrokenStream has closed it. `arguments` are those of its command line.
    """

    def __init__(
        self,
        module: str,
        time_s: float = TIME_S,
        environment: frozenset[str] = frozenset(),
        arguments: tuple[str, ...] = (),
    ) -> None:
        self._called = (module, *arguments)
        self._time_s = time_s
        self._kept = _KEPT | environment
        self._process: subprocess.Popen[bytes] | None = None
        self._received = bytearray()

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Send a frame. Raises BrokenStream if the process ended."""
        process = self._running()
        assert process.stdin is not None
        try:
            send(process.stdin, head, body)
        except BrokenPipeError as error:
            self.close()
            raise BrokenStream(_ENDED) from error

    def receive(self, max_bytes: int) -> tuple[dict[str, Any], bytes]:
        """Return the next frame. Raises BrokenStream if none comes in time, or if it is larger than the limit."""
        process, received = self._process, self._received
        assert process is not None
        assert process.stdout is not None
        deadline = time.monotonic() + self._time_s
        try:
            while (end := received.find(b"\n")) < 0:
                received += _some(process.stdout, deadline)
                if len(received) > max_bytes + _BLOCK:
                    raise EOFError
            head: dict[str, Any] = json.loads(received[:end])
            del received[: end + 1]
            if head["size"] > max_bytes:
                self.close()
                raise BrokenStream(f"its text has more than {max_bytes:,} bytes")
            while len(received) < head["size"]:
                received += _some(process.stdout, deadline)
            body = bytes(received[: head["size"]])
            del received[: head["size"]]
        except (EOFError, ValueError, KeyError, TypeError, RecursionError) as error:  # or an answer that is no frame
            self.close()
            raise BrokenStream(_ENDED) from error
        except TimeoutError as error:
            self.close()
            raise BrokenStream(f"reading it took more than {self._time_s:.0f} s") from error
        return head, body

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._received.clear()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            hide_memory()
            # It gets the variables that find libraries, and a secret only if its work needs one.
            kept = {name: value for name, value in os.environ.items() if name in self._kept}
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._called],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=kept,
                cwd=Path(__file__).parents[3],  # the folder in which `docmill` lies
                start_new_session=True,  # so that Ctrl-C reaches the parent alone
            )
        return self._process


def confine(*, network: bool = False) -> None:
    """Take the rights that a confined process has beside those to files, and most of the memory, from this one."""
    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    if sys.platform == "linux":  # the reader does not watch stdin while it reads a document
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if (seccomp := _seccomp()) is not None:
        with suppress(OSError):
            _filter(seccomp, network).load()


def begin(load: Callable[[], object]) -> dict[str, Any]:
    """Confine this process, after `load` has loaded its library, and return the head of its first request."""
    restrict_files()
    load()
    confine()
    request = receive(sys.stdin.buffer)
    assert request is not None
    return request[0]


def send(stream: IO[bytes], head: dict[str, Any], body: bytes = b"") -> None:
    stream.write(json.dumps(head | {"size": len(body)}).encode() + b"\n")
    stream.write(body)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Wait for the next frame and return it; None at the end of the input."""
    if not (line := stream.readline()):
        return None
    head: dict[str, Any] = json.loads(line)
    return head, stream.read(head["size"])


def _some(pipe: IO[bytes], deadline: float) -> bytes:
    """Return the next bytes. Raises TimeoutError and EOFError."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
    if not (data := os.read(pipe.fileno(), _BLOCK)):
        raise EOFError
    return data
