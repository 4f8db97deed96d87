"""The vLLM backend writes what transformers' generate does in float32, also on an engine's thread.

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
from tests.tasks.fakes import raising
from tests.tasks.reference import generate_texts

# vLLM warns of its own parts while it is imported and loaded.
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

NEW_TOKENS = 12


def test_vllm_is_the_default_and_writes_what_transformers_does(
    bench: Bench, llama: Path, sentences: list[str]
) -> None:
    assert registry.row("vllm").is_installed
    spec = bench.spec("generate", llama, prompt=PROMPT, max_new_tokens=NEW_TOKENS)
    with closing(bench.open(spec)) as backend:
        assert backend.runtime()["backend"] == "vllm"
        assert backend.runtime()["versions"]["vllm"].startswith("0.")
        assert backend.limit_tokens == 256 - NEW_TOKENS
        inputs = [PROMPT.replace("{text}", text) for text in sentences]
        expected = partial(generate_texts, llama, inputs, max_new_tokens=NEW_TOKENS)
        require_equal(run_trickled(backend, sentences), expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2}, {"json_schema": SHORT}],
    ids=["greedy", "samples", "records"],
)
def test_records_and_log_probabilities_are_those_of_the_transformers_backend(
    bench: Bench, benches: Benches, llama: Path, sentences: list[str], options: dict[str, Any]
) -> None:
    kind, most = ("extract", 60) if options.keys() == {"json_schema"} else ("generate", NEW_TOKENS)
    spec = bench.spec(kind, llama, prompt="{text}", max_new_tokens=most, **options)
    outcomes = benches("transformers").run(spec, sentences)
    expected = [(outcome.mean_logprob, outcome.least_logprob) for outcome in outcomes]
    with closing(bench.open(spec)) as backend:
        items = [Item(number, encoded, None) for number, encoded in enumerate(backend.encode(sentences))]
        numbered = dict(backend.run(Trickle(items)))
    outputs = [output for _, output in sorted(numbered.items()) if isinstance(output, Generated)]
    likelihoods = [output.likelihood for output in outputs if output.likelihood]
    assert len(likelihoods) == len(sentences)
    if kind == "extract":
        assert [json.loads(output.text) for output in outputs] == [(output.data or {})["data"] for output in outcomes]
    if "temperature" in options:  # other samples than those of transformers
        assert all(known.least is not None and known.total < known.least < -0.1 for known in likelihoods)
        return
    end = int(kind == "extract")  # vLLM also writes the token that ends the output
    means = [likelihood.total / (likelihood.tokens - end) for likelihood in likelihoods]
    assert means == pytest.approx([mean for mean, _ in expected], abs=1e-3)
    assert [known.least for known in likelihoods] == pytest.approx([least for _, least in expected], abs=1e-3)


def test_samples_depend_on_the_text_and_the_seed_and_not_on_the_order(
    bench: Bench, llama: Path, sentences: list[str]
) -> None:
    options: dict[str, Any] = {"prompt": PROMPT, "max_new_tokens": NEW_TOKENS, "temperature": 0.8, "top_p": 0.9}
    with closing(bench.open(bench.spec("generate", llama, **options, seed=3))) as backend:
        together = run_trickled(backend, sentences)
        order = random.Random(1).sample(range(len(sentences)), len(sentences))
        assert run_trickled(backend, sentences, order) == together


def test_vllm_runs_on_an_engines_thread_and_ends_outputs_at_a_stop_text(
    bench: Bench, llama: Path, sentences: list[str], engine_of: EngineOf
) -> None:
    engine = engine_of(bench.open)
    spec = bench.spec("generate", llama, prompt="{text}", max_new_tokens=NEW_TOKENS, stop=(" ",))
    expected = partial(generate_texts, llama, stop=" ", max_new_tokens=NEW_TOKENS)
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
        texts = [outcome.text for outcome in ticket.finished()]
        require_equal(texts, partial(expected, [text for _, text in part]))


@pytest.fixture(scope="session", params=[models.SMOLLM2, models.GEMMA], ids=lambda weights: weights.name)
def real(request: pytest.FixtureRequest) -> Path:
    """Return the folder of real weights, which come from a package."""
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
    texts = [text for text in sentences if len(text) > 60][:6]
    prompt = "Say in one sentence what this is: {text}"
    spec = bench.spec("generate", real, prompt=prompt, max_new_tokens=NEW_TOKENS)
    inputs = [prompt.replace("{text}", text) for text in texts]
    with closing(bench.open(spec, backend=backend)) as opened:
        require_equal(run_trickled(opened, texts), partial(generate_texts, real, inputs, max_new_tokens=NEW_TOKENS))


def test_a_model_that_vllm_cannot_take_is_opened_by_transformers(
    bench: Bench, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm.LLMEngine.from_engine_args", raising(ValueError("No room for keys and values.")))
    spec = bench.spec("generate", llama, prompt="{text}", max_new_tokens=2)
    assert bench.opens(spec) == "transformers"
    with pytest.raises(CannotServe, match=r"vLLM cannot take .*: ValueError: No room for keys and values"):
        bench.open(spec, backend="vllm")
