"""GLiNER models, by their own library: entities with any labels that a user names."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from docmill.storage.core.specs import Reason
from docmill.tasks.backends import Assignment, WindowSource, accelerator
from docmill.tasks.backends.convert import safe_folder
from docmill.tasks.backends.encoder.batches import BUDGETS
from docmill.tasks.backends.loading import require_loaded
from docmill.tasks.backends.registry import version
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.backends.tokens import TokenCoder, require_fast
from docmill.tasks.errors import CannotServe
from docmill.tasks.kinds.base import NOT_FINITE, Traits
from docmill.tasks.kinds.entities import THRESHOLD
from docmill.tasks.models import gliner
from docmill.tasks.outputs import Failure, Output, Span, Spans
from docmill.tasks.windows.windows import LEAST_TEXT_TOKENS, Encoded, WordReader, Words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from docmill.storage.core.specs import Spec


class GlinerBackend:
    """One GLiNER model under one spec with labels. The library splits, tokenizes and decodes each window."""

    def __init__(self, assignment: Assignment) -> None:
        spec, self._device = assignment.spec, assignment.device
        self._dtype = accelerator.dtype_for(spec.quality, self._device)
        self._labels, self._threshold = labels_of(spec), float(spec.params.get("threshold", THRESHOLD))
        folder, config = _folder(assignment)
        self._model = _load(folder, spec, self._dtype, self._device)
        processor = self._model.data_processor
        self._coder, self.traits = coder_of(processor.transformer_tokenizer, processor.words_splitter, config, spec)
        # The library cuts off later tokens, such as those of a word that is longer than a window.
        processor.transformer_tokenizer.model_max_length = self._coder.limit_tokens
        self._collator = self._model.create_collator()
        self.limit_tokens = self._coder.limit_tokens
        self._loop = StaticLoop(self._compute, BUDGETS[self._device.partition(":")[0]])

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._coder.encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def runtime(self) -> dict[str, Any]:
        return accelerator.runtime("gliner", self._device, self._dtype, gliner=version("gliner"))

    def close(self) -> None:
        del self._model, self._collator
        accelerator.release(self._device)

    def _compute(self, items: Items) -> Sequence[Output]:
        # The library's warnings are for training.
        silent = warnings.catch_warnings(action="ignore")
        with torch.inference_mode(), accelerator.memory_errors(self._device), silent:
            return self._outputs([str(item.encoded.features) for item in items])

    def _outputs(self, texts: Sequence[str]) -> Sequence[Output]:
        """Return the spans of each window's text, by the steps of the library's `inference`."""
        model = self._model
        prepared = model.prepare_batch(list(texts), self._labels)
        if not prepared["valid_texts"]:
            return [Spans(())] * len(texts)
        batch = model.collate_batch(
            prepared["input_x"], prepared["entity_types"], self._collator, prepared["label_names"]
        )
        computed = model.run_batch(batch, threshold=self._threshold)
        decoded = model.decode_batch(computed, batch, threshold=self._threshold, flat_ner=True)
        entities = model.map_entities_to_text(
            decoded,
            prepared["valid_texts"],
            prepared["valid_to_orig_idx"],
            prepared["start_token_map"],
            prepared["end_token_map"],
            prepared["num_original"],
        )
        are_finite = torch.isfinite(torch.as_tensor(computed.logits)).flatten(1).all(1).tolist()
        finite = dict(zip(prepared["valid_to_orig_idx"], are_finite, strict=True))
        return [
            _spans(spans) if finite.get(number, True) else Failure(NOT_FINITE, Reason.MODEL)
            for number, spans in enumerate(entities)
        ]


def reading_of(assignment: Assignment) -> tuple[TokenCoder, Traits]:
    """Return the coder and the traits of a spec's model, without its weights. Raises CannotServe."""
    from transformers import AutoTokenizer

    try:
        from gliner.data_processing import WordsSplitter
        from gliner.model import BaseGLiNER
    except ImportError as error:
        raise CannotServe(
            f"{assignment.spec.model} is read by the library gliner, which is not installed."
        ) from error
    folder, config = _folder(assignment)
    with accelerator.quiet():
        tokenizer = BaseGLiNER._set_tokenizer_spec_tokens(AutoTokenizer.from_pretrained(folder))
    return coder_of(tokenizer, WordsSplitter("whitespace"), config, assignment.spec)


