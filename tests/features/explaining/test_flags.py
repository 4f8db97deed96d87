"""Flags have the evidence that their checks find again."""

from __future__ import annotations

from docmill.features.explaining.explanation import of_output
from docmill.storage.core.specs import Spec
from docmill.tasks.checks import all_checks
from docmill.tasks.kinds import Traits

TRANSLATE = Spec("translate", "m", "sha256:1", params={"source_lang": "fr", "target_lang": "en"})
GIVEN = "Le paquet 1.2 contient 30 fichiers."


def test_a_flag_has_what_its_check_finds_in_the_output() -> None:
    output = {"text": "The package 1.2 has 40 files."}
    (flag,) = of_output(TRANSLATE, Traits(), GIVEN, output, ("numbers_changed",))
    assert (flag.name, flag.of, flag.meaning) == ("numbers_changed", "output", all_checks()["numbers_changed"].doubts)
    assert any("40" in line and "characters 20 to 22 of the output" in line for line in flag.evidence)
    assert any("30" in line and "characters 23 to 25 of the input" in line for line in flag.evidence)


def test_an_output_of_little_confidence_has_it_as_evidence() -> None:
    output = {"text": "The package 1.2 has 30 files."}
    (flag,) = of_output(TRANSLATE, Traits(), GIVEN, output, ("low_confidence",), 0.213)
    assert flag.evidence == ("its tokens have a mean probability of 0.21, less than 0.3",)
    (found,) = of_output(TRANSLATE, Traits(), GIVEN, output, (), 0.213)
    assert (found.name, found.of) == ("low_confidence", "today")
    assert of_output(TRANSLATE, Traits(), GIVEN, output, (), 0.3) == []


def test_a_flag_that_only_a_check_of_today_finds_is_marked_and_other_flags_have_no_evidence() -> None:
    output = {"text": "The package 1.2 has 40 files."}
    windowed, found = of_output(TRANSLATE, Traits(), GIVEN, output, ("windowed",))
    assert (windowed.name, windowed.of, windowed.evidence) == ("windowed", "output", ())
    assert (found.name, found.of) == ("numbers_changed", "today")
    assert of_output(TRANSLATE, Traits(), GIVEN, {"text": "The package 1.2 has 30 files."}, ()) == []
    assert of_output(TRANSLATE, Traits(), GIVEN, {}, ("windowed",)) == [windowed]
