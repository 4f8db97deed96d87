"""Choose devices, open models, measure throughput and count tokens, as the settings say.

Nothing here imports torch before a model is opened. Run as a program, the module measures throughput.
"""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from docmill.storage.core.specs import Outcome, Spec
from docmill.storage.extras import LOCAL
from docmill.tasks import kinds
from docmill.tasks.backends import registry
from docmill.tasks.engine.engine import Engine
from docmill.tasks.engine.tickets import cut_each
from docmill.tasks.errors import CannotServe, EngineStopped, ServerUnreachable, is_server_away
from docmill.tasks.models import weightless
from docmill.tasks.specs import pinning
from docmill.worker.concurrency import answer_parent, run_child
from docmill.worker.errors import WorkerError
from docmill.worker.settings import ANSWERS, Settings, visible_cuda_devices

if TYPE_CHECKING:
    from docmill.tasks.backends import Backend
    from docmill.tasks.kinds.base import Recipe

_NO_CUDA = frozenset({registry.CPU, registry.REMOTE})
TORCH = "import torch; print(torch.__version__, torch.cuda.device_count(), torch.get_num_threads())"


def devices_for(wanted: str, *models: str | None) -> list[str]:
    """Return the devices of this machine for a job with these models: served ones need none. Raises WorkerError."""
    needs_none = wanted == "auto" and all(weightless.is_served(model or "") for model in models)
    return choose_devices(registry.REMOTE if needs_none else wanted)


def choose_devices(wanted: str) -> list[str]:
    """Return the devices that `wanted` names.

    It is `auto` (every CUDA device, else the CPU), `cpu`, `cuda` (every one), or a list such as `cuda:0,cuda:1`.
    `remote` is a process that asks a server, and computes nothing itself.

    Raises WorkerError for a CUDA device that does not exist, and StorageError without the models' libraries.
    """
    LOCAL.require("Computing on this machine", "the models' libraries")
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if names == ["auto"]:
        return cuda_devices() or ["cpu"]
    if names == ["cuda"]:
        return _require_any(wanted, cuda_devices() or seen_by_torch())
    for name in names:
        if name not in _NO_CUDA and not (name.startswith("cuda:") and name[5:].isdigit()):
            raise WorkerError(f"--device {wanted}: use auto, cpu, cuda, remote, or a list such as cuda:0,cuda:1")
    if not names or len(set(names)) != len(names):
        raise WorkerError(f"--device {wanted}: name each device once")
    named = [name for name in names if name not in _NO_CUDA]
    if not {*named} <= {*cuda_devices()}:  # the driver's tool may be missing where the driver is not
        there = _require_any(wanted, seen_by_torch() or cuda_devices())
        if missing := [name for name in named if name not in there]:
            raise WorkerError(f"--device {wanted}: this machine has {', '.join(there)}, and no {', '.join(missing)}")
    return names


def _require_any(wanted: str, devices: list[str]) -> list[str]:
    if not devices:
        raise WorkerError(
            f"--device {wanted}: no CUDA device is visible here (neither nvidia-smi nor torch lists one); "
            "use --device cpu, or check the driver and CUDA_VISIBLE_DEVICES"
        )
    return devices


def ask_torch() -> subprocess.CompletedProcess[str]:
    """Run a process that prints torch's version, CUDA devices and threads: the import takes seconds and memory."""
    return subprocess.run([sys.executable, "-P", "-c", TORCH], capture_output=True, text=True, check=False)


def seen_by_torch() -> list[str]:
    """Return the CUDA devices that torch sees; none if it does not start."""
    done = ask_torch()
    return [f"cuda:{i}" for i in range(int(done.stdout.split()[-2]))] if done.returncode == 0 else []


