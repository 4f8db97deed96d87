"""The loop for decoder-only models writes what transformers' generate does, one text at a time, in float32."""

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
from tests.tasks.reference import generate_texts

PROMPT = "Here is what a package says of itself:\n{text}\nIn other words:"
NEW_TOKENS = 14


@half_and_more(DECODERS)
def test_greedy_outputs_are_those_of_transformers_own_generate(
    bench: Bench, decoders: dict[str, Path], sentences: list[str], name: str
) -> None:
    spec = bench.spec("generate", decoders[name], prompt=PROMPT, max_new_tokens=NEW_TOKENS)
    inputs = [PROMPT.replace("{text}", text) for text in sentences]
    reference = partial(generate_texts, decoders[name], inputs, max_new_tokens=NEW_TOKENS)
    expected = require_equal(bench.write(spec, sentences), reference)
    assert len(set(expected)) > len(expected) / 4


def test_a_model_that_also_reads_images_writes_text(bench: Bench, tmp_path: Path, sentences: list[str]) -> None:
    folder, texts = gemma3_with_images(tmp_path / "gemma3", sentences), sentences[:6]
    spec = bench.spec("generate", folder, prompt="{text}", max_new_tokens=NEW_TOKENS)
    require_equal(bench.write(spec, texts), partial(generate_texts, folder, texts, max_new_tokens=NEW_TOKENS))


def test_a_raw_document_is_continued_as_it_stands_and_may_fill_the_context(
    bench: Bench, llama: Path, sentences: list[str]
) -> None:
    texts = [f"  {text} " for text in sentences[:6]]
    spec = bench.spec("generate", llama, raw=True, max_new_tokens=NEW_TOKENS)
    reference = partial(generate_texts, llama, texts, raw=True, max_new_tokens=NEW_TOKENS)
    require_equal(bench.write(spec, texts), reference)
    whole = bench.spec("generate", llama, raw=True, fill_context=True, min_new_tokens=300)
    for outcome in bench.run(whole, texts[:2]):
        assert "output_truncated" in outcome.flags
        assert outcome.tokens_in + outcome.tokens_out == 256
    [failed] = bench.run(spec, [" ".join(sentences) * 2])
    assert failed.reason is not None
    assert "A raw document is not read in parts." in failed.reason


class Trickle:
    """A source that gives up to two windows at a time, whatever the budget."""

    def __init__(self, items: Sequence[Item[None]]) -> None:
        self._items = list(items)

    def take(self, budget: Budget) -> Sequence[Item[None]]:
        self.budget = budget
        items = self._items[: min(2, budget.rows)]
        del self._items[: len(items)]
        return items


def run_trickled(backend: Backend, texts: Sequence[str], order: Sequence[int] | None = None) -> list[str]:
    """Return the outputs of texts that arrive two at a time, in some order."""
    items = [Item(number, encoded, None) for number, encoded in enumerate(backend.encode(texts))]
    outputs = dict(backend.run(Trickle([items[place] for place in order or range(len(items))])))
    assert len(outputs) == len(texts)
    return [output.text for _, output in sorted(outputs.items()) if isinstance(output, Generated)]


@pytest.mark.parametrize(
    ("name", "sampled"),
    [
        ("gpt2", {}),
        ("gemma3", {}),
        ("qwen2", {"temperature": 0.8, "top_p": 0.9}),
        pytest.param("gpt2", {"temperature": 0.8, "repetition_penalty": 1.3}, marks=pytest.mark.long),
    ],
)
def test_outputs_do_not_depend_on_texts_that_join_the_running_batch(
    bench: Bench, decoders: dict[str, Path], sentences: list[str], name: str, sampled: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, **sampled}
    spec = bench.spec("generate", decoders[name], prompt=PROMPT, stop=(" ",), **settings)
    if sampled:
        settings |= {"do_sample": True, "top_k": 0}
    inputs = [PROMPT.replace("{text}", text) for text in sentences]
    reference = partial(generate_texts, decoders[name], inputs, stop=" ", **settings)
    require_equal(run_trickled(bench.open(spec, backend="transformers"), sentences), reference)


SHAPED = ("def f(x):\n    ", "\n\tlist of", "  a b  \n", "plain", "x =\n\n")


@pytest.mark.parametrize("prompt", ["{text}", "# Python\n{text}    "])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_white_space_at_the_ends_of_documents_and_outputs_is_kept(
    bench: Bench, decoders: dict[str, Path], name: str, prompt: str
) -> None:
    spec = bench.spec("generate", decoders[name], prompt=prompt, max_new_tokens=NEW_TOKENS)
    inputs = [prompt.replace("{text}", text) for text in SHAPED]
    reference = partial(generate_texts, decoders[name], inputs, max_new_tokens=NEW_TOKENS)
    expected = require_equal(bench.write(spec, list(SHAPED)), reference)
    assert any(text != text.strip() for text in expected) or name != "gpt2"


