"""Fixtures for the tasks' tests: example texts, and engines that stop when the test ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

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
SYNOPSIS = EXAMPLES / "models" / "synopsis-ddtp"


def multiplies_int8_exactly() -> bool:
    """Return True if the processor adds products of 8 bits without clipping the sums to 16, as VNNI does.

    Others were measured to lose more in int8.
    """
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "vnni" in flags or "amx_int8" in flags


def example_rows(name: str) -> list[dict[str, Any]]:
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random weights are those of the test, whichever tests ran before it."""
    torch.manual_seed(7)


@pytest.fixture(scope="session")
def descriptions() -> list[str]:
    """English texts of the examples."""
    return [row["text"] for row in example_rows("descriptions.jsonl")]


@pytest.fixture(scope="session")
def french() -> list[str]:
    return [row["text"] for row in example_rows("french.jsonl")]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose conversions and measurements all processes of a run of the tests share."""
    home = tmp_path_factory.mktemp("home")
    share_conversions(home)
    return home / "cache"


@pytest.fixture
def unmeasured(cache_dir: Path, tmp_path: Path) -> Path:
    """A cache with the conversions of the session, in which nothing has been measured."""
    for name in ("openvino", "opened"):
        (cache_dir / name).mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(cache_dir / name)
    return tmp_path


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the model that summarizes, in a folder of models."""
    return Path(shutil.copytree(SYNOPSIS, tmp_path / "models" / "mine"))


EngineOf = Callable[..., Engine]


@pytest.fixture
def engine_of() -> Iterator[EngineOf]:
    """Starts engines over a function from spec to backend, and closes them."""
    engines: list[Engine] = []

    def start(open_one: Callable[[Spec], Backend], **settings: Any) -> Engine:
        engine = Engine(open_one, **settings)
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()
        assert engine.error is None


def outcomes_of(engine: Engine, spec: Spec, texts: Sequence[str]) -> list[Outcome]:
    """Return the outcomes of texts, whose content ids are their places."""
    ticket = engine.submit(spec, list(enumerate(texts)))
    assert ticket.wait(250)
    assert ticket.complete
    return ticket.finished()


def texts_of(outcomes: Sequence[Outcome]) -> list[str | None]:
    assert all(outcome.reason is None for outcome in outcomes)
    return [outcome.text for outcome in outcomes]


def data_of(outcome: Outcome) -> dict[str, Any]:
    """Return what a done outcome has beside its text and its vector."""
    assert outcome.status is Status.DONE, outcome.reason
    assert outcome.data is not None
    return outcome.data


class Bench:
    """Real models behind one engine: a task in one line."""

    def __init__(self, engine: Engine, cache_dir: Path, backend: str) -> None:
        self.engine = engine
        self.backend = backend
        self.cache_dir = cache_dir

    @property
    def folders(self) -> ModelFolders:
        return ModelFolders(None, self.cache_dir)

    def spec(self, kind: str, model: str, **options: Any) -> Spec:
        pinned, config = pinning.pin_with_adapter(model, None, self.folders)
        stated = pinning.read_prompts(pinned, self.folders) if kind == "embed" else None
        return build_spec(kind, pinned, kinds.options(kind, **{"dtype": "float32", **options}), config, stated)

    def run(self, spec: Spec, texts: Sequence[str]) -> list[Outcome]:
        return outcomes_of(self.engine, spec, texts)

    def open(self, spec: Spec, **options: Any) -> Any:
        """Return a backend of its own for a spec."""
        return open_backend(spec, **{"device": "cpu", "folders": self.folders, **options})

    def opens(self, spec: Spec, **options: Any) -> str:
        """Return the name of the backend that is opened for a spec."""
        with closing(self.open(spec, **options)) as backend:
            return str(backend.runtime()["backend"])

    def folder(self, spec: Spec) -> Path:
        return pinning.locate(spec, self.folders)


Benches = Callable[[str], Bench]


@pytest.fixture(scope="session")
def benches(cache_dir: Path) -> Iterator[Benches]:
    """A bench by the name of its backend, started when first asked for."""
    made: dict[str, Bench] = {}

    def of(backend: str) -> Bench:
        if backend not in made:
            opener = partial(open_backend, device="cpu", folders=ModelFolders(None, cache_dir), backend=backend)
            made[backend] = Bench(Engine(opener, max_specs=2), cache_dir, backend)
            made[backend].engine.start()
        return made[backend]

    yield of
    for one in made.values():
        one.engine.close()
        assert one.engine.error is None


@pytest.fixture(scope="session")
def bench(benches: Benches) -> Bench:
    """Whatever backend is the best here."""
    return benches(registry.AUTO)


@pytest.fixture(scope="session", params=["transformers", "ctranslate2"])
def each_writer(request: pytest.FixtureRequest, benches: Benches) -> Bench:
    """Each backend that summarises and translates."""
    return benches(request.param)


@pytest.fixture(scope="session", params=[pytest.param("transformers", marks=pytest.mark.long), "ctranslate2"])
def writer(request: pytest.FixtureRequest, benches: Benches) -> Bench:
    """The backend that is preferred for summaries and translations; in `make test-long` the other one."""
    return benches(request.param)
