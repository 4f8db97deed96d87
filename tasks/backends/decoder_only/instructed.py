"""The prompts and outputs of a decoder-only model under a spec, for each library that computes them.

A prompt is the spec's template or instruction, in the model's chat template if it has one. With a schema, a mask over
the next tokens of each row makes the output valid JSON.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import llguidance.hf
import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer

from docmill.storage import templates
from docmill.storage.core.specs import Reason, Spec
from docmill.storage.outputs.output_types import SCHEMA
from docmill.storage.templates import keeps_white_space
from docmill.tasks import schema_checks
from docmill.tasks.backends.decoding import choose_decoding, cut_at
from docmill.tasks.backends.loading import Opening, stated_settings
from docmill.tasks.backends.tokens import TokenCoder, Tokens
from docmill.tasks.errors import CannotServe, describe_error
from docmill.tasks.kinds import conversation, example_of, instruction, kind, stop_texts, traits_by
from docmill.tasks.kinds.generate import RAW
from docmill.tasks.models import families
from docmill.tasks.outputs import Failure, Generated, Head, Likelihood
from docmill.tasks.prompts import PromptFrame
from docmill.tasks.windows.windows import LEAST_TEXT_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Stands for the document while the chat template is filled in. No template trims or changes it.
_MARK = "\ue000document\ue000"
# Stands at both ends of the mark, to test if the template strips white space. No template ends in it.
_SPACE = " \t\n \n\t "
# Some templates write the date, and a prompt must not change each day. This date is the default of Llama's template.
_ON_A_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}\n"
# The share of a model's context that demonstrations may take.
_SHOWN = 0.25
# The words before a label in a base model's pattern, after which it is tokenized.
_BEFORE = "\nLabel:"
_BITS = 32  # tokens in a word of a mask


class Completion:
    """The tokens of the prompts that a model reads, and the decoding of its outputs.

    A prompt and its output have at most ``most_tokens`` together. Raises CannotServe if the spec does not fit the
    model.
    """

    def __init__(self, opening: Opening, most_tokens: int | None = None) -> None:
        spec = opening.spec
        config = opening.config.get_text_config().to_dict()
        self.tokens, stop, stated = instructed(spec, opening.tokenizer, config)
        self.context_tokens = min(stated, most_tokens or stated)
        self.decoding = choose_decoding(spec, stated_settings(opening), self.context_tokens, stop)
        self.limit_tokens = self._window_limit(spec)
        self.traits = traits_by(lambda variant: instructed_coder(variant, self.tokens, self.limit_tokens), spec)

    def stops(self, written: Sequence[int]) -> bool:
        """Return True if these tokens contain a text to stop at."""
        return cut_at(self._text(written), self.decoding.stop) is not None

    def closes(self, written: Sequence[int]) -> bool:
        """Return True if these tokens contain a stop string of the model's own, which may be a special token."""
        return cut_at(self._text(written, special=True), self.decoding.closing) is not None

    def generated(self, written: Sequence[int], *, at_end: bool, likelihood: Likelihood | None = None) -> Generated:
        """Return the output of these tokens. It is truncated unless it ends with an end token or a stop text."""
        text = self._text(written)
        cut = cut_at(text, self.decoding.stop)
        kept = text if cut is None else cut
        kept = kept.strip() if self.decoding.stripped else kept
        return Generated(kept, len(written), truncated=not at_end and cut is None, likelihood=likelihood)

    def _text(self, ids: Sequence[int], *, special: bool = False) -> str:
        return str(self.tokens.tokenizer.decode(ids, skip_special_tokens=not special))

    def _window_limit(self, spec: Spec) -> int:
        """Return the most tokens of a window: the model's context less the output. Raises CannotServe."""
        output_tokens, overhead = self.decoding.max_new_tokens, self.tokens.overhead
        limit = self.context_tokens - output_tokens
        if limit < overhead + LEAST_TEXT_TOKENS:
            raise CannotServe(
                f"{spec.model} holds {self.context_tokens} tokens: with {output_tokens} for the output and "
                f"{overhead} for the prompt there is no room for a text. Give a smaller --max-new-tokens."
            )
        return self.tokens.checked_limit(limit, spec.params.get("window_tokens"))


