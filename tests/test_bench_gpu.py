"""The proof of a device runs whole on a CPU, and notices a kernel that computes something else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.gpu import proofs
from bench.gpu.__main__ import main
from bench.gpu.settings import SIZES, Bench, Report
from docmill.tasks.backends.accelerator import native_bfloat16
from docmill.tasks.backends.encoder.packed import ONEDNN


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_and_every_proof_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    assert main(["--device", "cpu", "--size", "small", "--out", str(out)]) == 0
    found = json.loads(out.read_bytes())
    assert len(found["proofs"]) == (11 if native_bfloat16("cpu") else 6)
    assert all(proof["holds"] for proof in found["proofs"])
    measured = {one["what"]: one["ratio"] for one in found["measured"]}
    assert set(measured) == {"embed, tiny", "classify, tiny", "generate, tiny", "translate, 1 beams"}
    assert all(ratio > 0 for ratio in measured.values())
    assert found["skipped"] == []
    assert "holds  bert in float32 without padding" in capsys.readouterr().out


def test_a_kernel_that_computes_something_else_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(
        ONEDNN, attention=lambda lengths, heads, device: lambda projected: projected[:, : projected.shape[1] // 3]
    )
    monkeypatch.setattr(proofs, "kernels_for", lambda device, dtype: wrong)
    monkeypatch.setattr(proofs, "_DESIGNS", ("bert",))
    report = Report("cpu", {})
    proofs.proven_kernels(Bench("cpu", "float32", SIZES["small"], tmp_path), report)
    assert report.proofs
    assert not any(proof.holds for proof in report.proofs)
    monkeypatch.setattr(proofs, "kernels_for", lambda device, dtype: None)
    proofs.proven_kernels(Bench("cpu", "float32", SIZES["small"], tmp_path), report)
    assert "no kernels" in report.proofs[-1].why
