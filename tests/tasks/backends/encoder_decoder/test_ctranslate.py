"""CTranslate2 converts models, proves the conversions, and leaves some models to another backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import pytest

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.encoder_decoder import ctranslate
from docmill.tasks.backends.encoder_decoder.ctranslate import CTranslateBackend, compute_type
from docmill.tasks.batching import Budget
from docmill.tasks.engine.engine import Batch, Engine
from docmill.tasks.errors import CannotServe, Unsuited
from docmill.tasks.outputs import Head
from tests.tasks.architectures import copy_with_settings
from tests.tasks.backends.decoder_only.test_causal import Trickle
from tests.tasks.conftest import MARIAN, Bench, Benches, EngineOf, multiplies_int8_exactly, outcomes_of
from tests.tasks.test_reference import one_paragraph
from tests.worker.harness import until

WAIT_S = 60.0


@pytest.fixture
def ct2(benches: Benches) -> Bench:
    return benches("ctranslate2")


def test_a_wrong_conversion_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CTranslate2's own loader leaves out the row that these models start from."""
    describe = ctranslate.LOADERS["marian"]

    def from_zero(model: Any) -> Any:
        description = describe(model)
        description.decoder.start_from_zero_embedding = True
        return description

    monkeypatch.setitem(ctranslate.LOADERS, "marian", from_zero)
    spec = Spec("translate", "marian-ddtp", "sha256:00")
    with pytest.raises(Unsuited, match="does not say the same"):
        ctranslate.convert(Assignment(spec, MARIAN, "cpu", tmp_path, Head.SEQ2SEQ_TEXT))
    assert [path.suffix for path in (tmp_path / "ctranslate2").iterdir()] == [".lock"]


@pytest.mark.long
def test_int8_writes_nearly_the_same_as_float32(ct2: Bench, french: list[str]) -> None:
    texts = one_paragraph(french, 60)
    answers = {
        dtype: ct2.write(ct2.spec("translate", "marian-ddtp", dtype=dtype), texts) for dtype in ("float32", "int8")
    }
    same = sum(in_float32 == in_int8 for in_float32, in_int8 in zip(answers["float32"], answers["int8"], strict=True))
    assert same >= (40 if multiplies_int8_exactly() else 25)
    runtime = ct2.engine.open(ct2.spec("translate", "marian-ddtp", dtype="int8"))
    assert (runtime["backend"], runtime["precision"]) == ("ctranslate2", compute_type("int8", "cpu"))
    assert {"ctranslate2", "transformers"} <= runtime["versions"].keys()


def test_a_precision_that_the_device_lacks_is_left_to_another_backend(ct2: Bench) -> None:
    with pytest.raises(Unsuited, match="no float16 precision on this cpu"):
        compute_type("float16", "cpu")
    spec = ct2.spec("translate", "marian-ddtp", dtype="bfloat16")
    assert ct2.opens(spec) == "transformers"
    with pytest.raises(CannotServe, match="no bfloat16 precision"):
        ct2.open(spec, backend="ctranslate2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"do_sample": True}, "do_sample"),
        ({"decoder_start_token_id": [1, 2]}, "single token"),
    ],
)
def test_settings_that_ctranslate2_lacks_are_left_to_transformers(
    ct2: Bench, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    folder = copy_with_settings(MARIAN, tmp_path / "model", **settings)
    spec = ct2.spec("translate", folder, beams=1)
    with pytest.raises(Unsuited, match=message):
        ct2.open(spec, backend="ctranslate2")
    with pytest.raises(CannotServe, match=message):
        ct2.open(replace(spec, quality="int8"))  # which transformers does not have


def test_an_output_at_the_limit_is_flagged_and_counted_alike(writer: Bench, french: list[str]) -> None:
    texts = one_paragraph(french, 12)
    for beams in (1, 4):
        outcomes = writer.run(writer.spec("translate", "marian-ddtp", beams=beams, max_new_tokens=6), texts)
        assert all("output_truncated" in outcome.flags for outcome in outcomes)
        assert {outcome.tokens_out for outcome in outcomes} == {6}
        whole = writer.run(writer.spec("translate", "marian-ddtp", beams=beams), texts)
        assert not any("output_truncated" in outcome.flags for outcome in whole)


Watch = Callable[[list[list[str]]], Sequence[Future[Any]] | None]


def failed(error: Exception) -> Future[Any]:
    """Return a result that raises, as CTranslate2's result of a failed batch does."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """Return a list for functions that get each batch's sources, and may return results in place of CTranslate2's."""
    translator_class = ctranslate2.Translator
    seen: list[Watch] = []

    class Translator:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._own = translator_class(*arguments, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._own, name)

        def translate_batch(self, sources: list[list[str]], **options: Any) -> Any:
            instead = next((results for see in seen if (results := see(sources)) is not None), None)
            return self._own.translate_batch(sources, **options) if instead is None else instead

    monkeypatch.setattr("ctranslate2.Translator", Translator)
    return seen


def limit_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Limit the batches of backends that are opened from now on."""
    monkeypatch.setitem(ctranslate.BUDGETS, "cpu", replace(ctranslate.BUDGETS["cpu"], rows=rows))


def test_a_drain_finishes_the_batches_in_flight_and_takes_no_more(
    ct2: Bench, engine_of: EngineOf, french: list[str], monkeypatch: pytest.MonkeyPatch, library: list[Watch]
) -> None:
    limit_rows(monkeypatch, 2)
    workers = 2
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(workers))
    spec = ct2.spec("translate", "marian-ddtp", beams=1)
    backend = ct2.open(spec, backend="ctranslate2")
    most = ctranslate.AHEAD * workers
    batch_sizes: list[int] = []
    full, open_again = threading.Event(), threading.Event()

    def hold(sources: list[list[str]]) -> None:
        batch_sizes.append(len(sources))
        if len(batch_sizes) == most:
            full.set()
            assert open_again.wait(WAIT_S)

    library.append(hold)
    events: list[Batch] = []
    engine: Engine = engine_of(lambda spec: backend, on_batch=events.append)
    ticket = engine.submit(spec, list(enumerate(one_paragraph(french, 100))))
    assert full.wait(WAIT_S)
    draining = threading.Thread(target=engine.drain)
    draining.start()
    until(lambda: engine._models.stopping, "the drain has begun")
    open_again.set()
    draining.join(WAIT_S)
    assert batch_sizes == [2] * most
    assert len(ticket.finished()) == 2 * most
    begun = [batch for batch in events if batch.seconds is None]
    assert [event.windows for event in begun] == [2 * workers] * ctranslate.AHEAD
    assert begun[1].load_tokens > begun[1].padded_tokens
    assert engine.counters.busy_s == pytest.approx(sum(batch.seconds or 0 for batch in events))