def completion_of(opening: Opening) -> Completion:
    """Return the prompts of a spec. If labels are scored, a window has room for the longest. Raises CannotServe."""
    if opening.head is not Head.LIKELIHOOD:
        return Completion(opening)
    longest = max(len(ids) for ids in label_ids(opening.tokenizer, opening.spec.params["labels"]).values())
    spec = replace(opening.spec, params={**opening.spec.params, "max_new_tokens": longest + 1})
    return Completion(replace(opening, spec=spec))


def label_ids(tokenizer: PreTrainedTokenizerBase, labels: Iterable[str]) -> dict[str, list[int]]:
    """Return the tokens of each label: as the answer of a chat model, or after a base model's pattern and a space."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def of(label: str) -> list[int]:
        if tokenizer.chat_template is not None:
            return ids(label)
        before, whole = ids(_BEFORE), ids(f"{_BEFORE} {label}")
        return whole[len(before) :] if whole[: len(before)] == before else ids(f" {label}")

    return {label: of(label) for label in labels}


def _in_template(spec: Spec, tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> str:
    """Return messages in the model's chat template, on a fixed date.

    A model that can think first thinks only if the prompt is the user's and there is no schema.
    """
    thinks = kind(spec.kind).built_in is None and SCHEMA not in spec.params
    return str(
        tokenizer.apply_chat_template(
            messages,
            chat_template=_ON_A_DATE + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=True,
            **({} if thinks else {"enable_thinking": False}),
        )
    )


def instructed(
    spec: Spec, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any]
) -> tuple[Tokens, tuple[str, ...], int]:
    """Return the tokens of the spec's prompts, the texts that end an output, and the model's context in tokens.

    Raises CannotServe.
    """
    raw, chat = bool(spec.params.get(RAW)), tokenizer.chat_template is not None
    bare = Tokens(tokenizer, special_tokens=raw or not chat)
    context, stop = families.window_limit(config, bare.stated_limit), stop_texts(spec, chat=chat)
    if raw:
        return bare, stop, context
    if templates.MESSAGES in spec.params:
        if not chat:
            raise CannotServe(f"Chat messages (--messages) need a model with a chat template; {spec.model} has none.")

        def frame(text: str) -> str:
            return _in_template(spec, tokenizer, conversation(spec, text))

        return Tokens(tokenizer, special_tokens=False, frame=frame), stop, context
    return _add_instruction(example_of(spec), bare, context), stop, context


def _add_instruction(spec: Spec, tokens: Tokens, context_tokens: int) -> Tokens:
    """Return the tokens with the spec's instruction around each text.

    Demonstrations are left out if they would fill more than a quarter of the model's context.
    """
    chat = tokens.tokenizer.chat_template is not None
    frame = instruction(spec, chat=chat)
    framed = tokens.framed(*_find_frame(spec, tokens.tokenizer, frame))
    if framed.overhead > context_tokens * _SHOWN:
        frame = instruction(spec, chat=chat, shown=False)
        framed = tokens.framed(*_find_frame(spec, tokens.tokenizer, frame))
    return framed


def instructed_coder(spec: Spec, tokens: Tokens, limit_tokens: int) -> TokenCoder:
    """Return the coder that puts the spec's instruction around each text."""
    return TokenCoder(_add_instruction(spec, tokens, limit_tokens).encode, limit_tokens)


def _find_frame(
    spec: Spec, tokenizer: PreTrainedTokenizerBase, frame: PromptFrame
) -> tuple[str, str, tuple[bool, bool]]:
    """Return the words before and after every document, and at which of its ends white space is stripped."""
    keeps = keeps_white_space(spec.params)
    if tokenizer.chat_template is not None:
        before, after = _in_chat(spec, tokenizer, frame, _MARK)
        return before, after, _find_trims(spec, tokenizer, frame) if keeps else (True, True)
    system = spec.params.get("system")
    before = frame.before if system is None else f"{system}\n\n{frame.before}"
    return before, frame.after, (not keeps, not keeps)


def _find_trims(spec: Spec, tokenizer: PreTrainedTokenizerBase, frame: PromptFrame) -> tuple[bool, bool]:
    """Return True for each end of a document at which the chat template strips white space, as many templates do."""
    before, after = _in_chat(spec, tokenizer, frame, f"{_SPACE}{_MARK}{_SPACE}")
    return not before.endswith(_SPACE), not after.startswith(_SPACE)


