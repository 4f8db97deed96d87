"""Decoder-only models on vLLM, with vLLM's own scheduler and its cache of shared prefixes.

The engine runs in this process, on the thread that made it: on a CPU vLLM binds its computing threads to cores, and
they belong to the thread that started them.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The engine must not fork, since this process has threads. Its log and its usage statistics are off.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
from vllm import EngineArgs, LLMEngine, SamplingParams, __version__
from vllm.config import StructuredOutputsConfig
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from docmill.storage.core.specs import Reason, Spec
from docmill.storage.outputs.output_types import SCHEMA
from docmill.tasks import schema_checks
from docmill.tasks.backends import Assignment, WindowSource, accelerator
from docmill.tasks.backends.decoder_only.instructed import Completion, constraint_tokenizer, record
from docmill.tasks.backends.decoding import Decoding, seed_of
from docmill.tasks.backends.loading import Opening
from docmill.tasks.backends.static import failure
from docmill.tasks.batching import UNBOUNDED, Budget, Item
from docmill.tasks.errors import DeviceLost, Unsuited, describe_error
from docmill.tasks.outputs import Likelihood, Output
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from vllm.outputs import CompletionOutput

# For keys and values on a CPU. On a GPU, vLLM chooses by itself.
_CPU_CACHE_BYTES = 2 << 30
# The longest context to ask for: vLLM refuses a context for which its cache has no room.
_CONTEXT = {"cpu": 8192, "cuda": 32_768}
_LARGE_BYTES = 70 << 30
# Weights of at most this share of a GPU's memory leave room for the keys and values of a thousand texts.
_SMALL_SHARE = 0.5


class VllmBackend:
    """One decoder-only model under one spec."""

    def __init__(self, assignment: Assignment) -> None:
        spec, device = assignment.spec, assignment.device
        if device not in {"cpu", "cuda", "cuda:0"}:
            raise Unsuited(f"vLLM does not compute {spec.quality} on {device} here.")
        self._device = device
        self._kind = device.partition(":")[0]
        self._dtype = accelerator.dtype_for(spec.quality, device)
        opening = Opening.of(assignment)
        model = opening.require_weights()
        weight_bytes = None if model is None else model.num_parameters() * self._dtype.itemsize
        self._sequences, self._batched_tokens = scheduling(weight_bytes, *_gpu(device))
        self._completion = Completion(opening, most_tokens=_CONTEXT[self._kind])
        self.limit_tokens = self._completion.limit_tokens
        if setting := inexact(self._completion.decoding):
            raise Unsuited(f"vLLM does not write as transformers does: {setting}.")
        self._decoding = self._completion.decoding
        self._schema: dict[str, Any] | None = None
        self._record_tokens: LLTokenizer | None = None
        if SCHEMA in spec.params:
            end = opening.tokenizer.eos_token_id
            if end is None:
                raise Unsuited(f"vLLM ends a record with the tokenizer's end token, and {spec.model} has none.")
            self._decoding = replace(self._decoding, ends=frozenset({end}))
            self._schema = schema_checks.guided(json.loads(spec.params[SCHEMA]))
            self._record_tokens = constraint_tokenizer(opening, (end,))
        self._thread = ThreadPoolExecutor(1, "vllm")
        self._engine: LLMEngine = self._thread.submit(self._start, opening.folder, spec).result()
        self.traits = self._completion.traits

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._completion.tokens.encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        flight: dict[str, Item[Any]] = {}
        # As many texts wait inside vLLM as are being written, so that a text can start when another ends.
        most = 2 * self._sequences
        while True:
            items = source.take(Budget(tokens=UNBOUNDED, rows=most - len(flight), spread=UNBOUNDED, packed=True))
            if not items and not flight:
                return
            for item in items:
                try:
                    ids = list(item.encoded.ids)
                    parameters = sampling(self._decoding, ids, self._schema)
                    self._engine.add_request(str(item.id), {"prompt_token_ids": ids}, parameters)
                except Exception as error:  # vLLM refuses this text; the others go on
                    yield item.id, failure(error.with_traceback(None), Reason.DOCUMENT)
                else:
                    flight[str(item.id)] = item
            if flight:
                yield from self._step(flight)

    def runtime(self) -> dict[str, Any]:
        return accelerator.runtime("vllm", self._device, self._dtype, vllm=__version__)

    def close(self) -> None:
        self._thread.submit(self._engine.engine_core.shutdown).result()
        del self._engine
        self._thread.shutdown()
        gc.collect()  # the engine's parts refer to one another
        accelerator.release(self._device)

    def _start(self, folder: Path, spec: Spec) -> LLMEngine:
        sized = {"kv_cache_memory_bytes": _CPU_CACHE_BYTES} if self._kind == "cpu" else {}
        try:
            return LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(folder),
                    dtype=str(self._dtype).removeprefix("torch."),
                    max_model_len=self._completion.context_tokens,
                    max_num_seqs=self._sequences,
                    max_num_batched_tokens=self._batched_tokens,
                    enable_prefix_caching=True,
                    # On a CPU, a graph saves less time than its compilation takes.
                    enforce_eager=self._kind == "cpu",
                    structured_outputs_config=StructuredOutputsConfig(backend="guidance"),
                    generation_config="vllm",  # the model's own is followed here, not there
                    trust_remote_code=False,
                    disable_log_stats=True,
                    **sized,
                )
            )
        except Exception as error:  # whatever vLLM raises about the model, the device or the memory
            raise Unsuited(f"vLLM cannot take {spec.model}: {describe_error(error, 'vllm')}") from error

    def _step(self, flight: dict[str, Item[Any]]) -> Iterator[tuple[int, Output]]:
        """Let vLLM compute one step, and yield the outputs that are finished."""
        try:
            with accelerator.memory_errors(self._device):
                answers = self._thread.submit(self._engine.step).result()
        except Exception as error:
            # After a failed step the engine is unusable. A new process starts, and the texts in flight are suspects.
            raise DeviceLost(f"vLLM failed: {type(error).__name__}") from error
        for answer in answers:
            if answer.finished:
                item = flight.pop(answer.request_id)
                (written,) = answer.outputs
                # vLLM's own text leaves out a last character with incomplete bytes.
                at_end, sure = written.finish_reason != "length", likelihood(written)
                if at_end and self._record_tokens is not None:
                    yield item.id, record(self._record_tokens, written.token_ids, sure)
                else:
                    yield item.id, self._completion.generated(written.token_ids, at_end=at_end, likelihood=sure)


def _gpu(device: str) -> tuple[str | None, int]:
    """Return the name and the memory in bytes of a GPU; None and 0 for a CPU."""
    if device == "cpu":
        return None, 0
    properties = torch.cuda.get_device_properties(device)
    return properties.name, properties.total_memory


def scheduling(weight_bytes: int | None, gpu: str | None, memory_bytes: int) -> tuple[int, int]:
    """Return the number of texts to write at once, and the tokens of one step, read and written.

    ``weight_bytes`` is None if it is unknown. ``gpu`` is the name of a GPU, None for a CPU.

    The figures for GPUs are vLLM's own for offline work (``EngineArgs.get_batch_defaults``), which only its class
    ``LLM`` applies. More than 8,192 tokens made an A100 slower (vllm-project/vllm, pull request 17885). Large models
    get 256 sequences (docs.vultr.com, "Concurrency Tuning": 128 to 256 where a large model constrains the memory, 512
    to 1,024 by default).

    There is no speculative decoding: its gain shrinks as batches grow, and here batches have hundreds of texts
    ("Speculative Decoding: Performance or Illusion?", arXiv 2601.11580, vLLM on H100, batches of 1 to 128).
    """
    if gpu is None:
        return 64, 2048
    if memory_bytes < _LARGE_BYTES or "a100" in gpu.lower():
        return 256, 8192
    is_small = weight_bytes is not None and weight_bytes <= _SMALL_SHARE * memory_bytes
    return 1024 if is_small else 256, 16_384


def likelihood(written: CompletionOutput) -> Likelihood | None:
    """Return the log-probabilities of an output's tokens, after a schema's mask, before a temperature or a penalty.

    None if vLLM leaves out a token's.
    """
    each = [
        candidates[token].logprob
        for token, candidates in zip(written.token_ids, written.logprobs or (), strict=False)
    ]
    return Likelihood.of(each) if len(each) == len(written.token_ids) else None


def inexact(decoding: Decoding) -> str | None:
    """Return a setting with which vLLM's outputs differ from those of transformers' ``generate``, or None."""
    settings = {
        "stop_strings of the model, which may be special tokens": decoding.closing,
        "several outputs": decoding.n > 1,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
        "bad_words_ids or suppress_tokens": decoding.bad_words_ids or decoding.suppress_tokens,
        "min_length": decoding.min_length,
        # vLLM looks for a stop text only after this many tokens.
        "min_new_tokens with a text to stop at": decoding.min_new_tokens and decoding.stop,
        # vLLM applies min_p first, and transformers last.
        "min_p with top_p": decoding.min_p and decoding.top_p < 1,
    }
    return next((name for name, value in settings.items() if value), None)


def sampling(decoding: Decoding, ids: Sequence[int], schema: dict[str, Any] | None) -> SamplingParams:
    """Return vLLM's parameters for one window. With a schema, the output is a record."""
    return SamplingParams(
        max_tokens=decoding.most_new_tokens(len(ids)),
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k,
        min_p=decoding.min_p,
        min_tokens=decoding.min_new_tokens,
        seed=seed_of(decoding.seed, ids) if decoding.samples else None,
        repetition_penalty=decoding.repetition_penalty,
        stop=list(decoding.stop),
        stop_token_ids=sorted(decoding.ends),
        ignore_eos=True,  # stop_token_ids has all ends
        detokenize=bool(decoding.stop),
        logprobs=0,  # of the written tokens only
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
    )
