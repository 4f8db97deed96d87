"""Shards pass the gate together, a suspect alone."""

from __future__ import annotations

import threading

from docmill.worker.concurrency.exclusive_lock import Gate

SOON_S = 10.0


def _pass(gate: Gate, *, alone: bool) -> tuple[threading.Event, threading.Event, threading.Thread]:
    """A thread that goes through the gate: (it is inside, let it out, the thread)."""
    inside, leave = threading.Event(), threading.Event()

    def go() -> None:
        with gate.passing(alone=alone):
            inside.set()
            leave.wait(SOON_S)

    thread = threading.Thread(target=go)
    thread.start()
    return inside, leave, thread


def test_shards_are_in_flight_together() -> None:
    gate = Gate()
    passers = [_pass(gate, alone=False) for _ in range(3)]
    assert all(inside.wait(SOON_S) for inside, _, _ in passers)
    for _, leave, thread in passers:
        leave.set()
        thread.join(SOON_S)


def test_a_suspect_waits_until_it_is_alone_and_keeps_others_out() -> None:
    gate = Gate()
    first_in, first_out, first = _pass(gate, alone=False)
    assert first_in.wait(SOON_S)
    suspect_in, suspect_out, suspect = _pass(gate, alone=True)
    assert not suspect_in.wait(0.05)
    later_in, later_out, later = _pass(gate, alone=False)
    assert not later_in.wait(0.05), "one that comes later does not go before a suspect that waits"
    first_out.set()
    assert suspect_in.wait(SOON_S)
    assert not later_in.is_set()
    suspect_out.set()
    assert later_in.wait(SOON_S)
    later_out.set()
    for thread in (first, suspect, later):
        thread.join(SOON_S)


def test_two_suspects_go_one_after_the_other() -> None:
    gate = Gate()
    one_in, one_out, one = _pass(gate, alone=True)
    assert one_in.wait(SOON_S)
    two_in, two_out, two = _pass(gate, alone=True)
    assert not two_in.wait(0.05)
    one_out.set()
    assert two_in.wait(SOON_S)
    two_out.set()
    one.join(SOON_S)
    two.join(SOON_S)
