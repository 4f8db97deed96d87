"""Decoder-only models on transformers: exact against transformers' own generate, one text at a time, in float32."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from docmill.storage.templates import over_metadata
from docmill.tasks.backends import Backend
from docmill.tasks.backends.decoder_only.causal import CausalBackend, RowLayer
from docmill.tasks.backends.decoder_only.instructed import instructed, instructed_coder
from docmill.tasks.batching import Budget, Item
from docmill.tasks.errors import CannotServe, OutOfMemory
from docmill.tasks.kinds import traits_by
from docmill.tasks.outputs import Generated
from tests.tasks.conftest import Bench, data_of, texts_of
from tests.tasks.deciding import require_equal
from tests.tasks.decoders import DECODERS, gemma3_with_images
from tests.tasks.real_lines import half_and_more
from tests.tasks.reference import written

PROMPT = "Here is what a package says of itself:\n{text}\nIn other words:"
NEW_TOKENS = 14


@half_and_more(DECODERS)
def test_greedy_outputs_are_those_of_transformers_own_generate(
    bench: Bench, made: dict[str, Path], sentences: list[str], name: str
) -> None:
    spec = bench.spec("generate", str(made[name]), prompt=PROMPT, max_new_tokens=NEW_TOKENS)
    inputs = [PROMPT.replace("{text}", text) for text in sentences]
    reference = partial(written, made[name], inputs, chat=name != "gpt2", max_new_tokens=NEW_TOKENS)
    expected = require_equal(texts_of(bench.run(spec, sentences)), reference)
    assert len(set(expected)) > len(expected) / 4


def test_a_model_that_also_reads_images_writes_text(bench: Bench, tmp_path: Path, sentences: list[str]) -> None:
    folder, some = gemma3_with_images(tmp_path / "gemma3", sentences), sentences[:6]
    spec = bench.spec("generate", str(folder), prompt="{text}", max_new_tokens=NEW_TOKENS)
    require_equal(
        texts_of(bench.run(spec, some)), partial(written, folder, some, chat=True, max_new_tokens=NEW_TOKENS)
    )


def test_a_raw_document_is_continued_as_it_stands_and_may_fill_the_context(
    bench: Bench, made: dict[str, Path], sentences: list[str]
) -> None:
    """`llama` has a chat template and holds 256 tokens."""
    texts = [f"  {text} " for text in sentences[:6]]
    spec = bench.spec("generate", str(made["llama"]), raw=True, max_new_tokens=NEW_TOKENS)
    reference = partial(written, made["llama"], texts, chat=False, max_new_tokens=NEW_TOKENS)
    require_equal(texts_of(bench.run(spec, texts)), reference)
    whole = bench.spec("generate", str(made["llama"]), raw=True, fill_context=True, min_new_tokens=300)
    for outcome in bench.run(whole, texts[:2]):
        assert "output_truncated" in outcome.flags
        assert outcome.tokens_in + outcome.tokens_out == 256
    [failed] = bench.run(spec, [" ".join(sentences) * 2])
    assert failed.reason is not None
    assert "A raw document is not read in parts." in failed.reason


class Trickle:
    """A source that gives two windows at a time, as long as there are some, however many were asked for."""

    def __init__(self, items: Sequence[Item[None]]) -> None:
        self._items = list(items)

    def take(self, budget: Budget) -> Sequence[Item[None]]:
        self.budget = budget
        taken = self._items[: min(2, budget.rows)]
        del self._items[: len(taken)]
        return taken


def run_trickled(backend: Backend, texts: Sequence[str], order: Sequence[int] | None = None) -> list[str]:
    """Return the outputs for texts, of which two are given at a time, in an order of their own."""
    items = [Item(number, encoded, None) for number, encoded in enumerate(backend.encode(texts))]
    found = dict(backend.run(Trickle([items[place] for place in order or range(len(items))])))
    assert len(found) == len(texts)
    return [output.text for _, output in sorted(found.items()) if isinstance(output, Generated)]


@pytest.mark.parametrize(
    ("name", "sampled"),
    [
        ("gpt2", {}),
        ("gemma3", {}),
        ("qwen2", {"temperature": 0.8, "top_p": 0.9}),
        pytest.param("gpt2", {"temperature": 0.8, "repetition_penalty": 1.3}, marks=pytest.mark.long),
    ],
)
def test_texts_that_join_while_others_are_written_change_nothing(
    bench: Bench, made: dict[str, Path], sentences: list[str], name: str, sampled: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, **sampled}
    spec = bench.spec("generate", str(made[name]), prompt=PROMPT, stop=(" ",), **asked)
    if sampled:
        asked |= {"do_sample": True, "top_k": 0}
    inputs = [PROMPT.replace("{text}", text) for text in sentences]
    reference = partial(written, made[name], inputs, chat=name != "gpt2", stop=" ", **asked)
    require_equal(run_trickled(bench.open(spec, backend="transformers"), sentences), reference)


SHAPED = ("def f(x):\n    ", "\n\tlist of", "  a b  \n", "plain", "x =\n\n")


@pytest.mark.parametrize("prompt", ["{text}", "# Python\n{text}    "])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_white_space_at_the_ends_of_documents_and_outputs_is_kept(
    bench: Bench, made: dict[str, Path], name: str, prompt: str
) -> None:
    spec = bench.spec("generate", str(made[name]), prompt=prompt, max_new_tokens=NEW_TOKENS)
    inputs = [prompt.replace("{text}", text) for text in SHAPED]
    reference = partial(written, made[name], inputs, chat=name != "gpt2", max_new_tokens=NEW_TOKENS)
    expected = require_equal(texts_of(bench.run(spec, list(SHAPED))), reference)
    assert any(text != text.strip() for text in expected) or name != "gpt2"


def test_specs_from_before_lose_white_space_at_the_ends_as_they_did(
    bench: Bench, made: dict[str, Path], sentences: list[str]
) -> None:
    spec = bench.spec("generate", str(made["gpt2"]), prompt="{text}", max_new_tokens=NEW_TOKENS)
    before = replace(spec, params={name: value for name, value in spec.params.items() if name != "white_space"})
    inputs = [text.strip() for text in SHAPED]
    reference = partial(written, made["gpt2"], inputs, chat=False, stripped=True, max_new_tokens=NEW_TOKENS)
    require_equal(texts_of(bench.run(before, list(SHAPED))), reference)


def test_a_limit_of_prompt_and_output_together_is_the_models_own(
    bench: Bench, tmp_path: Path, sentences: list[str]
) -> None:
    folder = DECODERS["llama"](tmp_path / "llama", sentences, max_length=256)
    some = sentences[:6]
    outcomes = bench.run(bench.spec("generate", str(folder), prompt="{text}"), some)
    require_equal(texts_of(outcomes), partial(written, folder, some, chat=True))
    assert max(outcome.tokens_in + outcome.tokens_out for outcome in outcomes) == 256
    assert "output_truncated" in {flag for outcome in outcomes for flag in outcome.flags}


def test_a_text_that_the_models_files_stop_at_ends_the_output_and_stays_in_it(
    bench: Bench, tmp_path: Path, sentences: list[str]
) -> None:
    folder = DECODERS["gpt2"](tmp_path / "gpt2", sentences, stop_strings=["e", "<|user|>"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference = partial(written, folder, sentences, chat=False, max_new_tokens=NEW_TOKENS, tokenizer=tokenizer)
    outcomes = bench.run(bench.spec("generate", str(folder), prompt="{text}", max_new_tokens=NEW_TOKENS), sentences)
    require_equal(texts_of(outcomes), reference)
    assert any(outcome.tokens_out < NEW_TOKENS and not outcome.flags for outcome in outcomes)


def test_rows_that_join_see_nothing_of_those_that_left() -> None:
    """A masked column is no protection: 0 times NaN is NaN."""
    cache = RowLayer()
    cache.update(*[torch.full((2, 1, 5, 2), float("nan"))] * 2)
    cache.drop(1)
    cache.start = 3  # the columns before are no row's any more
    for buffer in cache._buffers:
        cache.view(buffer).fill_(0.0)
    for columns in (1, 4):
        joining = RowLayer()
        joining.update(*[torch.ones(1, 1, columns, 2)] * 2)
        cache.join(joining)
        assert all(cache.view(buffer).isfinite().all() for buffer in cache._buffers)


def test_a_batch_that_does_not_fit_in_memory_is_written_in_halves(
    bench: Bench, made: dict[str, Path], sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_tokens, some = 4 * NEW_TOKENS, sorted(sentences, key=len)[:8]
    spec = bench.spec("generate", str(made["gpt2"]), prompt=PROMPT, max_new_tokens=new_tokens)
    backend = bench.open(spec, backend="transformers")
    inputs = [PROMPT.replace("{text}", text) for text in some]
    with monkeypatch.context() as patched:
        patched.setattr(GPT2LMHeadModel, "forward", narrow(5))
        found = run_trickled(backend, some)
    require_equal(found, partial(written, made["gpt2"], inputs, chat=False, max_new_tokens=new_tokens))
    idle = Trickle([])
    assert list(backend.run(idle)) == []
    assert 4 <= idle.budget.rows < 8, "half of the rows that did not fit"


def test_unlike_rows_that_lack_memory_halve_the_budget_and_their_parts_only_to_half_of_a_part(
    bench: Bench, made: dict[str, Path], sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.spec("generate", str(made["gpt2"]), prompt=PROMPT, max_new_tokens=NEW_TOKENS)
    backend = bench.open(spec, backend="transformers")
    assert isinstance(backend, CausalBackend)
    items = [Item(number, encoded, None) for number, encoded in enumerate(backend.encode(sentences))]
    needed = sum(item.tokens + NEW_TOKENS for item in items)
    backend._loop.budget = Budget(tokens=needed, rows=64)
    assert len(list(backend._loop.recover(items, OutOfMemory()))) == len(items) == 16
    assert backend._loop.budget.tokens == needed // 2
    with monkeypatch.context() as patched:
        patched.setattr(GPT2LMHeadModel, "forward", narrow(3))
        outputs = [output for _, output in backend._loop.recover(items, OutOfMemory())]
    assert all(isinstance(output, Generated) for output in outputs)
    idle = Trickle([])
    assert list(backend.run(idle)) == []
    assert idle.budget.rows >= 2, "half of the four that did not fit"


def test_the_samples_of_a_text_that_do_not_fit_together_are_written_in_halves(
    bench: Bench, made: dict[str, Path], sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.spec("generate", str(made["gpt2"]), prompt=PROMPT, max_new_tokens=NEW_TOKENS, n=5, temperature=0.8)

    def samples() -> list[list[str]]:
        return [data_of(outcome)["texts"] for outcome in bench.run(spec, sentences[:2])]

    bench.engine.open(spec)
    with monkeypatch.context() as patched:
        patched.setattr(GPT2LMHeadModel, "forward", narrow(2))
        found = samples()
    require_equal(found, samples)


def narrow(most: int) -> Callable[..., Any]:
    """Return a model's forward with room for so many rows."""
    forward = GPT2LMHeadModel.forward

    def bounded(model: Any, input_ids: torch.Tensor, **others: Any) -> Any:
        if len(input_ids) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(model, input_ids, **others)

    return bounded


