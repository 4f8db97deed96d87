"""The outputs of a document's windows become one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.storage.templates import parse
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.base import Plan
from docmill.tasks.kinds.generate import GENERATE, Generate
from docmill.tasks.models.families import UNKNOWN
from docmill.tasks.outputs import Generated, Several
from docmill.tasks.schemas import GRAMMAR
from tests.tasks import decoders
from tests.tasks.conftest import Bench
from tests.tasks.deciding import require_equal
from tests.tasks.fakes import join_outputs
from tests.tasks.reference import generate_texts


def join_texts(texts: Sequence[str]) -> Outcome:
    return join_outputs(Generate(), [Generated(text, 1) for text in texts])


def test_between_the_outputs_of_windows_stands_a_blank_line_alone() -> None:
    assert join_texts([" a \n", "\n\n b\n", "  ", "\tc\n"]).text == " a\n\nb\n\nc\n"


@pytest.mark.parametrize(
    ("texts", "flags"),
    [
        (["a"], ()),
        ([" \n"], ("empty",)),
        (["a", " "], ("windowed", "empty_window")),
        (["", "\n"], ("windowed", "empty")),
    ],
)
def test_white_space_alone_is_nothing(texts: list[str], flags: tuple[str, ...]) -> None:
    assert join_texts(texts).flags == flags


def test_several_outputs_say_which_were_cut() -> None:
    outputs = [Several(tuple(Generated(text, 1, truncated=text == "b") for text in "abc"))]
    outcome = join_outputs(Generate(3), outputs)
    assert (outcome.text, outcome.data) == ("a", {"texts": ["a", "b", "c"], "truncated": [1]})
    assert outcome.flags == ("output_truncated",)


def params(config: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Return the parameters of a spec that these options make for a model with a config."""
    chosen = kinds.options("generate", **options).to_params()
    return dict(GENERATE.params(Plan(chosen, "m", UNKNOWN, config or {}, None)))


def test_a_raw_document_needs_no_prompt_and_takes_none() -> None:
    assert params(raw=True) == {"white_space": "kept"}
    with pytest.raises(BadOption, match="generate needs --prompt"):
        params(raw=False)
    for name, value in (("prompt", "{text}"), ("messages", "chat"), ("system", "Be brief.")):
        options: dict[str, Any] = {name: value, "raw": True}
        with pytest.raises(BadOption, match=f"whole prompt: leave --{name} out"):
            params(**options)
    with pytest.raises(BadOption, match="--fill-context and --max-new-tokens do not go together"):
        params(raw=True, fill_context=True, max_new_tokens=3)


def test_a_schema_of_generate_is_for_decoders_and_ends_the_output() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert params(raw=True, json_schema=schema)["grammar"] == GRAMMAR
    for name, value in (("stop", ["."]), ("no_repeat_ngram_size", 3), ("min_new_tokens", 3)):
        options: dict[str, Any] = {name: value}
        with pytest.raises(BadOption, match=f"--schema and --{name.replace('_', '-')} do not go together"):
            params(raw=True, json_schema=schema, **options)
    with pytest.raises(BadOption, match="--schema is for decoder-only models"):
        params({"model_type": "t5"}, prompt="{text}", json_schema=schema)


PROMPT = "Of {meta.section}:\n{text}\nIn other words:"


@pytest.fixture(scope="module", params=["gpt2", pytest.param("llama", marks=pytest.mark.long)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    make = {"gpt2": decoders.gpt2, "llama": decoders.llama}[request.param]
    return make(tmp_path_factory.mktemp("rendered") / request.param, descriptions[:40])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("generate", {}),
        ("summarize", {}),
        pytest.param("translate", {"source_lang": "fr", "target_lang": "en"}, marks=pytest.mark.long),
    ],
)
def test_a_prompt_is_read_as_it_was_rendered_whatever_the_task(
    bench: Bench, folder: Path, descriptions: list[str], kind: str, options: dict[str, Any]
) -> None:
    spec = bench.spec(kind, folder, prompt=PROMPT, max_new_tokens=10, **options)
    texts = [" ".join(text.split()[: 3 + n]) for n, text in enumerate(descriptions[:12])]
    inputs = [parse(PROMPT).render(text, {"section": f"part\n\n{n % 3}"}) for n, text in enumerate(texts)]
    stripped = kind != "generate"
    expected = partial(generate_texts, folder, inputs, stripped=stripped, max_new_tokens=10)
    require_equal(bench.write(spec, inputs), expected)


def test_a_prompt_that_does_not_fit_fails_and_says_how_long_it_is(
    bench: Bench, folder: Path, descriptions: list[str]
) -> None:
    spec = bench.spec("generate", folder, prompt=PROMPT, max_new_tokens=10)
    short, long, blank = bench.run(spec, ["Of a: b\nIn other words:", " ".join(descriptions[:40]), ""])
    assert (short.status, blank.status) == (Status.DONE, Status.SKIPPED)
    assert (long.status, long.reason_class) == (Status.FAILED, Reason.DOCUMENT)
    assert long.reason is not None
    assert long.reason.startswith("The prompt has ")
    assert "the model's window" in long.reason
