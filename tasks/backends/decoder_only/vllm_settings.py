"""vLLM's scheduling by the size of the model and the device. It imports neither vLLM nor torch."""

from __future__ import annotations

_GIB = 1 << 30
_LARGE_BYTES = 70 * _GIB
# Of a device's memory, weights may take so much that the keys and values of a thousand texts still have room.
_SMALL_SHARE = 0.5


def scheduling(weight_bytes: int | None, gpu: str | None, memory_bytes: int = 0) -> tuple[int, int]:
    """Return the texts that are written at once, and the tokens of one step: of prompts and of texts together.

    The weights have so many bytes, None if they are not known. A GPU has a name and so much memory, a CPU has none.

    The figures for GPUs are vLLM's own for offline work (its ``EngineArgs.get_batch_defaults``). An engine that is
    made without the class ``LLM`` does not get them, but 2,048 tokens. More than 8,192 made an A100 slower
    (vllm-project/vllm, pull request 17885). Large models get 256 sequences (docs.vultr.com, "Concurrency Tuning":
    128 to 256 where a large model constrains the memory, 512 to 1,024 by default).

    No tokens are speculated from n-grams of the prompt: the gain shrinks as batches grow, and here they have hundreds
    of texts ("Speculative Decoding: Performance or Illusion?", arXiv 2601.11580, vLLM on H100, batches of 1 to 128).
    """
    if gpu is None:
        return 64, 2048
    if memory_bytes < _LARGE_BYTES or "a100" in gpu.lower():
        return 256, 8192
    is_small = weight_bytes is not None and weight_bytes <= _SMALL_SHARE * memory_bytes
    return 1024 if is_small else 256, 16_384