def test_an_output_that_is_not_ended_is_flagged_and_one_that_is_stopped_is_not(
    bench: Bench, made: dict[str, Path], sentences: list[str]
) -> None:
    folder = str(made["gpt2"])
    (open_ended,) = bench.run(bench.spec("generate", folder, prompt="{text}", max_new_tokens=3), sentences[:1])
    assert (open_ended.flags, open_ended.tokens_out) == (("output_truncated",), 3)
    assert open_ended.text
    stop = (open_ended.text[0],)
    (stopped,) = bench.run(
        bench.spec("generate", folder, prompt="{text}", max_new_tokens=3, stop=stop), sentences[:1]
    )
    assert (stopped.text, stopped.flags, stopped.tokens_out) == ("", ("empty",), 1)


def test_messages_are_rendered_by_the_chat_template_and_a_text_is_the_users_message(
    bench: Bench, made: dict[str, Path]
) -> None:
    spec = bench.spec(
        "generate", str(made["llama"]), messages="chat", prompt="Say: {text}", max_new_tokens=NEW_TOKENS
    )
    template = over_metadata(spec.params)
    assert template is not None
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi {you}"}]
    chats = [[*turns, {"role": "user", "content": "A tool?"}], [{"role": "user", "content": "Say: a font"}]]
    contents = [template.render("other", {"chat": chats[0]}), template.render("a font", {})]
    assert template.render(json.dumps(chats[0]), {}) == contents[0]
    assert template.render(" ", {"chat": chats[0]}) == ""
    assert [json.loads(content) for content in contents] == chats
    tokenizer = AutoTokenizer.from_pretrained(made["llama"])
    prompts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    # What stands between these marks of the template is the first user's turn.
    assert prompts[1] == "<|user|>Say: a font<|end|>\n<|assistant|>"
    outcomes = bench.run(spec, contents)
    expected = partial(written, made["llama"], prompts, chat=False, max_new_tokens=NEW_TOKENS)
    require_equal(texts_of(outcomes), expected)
    told = bench.spec("generate", str(made["llama"]), messages="chat", system="Be brief.", max_new_tokens=2)
    (encoded,) = bench.open(told, backend="transformers").encode([contents[1]])
    assert not isinstance(encoded.features, str)
    assert tokenizer.decode(encoded.features["input_ids"]) == f"<|system|>Be brief.<|end|>\n{prompts[1]}"


