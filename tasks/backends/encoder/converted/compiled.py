"""A converted encoder as OpenVINO computes it, on arrays."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import openvino

from docmill.tasks.backends.tokens import Tokens, padded_arrays
from docmill.tasks.windows.windows import Encoded

FOLDER = "openvino"  # of the cache
FILE = "model.xml"
STATES = "states"  # the name of the output
_PRECISIONS: Mapping[str, str] = MappingProxyType({"float32": "f32", "bfloat16": "bf16"})
# On AMX, OpenVINO 2026.4 computes batches of this length wrongly in int8: the cosines of MiniLM's vectors with those
# in float32 were 0.65 to 0.98. No other length from 4 to 256 tokens was wrong.
_MISCOMPUTED = 32


class CompiledEncoder:
    """The last hidden states of an encoder for a batch of token ids, padded; safe to call from several threads.

    Of an encoder that was converted for its first tokens only, they are those, with a mask of their own.
    """

    def __init__(self, folder: Path, tokens: Tokens, precision: str, threads: int) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,  # beside other processes a core that is taken is waited for
        }
        self._compiled = openvino.Core().compile_model(str(folder / FILE), "CPU", settings)
        self._names = [port.any_name for port in self._compiled.inputs]
        self._tokens = tokens
        self._of_thread = threading.local()

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
        """``token_embeddings`` in float32, of shape (texts, length, dim), and their ``attention_mask``."""
        longest = max(one.tokens for one in batch)
        features = padded_arrays(batch, self._tokens, longest + (longest == _MISCOMPUTED))
        found = self._request().infer(by_name(features, self._names))
        states = found[STATES].astype(np.float32)  # a copy: the next call writes there again
        return {"token_embeddings": states, "attention_mask": features["attention_mask"][:, : states.shape[1]]}

    def _request(self) -> openvino.InferRequest:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        return self._of_thread.request


def by_name(features: Mapping[str, npt.NDArray[np.int64]], names: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """A padded batch for inputs of these names; one that the tokenizer does not give is zeros."""
    zeros = np.zeros_like(features["input_ids"])
    return {name: features.get(name, zeros) for name in names}
