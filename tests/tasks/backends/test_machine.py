"""The facts that torch tells of the processor are kept for processes that do without torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from docmill.tasks.backends import accelerator, machine


def test_facts_are_those_of_torch_and_known_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = machine.read_processor(tmp_path)
    assert asked.name == accelerator.device_name("cpu")
    assert asked.threads == torch.get_num_threads()
    assert asked.native == ("bfloat16" if accelerator.native_bfloat16("cpu") else "float32")
    monkeypatch.delitem(sys.modules, "torch")
    assert machine.read_processor(tmp_path) == asked
    assert "torch" not in sys.modules


def test_facts_are_asked_again_where_another_number_of_threads_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.read_processor(tmp_path)
    machine.read_processor(tmp_path)
    assert len([*(tmp_path / "processors").iterdir()]) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    machine.read_processor(tmp_path)
    assert len([*(tmp_path / "processors").iterdir()]) == 2


def test_a_file_that_is_damaged_is_asked_for_again(tmp_path: Path) -> None:
    asked = machine.read_processor(tmp_path)
    (file,) = (tmp_path / "processors").iterdir()
    file.write_text("{")
    assert machine.read_processor(tmp_path) == asked
    assert '"threads"' in file.read_text()
