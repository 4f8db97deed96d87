"""Encoder-decoder models by CTranslate2: several single-threaded workers, each with its own batch.

docmill converts a model once into the cache, and compares it with the original. The options of a search follow from
the model's generation settings.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctranslate2
import torch
import transformers
from ctranslate2.converters import transformers as loaders
from ctranslate2.specs.model_spec import OPTIONAL, SequenceToSequenceModelSpec

from docmill.tasks.backends import Assignment, WindowSource, accelerator, devices
from docmill.tasks.backends.convert import make_once
from docmill.tasks.backends.decoding import as_list
from docmill.tasks.backends.encoder_decoder.generation import Generation, Written
from docmill.tasks.backends.loading import Opening, generation_settings
from docmill.tasks.backends.registry import version
from docmill.tasks.backends.static import Items, StaticLoop
from docmill.tasks.batching import UNBOUNDED, Budget
from docmill.tasks.errors import Unsuited
from docmill.tasks.outputs import Likelihood, Output
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

log = logging.getLogger("docmill.backends")

# Raise this number with every change of the converted files.
_FORMAT = 1
# The most by which a token's log-probability may differ from transformers', both in float32.
_TOLERANCE = 0.02
_COMPARED = 12
# With early_stopping, a search ends after as many hypotheses as CTranslate2 finds with a patience of 1. Without, it
# goes on while a better end seems possible; CTranslate2 approximates that with this patience.
_PATIENCE = 3.0
# Rows and input tokens of one worker's batch. The fastest number of rows falls with the root of their length: Marian
# of base size in int8, greedy, was fastest with 96 rows of 12 tokens, 48 to 64 of 24, 32 to 48 of 53, 32 of 90, 16 to
# 32 of 190, and at most 9 % slower with 48 rows. With 4 beams in float32 it was fastest with 32 rows of 45 or 190
# tokens; 16 rows took a tenth longer, 12 rows a quarter to a third. Unlike lengths cost less than small batches. The
# workers share the windows that are taken at once, so that none waits at the end of a job.
BUDGETS = {
    "cpu": Budget(tokens=6144, rows=48, spread=UNBOUNDED),
    "cuda": Budget(tokens=65_536, rows=512, spread=UNBOUNDED),
}
# Rows × beams of one worker's batch, and of all workers' batches. The keys and values of 128 hypotheses of 200 tokens
# take 0.6 GB with Marian of base size. In int8 with 4 beams, on a Xeon with AMX, 12 rows of 45 or 139 tokens were 15
# to 42 % faster than 32 rows.
_HYPOTHESES = {"cpu": 128, "cuda": 512}
_HYPOTHESES_IN_INT8 = {"cpu": 48, "cuda": 512}
_ALL_HYPOTHESES = 512
_MOST_WORKERS = 8
# Batches for each worker: the one that it computes, and the next one.
AHEAD = 2
# The longest wait for a full first batch. A batch takes seconds.
PATIENCE_S = 0.05
# Seconds between two looks at the batches in flight.
_LOOK_S = 0.005
# The types for a quality class, the best first.
_TYPES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cpu": {"native": ("bfloat16", "float32"), "int8": ("int8_bfloat16", "int8_float32", "int8")},
    "cuda": {
        "native": ("bfloat16", "float16", "float32"),
        "int8": ("int8_bfloat16", "int8_float16", "int8_float32", "int8"),
    },
}


class CTranslateBackend:
    """One encoder-decoder model under one spec.

    Raises Unsuited if CTranslate2 does not know a setting. If another backend can compute the spec, it also raises
    Unsuited if CTranslate2's beam search differs from that of transformers.
    """

    def __init__(self, assignment: Assignment) -> None:
        spec, device = assignment.spec, assignment.device
        kind, _, index = device.partition(":")
        self._device = device
        self._type = compute_type(spec.quality, kind)
        opening = Opening.of(assignment)
        if (model_type := opening.config.model_type) not in LOADERS:
            raise Unsuited(f"{spec.model} is a {model_type}, which is not converted for CTranslate2.")
        opening.require_weights()  # also if the cache has a conversion
        self._generation = Generation(opening, generation_settings(opening.folder))
        self.limit_tokens = self._generation.limit_tokens
        self._options = options(self._generation, spec.model)
        if not assignment.alone and (setting := inexact(self._generation, spec.quality)):
            raise Unsuited(f"CTranslate2's search differs from that of transformers: {setting}.")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, _MOST_WORKERS) if kind == "cpu" else 1
        with accelerator.memory_errors(device):
            self._translator = ctranslate2.Translator(
                str(convert(assignment)),
                device=kind,
                device_index=int(index or 0),
                compute_type=self._type,
                inter_threads=workers,
                intra_threads=cores // workers if kind == "cpu" else 0,
                max_queued_batches=-1,
            )
        if kind == "cpu":
            devices.keep_freed()
        self._workers = workers
        budget, beams = BUDGETS[kind], self._generation.beams
        hypotheses = (_HYPOTHESES_IN_INT8 if self._type.startswith("int8") else _HYPOTHESES)[kind]
        self._loop = StaticLoop(
            self._compute,
            replace(
                budget,
                tokens=budget.tokens if kind == "cpu" else budget.tokens // beams,  # more was not measured on a GPU
                rows=max(1, min(budget.rows, min(hypotheses, _ALL_HYPOTHESES // workers) // beams)),
            ),
        )
        self.traits = self._generation.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._generation.tokens.encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        """Keep ``AHEAD`` batches in flight for each worker, and yield the outputs as batches end."""
        flights: list[tuple[Items, Sequence[Any]]] = []  # batches, with one pending result for each window
        while True:
            while len(flights) <= (AHEAD - 1) * self._workers and (items := self._take(source, len(flights))):
                flights += ((part, self._post(part)) for part in divide(items, self._workers))
            if not flights:
                return
            landed = [flight for flight in flights if all(result.done() for result in flight[1])]
            if not landed:
                time.sleep(_LOOK_S)
            for flight in landed:
                flights.remove(flight)
                items, results = flight
                yield from self._loop.settle(items, partial(self._collect, results))

    def runtime(self) -> dict[str, Any]:
        return {
            "device": accelerator.device_name(self._device),
            "precision": self._type,
            "backend": "ctranslate2",
            "versions": {
                "ctranslate2": version("ctranslate2"),
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
        }

    def close(self) -> None:
        self._translator.unload_model()
        del self._translator
        accelerator.release(self._device)

    def _take(self, source: WindowSource, in_flight: int) -> Items:
        """Take windows of similar length for all workers; only full batches while all workers compute."""
        each = self._loop.budget
        rows = each.rows * self._workers
        busy = in_flight >= self._workers
        budget = replace(
            each,
            tokens=each.tokens * self._workers,
            rows=rows,
            least=rows if busy else 1,
            patience_s=0.0 if busy else PATIENCE_S,
        )
        return source.take(budget)

    def _compute(self, items: Items) -> Sequence[Output]:
        return self._collect(self._post(items))

    def _post(self, items: Items) -> Sequence[Any]:
        sources = [list(map(str, item.encoded.ids)) for item in items]
        prefix = self._options.prefix
        results: Sequence[Any] = self._translator.translate_batch(
            sources,
            target_prefix=[list(prefix)] * len(sources) if prefix else None,
            asynchronous=True,
            **self._options.arguments,
        )
        return results

    def _collect(self, results: Sequence[Any]) -> Sequence[Output]:
        with accelerator.memory_errors(self._device):
            answers = [result.result() for result in results]
        return self._generation.outputs(
            [self._options.written([*map(int, answer.hypotheses[0])], answer.scores[0]) for answer in answers]
        )


def divide(items: Items, parts: int) -> Iterator[Items]:
    """Yield the items in parts of similar size, at most ``parts`` of them, the longest items first."""
    parts = min(parts, len(items))
    ends = [len(items) * number // parts for number in range(parts + 1)]
    return (items[start:end] for start, end in reversed(list(pairwise(ends))))


def compute_type(quality: str, kind: str) -> str:
    """Return CTranslate2's type for a quality class on a kind of device; raises Unsuited if it has none."""
    supported = ctranslate2.get_supported_compute_types(kind)
    wanted = _TYPES[kind].get(quality, (quality,))
    for name in wanted:
        if name in supported:
            return name
    raise Unsuited(f"CTranslate2 has no {quality} precision on this {kind} device.")