def test_messages_need_a_chat_template(bench: Bench, made: dict[str, Path]) -> None:
    with pytest.raises(CannotServe, match=r"\(--messages\) need a model with a chat template"):
        bench.engine.open(bench.spec("generate", str(made["gpt2"]), messages="chat"))


def test_summaries_and_translations_by_instruction(
    bench: Bench, made: dict[str, Path], sentences: list[str], french: list[str]
) -> None:
    some = sentences[:4]
    told = "Summarize the following text in one to three sentences. Answer with the summary only.\n\n"
    spec = bench.spec("summarize", str(made["llama"]), max_new_tokens=NEW_TOKENS)
    asked: dict[str, Any] = {"stripped": True, "max_new_tokens": NEW_TOKENS}
    reference = partial(written, made["llama"], [told + text for text in some], chat=True, **asked)
    require_equal(texts_of(bench.run(spec, some)), reference)
    spec = bench.spec("translate", str(made["gpt2"]), source_lang="fr", target_lang="en", max_new_tokens=NEW_TOKENS)
    inputs = [f"French: {text}\nEnglish:" for text in some]  # it holds 256 tokens: too few for demonstrations
    reference = partial(written, made["gpt2"], inputs, chat=False, stop="\n", **asked)
    require_equal(texts_of(bench.run(spec, some)), reference)


