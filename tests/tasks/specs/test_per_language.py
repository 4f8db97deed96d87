"""One translation by several models: each text by its own language's, as if that model had been asked alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.outcomes import Status
from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends.polyglot import PolyglotBackend
from docmill.tasks.batching import Budget, Item, Pool
from docmill.tasks.errors import BadOption, CannotServe, ModelUnsuitable
from docmill.tasks.specs import per_language, pinning
from docmill.tasks.windows.windows import Encoded
from tests.tasks import architectures
from tests.tasks.conftest import Bench
from tests.tasks.fakes import FakeBackend
from tests.tasks.test_languages import GERMAN, SPANISH


def spec_of(cache_dir: Path, model: str, **options: Any) -> Spec:
    parts = {}
    for language, name in (per_language.parse(model) or {}).items():
        pinned = pinning.pin(name, models_dir=None, cache_dir=cache_dir)
        parts[language] = pinned, pinning.read_config(pinned, models_dir=None)
    return per_language.build_spec(
        "translate", parts, kinds.options("translate", **{"dtype": "float32", "source_lang": "auto", **options})
    )


@pytest.fixture(scope="module")
def chance(tmp_path_factory: pytest.TempPathFactory, french: list[str]) -> Path:
    """A Marian model for Spanish, with weights of chance."""
    return architectures.marian(tmp_path_factory.mktemp("models") / "opus-mt-es-en", [*french, *SPANISH])


def test_each_text_is_translated_by_the_model_of_its_language(
    writer: Bench, descriptions: list[str], french: list[str], chance: Path
) -> None:
    options = {"beams": 1, "max_new_tokens": 40}
    spec = spec_of(writer.cache_dir, f"fr=marian-ddtp,es={chance}", target_lang="en", **options)
    short = [text.split("\n\n")[0][:300] for text in french[:6]]
    mixed = [short[0], SPANISH[0], descriptions[0], GERMAN, *short[1:], SPANISH[1], " "]
    outcomes = writer.run(spec, mixed)
    for language, model, places in (("fr", "marian-ddtp", [0, *range(4, 9)]), ("es", str(chance), [1, 9])):
        alone = writer.spec("translate", model, source_lang=language, target_lang="en", **options)
        expected = [outcome.text for outcome in writer.run(alone, [mixed[place] for place in places])]
        assert [outcomes[place].text for place in places] == expected
        assert all(f"language:{language}" in outcomes[place].flags for place in places)
    assert outcomes[0].text != outcomes[1].text
    assert outcomes[2].text == descriptions[0]
    assert outcomes[3].status is Status.FAILED
    assert "It is German" in str(outcomes[3].reason)
    assert "translates from Spanish or French." in str(outcomes[3].reason)
    assert outcomes[10].status is Status.SKIPPED


def test_a_model_that_is_told_languages_may_be_one_of_several(
    writer: Bench, tmp_path: Path, french: list[str], chance: Path
) -> None:
    codes = ["eng_Latn", "fra_Latn", "spa_Latn", "deu_Latn"]
    nllb = architectures.multilingual(tmp_path / "nllb", [*french, *SPANISH], codes, "nllb")
    spec = spec_of(writer.cache_dir, f"de={nllb},es={chance}", target_lang="en", max_new_tokens=10)
    german, other = writer.run(spec, [GERMAN, SPANISH[1]])
    named = writer.spec("translate", str(nllb), source_lang="de", target_lang="en", max_new_tokens=10)
    assert german.text == writer.run(named, [GERMAN])[0].text
    assert other.status is Status.DONE


def test_a_spec_is_the_same_in_whatever_order_the_models_stand(tmp_path: Path, chance: Path) -> None:
    one = spec_of(tmp_path, f"fr=marian-ddtp,es={chance}", target_lang="en")
    assert one == spec_of(tmp_path, f"es={chance}, fra=marian-ddtp", target_lang="en")
    assert one.params["sources"] == ["es", "fr"]
    assert Spec.from_json(one.to_json()) == one
    pinned = pinning.pin("marian-ddtp", models_dir=None, cache_dir=tmp_path)
    assert per_language.specs_of(one)["fr"].revision == pinned.revision
    other = spec_of(tmp_path, "fr=marian-ddtp,es=marian-ddtp")
    assert other.params["target_lang"] == "en", "both say so"
    assert one.revision != other.revision


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("fr=marian-ddtp,marian-ddtp", {}, "'marian-ddtp' is not LANGUAGE=MODEL"),
        ("fr=", {}, "'fr=' is not LANGUAGE=MODEL"),
        ("fr=marian-ddtp,fr_FR=marian-ddtp", {}, "French stands in it twice"),
        ("fx=marian-ddtp", {}, "--model fx: no such language"),
        ("fr=marian-ddtp", {"source_lang": "fr"}, "goes with --from auto"),
        ("de=marian-ddtp", {}, "--model de=marian-ddtp: --from de: marian-ddtp translates from"),
        ("fr=null", {}, "--from auto needs --to"),
        ("fr=marian-ddtp", {"pooling": "mean"}, "--pooling has no meaning for translate"),
        ("fr=marian-ddtp", {"prefix": "say: "}, "--prefix is the same for every language"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, model: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        spec_of(tmp_path, model, **options)


def test_only_translations_have_several_models(tmp_path: Path) -> None:
    pinned = pinning.pin("synopsis-ddtp", models_dir=None, cache_dir=tmp_path)
    with pytest.raises(ModelUnsuitable, match="minilm"):
        spec_of(tmp_path, "fr=minilm")
    with pytest.raises(BadOption, match="is for translate; summarize takes one model"):
        per_language.build_spec("summarize", {"fr": (pinned, {})}, kinds.options("translate", source_lang="auto"))


def test_a_name_without_a_language_is_one_model() -> None:
    assert per_language.parse("Helsinki-NLP/opus-mt-fr-en") is None
    assert per_language.parse("/models/a=b") is None
    assert per_language.parse("models=b") is None
    assert per_language.parse("french = a , de=b") == {"fr": "a", "de": "b"}


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


class Waiting:
    """A source over a pool, as the engine's is."""

    def __init__(self, encoded: Sequence[Encoded], turn: int = 1_000_000) -> None:
        self._pool: Pool[None] = Pool()
        self._left = turn
        numbers = count()
        self._pool.add(Item(next(numbers), one, None) for one in encoded)

    def take(self, budget: Budget) -> Sequence[Item[None]]:
        if self._left <= 0 or budget.rows < 1:
            return []
        self._left -= 1
        return self._pool.take(budget)


