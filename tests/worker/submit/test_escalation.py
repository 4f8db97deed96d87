"""Escalation as commands, pipelines and orders ask for it: the options of the better model, and what is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.errors import StorageError
from docmill.storage.steps.conditions import Doubt
from docmill.storage.steps.steps import EscalationRequest
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, ModelCorrupt
from docmill.tasks.kinds import KindOptions
from docmill.tasks.models.families import Family
from docmill.worker.engines import EngineMeasurement
from docmill.worker.errors import BadMessage, WorkerError
from docmill.worker.orders import parse_enqueue
from docmill.worker.pipelines.file import parse
from docmill.worker.settings import Settings
from docmill.worker.submit import dry_run
from docmill.worker.submit.enqueue import IngestProgress
from docmill.worker.submit.options import (
    DOCUMENT,
    ESCALATION_OPTIONS,
    Escalation,
    EscalationOptions,
    Request,
    UnpinnedStep,
    request_escalation,
)
from docmill.worker.submit.request import pin_step, prepare, spec_of

SMALL = Spec("translate", "small", "sha256:1", params={"algorithm": 2})
FR_EN: dict[str, Any] = {"source_lang": "fr", "target_lang": "en"}


STEP = """
name = "p"
corpus.source = "a.jsonl"

[[step]]
name = "english"
task = "translate"
from = "fr"
to = "en"
"""


def parse_escalation(**options: Any) -> Escalation | None:
    return EscalationOptions(**options).escalation


def pin_escalation(
    settings: Settings, model: str | None, options: KindOptions, escalation: Escalation, task: str = "translate"
) -> EscalationRequest:
    step = UnpinnedStep("step", task, DOCUMENT, model, None, options, escalation=escalation)
    request = pin_step(settings, step).escalation
    assert request is not None
    return request


def test_a_model_or_a_number_of_beams_asks_for_an_escalation() -> None:
    assert parse_escalation() is None
    assert parse_escalation(escalate="large") == Escalation("large")
    assert parse_escalation(escalate_beams=4) == Escalation(options={"beams": 4})
    escalation = parse_escalation(escalate="large", escalate_beams=2, when="empty, confidence<0.4")
    assert escalation == Escalation("large", None, {"beams": 2}, Doubt.parse(["empty", "confidence<0.4"]))
    with pytest.raises(BadOption, match="--when is for --escalate"):
        assert parse_escalation(when="empty")


def test_the_options_that_escalation_may_set_are_options_of_kinds() -> None:
    assert kinds.OPTIONS.keys() >= ESCALATION_OPTIONS


def test_another_model_gets_the_options_of_the_step_that_suit_its_family() -> None:
    first = kinds.options("translate", **FR_EN, beams=2, adapter="a", max_new_tokens=50)
    first = first.model_copy(update={"tokenizer": "t"})
    same = Escalation(options={"beams": 4}).options_from(first, None)
    assert (same.to_params()["beams"], same.to_params()["adapter"], same.to_params()["tokenizer"]) == (4, "a", "t")
    decoder = Escalation("large").options_from(first, Family.DECODER).to_params()
    assert decoder == FR_EN | {"max_new_tokens": 50}
    encoder = Escalation("large").options_from(first, Family.SEQ2SEQ).to_params()
    assert encoder["beams"] == 2
    assert not {"adapter", "tokenizer"} & encoder.keys()


def test_a_served_model_gets_no_option_that_servers_lack(settings: Settings) -> None:
    options = kinds.options("translate", **FR_EN, dtype="int8", no_repeat_ngram_size=3)
    request = pin_escalation(settings, "null", options, Escalation("openai:large"))
    assert request.spec.quality == "native"
    assert "no_repeat_ngram_size" not in request.spec.params
    with pytest.raises(BadOption, match="leave --dtype and DOCMILL_DTYPE out"):
        pin_escalation(settings, "null", options, Escalation("openai:large", None, {"dtype": "int8"}))


@pytest.mark.parametrize(
    ("first", "second", "doubt", "message"),
    [
        (SMALL, SMALL, Doubt(), "the same model with the same options"),
        (Spec("embed", "a", "1"), Spec("embed", "b", "1"), Doubt(), "vectors of two models are not comparable"),
        (
            Spec("generate", "a", "1", params={"prompt": "{meta.title}: {text}"}),
            Spec("generate", "b", "1", params={"prompt": "{meta.name}: {text}"}),
            Doubt(),
            "a prompt must be the same for both models",
        ),
        (
            Spec("classify", "a", "1"),
            Spec("classify", "b", "2"),
            Doubt.parse(["mean_logprob<-1"]),
            "labels have no mean_logprob, only confidence",
        ),
    ],
)
def test_specs_that_do_not_fit_together_are_refused(first: Spec, second: Spec, doubt: Doubt, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        request_escalation(first, second, doubt)


def test_the_shipped_translator_escalates_to_itself_with_beams(settings: Settings) -> None:
    options = kinds.options("translate", **FR_EN, beams=1)
    spec = spec_of(settings, "translate", None, None, options)
    request = pin_escalation(settings, None, options, Escalation(options={"beams": 4}))
    assert request.spec.params == {**spec.params, "beams": 4}
    assert (request.spec.model, request.spec.revision) == (spec.model, spec.revision)


def test_a_revision_alone_is_one_of_the_same_model(settings: Settings) -> None:
    options = kinds.options("translate", **FR_EN, beams=1)
    with pytest.raises(ModelCorrupt, match="null is null:1, not another"):
        pin_escalation(settings, "null", options, Escalation(revision="another", options={"beams": 4}))
    same = pin_escalation(settings, "null", options, Escalation(revision="null:1", options={"beams": 4}))
    assert (same.spec.model, same.spec.revision) == ("null", "null:1")


def test_a_wrong_option_of_an_escalation_is_told_as_that(settings: Settings) -> None:
    options = kinds.options("translate", **FR_EN)
    wrong = Escalation(options={"beams": 4, "max_new_tokens": 1, "min_new_tokens": 2})
    with pytest.raises(BadOption, match=r"^--escalate: --min-new-tokens 2 is more than --max-new-tokens 1"):
        pin_escalation(settings, None, options, wrong)
    with pytest.raises(BadOption, match="--escalate-beams has no meaning for entities"):
        pin_escalation(settings, "null", kinds.options("entities"), Escalation(options={"beams": 4}), "entities")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('escalate = "large"', Escalation("large")),
        ("escalate = { beams = 4 }", Escalation(options={"beams": 4})),
        (
            'escalate = { model = "large", revision = "r", when = ["confidence<0.4"], max-new-tokens = 9 }',
            Escalation("large", "r", {"max_new_tokens": 9}, Doubt.parse(["confidence<0.4"])),
        ),
        (
            '[step.escalate]\nmodel = "large"\ndtype = "int8"\nwhen = "empty,confidence<0.4"',
            Escalation("large", None, {"dtype": "int8"}, Doubt.parse(["empty", "confidence<0.4"])),
        ),
    ],
)
def test_a_step_of_a_pipeline_may_escalate(line: str, expected: Escalation) -> None:
    (step,) = parse(STEP + line, Path("p.toml")).steps
    assert step.escalation == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "escalate = 3",
            'p.toml: step[1].escalate must be a model\'s name or a table such as { model = "MODEL" }, not 3',
        ),
        (
            "escalate = {}",
            'p.toml: step[1].escalate names no model and no option; write for example { model = "MODEL" }',
        ),
        ("escalate = { beam = 4 }", "p.toml: step[1].escalate has no beam; there are model, revision, when, "),
    ],
)
def test_a_wrong_escalation_is_told_with_its_place(line: str, message: str) -> None:
    with pytest.raises(WorkerError) as caught:
        parse(STEP + line, Path("p.toml"))
    assert message in str(caught.value)


def test_the_example_of_the_documentation_is_a_pipeline() -> None:
    page = Path(__file__).parents[3] / "docs" / "escalating.md"
    example = page.read_text().split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(example)["step"][1]["escalate"] == "facebook/bart-large-cnn"
    assert [step.escalation is not None for step in parse(example, Path("p.toml")).steps] == [True, True]


def test_an_order_may_ask_for_an_escalation() -> None:
    order = {"source": "a.jsonl", "task": "translate", "escalate": "large", "when": "confidence<0.4"}
    escalation = parse_enqueue(order).escalation
    assert escalation == Escalation("large", doubt=Doubt.parse(["confidence<0.4"]))
    with pytest.raises(BadMessage, match="when is refused: 'confidence<4': confidence is from 0 to 1"):
        parse_enqueue(order | {"when": "confidence<4"})


def test_a_bound_of_the_risk_goes_with_any_output_and_needs_a_fitted_one_in_a_dry_run(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    classify = Spec("classify", "a", "1")
    escalation = request_escalation(classify, replace(classify, model="b", revision="2"), Doubt.parse(["risk>0.3"]))
    assert escalation.doubt.needs_risk
    source = tmp_path / "a.jsonl"
    source.write_text('{"id": 1, "text": "text"}')
    options = kinds.options("translate", **FR_EN, beams=1)
    request = Request(source=str(source), task="translate", escalate_beams=4, when="risk>0.3", options=options)
    with pytest.raises(StorageError, match="docmill review fit JOB"):
        dry_run.forecast(settings, database, prepare(settings, request), "cpu", IngestProgress())


def test_a_dry_run_says_how_long_the_escalation_of_all_texts_would_take(
    settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_settings: Settings, _device: str, spec: Spec, texts: Sequence[str]) -> EngineMeasurement:
        chars = sum(map(len, texts))
        return EngineMeasurement(chars, chars, chars, seconds=float(spec.params["beams"]) * chars, load_s=0.0)

    monkeypatch.setattr(dry_run, "measure", measure)
    source = tmp_path / "a.jsonl"
    source.write_text("".join(f'{{"id": {n}, "text": "text {n}"}}\n' for n in range(3)))
    options = kinds.options("translate", **FR_EN, beams=1)
    for beams, expected in ((None, None), (4, 4.0 * 18)):
        request = Request(source=str(source), task="translate", escalate_beams=beams, options=options)
        forecast = dry_run.forecast(settings, database, prepare(settings, request), "cpu", IngestProgress())
        assert (forecast.seconds, forecast.escalated_s) == (18.0, expected)
