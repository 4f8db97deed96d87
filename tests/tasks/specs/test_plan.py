"""Options make a spec, or are refused with a reason."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.batching import Budget, Item
from docmill.tasks.engine.backend_factory import PolyglotBackend
from docmill.tasks.errors import BadOption, CannotServe, ModelUnsuitable
from docmill.tasks.kinds import instruction
from docmill.tasks.models import families
from docmill.tasks.models.sentence_modules import Prompts
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning, plan
from docmill.tasks.specs.plan import ALGORITHM
from docmill.tasks.windows.windows import Encoded
from tests.tasks import architectures
from tests.tasks.conftest import Bench
from tests.tasks.fakes import FakeBackend, plan_spec, waiting
from tests.tasks.test_languages import GERMAN, SPANISH

T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
M2M = {"model_type": "m2m_100", "is_encoder_decoder": True}
BERT = {"model_type": "bert"}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}


def test_a_length_is_a_number_of_words_that_limits_the_tokens_and_tells_the_model() -> None:
    for length in ("short", "30", 30):
        expected = {"length": 30, "algorithm": ALGORITHM}
        extractive = plan_spec("summarize", BERT, length=length)
        assert extractive.params == {**expected, "ranking": "centroid-mmr-1"}
        expected |= {"min_new_tokens": 15, "max_new_tokens": 60}
        assert plan_spec("summarize", T5, length=length).params == expected
        spec = plan_spec("summarize", GPT2, length=length)
        assert spec.params == {**expected, "instructions": 2}
        assert "the following text in about 30 words." in instruction(spec, chat=True).fill("A text.")


@pytest.mark.parametrize(
    ("kind", "options", "config", "message"),
    [
        ("embed", {"pooling": "max"}, {}, "--pooling must be cls, mean or last, not 'max'"),
        ("translate", {"beams": 0}, {}, "at least 1"),
        ("translate", {"target_lang": "fr"}, T5, "give --from and --to"),
        ("translate", {}, M2M, "give --from and --to"),
        ("translate", {"source_lang": "auto"}, {}, "--from auto needs --to, since"),
        ("translate", {"source_lang": "auto", "target_lang": "auto"}, {}, "--to auto: no such language"),
        ("generate", {"prompt": "{text}", "beams": 2}, GPT2, "--beams is for encoder-decoder models"),
        (
            "summarize",
            {"prompt": "Sum up {text}"},
            T5,
            "--prompt is for decoder-only models; some/model is encoder-d",
        ),
        ("embed", {"prompt": "{text} !"}, {}, "{text} stands at the end"),
        ("embed", {"prompt": "{meta.title}: {text}"}, {}, "has no meaning for an embedding, only {text}"),
        ("embed", {"prompt": "a {text}", "prompt_name": "a"}, {}, "do not go together"),
        ("translate", {"prefix": "a", "source_lang": "auto", "target_lang": "en"}, T5, "give --from with it"),
        ("translate", {"prefix": "a", "source_lang": "fr", "target_lang": "en"}, M2M, "--prefix is for a T5 or summ"),
        ("summarize", {"length": 9, "max_new_tokens": 5}, T5, "--length sets --max-new-tokens itself: give one"),
        (
            "summarize",
            {"length": "long"},
            GPT2 | {"n_positions": 256},
            "An output of 300 tokens is more than some/mo",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    kind: str, options: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadOption, match=message):
        plan_spec(kind, config, **options)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (None, {}),
        (Prompts(), {}),
        (Prompts({"query": "Q: ", "document": "D: "}), {"prompt_name": "document"}),
        (Prompts({"query": "Q: ", "document": "D: "}, "document"), {}),
    ],
)
def test_a_prompt_for_documents_makes_a_spec_of_its_own_where_documents_had_another(
    stated: Prompts | None, expected: dict[str, str]
) -> None:
    spec = plan_spec("embed", BERT, stated=stated)
    assert spec.params == {**expected, "algorithm": ALGORITHM}
    worded = plan_spec("embed", BERT, stated=stated, prompt="a {text}")
    assert worded.params == {"prompt": "a {text}", "algorithm": ALGORITHM}


def test_a_prompt_by_a_name_that_the_files_do_not_have_is_refused_with_those_they_have() -> None:
    stated = Prompts({"query": "Q: ", "document": "D: ", "sts": ""})
    with pytest.raises(BadOption, match=r"--model-prompt doc: .* some/model are: document, query\. .* use --prompt"):
        plan_spec("embed", BERT, stated=stated, prompt_name="doc")
    assert plan_spec("embed", BERT, stated=stated, prompt_name="sts").params["prompt_name"] == "sts"
    assert plan_spec("embed", BERT, stated=None, prompt_name="doc").params["prompt_name"] == "doc"


def test_a_model_of_the_wrong_family_is_refused() -> None:
    with pytest.raises(ModelUnsuitable, match=r"a T5; some/model is encoder-decoder \(m2m_100\)\.$"):
        plan_spec("embed", M2M)


@pytest.mark.parametrize(
    ("config", "limits", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, (512, 256), 256),
        ({"model_type": "roberta", "max_position_embeddings": 514}, (None, None), 512),
        ({"model_type": "luke", "max_position_embeddings": 514}, (), 512),
        ({"model_type": "t5", "n_positions": 512}, (2048,), 2048),
        ({"model_type": "bart", "max_position_embeddings": 1024}, (int(1e30),), 1024),
        ({}, (), families.OUR_LIMIT_TOKENS),
    ],
)
def test_the_smallest_stated_limit_counts(config: dict[str, Any], limits: tuple[int, ...], expected: int) -> None:
    assert families.window_limit(config, *limits) == expected


def spec_of(cache_dir: Path, model: str, **options: Any) -> Spec:
    """Return the spec of a translation by LANGUAGE=MODEL pairs, from any of the languages by default."""
    parts = {}
    for language, name in (plan.parse_models(model) or {}).items():
        folders = ModelFolders(None, cache_dir)
        pinned = pinning.pin(name, folders)
        parts[language] = pinned, pinning.read_config(pinned, folders)
    return plan.build_spec_per_language(
        "translate", parts, kinds.options("translate", **{"dtype": "float32", "source_lang": "auto", **options})
    )


@pytest.fixture(scope="module")
def spanish_model(tmp_path_factory: pytest.TempPathFactory, french: list[str]) -> Path:
    """Return the folder of a Marian model for Spanish with random weights."""
    return architectures.marian(tmp_path_factory.mktemp("models") / "opus-mt-es-en", [*french, *SPANISH])


def test_each_text_is_translated_by_the_model_of_its_language(
    writer: Bench, descriptions: list[str], french: list[str], spanish_model: Path
) -> None:
    options = {"beams": 1, "max_new_tokens": 40}
    spec = spec_of(writer.cache_dir, f"fr=marian-ddtp,es={spanish_model}", target_lang="en", **options)
    short = [text.split("\n\n")[0][:300] for text in french[:6]]
    mixed = [short[0], SPANISH[0], descriptions[0], GERMAN, *short[1:], SPANISH[1], " "]
    outcomes = writer.run(spec, mixed)
    for language, model, places in (("fr", "marian-ddtp", [0, *range(4, 9)]), ("es", str(spanish_model), [1, 9])):
        alone = writer.spec("translate", model, source_lang=language, target_lang="en", **options)
        expected = writer.write(alone, [mixed[place] for place in places])
        assert [outcomes[place].text for place in places] == expected
        assert all(f"language:{language}" in outcomes[place].flags for place in places)
    assert outcomes[0].text != outcomes[1].text
    assert outcomes[2].text == descriptions[0]
    assert "It is German" in str(outcomes[3].reason)
    assert "translates from Spanish or French." in str(outcomes[3].reason)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("fr=marian-ddtp,marian-ddtp", {}, "'marian-ddtp' is not LANGUAGE=MODEL"),
        ("fr=marian-ddtp,fr_FR=marian-ddtp", {}, "French stands in it twice"),
        ("fr=marian-ddtp", {"source_lang": "fr"}, "goes with --from auto"),
        ("de=marian-ddtp", {}, "--model de=marian-ddtp: --from de: marian-ddtp translates from"),
        ("fr=null", {}, "--from auto needs --to"),
        ("fr=marian-ddtp,de=openai:b", {"target_lang": "en"}, "openai:b: a server's model is for all languages"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        spec_of(tmp_path, model, **options)


def test_a_name_without_a_language_is_one_model() -> None:
    assert plan.parse_models("Helsinki-NLP/opus-mt-fr-en") is None
    assert plan.parse_models("/models/a=b") is None
    assert plan.parse_models("models=b") is None
    assert plan.parse_models("french = a , de=b") == {"fr": "a", "de": "b"}


def test_one_model_that_cannot_be_served_closes_those_before_it() -> None:
    opened = FakeBackend()

    def open_one(spec: Spec) -> FakeBackend:
        if spec.model == "missing":
            raise CannotServe("missing is not on this machine")
        return opened

    spec = Spec("translate", "ok", "sha256:00")
    with pytest.raises(CannotServe, match="missing"):
        PolyglotBackend({"de": spec, "fr": replace(spec, model="missing")}, open_one)
    assert opened.closed.is_set()


class PoolSource:
    """A source over a pool. It gives ``turn`` batches, then none."""

    def __init__(self, encoded: Sequence[Encoded], turn: int = 1_000_000) -> None:
        self._pool = waiting(encoded)
        self._left = turn

    def take(self, budget: Budget) -> Sequence[Item[None]]:
        if self._left <= 0 or budget.rows < 1:
            return []
        self._left -= 1
        return self._pool.take(budget)


def encode_languages(backend: PolyglotBackend, languages: Sequence[str]) -> Iterator[Encoded]:
    """Yield a window for each language, of one to five words."""
    assert backend.traits.language_coders is not None
    for n, language in enumerate(languages):
        yield from backend.traits.language_coders(language).encode([f"{language} " * (n % 5 + 1)])


@pytest.mark.parametrize("turn", [1_000_000, 7])
def test_every_window_is_computed_once_in_batches_of_one_language(turn: int) -> None:
    backends = {language: FakeBackend(budget=Budget(tokens=1000, rows=8)) for language in ("de", "es", "fr")}
    specs = {language: Spec("translate", language, "sha256:00") for language in backends}
    backend = PolyglotBackend(specs, lambda spec: backends[spec.model])
    # Hardly any Spanish.
    languages = random.Random(5).choices(["de", "es", "fr"], weights=[40, 1, 59], k=1_000)
    source = PoolSource(list(encode_languages(backend, languages)), turn)
    computed = [number for number, _ in backend.run(source)]
    assert len(computed) == len(set(computed)) == (1_000 if turn > 1_000 else 7 * 8)
    for language, language_backend in backends.items():
        assert {text.split()[0] for batch in language_backend.batches for text in batch} <= {language}
    if turn > 1_000:
        batches = [len(batch) for language in ("de", "fr") for batch in backends[language].batches]
        assert sum(batches) / len(batches) > 7, "batches are full, though the windows came mixed"
        assert {*computed} == {*range(1_000)}
