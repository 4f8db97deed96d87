"""Arms the fault of a test in a program that starts as its user starts it."""

from contextlib import suppress

with suppress(ModuleNotFoundError):  # in the environment of a scheduler, whose own processes do not fail
    from tests.fault_points import arm

    arm()
