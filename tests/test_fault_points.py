"""The places in docmill's code where tests make a process fail."""

from __future__ import annotations

import re

from tests.fault_points import POINTS
from tests.worker.harness import ROOT


def test_a_test_can_make_a_process_fail_at_each_place_that_the_code_names() -> None:
    code = [
        path.read_text()
        for folder in ("storage", "tasks", "worker", "features")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert sorted(re.findall(r'fault_points\.reach\("(\w+)"\)', "".join(code))) == sorted(POINTS)
