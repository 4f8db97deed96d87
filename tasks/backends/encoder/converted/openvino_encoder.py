"""Encoders on OpenVINO: the model's own code, traced."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import openvino
import torch
import transformers
from torch import Tensor

from tasks.backends import accelerator
from tasks.backends.encoder.converted.conversion import STATES, Conversion, LastStates, by_name, example
from tasks.backends.encoder.packed import TOLERANCES, difference, local_span
from tasks.backends.tokens import Tokens, padded
from tasks.windows.windows import Encoded

LIBRARY = "OpenVINO"
# Raised with every change of what is written below.
_FORMAT = 1
_FILE = "model.xml"
_PRECISIONS: Mapping[torch.dtype, str] = MappingProxyType({torch.float32: "f32", torch.bfloat16: "bf16"})


class OpenVinoEncoder:
    """The last hidden states of an encoder for a batch of token ids, padded; safe to call from several threads."""

    def __init__(self, folder: Path, tokens: Tokens, dtype: torch.dtype) -> None:
        at_once = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": at_once,
            "NUM_STREAMS": at_once,
            "ENABLE_CPU_PINNING": False,  # beside other processes a core that is taken is waited for
        }
        self._compiled = openvino.Core().compile_model(str(folder / _FILE), "CPU", settings)
        self._names = [port.any_name for port in self._compiled.inputs]
        self._tokens = tokens
        self._of_thread = threading.local()

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, Tensor]:
        """``token_embeddings`` in float32, of shape (texts, longest, dim), and their ``attention_mask``."""
        features = padded(batch, self._tokens)
        found = self._request().infer(by_name(features, self._names))
        states = found[STATES].astype(np.float32)  # a copy: the next call writes there again
        return {"token_embeddings": torch.from_numpy(states), "attention_mask": features["attention_mask"]}

    def _request(self) -> Any:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        return self._of_thread.request


def tracing(model: Any, tokens: Tokens, dtype: torch.dtype) -> Conversion:
    """The float32 transformers encoder as it is, computed in ``dtype``."""
    return Conversion(
        LIBRARY,
        f"{openvino.__version__.partition('-')[0]}-{transformers.__version__}-{form(model)}",
        lambda folder: save(traced(model, tokens), folder),
        lambda folder: OpenVinoEncoder(folder, tokens, dtype),
        lambda encoder: difference(encoder, model),
        TOLERANCES[dtype],
    )


def form(model: Any) -> str:
    """Return the part of a conversion's version that depends on the model's attention."""
    return f"{_FORMAT}-local" if local_span(model.config) else str(_FORMAT)


def save(made: Any, folder: Path) -> None:
    """Write a model of OpenVINO's as ``OpenVinoEncoder`` reads it."""
    openvino.save_model(made, folder / _FILE, compress_to_fp16=False)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """The converter lets the root logger say errors only, and adds a filter and a handler of its own."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


@contextmanager
def _written_out(model: Any) -> Iterator[None]:
    """Have local attention traced as products.

    Fused, OpenVINO gives NaN for a token that attends to no other. Padding that is further from the text than the
    span is such a token.
    """
    config = getattr(model, "config", None)
    if config is None or not local_span(config):
        yield
        return
    before = config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def traced(model: Any, tokens: Tokens) -> Any:
    """The encoder as OpenVINO's model: inputs by the tokenizer's names, of any shape, to its last hidden states."""
    given = example(tokens)
    with accelerator.quiet(), warnings.catch_warnings(), torch.no_grad(), _root_logger_kept(), _written_out(model):
        warnings.simplefilter("ignore")  # the tracer's, on every `if` of the model's code
        made = openvino.convert_model(LastStates(model, list(given)), example_input=tuple(given.values()))
    for port, name in zip(made.inputs, given, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    made.outputs[0].get_tensor().set_names({STATES})
    made.validate_nodes_and_infer_types()
    return made
