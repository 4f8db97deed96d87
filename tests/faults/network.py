"""A network namespace behind a link that delays, reorders and drops packets.

The link is a pair of tun devices, and a thread of the test carries the packets: so it needs no module of the kernel,
as netem does, and the losses follow from a seed.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest

TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKET_BYTES = 65_536
_TICK_S = 0.2
_DELAY_S, _JITTER_S = 0.02, 0.02  # of each packet
_LOSS = 0.02  # the share of packets


class BadNetwork:
    """The namespace `name`. This machine has the address `host`, and processes in the namespace have `there`.

    Skips the test on machines that do not allow it.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.carried = self.dropped = 0
        number = os.getpid() % 16_000
        self.name = f"docmill-{number}"
        block = f"10.213.{number // 64}"
        first = 4 * (number % 64)
        self.host, self.there = f"{block}.{first + 1}", f"{block}.{first + 2}"
        self._cut_until = 0.0
        self._over = threading.Event()
        self._stack = ExitStack()

    @property
    def prefix(self) -> tuple[str, ...]:
        """The prefix of a command that runs in the namespace."""
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def cut(self, for_s: float) -> None:
        """Drop every packet for a while."""
        self._cut_until = time.monotonic() + for_s

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._stack.close()

    def _make(self) -> None:
        _run("ip", "netns", "add", self.name)
        self._stack.callback(_run, "ip", "netns", "delete", self.name)
        here, there = (self._device(f"dm{self.name.removeprefix('docmill-')}{end}") for end in "ab")
        _run("ip", "address", "add", f"{self.host}/30", "dev", here.name)
        _run("ip", "link", "set", here.name, "up")
        _run("ip", "link", "set", there.name, "netns", self.name)
        inside = ("ip", "-n", self.name)
        _run(*inside, "address", "add", f"{self.there}/30", "dev", there.name)
        for device in ("lo", there.name):
            _run(*inside, "link", "set", device, "up")
        for source, target in ((here, there), (there, here)):
            thread = threading.Thread(target=self._carry, args=(source.file, target.file), daemon=True)
            thread.start()
            self._stack.callback(thread.join, 10)
            self._stack.callback(self._over.set)

    def _device(self, name: str) -> Device:
        device = Device(name)
        self._stack.callback(device.close)
        return device

    def _carry(self, source: int, target: int) -> None:
        """Carry packets in one direction, each after a time of its own."""
        waiting: list[tuple[float, int, bytes]] = []
        numbers = itertools.count()
        while not self._over.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                with suppress(OSError):  # the device is not up yet
                    os.write(target, heapq.heappop(waiting)[2])
                self.carried += 1
            due_s = waiting[0][0] - now if waiting else _TICK_S
            if not select.select([source], [], [], min(due_s, _TICK_S))[0]:
                continue
            packet = os.read(source, _PACKET_BYTES)
            now = time.monotonic()
            if now < self._cut_until or self._chance.random() < _LOSS:
                self.dropped += 1
                continue
            at = now + _DELAY_S + _JITTER_S * self._chance.random()
            heapq.heappush(waiting, (at, next(numbers), packet))


class Device:
    """A tun device. Its packets are read from its file and written to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self.file = os.open(TUN, os.O_RDWR)
            fcntl.ioctl(self.file, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as error:
            pytest.skip(f"no tun device can be made here: {error}")

    def close(self) -> None:
        """Close the file, which removes the device."""
        os.close(self.file)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        pytest.skip(f"no network namespace can be made here: {reason}")