def _folder(assignment: Assignment) -> tuple[Path, Mapping[str, Any]]:
    """Return the model's folder with safetensors, and its config. Raises ModelUnsuitable and CannotServe."""
    folder, spec = assignment.folder, assignment.spec
    config = gliner.of_folder(folder, spec.model)
    return safe_folder(folder, spec.revision, assignment.cache_dir), config


def _load(folder: Path, spec: Spec, dtype: torch.dtype, device: str) -> Any:
    """Load a model. Raises ModelCorrupt for missing weights, which the library would set at random."""
    from gliner import GLiNER

    with accelerator.quiet(), warnings.catch_warnings(action="ignore"):
        loaded = GLiNER.from_pretrained(str(folder), local_files_only=True, map_location=device, dtype=dtype)
    require_fast(loaded.data_processor.transformer_tokenizer, spec)
    own = loaded.model
    computed = {name for name, _ in own.named_buffers()}
    missing = {*own.state_dict()} - _names(folder) - computed
    require_loaded(missing, spec)
    return loaded


def _names(folder: Path) -> set[str]:
    """Return the names of the weights in a folder, with those of shared tensors."""
    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        return {*file.keys(), *(file.metadata() or {})}


def _spans(entities: Sequence[Mapping[str, Any]]) -> Spans:
    spans = [
        Span(str(entity["label"]), entity["start"], entity["end"], float(entity["score"])) for entity in entities
    ]
    return Spans(tuple(sorted(spans, key=lambda span: span.start)))


# Words to tokenize at once: a tokenizer's output takes a hundred times their memory.
_PORTION_WORDS = 20_000
Splitter = Callable[[str], Iterable[tuple[str, int, int]]]


def coder_of(
    tokenizer: PreTrainedTokenizerBase, splitter: Splitter, config: Mapping[str, Any], spec: Spec
) -> tuple[TokenCoder, Traits]:
    """Return the coder and the traits of a model under a spec. Raises CannotServe if no text fits."""
    prompt = gliner.prompt(config, labels_of(spec))
    # A copy, since the library changes the padding and truncation of its tokenizer while other threads count.
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    overhead = len(own.encode(prompt, is_pretokenized=True).ids)
    limit_tokens = gliner.limit_tokens(config, int(tokenizer.model_max_length), prompt_tokens=overhead)
    if (window_tokens := spec.params.get("window_tokens")) is not None:
        limit_tokens = min(limit_tokens, window_tokens)
    if limit_tokens < overhead + LEAST_TEXT_TOKENS:
        raise CannotServe(
            f"A window of {limit_tokens} tokens leaves no room for text: labels and special tokens take {overhead}. "
            "Give fewer or shorter labels, or a larger --window-tokens."
        )
    words = partial(_words, own, splitter, prompt)
    reader = WordReader(words, gliner.max_words(config), limit_tokens, overhead, gliner.max_width(config))

    def encode(texts: Sequence[str]) -> list[Encoded]:
        return [Encoded(overhead + sum(reader.words(text).tokens), text) for text in texts]

    return TokenCoder(encode, limit_tokens), Traits(words=reader)


def labels_of(spec: Spec) -> dict[str, str]:
    """Return the words for each label of a spec, in order."""
    labels: Sequence[str | list[str]] = spec.params.get("labels", ())
    return dict((label, label) if isinstance(label, str) else (label[0], label[1]) for label in labels)


def _words(tokenizer: Tokenizer, splitter: Splitter, prompt: Sequence[str], text: str) -> Words:
    """Return the words of a text. Each portion follows the prompt, since a first word may have other tokens."""
    parts = list(splitter(text))
    starts, ends = array("q", (start for _, start, _ in parts)), array("q", (end for _, _, end in parts))
    tokens = array("q", bytes(8 * len(parts)))
    for first in range(0, len(parts), _PORTION_WORDS):
        portion = [word for word, _, _ in parts[first : first + _PORTION_WORDS]]
        for number in tokenizer.encode([*prompt, *portion], is_pretokenized=True).word_ids:
            if number is not None and number >= len(prompt):
                tokens[first + number - len(prompt)] += 1
    return Words(starts, ends, tokens)
