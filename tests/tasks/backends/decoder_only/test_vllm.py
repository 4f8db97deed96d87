"""The vLLM backend, on vLLM: exact against transformers' own generate in float32, and at home in a worker's process.

vLLM has an environment of its own (`make test-vllm`).
"""

from __future__ import annotations

import json
import os
import random
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import models
from docmill.tasks.backends import registry
from docmill.tasks.batching import Item
from docmill.tasks.errors import CannotServe
from docmill.tasks.outputs import Generated
from tests.faults.servers import missing
from tests.tasks.backends.decoder_only.test_causal import PROMPT, Trickle, run_trickled
from tests.tasks.backends.decoder_only.test_constraint import SHORT
from tests.tasks.conftest import Bench, Benches, EngineOf
from tests.tasks.deciding import require_equal
from tests.tasks.reference import written

# vLLM warns of its own parts while it is imported and loaded.
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

NEW_TOKENS = 12


@pytest.fixture
def llama(made: dict[str, Path]) -> Path:
    return made["llama"]


def test_it_is_chosen_by_itself_and_writes_what_transformers_does(
    bench: Bench, llama: Path, sentences: list[str]
) -> None:
    assert registry.row("vllm").is_installed
    spec = bench.spec("generate", str(llama), prompt=PROMPT, max_new_tokens=NEW_TOKENS)
    with closing(bench.open(spec)) as backend:
        assert backend.runtime()["backend"] == "vllm"
        assert backend.runtime()["versions"]["vllm"].startswith("0.")
        assert backend.limit_tokens == 256 - NEW_TOKENS
        inputs = [PROMPT.replace("{text}", text) for text in sentences]
        expected = partial(written, llama, inputs, chat=True, max_new_tokens=NEW_TOKENS)
        require_equal(run_trickled(backend, sentences), expected)


@pytest.mark.parametrize(
    "asked",
    [{}, {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2}, {"json_schema": SHORT}],
    ids=["greedy", "samples", "records"],
)
def test_its_records_and_log_probabilities_are_those_of_the_transformers_backend(
    bench: Bench, benches: Benches, llama: Path, sentences: list[str], asked: dict[str, Any]
) -> None:
    kind, most = ("extract", 60) if asked.keys() == {"json_schema"} else ("generate", NEW_TOKENS)
    spec = bench.spec(kind, str(llama), prompt="{text}", max_new_tokens=most, **asked)
    outcomes = benches("transformers").run(spec, sentences)
    expected = [(one.mean_logprob, one.least_logprob) for one in outcomes]
    with closing(bench.open(spec)) as backend:
        items = [Item(number, encoded, None) for number, encoded in enumerate(backend.encode(sentences))]
        found = dict(backend.run(Trickle(items)))
    outputs = [one for _, one in sorted(found.items()) if isinstance(one, Generated)]
    sure = [one.likelihood for one in outputs if one.likelihood]
    assert len(sure) == len(sentences)
    if kind == "extract":
        assert [json.loads(one.text) for one in outputs] == [(one.data or {})["data"] for one in outcomes]
    if "temperature" in asked:  # other samples than those of transformers
        assert all(one.least is not None and one.total < one.least < -0.1 for one in sure)
        return
    end = int(kind == "extract")  # vLLM also writes the token that ends the output
    means = [one.total / (one.tokens - end) for one in sure]
    assert means == pytest.approx([mean for mean, _ in expected], abs=1e-3)
    assert [one.least for one in sure] == pytest.approx([least for _, least in expected], abs=1e-3)


def test_samples_depend_on_the_text_and_the_seed_and_not_on_the_order(
    bench: Bench, llama: Path, sentences: list[str]
) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "max_new_tokens": NEW_TOKENS, "temperature": 0.8, "top_p": 0.9}
    with closing(bench.open(bench.spec("generate", str(llama), **asked, seed=3))) as backend:
        together = run_trickled(backend, sentences)
        order = random.Random(1).sample(range(len(sentences)), len(sentences))
        assert run_trickled(backend, sentences, order) == together


def test_it_runs_on_the_engines_thread_beside_others_and_stops_where_it_is_told(
    bench: Bench, llama: Path, sentences: list[str], engine_of: EngineOf
) -> None:
    engine = engine_of(bench.open)
    spec = bench.spec("generate", str(llama), prompt="{text}", max_new_tokens=NEW_TOKENS, stop=(" ",))
    expected = partial(written, llama, chat=True, stop=" ", max_new_tokens=NEW_TOKENS)
    tickets = []
    threads = [
        threading.Thread(target=lambda part=part: tickets.append((part, engine.submit(spec, part))))
        for part in (list(enumerate(sentences))[:12], list(enumerate(sentences))[12:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part, ticket in tickets:
        assert ticket.wait(120)
        found = [outcome.text for outcome in ticket.finished()]
        require_equal(found, partial(expected, [text for _, text in part]))


@pytest.fixture(scope="session", params=[models.SMOLLM2, models.GEMMA], ids=lambda weights: weights.name)
def real(request: pytest.FixtureRequest) -> Path:
    """Real weights, which packages have; the environment of these tests can convert them."""
    if request.param == models.GEMMA and "DOCMILL_TEST_GEMMA" not in os.environ:
        pytest.skip("DOCMILL_TEST_GEMMA says that Gemma's terms of use are accepted")
    try:
        return models.fetched(request.param)
    except models.NotFetched as reason:
        missing(str(reason))


@pytest.mark.parametrize("backend", ["vllm", "transformers"])
def test_real_models_write_what_transformers_does(
    bench: Bench, real: Path, sentences: list[str], backend: str
) -> None:
    some = [text for text in sentences if len(text) > 60][:6]
    prompt = "Say in one sentence what this is: {text}"
    spec = bench.spec("generate", str(real), prompt=prompt, max_new_tokens=NEW_TOKENS)
    inputs = [prompt.replace("{text}", text) for text in some]
    chat = (real / "chat_template.jinja").exists()  # Gemma's are the weights before it learnt to chat
    with closing(bench.open(spec, backend=backend)) as one:
        require_equal(run_trickled(one, some), partial(written, real, inputs, chat=chat, max_new_tokens=NEW_TOKENS))


def test_a_model_that_it_cannot_take_goes_to_transformers(
    bench: Bench, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("No room for keys and values.")

    monkeypatch.setattr("vllm.LLMEngine.from_engine_args", refuse)
    spec = bench.spec("generate", str(llama), prompt="{text}", max_new_tokens=2)
    assert bench.opens(spec) == "transformers"
    with pytest.raises(CannotServe, match=r"vLLM cannot take .*: ValueError: No room for keys and values"):
        bench.open(spec, backend="vllm")