@dataclass(frozen=True)
class TranslationArguments:
    """Arguments of translate_batch, the ``prefix`` of every output, and the end that is forced at the limit."""

    arguments: Mapping[str, Any]
    prefix: Sequence[str]
    forced_end: int | None
    most_new_tokens: int

    def written(self, ids: Sequence[int], score: float) -> Written:
        """Return the tokens as transformers writes them, with the forced end at the limit, and their likelihood.

        A score is the sum of the tokens' log-probabilities, after masks, divided by the length to the power of the
        length penalty. Tokens of the prefix have probability 1.
        """
        chosen, total = len(ids) - len(self.prefix), score * len(ids) ** self.arguments.get("length_penalty", 1.0)
        end = self.forced_end
        if end is not None and len(ids) == self.most_new_tokens - 1 and ids[-1:] != [end]:
            ids = [*ids, end]
        return ids, Likelihood(total, None, chosen)


def inexact(generation: Generation, quality: str) -> str | None:
    """Return a setting with which CTranslate2's beams differ too much from transformers' ``generate``, or None.

    CTranslate2 normalizes scores again after it masks tokens; transformers does so only with ``renormalize_logits``.
    With a length penalty CTranslate2 ends a search after a number of outputs, as ``early_stopping`` does; without
    one, as soon as the best beam has ended.

    In float32 any difference is too much. Other precisions allow three settings, the defaults of Marian and NLLB: no
    ``early_stopping``, a masked padding token, and a forced end. With these CTranslate2 agrees with transformers in
    float32 more often than transformers in bfloat16 does (``bench/results/beams.md``).
    """
    if generation.beams == 1:
        # Its n-grams leave out the start token of an output, which no trained model writes again.
        return None
    settings = generation.settings
    exact = quality == "float32"
    early = settings.early_stopping is True
    if settings.length_penalty == 0 and early:
        return "early_stopping with a length_penalty of 0"
    if settings.length_penalty != 0 and not early and (exact or settings.early_stopping == "never"):
        return f"num_beams={generation.beams} without early_stopping"
    ends = as_list(settings.eos_token_id)
    suppressed = _find_suppressed(settings, ends)
    if not exact:
        suppressed = [words for words in suppressed if words != [str(settings.pad_token_id)]]
    masking = {
        "min_length": _least_new_tokens(settings),
        "no_repeat_ngram_size": settings.no_repeat_ngram_size,
        "bad_words_ids or suppress_tokens": suppressed,
    }
    masks = [] if settings.renormalize_logits else [name for name, value in masking.items() if value]
    # At the limit transformers adds a place for the forced end; with several ends it keeps more candidates.
    others = {
        "forced_eos_token_id": exact and settings.forced_eos_token_id is not None,
        "several ends": len(ends) > 1,
    }
    names = [*masks, *(name for name, is_set in others.items() if is_set)]
    return f"{names[0]} with num_beams={generation.beams}" if names else None


def options(generation: Generation, model: str) -> TranslationArguments:
    """Return CTranslate2's options for a model's generation settings. Raises Unsuited if it has none."""
    settings = generation.settings
    if unusual := generation.unusual:
        raise Unsuited(f"{model} sets {', '.join(unusual)}, which CTranslate2 does not do as transformers does.")
    ends, forced_ends = as_list(settings.eos_token_id), as_list(settings.forced_eos_token_id)
    prefixes = as_list(settings.forced_bos_token_id)
    if not ends or len(prefixes) > 1 or len(forced_ends) > 1 or (forced_ends and forced_ends[0] not in ends):
        raise Unsuited(f"{model} has start or end tokens that CTranslate2 does not know.")
    most = generation.most_new_tokens
    least = _least_new_tokens(settings)
    forced = forced_ends[0] if forced_ends and most > 1 else None
    longest = most if forced is None else most - 1  # the forced end has the last place
    arguments: dict[str, Any] = {
        "beam_size": generation.beams,
        "max_decoding_length": longest,
        "min_decoding_length": min(least, longest),
        "no_repeat_ngram_size": settings.no_repeat_ngram_size or 0,
        "max_input_length": 0,
        "return_end_token": True,
        "return_scores": True,
        "end_token": [str(end) for end in ends],
    }
    if generation.beams > 1:
        arguments["length_penalty"] = 1.0 if settings.length_penalty is None else settings.length_penalty
        arguments["patience"] = 1.0 if settings.early_stopping is True else _PATIENCE
    if suppressed := _find_suppressed(settings, ends):
        arguments["suppress_sequences"] = suppressed
    return TranslationArguments(arguments, tuple(map(str, prefixes)), forced, most)


def _least_new_tokens(settings: GenerationConfig) -> int:
    # min_length counts the start token.
    return max((settings.min_length or 0) - 1, settings.min_new_tokens or 0, 0)


def _find_suppressed(settings: GenerationConfig, ends: Sequence[int]) -> list[list[str]]:
    """Return the sequences that the model may not write. As in transformers, an end is not among them."""
    sequences = [list(words) for words in settings.bad_words_ids or () if list(words) not in [[end] for end in ends]]
    sequences += [[token] for token in as_list(settings.suppress_tokens)]
    return [list(map(str, words)) for words in sequences]


def _bart(model: PreTrainedModel, *, norm_before: bool, norm_embedding: bool) -> SequenceToSequenceModelSpec:
    """Return the description of a model of BART's design. Its config no longer names the places of its norms.

    This includes Marian: CTranslate2's own loader starts from a zero embedding and drops the row of the padding
    token. Models that were not trained by Marian itself start from that row, and it is not zero.
    """
    model.config.normalize_before, model.config.normalize_embedding = norm_before, norm_embedding
    return loaders.BartLoader().get_model_spec(model)


def _t5(model: PreTrainedModel, loader: type[loaders.T5Loader] = loaders.T5Loader) -> SequenceToSequenceModelSpec:
    """Return the description of a T5. CTranslate2 would scale the outputs of each T5, since embeddings are tied."""
    spec = loader().get_model_spec(model)
    scaled = getattr(model.config, "scale_decoder_outputs", False)
    spec.decoder.scale_outputs = model.config.d_model**-0.5 if scaled else OPTIONAL
    return spec


# The functions that describe a model to CTranslate2, by the type in its config.
LOADERS: dict[str, Callable[[PreTrainedModel], SequenceToSequenceModelSpec]] = {
    "marian": partial(_bart, norm_before=False, norm_embedding=False),
    "bart": partial(_bart, norm_before=False, norm_embedding=True),
    "mbart": partial(_bart, norm_before=True, norm_embedding=True),
    "m2m_100": loaders.M2M100Loader().get_model_spec,
    "pegasus": partial(_bart, norm_before=True, norm_embedding=False),
    "t5": _t5,
    "mt5": _t5,
    "umt5": partial(_t5, loader=loaders.UMT5Loader),
}


def start_token(settings: GenerationConfig, model: str) -> int:
    """Return the token from which the decoder starts. Raises Unsuited if texts start from different tokens."""
    start = settings.decoder_start_token_id
    start = settings.bos_token_id if start is None else start
    if not isinstance(start, int):
        raise Unsuited(f"{model} names no single token to start from.")
    return start


def convert(assignment: Assignment) -> Path:
    """Return the folder with the model in CTranslate2's format, in float32. The cache keeps it.

    Raises Unsuited if the converted model computes something else, and the errors of loading.
    """
    spec, cache_dir = assignment.spec, assignment.cache_dir
    name = f"{spec.revision.replace(':', '-')}-{ctranslate2.__version__}-{_FORMAT}"

    def build(target: Path) -> None:
        opening = Opening.of(assignment)
        with accelerator.quiet(), torch.no_grad():
            _convert(opening.model(torch.float32), generation_settings(opening.folder), target, spec.model)

    return make_once(cache_dir / "ctranslate2" / name, build, cache_dir)


def _convert(model: PreTrainedModel, settings: GenerationConfig, target: Path, name: str) -> None:
    start, end = start_token(settings, name), as_list(settings.eos_token_id)[0]
    try:
        described = _describe(model, start, end)
        described.validate()
        described.optimize(quantization="float32")
    except (KeyError, AttributeError, NotImplementedError, ValueError) as error:
        raise Unsuited(f"{name} does not convert for CTranslate2: {type(error).__name__}.") from error
    described.save(str(target))
    _compare(model, target, start, end, name)


def _describe(model: PreTrainedModel, start: int, end: int) -> SequenceToSequenceModelSpec:
    """Return CTranslate2's description of a model. Its vocabulary has token ids for words: docmill tokenizes."""
    described = LOADERS[model.config.model_type](model)
    described.config.decoder_start_token = described.config.bos_token = str(start)
    # Never looked up: every id is a word.
    described.config.eos_token = described.config.unk_token = str(end)
    (source_size,) = described.get_source_vocabulary_size()
    described.register_source_vocabulary(_words(source_size))
    described.register_target_vocabulary(_words(described.get_target_vocabulary_size()))
    return described


def _words(size: int) -> list[str]:
    return [str(number) for number in range(size)]


def _compare(model: PreTrainedModel, folder: Path, start: int, end: int, name: str) -> None:
    """Raise Unsuited unless both models give some tokens the same log-probabilities. Loaders have errors."""
    read, written = model.get_input_embeddings().num_embeddings, model.get_output_embeddings().weight.shape[0]
    source = [number * (read - 1) // _COMPARED for number in range(1, _COMPARED)] + [end]
    target = [number * (written - 1) // _COMPARED for number in range(1, _COMPARED)]
    logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *target]])).logits[0]
    expected = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor([[*target, end]]).T)[:, 0]
    translator = ctranslate2.Translator(str(folder), device="cpu", compute_type="float32", intra_threads=1)
    (scored,) = translator.score_batch([list(map(str, source))], [list(map(str, target))])
    difference = (torch.tensor(scored.log_probs) - expected).abs().max().item()
    log.info("conversion.compared model=%s difference=%.2g", name, difference)
    if not difference <= _TOLERANCE:
        raise Unsuited(f"{name} converted for CTranslate2 does not say the same: {difference:.2g} of difference.")
