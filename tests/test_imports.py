"""Imports run worker -> tasks -> storage; only the backends import torch; help imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_imports_keep_their_direction() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def _loaded_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("module", ["worker.supervisor", "worker.device", "worker.cli.work", "worker.cli.local"])
def test_what_supervises_and_enqueues_never_loads_a_model_library(module: str) -> None:
    loaded = _loaded_after(f"import {module}")
    assert module in loaded
    assert not loaded & {"torch", "transformers", "sentence_transformers"}


def test_help_loads_neither_models_nor_the_store() -> None:
    code = "from worker.cli import docmill\ntry:\n    docmill(['--help'])\nexcept SystemExit:\n    print('ended')"
    loaded = _loaded_after(code)
    assert "worker.cli" in loaded
    assert not loaded & {"torch", "transformers", "sqlalchemy", "celery", "pydantic", "rich"}
