"""vLLM's scheduling by the size of the model and the device. It imports neither vLLM nor torch."""

from __future__ import annotations

from dataclasses import dataclass

_GIB = 1 << 30
_LARGE_BYTES = 70 * _GIB
# Of a device's memory, weights may take so much that the keys and values of a thousand texts still have room.
_SMALL_SHARE = 0.5


@dataclass(frozen=True)
class Scheduling:
    """Texts that are written at once, and tokens of one step: of prompts and of texts together."""

    sequences: int
    batched_tokens: int


@dataclass(frozen=True)
class Accelerator:
    """A GPU's name and memory."""

    name: str
    memory_bytes: int


def scheduling(weight_bytes: int | None, gpu: Accelerator | None) -> Scheduling:
    """Return the scheduling for weights of so many bytes, None if they are not known, on a GPU or on a CPU.

    The figures for GPUs are vLLM's own for offline work (its ``EngineArgs.get_batch_defaults``). An engine that is
    made without the class ``LLM`` does not get them, but 2,048 tokens. More than 8,192 made an A100 slower
    (vllm-project/vllm, pull request 17885). Large models get 256 sequences (docs.vultr.com, "Concurrency Tuning":
    128 to 256 where a large model constrains the memory, 512 to 1,024 by default).

    No tokens are speculated from n-grams of the prompt: the gain shrinks as batches grow, and here they have hundreds
    of texts ("Speculative Decoding: Performance or Illusion?", arXiv 2601.11580, vLLM on H100, batches of 1 to 128).
    """
    if gpu is None:
        return Scheduling(64, 2048)
    if gpu.memory_bytes < _LARGE_BYTES or "a100" in gpu.name.lower():
        return Scheduling(256, 8192)
    is_small = weight_bytes is not None and weight_bytes <= _SMALL_SHARE * gpu.memory_bytes
    return Scheduling(1024 if is_small else 256, 16_384)