def test_old_specs_strip_white_space_at_the_ends(bench: Bench, gpt2: Path, sentences: list[str]) -> None:
    spec = bench.spec("generate", gpt2, prompt="{text}", max_new_tokens=NEW_TOKENS)
    old_spec = replace(spec, params={name: value for name, value in spec.params.items() if name != "white_space"})
    inputs = [text.strip() for text in SHAPED]
    reference = partial(generate_texts, gpt2, inputs, stripped=True, max_new_tokens=NEW_TOKENS)
    require_equal(bench.write(old_spec, list(SHAPED)), reference)


def test_a_models_limit_of_prompt_and_output_together_ends_the_output(
    bench: Bench, tmp_path: Path, sentences: list[str]
) -> None:
    folder = DECODERS["llama"](tmp_path / "llama", sentences, max_length=256)
    texts = sentences[:6]
    outcomes = bench.run(bench.spec("generate", folder, prompt="{text}"), texts)
    require_equal(texts_of(outcomes), partial(generate_texts, folder, texts))
    assert max(outcome.tokens_in + outcome.tokens_out for outcome in outcomes) == 256
    assert "output_truncated" in {flag for outcome in outcomes for flag in outcome.flags}


def test_a_stop_string_of_the_models_files_ends_the_output_and_stays_in_it(
    bench: Bench, tmp_path: Path, sentences: list[str]
) -> None:
    folder = DECODERS["gpt2"](tmp_path / "gpt2", sentences, stop_strings=["e", "<|user|>"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference = partial(generate_texts, folder, sentences, max_new_tokens=NEW_TOKENS, tokenizer=tokenizer)
    outcomes = bench.run(bench.spec("generate", folder, prompt="{text}", max_new_tokens=NEW_TOKENS), sentences)
    require_equal(texts_of(outcomes), reference)
    assert any(outcome.tokens_out < NEW_TOKENS and not outcome.flags for outcome in outcomes)


def test_rows_that_join_see_no_values_of_rows_that_left() -> None:
    """A mask would not protect them: 0 times NaN is NaN."""
    cache = RowLayer()
    cache.update(*[torch.full((2, 1, 5, 2), float("nan"))] * 2)
    cache.drop(1)
    cache.start = 3  # no row uses the columns before
    for buffer in cache._buffers:
        cache.view(buffer).fill_(0.0)
    for columns in (1, 4):
        joining = RowLayer()
        joining.update(*[torch.ones(1, 1, columns, 2)] * 2)
        cache.join(joining)
        assert all(cache.view(buffer).isfinite().all() for buffer in cache._buffers)


def test_a_batch_that_does_not_fit_in_memory_is_written_in_halves(
    bench: Bench, gpt2: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_tokens, texts = 4 * NEW_TOKENS, sorted(sentences, key=len)[:8]
    spec = bench.spec("generate", gpt2, prompt=PROMPT, max_new_tokens=new_tokens)
    backend = bench.open(spec, backend="transformers")
    inputs = [PROMPT.replace("{text}", text) for text in texts]
    with monkeypatch.context() as patched:
        patched.setattr(GPT2LMHeadModel, "forward", narrow(5))
        outputs = run_trickled(backend, texts)
    require_equal(outputs, partial(generate_texts, gpt2, inputs, max_new_tokens=new_tokens))
    idle = Trickle([])
    assert list(backend.run(idle)) == []
    assert 4 <= idle.budget.rows < 8, "half of the rows that did not fit"


def test_rows_of_unlike_lengths_that_lack_memory_halve_the_budget_once(
    bench: Bench, gpt2: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.spec("generate", gpt2, prompt=PROMPT, max_new_tokens=NEW_TOKENS)
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
    bench: Bench, gpt2: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.spec("generate", gpt2, prompt=PROMPT, max_new_tokens=NEW_TOKENS, n=5, temperature=0.8)

    def samples() -> list[list[str]]:
        return [data_of(outcome)["texts"] for outcome in bench.run(spec, sentences[:2])]

    bench.engine.open(spec)
    with monkeypatch.context() as patched:
        patched.setattr(GPT2LMHeadModel, "forward", narrow(2))
        halved = samples()
    require_equal(halved, samples)


def narrow(most: int) -> Callable[..., Any]:
    """Return a forward that runs out of memory with more than ``most`` rows."""
    forward = GPT2LMHeadModel.forward

    def bounded(model: Any, input_ids: torch.Tensor, **options: Any) -> Any:
        if len(input_ids) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(model, input_ids, **options)

    return bounded


def test_an_output_cut_at_the_limit_is_flagged_and_one_that_is_stopped_is_not(
    bench: Bench, gpt2: Path, sentences: list[str]
) -> None:
    (open_ended,) = bench.run(bench.spec("generate", gpt2, prompt="{text}", max_new_tokens=3), sentences[:1])
    assert (open_ended.flags, open_ended.tokens_out) == (("output_truncated",), 3)
    assert open_ended.text
    spec = bench.spec("generate", gpt2, prompt="{text}", max_new_tokens=3, stop=(open_ended.text[0],))
    (stopped,) = bench.run(spec, sentences[:1])
    assert (stopped.text, stopped.flags, stopped.tokens_out) == ("", ("empty",), 1)


def test_messages_are_rendered_by_the_chat_template_and_a_plain_text_is_the_users_message(
    bench: Bench, llama: Path
) -> None:
    spec = bench.spec("generate", llama, messages="chat", prompt="Say: {text}", max_new_tokens=NEW_TOKENS)
    template = over_metadata(spec.params)
    assert template is not None
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi {you}"}]
    chats = [[*turns, {"role": "user", "content": "A tool?"}], [{"role": "user", "content": "Say: a font"}]]
    contents = [template.render("other", {"chat": chats[0]}), template.render("a font", {})]
    assert template.render(json.dumps(chats[0]), {}) == contents[0]
    assert template.render(" ", {"chat": chats[0]}) == ""
    assert [json.loads(content) for content in contents] == chats
    tokenizer = AutoTokenizer.from_pretrained(llama)
    prompts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    assert prompts[1] == "<|user|>Say: a font<|end|>\n<|assistant|>"
    expected = partial(generate_texts, llama, prompts, raw=True, max_new_tokens=NEW_TOKENS)
    require_equal(bench.write(spec, contents), expected)
    with_system = bench.spec("generate", llama, messages="chat", system="Be brief.", max_new_tokens=2)
    (encoded,) = bench.open(with_system, backend="transformers").encode([contents[1]])
    assert not isinstance(encoded.features, str)
    assert tokenizer.decode(encoded.features["input_ids"]) == f"<|system|>Be brief.<|end|>\n{prompts[1]}"


def test_messages_need_a_chat_template(bench: Bench, gpt2: Path) -> None:
    with pytest.raises(CannotServe, match=r"\(--messages\) need a model with a chat template"):
        bench.engine.open(bench.spec("generate", gpt2, messages="chat"))


def test_summaries_and_translations_are_written_by_instruction(
    bench: Bench, gpt2: Path, llama: Path, sentences: list[str], french: list[str]
) -> None:
    texts = sentences[:4]
    instruction = "Summarize the following text in one to three sentences. Answer with the summary only.\n\n"
    spec = bench.spec("summarize", llama, max_new_tokens=NEW_TOKENS)
    settings: dict[str, Any] = {"stripped": True, "max_new_tokens": NEW_TOKENS}
    reference = partial(generate_texts, llama, [instruction + text for text in texts], **settings)
    require_equal(bench.write(spec, texts), reference)
    spec = bench.spec("translate", gpt2, source_lang="fr", target_lang="en", max_new_tokens=NEW_TOKENS)
    inputs = [f"French: {text}\nEnglish:" for text in texts]  # 256 tokens have no room for demonstrations
    reference = partial(generate_texts, gpt2, inputs, stop="\n", **settings)
    require_equal(bench.write(spec, texts), reference)


@pytest.mark.parametrize("source", ["fr", "auto"])
def test_demonstrations_stand_before_a_text_if_the_model_has_room_for_them(
    bench: Bench, gpt2: Path, source: str
) -> None:
    spec = bench.spec("translate", gpt2, source_lang=source, target_lang="en")
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    for context, demonstrations in ((4096, 3), (256, 0)):
        tokens, stop, limit_tokens = instructed(spec, tokenizer, {"max_position_embeddings": context})
        assert (limit_tokens, stop) == (context, ("\n",))
        coder_of = traits_by(partial(instructed_coder, tokens=tokens, limit_tokens=context), spec).language_coders
        (encoded,) = (tokens if coder_of is None else coder_of("fr")).encode(["Une horloge."])
        assert not isinstance(encoded.features, str)
        prompt = tokenizer.decode(encoded.features["input_ids"])
        assert prompt.count("English:") == demonstrations + 1
        assert prompt.endswith("French: Une horloge.\nEnglish:")
        assert prompt.startswith("French: Le livre" if demonstrations else "French: Une")


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
def test_a_prompt_has_a_fixed_date_and_only_users_prompts_let_the_model_think(
    bench: Bench, llama: Path, kind: str, options: dict[str, Any], thinks: bool
) -> None:
    spec = bench.spec(kind, llama, **options)
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = f"{_DATED}{tokenizer.chat_template}{_THINKING}"
    (encoded,) = instructed(spec, tokenizer, {})[0].encode(["A text."])
    assert not isinstance(encoded.features, str)
    prompt = tokenizer.decode(encoded.features["input_ids"])
    assert prompt.startswith("26 Jul 2024 <|user|>")
    assert prompt.endswith("<|assistant|>" if thinks else "<|assistant|><think></think>")


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({}, {"max_new_tokens": 248}, "there is no room for a text. Give a smaller --max-new-tokens"),
        ({"exponential_decay_length_penalty": (5, 1.5)}, {}, "exponential_decay_length_penalty="),
    ],
)
def test_settings_that_cannot_be_followed_are_refused_when_the_model_is_opened(
    bench: Bench, tmp_path: Path, sentences: list[str], config: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    folder = DECODERS["llama"](tmp_path / "llama", sentences, **config)
    with pytest.raises(CannotServe, match=message):
        bench.engine.open(bench.spec("generate", folder, prompt="{text}", **options))