@pytest.mark.parametrize("source", ["fr", "auto"])
def test_demonstrations_stand_before_a_text_where_the_model_has_room_for_them(
    bench: Bench, made: dict[str, Path], source: str
) -> None:
    spec = bench.spec("translate", str(made["gpt2"]), source_lang=source, target_lang="en")
    tokenizer = AutoTokenizer.from_pretrained(made["gpt2"])
    for context, demonstrations in ((4096, 3), (256, 0)):
        tokens, stop, found = instructed(spec, tokenizer, {"max_position_embeddings": context})
        assert (found, stop) == (context, ("\n",))
        told = traits_by(partial(instructed_coder, tokens=tokens, limit_tokens=context), spec).language_coders
        (encoded,) = (tokens if told is None else told("fr")).encode(["Une horloge."])
        assert not isinstance(encoded.features, str)
        read = tokenizer.decode(encoded.features["input_ids"])
        assert read.count("English:") == demonstrations + 1
        assert read.endswith("French: Une horloge.\nEnglish:")
        assert read.startswith("French: Le livre" if demonstrations else "French: Une")


# Llama 3.2's template writes the date. Qwen3's lets the model think unless it is told not to.
_DATED = "{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}{% endif %}{{ day }} "
_NULLS = {"type": "object", "properties": {"a": {"type": "null"}}}
_THINKING = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"


@pytest.mark.parametrize(
    ("kind", "options", "thinks"),
    [
        ("summarize", {}, False),
        ("generate", {"prompt": "{text}"}, True),
        ("extract", {"json_schema": _NULLS}, False),
        ("generate", {"prompt": "{text}", "json_schema": _NULLS}, False),
        ("generate", {"messages": "chat"}, True),
    ],
)
def test_a_prompt_has_the_same_date_every_day_and_only_users_prompts_let_the_model_think(
    bench: Bench, made: dict[str, Path], kind: str, options: dict[str, Any], thinks: bool
) -> None:
    spec = bench.spec(kind, str(made["llama"]), **options)
    tokenizer = AutoTokenizer.from_pretrained(made["llama"])
    tokenizer.chat_template = f"{_DATED}{tokenizer.chat_template}{_THINKING}"
    (encoded,) = instructed(spec, tokenizer, {})[0].encode(["A text."])
    assert not isinstance(encoded.features, str)
    read = tokenizer.decode(encoded.features["input_ids"])
    assert read.startswith("26 Jul 2024 <|user|>")
    assert read.endswith("<|assistant|>" if thinks else "<|assistant|><think></think>")


@pytest.mark.parametrize(
    ("own", "asked", "says"),
    [
        ({}, {"max_new_tokens": 248}, "there is no room for a text. Give a smaller --max-new-tokens"),
        ({"exponential_decay_length_penalty": (5, 1.5)}, {}, "exponential_decay_length_penalty="),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_starts(
    bench: Bench, tmp_path: Path, sentences: list[str], own: dict[str, Any], asked: dict[str, Any], says: str
) -> None:
    folder = DECODERS["llama"](tmp_path / "llama", sentences, **own)
    with pytest.raises(CannotServe, match=says):
        bench.engine.open(bench.spec("generate", str(folder), prompt="{text}", **asked))