def _in_chat(spec: Spec, tokenizer: PreTrainedTokenizerBase, frame: PromptFrame, document: str) -> tuple[str, str]:
    """Return the chat template's words before and after the mark in a document."""
    system = spec.params.get("system")
    messages = [{"role": "user", "content": frame.fill(document)}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    try:
        text = _in_template(spec, tokenizer, messages)
    except Exception as error:  # templates raise anything, often because they know no system prompt
        hint = "; it may know no system prompt: put --system's words into --prompt" if system else ""
        raise CannotServe(f"The chat template of {spec.model} failed: {describe_error(error)}{hint}.") from error
    before, mark, after = text.partition(_MARK)
    if not mark or _MARK in after or (system is not None and system.strip() not in text):
        raise CannotServe(
            f"The chat template of {spec.model} drops the document or the system prompt. Use a model with another "
            "template, or one without."
        )
    return before, after


class Constraint:
    """The grammar of a spec's records in the tokens of a model. Raises CannotServe if the schema makes no grammar."""

    def __init__(self, schema: str, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = tokenizer.vocab_size
        self._start = LLMatcher(tokenizer, schema_checks.grammar(json.loads(schema)), log_level=0)
        if self._start.is_error():
            raise CannotServe(f"The schema makes no grammar: {_first_line(self._start.get_error())}")
        self._executor = LLExecutor()

    @classmethod
    def of(cls, opening: Opening, ends: Collection[int]) -> Constraint | None:
        """Return the constraint of a spec; None for a spec without a schema. ``ends`` are tokens that end an output.

        Raises CannotServe for a slow tokenizer.
        """
        schema = opening.spec.params.get(SCHEMA)
        return None if schema is None else cls(schema, constraint_tokenizer(opening, ends))

    def begin(self) -> LLMatcher:
        """Return the state before the first token."""
        return self._start.deep_copy()

    def masked(self, logits: torch.Tensor, matchers: Sequence[LLMatcher]) -> torch.Tensor:
        """Return logits (rows, vocabulary), float32, with minus infinity for the tokens that may not come next.

        The tensor is changed in place.
        """
        words = np.zeros((len(matchers), -(-self._vocabulary // _BITS)), np.int32)
        numbered = [(matcher, row) for row, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(numbered, words.ctypes.data, words.strides[0], len(words))
        forbidden = unpacked(~words, logits.device)
        width = min(logits.shape[1], self._vocabulary)
        logits[:, :width].masked_fill_(forbidden[:, :width], float("-inf"))
        logits[:, width:] = float("-inf")  # of no token: some output layers are larger than the vocabulary
        return logits

    def output(
        self, matcher: LLMatcher, written: Sequence[int], likelihood: Likelihood | None = None
    ) -> Generated | Failure:
        """Return the output of a row that has stopped: at the end of the record, or with an error."""
        if matcher.is_error():
            return Failure("The grammar of the schema failed at this output: it may be too large.", Reason.MODEL)
        return record(self._tokenizer, written, likelihood)


def record(tokenizer: LLTokenizer, written: Sequence[int], likelihood: Likelihood | None = None) -> Generated:
    """Return the output of a row that reached the end of its record, decoded as the grammar's bytes."""
    kept = [token for token in written if token not in tokenizer.eos_tokens]
    return Generated(tokenizer.decode_str(kept), len(written), likelihood=likelihood)


def unpacked(words: npt.NDArray[np.int32], device: torch.device) -> torch.Tensor:
    """Return the bits of words (rows, words) as booleans (rows, words × 32) on a device, the lowest bit first."""
    if device.type == "cpu":
        bits = np.unpackbits(words.astype("<i4", copy=False).view(np.uint8), axis=1, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_))
    # The words go to a GPU, since they have an eighth of the bytes.
    places = torch.arange(_BITS, dtype=torch.int32, device=device)
    return ((torch.from_numpy(words).to(device).unsqueeze(-1) >> places) & 1).bool().flatten(1)


def constraint_tokenizer(opening: Opening, ends: Collection[int]) -> LLTokenizer:
    """Return the model's tokens for llguidance. Raises CannotServe for a slow tokenizer."""
    try:
        return llguidance.hf.from_tokenizer(opening.tokenizer, eos_token=sorted(ends) or None)
    except ValueError as error:
        raise CannotServe(
            f"{opening.spec.kind} needs a model with a fast tokenizer. That of {opening.spec.model} does not fit: "
            f"{_first_line(str(error))}"
        ) from error


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]
