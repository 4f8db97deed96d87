"""A document of fifty megabytes on one line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from docmill.storage.core.specs import Status

FIFTY_MEGABYTES = r"""
import json, re, sys
from pathlib import Path
from docmill.tasks import kinds
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

kind, text = "translate", "x" * 50_000_000
spec = build_spec(kind, pinning.pin("null", ModelFolders(None, Path("none"))), kinds.options(kind), {})
engine = Engine(lambda spec: open_backend(spec, device="cpu", folders=ModelFolders(None, Path("none"))))
engine.start()
ticket = engine.submit(spec, [(1, text)])
assert ticket.wait(120)
engine.close()
outcome = ticket.finished()[0]
is_same = outcome.text == text
# Not getrusage: its maximum starts from that of the process which started this one.
peak_kib = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps([outcome.status, is_same, peak_kib]))
"""


@pytest.mark.slow
def test_fifty_megabytes_in_one_line_take_little_memory() -> None:
    command = [sys.executable, "-W", "error", "-c", FIFTY_MEGABYTES]
    process = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr
    status, is_same, peak_kib = json.loads(process.stdout)
    assert status == Status.DONE
    assert is_same
    assert peak_kib < 1_000_000
