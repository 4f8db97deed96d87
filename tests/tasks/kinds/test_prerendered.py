"""Prompts that were rendered over metadata: computed as if a template had been filled by the model's own side."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from storage.core.outcomes import Reason, Status
from storage.steps.templates import parse
from tasks.errors import BadOption
from tests.tasks import decoders
from tests.tasks.conftest import Bench
from tests.tasks.deciding import require_equal
from tests.tasks.reference import written

PROMPT = "Of {meta.section}:\n{text}\nIn other words:"


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    make = {"gpt2": decoders.gpt2, "llama": decoders.llama}[request.param]
    return make(tmp_path_factory.mktemp("rendered") / request.param, descriptions[:40])


@pytest.mark.parametrize(
    ("kind", "options"),
    [("generate", {}), ("summarize", {}), ("translate", {"source_lang": "fr", "target_lang": "en"})],
)
def test_a_prompt_is_read_as_it_was_rendered_whatever_the_task(
    bench: Bench, folder: Path, descriptions: list[str], kind: str, options: dict[str, Any]
) -> None:
    spec = bench.spec(kind, str(folder), prompt=PROMPT, max_new_tokens=10, **options)
    texts = [" ".join(text.split()[: 3 + n]) for n, text in enumerate(descriptions[:12])]
    inputs = [parse(PROMPT).render(text, {"section": f"part\n\n{n % 3}"}) for n, text in enumerate(texts)]
    stripped = kind != "generate"
    expected = partial(written, folder, inputs, chat=folder.name != "gpt2", stripped=stripped, max_new_tokens=10)
    require_equal([outcome.text for outcome in bench.run(spec, inputs)], expected)


def test_a_prompt_that_does_not_fit_fails_and_says_how_long_it_is(
    bench: Bench, folder: Path, descriptions: list[str]
) -> None:
    spec = bench.spec("generate", str(folder), prompt=PROMPT, max_new_tokens=10)
    short, long, blank = bench.run(spec, ["Of a: b\nIn other words:", " ".join(descriptions[:40]), ""])
    assert (short.status, blank.status) == (Status.DONE, Status.SKIPPED)
    assert (long.status, long.reason_class) == (Status.FAILED, Reason.DOCUMENT)
    assert long.reason is not None
    assert long.reason.startswith("The prompt has ")
    assert "the model's window" in long.reason


def test_metadata_and_a_language_that_is_to_be_found_do_not_go_together(bench: Bench, folder: Path) -> None:
    with pytest.raises(BadOption, match="--from auto reads a document as it is"):
        bench.spec("translate", str(folder), prompt=PROMPT, source_lang="auto", target_lang="en")
