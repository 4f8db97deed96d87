"""Results of real models are computed again in float32: greedy ones that were made in it come out the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.core.outcomes import Outcome, Reason, Status
from storage.core.specs import Spec
from storage.outputs.output_types import TEXT
from storage.results.provenance import Recorded, StepRecord
from tasks import kinds
from tasks.backends import Backend, registry
from tasks.engine.backend_factory import open_backend
from tasks.engine.engine import Engine
from tasks.engine.recording import Computation, Recorder
from tests.tasks.conftest import Bench, example_rows
from tests.worker.harness import share_conversions
from worker.explaining.recomputing import CannotRecompute, backends, compared, opener, recompute
from worker.settings import load_settings

N = 6  # documents of each model
RUNTIME = {"device": "cpu", "precision": "float32", "backend": "transformers", "versions": {}}
SPEC = Spec("summarize", "null", "sha256:1")


class Lasting(Recorder):
    """A backend that stays open, to be opened again."""

    def close(self) -> None:
        """Keep it."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Callable[[Spec], Backend]]]:
    """Models by transformers, each opened once, behind an engine; and the function that opens them."""
    home = tmp_path_factory.mktemp("home")
    share_conversions(home)
    cache = home / "cache"
    load = partial(open_backend, device="cpu", models_dir=None, cache_dir=cache, backend=registry.OWN_CODE)
    backends: dict[Spec, Backend] = {}

    def open_one(spec: Spec) -> Backend:
        if spec not in backends:
            backends[spec] = load(spec)
        return Lasting(backends[spec], SimpleNamespace(rounds={}, outputs={}))  # type: ignore[arg-type]

    engine = Engine(open_one)
    engine.start()
    yield Bench(engine, cache, registry.OWN_CODE), open_one
    engine.close()
    for one in backends.values():
        one.close()


def stored(spec: Spec, text: str, outcome: Outcome, runtime: dict[str, Any] | None = None) -> StepRecord:
    """Return the record of an outcome as it is once it was stored."""
    recorded = Recorded(
        status=outcome.status,
        output=kinds.kind(spec.kind).output.result(outcome) if outcome.status is Status.DONE else {},
        reason=outcome.reason,
        reason_class=outcome.reason_class,
        flags=outcome.flags,
        tokens_in=outcome.tokens_in,
        tokens_out=outcome.tokens_out,
        created_at=0.0,
        runtime=RUNTIME if runtime is None else runtime,
    )
    return StepRecord(spec.kind, None, spec, text, text, 1, recorded, None)


def texts(kind: str) -> Sequence[str]:
    rows = example_rows("french.jsonl" if kind == "translate" else "descriptions.jsonl")
    return [row["text"] for row in rows[:N]]


@pytest.mark.parametrize(
    ("kind", "model", "options"),
    [
        ("translate", "marian-ddtp", {"beams": 1, "source_lang": "fr", "target_lang": "en"}),
        ("summarize", "synopsis-ddtp", {"beams": 1}),
        ("classify", "classes-ddtp", {}),  # an adapter with a head
    ],
)
def test_greedy_results_made_in_float32_come_out_the_same(
    bench: tuple[Bench, Callable[[Spec], Backend]], kind: str, model: str, options: dict[str, Any]
) -> None:
    writer, open_one = bench
    spec = writer.spec(kind, model, **options)
    output = kinds.kind(kind).output
    runtime = writer.engine.runtime(spec)
    for text, outcome in zip(texts(kind), writer.run(spec, [*texts(kind)]), strict=True):
        found = recompute(stored(spec, text, outcome, runtime), output, open_one)
        assert found.same, found.difference
        assert found.causes == ()
        assert "".join(one.text for one in found.computation.windows if one.round == 1)
        assert found.spec.params == spec.params


def test_another_precision_is_named_as_what_differs(bench: tuple[Bench, Callable[[Spec], Backend]]) -> None:
    writer, open_one = bench
    spec = replace(writer.spec("summarize", "synopsis-ddtp", beams=1), quality="bfloat16")
    text = texts("summarize")[0]
    runtime = {**writer.engine.runtime(replace(spec, quality="float32")), "precision": "bfloat16"}
    step = stored(spec, text, Outcome(1, Status.DONE, text="something else"), runtime)
    found = recompute(step, TEXT, open_one)
    assert found.same is False
    assert [(one.what, one.then, one.now) for one in found.causes] == [("precision", "bfloat16", "float32")]
    assert (found.spec.quality, found.spec.params) == ("float32", spec.params)


def computed(outcome: Outcome) -> Computation:
    return Computation(outcome, (), RUNTIME, 0.0)


def test_a_failure_is_compared_with_what_comes_now() -> None:
    failed = Outcome(1, Status.FAILED, reason="it would not", reason_class=Reason.MODEL)
    done = Outcome(1, Status.DONE, text="out")
    again = compared(stored(SPEC, "t", failed), SPEC, TEXT, computed(failed))
    assert again.same
    mended = compared(stored(SPEC, "t", failed), SPEC, TEXT, computed(done))
    assert mended.difference is not None
    assert (mended.same, mended.difference.summary) == (False, "failed then, done now")
    assert mended.difference.lines == ("then: it would not",)


def test_without_a_result_there_is_nothing_to_compare_with() -> None:
    step = StepRecord("summarize", None, SPEC, "t", "t", 1, None, None)
    found = compared(step, SPEC, TEXT, computed(Outcome(1, Status.DONE, text="out")))
    assert (found.same, found.causes, found.output) == (None, (), {"text": "out"})


def test_the_backend_of_the_stored_result_is_tried_first() -> None:
    done = Outcome(1, Status.DONE, text="out")
    of = [stored(SPEC, "t", done, {**RUNTIME, "backend": name}) for name in ("ctranslate2", "sentence-transformers")]
    assert [backends(step) for step in of] == [["ctranslate2", "transformers", "auto"], ["transformers", "auto"]]


def test_what_cannot_be_computed_here_is_refused_with_what_to_do(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    elsewhere = StepRecord("summarize", None, Spec("summarize", "no/model", "0" * 40), "t", "t", 1, None, None)
    with pytest.raises(CannotRecompute, match="run the command where its worker runs"):
        opener(elsewhere, settings, "cpu")
    adapted = Spec("classify", "null", "sha256:1", params={"adapter": "no/adapter", "adapter_revision": "0" * 40})
    with pytest.raises(CannotRecompute, match=r"The adapter no/adapter at 0* is not on this machine"):
        opener(replace(elsewhere, spec=adapted), settings, "cpu")
    local = replace(elsewhere, spec=Spec("summarize", "/no/model", "sha256:1"))
    with pytest.raises(CannotRecompute, match="is not on this machine: copy its folder"):
        recompute(local, TEXT, opener(local, settings, "cpu"))
    with pytest.raises(CannotRecompute, match="the step before it gave none"):
        recompute(replace(local, content=None), TEXT, opener(local, settings, "cpu"))
