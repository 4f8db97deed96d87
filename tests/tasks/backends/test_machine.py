"""Facts about the processor come from torch, and are kept for processes without torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from docmill.tasks.backends import accelerator, machine


def test_facts_are_those_of_torch_and_known_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = machine.read_processor(tmp_path)
    assert facts.name == accelerator.device_name("cpu")
    assert facts.threads == torch.get_num_threads()
    assert facts.native == ("bfloat16" if accelerator.native_bfloat16("cpu") else "float32")
    monkeypatch.delitem(sys.modules, "torch")
    assert machine.read_processor(tmp_path) == facts
    assert "torch" not in sys.modules


def test_facts_are_read_again_for_another_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.read_processor(tmp_path)
    machine.read_processor(tmp_path)
    assert len([*(tmp_path / "processors").iterdir()]) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    machine.read_processor(tmp_path)
    assert len([*(tmp_path / "processors").iterdir()]) == 2


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    facts = machine.read_processor(tmp_path)
    (file,) = (tmp_path / "processors").iterdir()
    file.write_text("{")
    assert machine.read_processor(tmp_path) == facts
    assert '"threads"' in file.read_text()
