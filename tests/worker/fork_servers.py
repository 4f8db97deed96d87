"""The servers of `tests.worker.forkserver`: their kinds, environments and addresses."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

LARGEST = 1 << 20
COMMANDS, WITH_MODELS, WITH_TORCH = "commands", "with models", "with torch"  # the servers
# The libraries that a server must not have loaded.
UNLOADED = {
    COMMANDS: {"torch", "transformers", "huggingface_hub", "datasets", "fsspec"},
    WITH_TORCH: {"transformers", "huggingface_hub", "datasets"},
    WITH_MODELS: set(),
}
# Prefixes of variables that the hub's libraries, and all libraries, read when they are imported or first used.
OF_THE_HUB = ("HF_", "TRANSFORMERS_", "TOKENIZERS_")
READ_EARLY = (*OF_THE_HUB, "OMP_", "KMP_", "MKL_", "TORCH", "CUDA", "PYTHON", "LD_")
# Variables that torch sets in a process that compiles, such as that of the tests.
SET_BY_TORCH = {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
UNUSED_AFTER_S = 0.5
PROGRAM = Path(__file__).with_name("forkserver.py")


def server_environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DOCMILL_")}
    return {**ours, "HF_HUB_OFFLINE": "1"}


def read_early(environment: Mapping[str, str]) -> dict[str, str]:
    early = {name: value for name, value in environment.items() if name.startswith(READ_EARLY)}
    return {name: value for name, value in early.items() if name not in SET_BY_TORCH}


def server_for(environment: Mapping[str, str], server_variables: Mapping[str, str]) -> str | None:
    """Return the server whose forks may load models in an environment; None if that takes a process of its own."""
    here, there = read_early(environment), read_early(server_variables)
    different = [name for name in here.keys() | there.keys() if here.get(name) != there.get(name)]
    if not different:
        return WITH_MODELS
    return WITH_TORCH if all(name.startswith(OF_THE_HUB) for name in different) else None


def mark_used(folder: Path) -> IO[str]:
    """Return an open file that marks the servers of a folder as used until it is closed."""
    folder.mkdir(exist_ok=True)
    file = (folder / "users").open("w")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def is_used(folder: Path) -> bool:
    """Return True if a process uses the servers of a folder. The folder may be gone."""
    try:
        with (folder / "users").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def start_server(address: str, kind: str) -> subprocess.Popen[bytes]:
    """Start a server of a kind at an address, and return its process."""
    command = [sys.executable, str(PROGRAM), address, kind]
    return subprocess.Popen(command, env=server_environment(), stdin=subprocess.DEVNULL, cwd=Path(address).parent)


def address_of(kind: str, address: str) -> str:
    """Return the address of the server of a kind. `address` is that of the server of commands."""
    with connect(address) as line:
        line.send(json.dumps({"server": kind}).encode())
        return line.recv(LARGEST).decode()


def listens(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        try:
            line.connect(address)
        except OSError:
            return False
    return True


def connect(address: str) -> socket.socket:
    """Wait until a server listens, and return a connection to it."""
    deadline = time.monotonic() + 120
    while True:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            line.connect(address)
        except OSError:
            line.close()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return line
