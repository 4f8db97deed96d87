"""A worker takes devices from the list of the driver's tool."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import WindowSource
from docmill.tasks.backends.weightless import NullBackend
from docmill.tasks.errors import DeviceLost, ServerAway, TaskError
from docmill.tasks.models import weightless
from docmill.tasks.outputs import Output
from docmill.worker import engines
from docmill.worker.engines import choose_devices, devices_for, freeze_after_opening
from docmill.worker.errors import WorkerError
from tests.tasks.fakes import FakeBackend, spec_of


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver's tool lists two devices."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: one (UUID: GPU-1)'\necho 'GPU 1: two (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the driver's tool, whose torch sees no device."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engines, "seen_by_torch", list)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("option", "visible", "devices"),
    [
        ("auto", None, ["cuda:0", "cuda:1"]),
        ("cuda", None, ["cuda:0", "cuda:1"]),
        ("cpu", None, ["cpu"]),
        ("cuda:1, cuda:0", None, ["cuda:1", "cuda:0"]),
        ("auto", "1", ["cuda:0"]),
        ("auto", "", ["cpu"]),
        ("auto", "-1", ["cpu"]),
    ],
)
def test_auto_takes_every_cuda_device_that_is_not_hidden_from_the_process(
    option: str, visible: str | None, devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose_devices(option) == devices


@pytest.mark.usefixtures("no_gpu")
def test_only_a_job_whose_models_are_all_served_needs_no_device() -> None:
    assert devices_for("auto", "openai:small") == devices_for("auto", "openai:small", "openai:large") == ["remote"]
    assert devices_for("auto", "openai:small", "./local") == devices_for("auto", None, "openai:large") == ["cpu"]
    assert devices_for("cpu", "openai:small") == ["cpu"]


@pytest.mark.parametrize(
    ("machine", "option", "message"),
    [
        ("no_gpu", "cuda", "no CUDA device is visible"),
        ("no_gpu", "cpu,cuda:0", "--device cpu,cuda:0: no CUDA device is visible"),
        ("two_gpus", "cuda:1,cuda:2", "this machine has cuda:0, cuda:1, and no cuda:2"),
        *(("two_gpus", option, "use auto, cpu, cuda, remote") for option in ("gpu", "cuda:", "cuda:x")),
        *(("two_gpus", option, "name each device once") for option in ("", "cpu,cpu")),
    ],
)
def test_a_device_that_this_machine_lacks_is_refused(
    machine: str, option: str, message: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue(machine)
    monkeypatch.setattr(engines, "seen_by_torch", list)
    with pytest.raises(WorkerError, match=message):
        choose_devices(option)


def test_torch_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert engines.seen_by_torch() == []


@pytest.mark.usefixtures("no_gpu")
def test_devices_that_torch_sees_without_the_drivers_tool_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_devices("auto") == ["cpu"]
    monkeypatch.setattr(engines, "seen_by_torch", lambda: ["cuda:0", "cuda:1"])
    assert choose_devices("cuda:1") == ["cuda:1"]
    assert choose_devices("cuda") == ["cuda:0", "cuda:1"]


SPEC = Spec("embed", weightless.NULL, weightless.NULL_REVISION)


class Big(NullBackend):
    """A model whose parts refer to one another."""

    def __init__(self) -> None:
        super().__init__(SPEC, device="cpu")
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
def test_a_model_that_was_closed_is_gone_before_the_next_is_loaded() -> None:
    was_gone: list[bool] = []
    gone: list[weakref.ref[Big]] = []

    def open_big(_: Spec) -> Big:
        was_gone.append(bool(gone) and gone[-1]() is None)
        big = Big()
        gone.append(weakref.ref(big))
        return big

    opener = freeze_after_opening(open_big)
    for _ in range(3):
        opener(SPEC)  # and nobody holds it
    assert was_gone == [False, True, True]


@pytest.mark.parametrize("error", [ServerAway("it answers nothing"), DeviceLost("it is gone")])
@pytest.mark.parametrize("n_computed", [0, 1])
def test_a_sample_that_was_computed_in_part_is_no_measurement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: TaskError, n_computed: int
) -> None:
    class Leaving(FakeBackend):
        def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
            if len(self.batches) == n_computed:
                raise error
            yield from super().run(source)

    monkeypatch.setattr(engines, "opener", lambda *_, **__: lambda _: Leaving())
    order = {"settings": {"home": tmp_path}, "device": "cpu", "spec": spec_of().to_json(), "texts": ["one", "two"]}
    with pytest.raises(WorkerError, match=str(error)) as caught:
        engines._measure(order)
    assert caught.value.__cause__ is error