def windows(backend: PolyglotBackend, languages: Sequence[str]) -> Iterator[Encoded]:
    assert backend.traits.language_coders is not None
    for n, language in enumerate(languages):
        yield from backend.traits.language_coders.coder(language).encode([f"{language} " * (n % 5 + 1)])


@pytest.mark.parametrize("turn", [1_000_000, 7])
def test_every_window_is_computed_once_in_batches_of_one_language(turn: int) -> None:
    made = {language: FakeBackend(budget=Budget(tokens=1000, rows=8)) for language in ("de", "es", "fr")}
    specs = {language: Spec("translate", language, "sha256:00") for language in made}
    backend = PolyglotBackend(specs, lambda spec: made[spec.model])
    # Hardly any Spanish.
    languages = random.Random(5).choices(["de", "es", "fr"], weights=[40, 1, 59], k=1_000)
    source = Waiting(list(windows(backend, languages)), turn)
    computed = [number for number, _ in backend.run(source)]
    assert len(computed) == len(set(computed)) == (1_000 if turn > 1_000 else 7 * 8)
    for language, one in made.items():
        assert {text.split()[0] for batch in one.batches for text in batch} <= {language}
    if turn > 1_000:
        batches = [len(batch) for language in ("de", "fr") for batch in made[language].batches]
        assert sum(batches) / len(batches) > 7, "batches are full, though the windows came mixed"
        assert {*computed} == {*range(1_000)}