def cuda_devices() -> list[str]:
    """Return the visible CUDA devices that the driver's own tool lists."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    if listed.returncode != 0:
        return []
    visible = visible_cuda_devices()
    return [f"cuda:{i}" for i in range(len(lines) if visible is None else min(visible, len(lines)))]


_USUAL = (700, 10, 10)  # Python's own; a process starts with others


def opener(
    settings: Settings, device: str, *, provisional: bool = True, journaled: bool = False
) -> Callable[[Spec], Backend]:
    """Return the function that loads the model of a spec onto the device, as ``open_backend`` does.

    ``journaled``: the answers of a server are kept until their outcomes are stored.
    """
    from docmill.tasks.engine.backend_factory import open_backend

    server = settings.server
    if server is not None and journaled:
        server = replace(server, journal=settings.home / ANSWERS)
    return partial(
        open_backend,
        device=device,
        folders=settings.model_folders,
        backend=settings.backend,
        server=server,
        provisional=provisional,
    )


def freeze_after_opening(open_model: Callable[[Spec], Backend]) -> Callable[[Spec], Backend]:
    """Return an opener that excludes all objects that exist after each opening from garbage collection.

    A model and its libraries are half a million objects. A collection that looks through them stops all threads for a
    quarter of a second, again and again as texts come and go.
    """
    opened = False

    def open_and_settle(spec: Spec) -> Backend:
        nonlocal opened
        if opened:  # another model was here, and may have been closed
            gc.unfreeze()
            gc.collect()
        opened = True
        backend = open_model(spec)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_USUAL)
        return backend

    return open_and_settle


@contextmanager
def running(settings: Settings, device: str) -> Iterator[Engine]:
    """Run an engine on the device for the length of the block."""
    engine = Engine(opener(settings, device))
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


@dataclass(frozen=True)
class EngineMeasurement:
    """A measurement: characters and tokens read, tokens written, seconds of computing and of loading."""

    chars: int
    tokens_in: int
    tokens_out: int
    seconds: float
    load_s: float


def measure(settings: Settings, device: str, spec: Spec, texts: Sequence[str]) -> EngineMeasurement:
    """Compute `texts` under `spec` in a child process and time it.

    Raises WorkerError with the reason, and ServerUnreachable if the model's server does not answer.
    """
    order = {
        "settings": settings.model_dump(mode="json"),
        "device": device,
        "spec": spec.to_json().decode(),
        "texts": list(texts),
    }
    done = run_child("docmill.worker.engines", json.dumps(order).encode())
    if done.returncode != 0:
        raise WorkerError("The sample could not be computed.")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise (ServerUnreachable if answer["server_away"] else WorkerError)(answer["error"])
    return EngineMeasurement(**answer)


def main() -> None:
    order = json.load(sys.stdin)
    try:
        answer: dict[str, Any] = asdict(_measure(order))
    except WorkerError as error:
        answer = {"error": str(error), "server_away": is_server_away(error.__cause__)}
    answer_parent(answer)


def _measure(order: dict[str, Any]) -> EngineMeasurement:
    settings, spec = Settings.model_validate(order["settings"]), Spec.from_json(order["spec"])
    engine = Engine(opener(settings, order["device"], provisional=False))  # a long job's backend is what counts
    engine.start()
    began = time.perf_counter()
    texts = list(enumerate(order["texts"]))
    try:
        engine.open(spec)
        load_s = time.perf_counter() - began
        _compute(engine, spec, texts[:1])  # the first batch pays for allocations that the others do not
        began = time.perf_counter()
        outcomes = _compute(engine, spec, texts)
        seconds = time.perf_counter() - began
    except (CannotServe, EngineStopped) as error:
        raise WorkerError(str(error)) from error
    return EngineMeasurement(
        chars=sum(len(text) for _, text in texts),
        tokens_in=sum(outcome.tokens_in for outcome in outcomes),
        tokens_out=sum(outcome.tokens_out for outcome in outcomes),
        seconds=seconds,
        load_s=load_s,
    )


def _compute(engine: Engine, spec: Spec, texts: Sequence[tuple[int, str]]) -> list[Outcome]:
    """Return the outcomes of all texts. Raises WorkerError if the device or the model's server is lost meanwhile."""
    ticket = engine.submit(spec, texts)
    ticket.wait()
    if not ticket.complete:
        error = ticket.away or engine.error
        raise WorkerError(str(error)) from error
    return ticket.finished()


Count = Callable[[Sequence[str]], int]


@contextmanager
def open_token_counter(settings: Settings, device: str, spec: Spec) -> Iterator[Count | None]:
    """Yield a function that counts the tokens of texts in their windows; None if the spec names no tokenizer.

    The server is asked for the length of a window. Raises WorkerError with the reason if the model cannot be served,
    and ServerUnreachable if the server does not answer.
    """
    if pinning.TOKENIZER not in spec.params:
        yield None
        return
    try:
        backend = opener(settings, device)(spec)
    except ServerUnreachable:
        raise
    except CannotServe as error:
        raise WorkerError(str(error)) from error
    recipe = kinds.recipe(spec, backend.traits)
    try:
        yield lambda texts: _counted(recipe, backend, texts)
    finally:
        backend.close()


def _counted(recipe: Recipe, backend: Backend, texts: Sequence[str]) -> int:
    """Return the tokens of the first round. A text that cannot be cut will fail, and costs nothing."""
    cut_texts = [windows for windows in cut_each(recipe, backend, texts) if not isinstance(windows, Exception)]
    encoded = [window.encoded for windows in cut_texts for window in windows]
    return sum(window.tokens for window in encoded if window is not None)


if __name__ == "__main__":
    main()