def test_a_failed_batch_in_flight_fails_its_own_windows_only(
    ct2: Bench, engine_of: EngineOf, french: list[str], monkeypatch: pytest.MonkeyPatch, library: list[Watch]
) -> None:
    limit_rows(monkeypatch, 4)
    texts = one_paragraph(french, 12)
    spec = ct2.spec("translate", "marian-ddtp", beams=1)
    backend = ct2.open(spec, backend="ctranslate2")
    bad = [str(number) for number in backend.encode([texts[5]])[0].ids]
    library.append(lambda sources: [failed(RuntimeError("secret")) for _ in sources] if bad in sources else None)
    outcomes = outcomes_of(engine_of(lambda spec: backend), spec, texts)
    assert [outcome.content_id for outcome in outcomes if outcome.reason] == [5]


def idle_budget(backend: CTranslateBackend) -> Budget:
    """Return the budget that an idle backend requests for all its workers."""
    source = Trickle([])
    assert list(backend.run(source)) == []
    return source.budget


def test_beams_bound_the_rows_of_a_batch_and_not_its_tokens(ct2: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def budgets(cores: int, workers: int, **options: str) -> list[tuple[int, int]]:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
        specs = [ct2.spec("translate", "marian-ddtp", beams=number, **options) for number in (1, 2, 4, 16)]
        idle_budgets = [idle_budget(ct2.open(spec, backend="ctranslate2")) for spec in specs]
        return [(budget.rows // workers, budget.tokens // workers) for budget in idle_budgets]

    few, many, in_int8 = budgets(2, 2), budgets(16, 8), budgets(2, 2, dtype="int8")
    assert [rows for rows, _ in few] == [48, 48, 32, 8]
    assert [rows for rows, _ in in_int8] == [48, 24, 12, 3]
    assert [rows for rows, _ in many] == [48, 32, 16, 4], "eight workers share 512 hypotheses"
    assert len({tokens for _, tokens in few + many + in_int8}) == 1


def test_memory_that_is_short_halves_the_batches(
    ct2: Bench, engine_of: EngineOf, french: list[str], library: list[Watch]
) -> None:
    spec = ct2.spec("translate", "marian-ddtp", beams=1)
    backend = ct2.open(spec, backend="ctranslate2")
    tokens_before = idle_budget(backend).tokens
    library.append(lambda sources: [failed(MemoryError()) for _ in sources] if len(sources) > 8 else None)
    outcomes = outcomes_of(engine_of(lambda spec: backend), spec, one_paragraph(french, 60))
    assert not any(outcome.reason for outcome in outcomes)
    assert idle_budget(backend).tokens < tokens_before
