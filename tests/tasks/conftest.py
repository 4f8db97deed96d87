"""Example texts, engines that stop when the test ends, and real models behind them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from docmill.storage.core.specs import Outcome, Spec, Status
from docmill.tasks import kinds
from docmill.tasks.backends import Backend, registry
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec
from tests.worker.harness import share_conversions

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MARIAN, SYNOPSIS = EXAMPLES / "models" / "marian-ddtp", EXAMPLES / "models" / "synopsis-ddtp"


def multiplies_int8_exactly() -> bool:
    """Return True if the processor has VNNI or AMX. Others clip sums of 8-bit products, so int8 loses more there."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "vnni" in flags or "amx_int8" in flags


def example_rows(name: str) -> list[dict[str, Any]]:
    """Return the records of a JSONL file in `examples/`."""
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seed torch, so that random weights do not depend on the tests that ran before."""
    torch.manual_seed(7)


@pytest.fixture(scope="session")
def descriptions() -> list[str]:
    """Return the English example texts."""
    return [row["text"] for row in example_rows("descriptions.jsonl")]


@pytest.fixture(scope="session")
def french() -> list[str]:
    """Return the French example texts."""
    return [row["text"] for row in example_rows("french.jsonl")]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder. The processes of a test run share its conversions and measurements."""
    home = tmp_path_factory.mktemp("home")
    share_conversions(home)
    return home / "cache"


@pytest.fixture
def unmeasured(cache_dir: Path, tmp_path: Path) -> Path:
    """Return a cache folder with the session's conversions and no measurements."""
    for name in ("openvino", "opened"):
        (cache_dir / name).mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(cache_dir / name)
    return tmp_path


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the summarization model, in a folder of models."""
    return Path(shutil.copytree(SYNOPSIS, tmp_path / "models" / "mine"))


EngineOf = Callable[..., Engine]


@pytest.fixture
def engine_of() -> Iterator[EngineOf]:
    """Return a function that starts an engine over a function from spec to backend. The engines are closed later."""
    engines: list[Engine] = []

    def start(open_spec: Callable[[Spec], Backend], **settings: Any) -> Engine:
        engine = Engine(open_spec, **settings)
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()
        assert engine.error is None


def outcomes_of(engine: Engine, spec: Spec, texts: Sequence[str]) -> list[Outcome]:
    """Return the outcomes of texts. The content ids are the texts' indexes."""
    ticket = engine.submit(spec, list(enumerate(texts)))
    assert ticket.wait(250)
    assert ticket.complete
    return ticket.finished()


def texts_of(outcomes: Sequence[Outcome]) -> list[str | None]:
    """Return the text of each outcome. None may have failed."""
    assert all(outcome.reason is None for outcome in outcomes)
    return [outcome.text for outcome in outcomes]


def data_of(outcome: Outcome) -> dict[str, Any]:
    """Return the data of a done outcome."""
    assert outcome.status is Status.DONE, outcome.reason
    assert outcome.data is not None
    return outcome.data


def vector_of(outcome: Outcome) -> npt.NDArray[np.float32]:
    """Return the vector of an outcome. The vectors of several windows stand in a row."""
    assert outcome.vector is not None, outcome.reason
    return np.frombuffer(outcome.vector, "<f4")


def vectors_of(outcomes: Sequence[Outcome]) -> npt.NDArray[np.float32]:
    """Return the vectors of outcomes, one in each row."""
    return np.stack([vector_of(outcome) for outcome in outcomes])


class Bench:
    """Real models behind one engine."""

    def __init__(self, engine: Engine, cache_dir: Path, backend: str) -> None:
        self.engine = engine
        self.backend = backend
        self.cache_dir = cache_dir

    @property
    def folders(self) -> ModelFolders:
        return ModelFolders(None, self.cache_dir)

    def spec(self, kind: str, model: str | Path, **options: Any) -> Spec:
        """Return the spec of a kind of task, in float32 by default."""
        pinned, config = pinning.pin_with_adapter(str(model), options.get("adapter"), self.folders)
        stated = pinning.read_prompts(pinned, self.folders) if kind == "embed" else None
        return build_spec(kind, pinned, kinds.options(kind, **{"dtype": "float32", **options}), config, stated)

    def run(self, spec: Spec, texts: Sequence[str]) -> list[Outcome]:
        return outcomes_of(self.engine, spec, texts)

    def write(self, spec: Spec, texts: Sequence[str]) -> list[str | None]:
        """Return the text that the model writes for each text. None may fail."""
        return texts_of(self.run(spec, texts))

    def open(self, spec: Spec, **options: Any) -> Any:
        """Return a new backend for a spec."""
        return open_backend(spec, **{"device": "cpu", "folders": self.folders, **options})

    def opens(self, spec: Spec, **options: Any) -> str:
        """Return the name of the backend that opens for a spec."""
        with closing(self.open(spec, **options)) as backend:
            return str(backend.runtime()["backend"])

    def folder(self, spec: Spec) -> Path:
        return pinning.locate(spec, self.folders)


Benches = Callable[[str], Bench]


@pytest.fixture(scope="session")
def benches(cache_dir: Path) -> Iterator[Benches]:
    """Return a function from a backend's name to its bench, which is started on first use."""
    started: dict[str, Bench] = {}

    def start(backend: str) -> Bench:
        if backend not in started:
            opener = partial(open_backend, device="cpu", folders=ModelFolders(None, cache_dir), backend=backend)
            started[backend] = Bench(Engine(opener, max_specs=2), cache_dir, backend)
            started[backend].engine.start()
        return started[backend]

    yield start
    for bench in started.values():
        bench.engine.close()
        assert bench.engine.error is None


@pytest.fixture(scope="session")
def bench(benches: Benches) -> Bench:
    """Return the bench that chooses the backend by itself."""
    return benches(registry.AUTO)


@pytest.fixture(scope="session", params=["transformers", "ctranslate2"])
def each_writer(request: pytest.FixtureRequest, benches: Benches) -> Bench:
    """Return the bench of each backend that summarizes and translates."""
    return benches(request.param)


@pytest.fixture(scope="session", params=[pytest.param("transformers", marks=pytest.mark.long), "ctranslate2"])
def writer(request: pytest.FixtureRequest, benches: Benches) -> Bench:
    """Return the bench of CTranslate2, the preferred writer; `make test-long` adds that of transformers."""
    return benches(request.param)
