"""Encoders on ONNX Runtime, in float32: we know of no way to have it compute them in bfloat16 on an x86 processor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import transformers
from torch import Tensor

from tasks.backends import accelerator
from tasks.backends.encoder.converted.conversion import STATES, Conversion, States, by_name, example
from tasks.backends.encoder.packed import TOLERANCES, difference
from tasks.backends.tokens import Tokens, padded
from tasks.windows import Encoded

# Raised with every change of what is written below.
_FORMAT = 1
_FILE = "model.onnx"
_OPSET = 17  # the first with layer norms as one operation


class OnnxEncoder:
    """The last hidden states of an encoder for a batch of token ids, padded; safe to call from several threads."""

    def __init__(self, folder: Path, tokens: Tokens) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a batch is computed by the thread that brings it
        self._session = onnxruntime.InferenceSession(str(folder / _FILE), options, providers=["CPUExecutionProvider"])
        self._names = [port.name for port in self._session.get_inputs()]
        self._tokens = tokens

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, Tensor]:
        """``token_embeddings`` in float32, of shape (texts, longest, dim), and their ``attention_mask``."""
        features = padded(batch, self._tokens)
        (states,) = self._session.run([STATES], by_name(features, self._names))
        return {"token_embeddings": torch.from_numpy(states), "attention_mask": features["attention_mask"]}


def exporting(model: Any, tokens: Tokens) -> Conversion:
    """The float32 transformers encoder as it is."""
    return Conversion(
        "ONNX Runtime",
        f"{torch.__version__.partition('+')[0]}-{transformers.__version__}-{_FORMAT}",
        lambda folder: export(model, tokens, folder / _FILE),
        lambda folder: OnnxEncoder(folder, tokens),
        lambda encoder: difference(encoder, model),
        TOLERANCES[torch.float32],
    )


def export(model: Any, tokens: Tokens, file: Path) -> None:
    """Write the encoder as ONNX: inputs by the tokenizer's names, of any shape, to its last hidden states.

    The model's attention is written out from here on: ONNX Runtime makes one operation of it then.
    """
    given = example(tokens)
    model.set_attn_implementation("eager")
    axes = {name: {0: "texts", 1: "tokens"} for name in (*given, STATES)}
    with accelerator.quiet(), warnings.catch_warnings(), torch.no_grad():
        # The tracer's, on every `if` of the model's code, and that there is a newer exporter. What that writes was 8
        # to 27 % slower (MiniLM in float32 on one thread, one trial beside other work).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            States(model, list(given)).eval(),  # it is put back into whatever mode it came in
            tuple(given.values()),
            str(file),
            input_names=list(given),
            output_names=[STATES],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )
