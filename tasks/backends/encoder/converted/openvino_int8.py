"""Encoders in int8 on OpenVINO: NNCF finds the scales once, on texts that come with docmill.

Products take int8 on both sides, with fixed scales: activations are measured on the texts, after outliers have been
shared with the weights (SmoothQuant, Xiao et al. 2022, section 4). What that costs is in docs/benchmarks.md.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import openvino
import rich
import torch

from docmill.storage.core.installation import install
from docmill.tasks.backends.encoder.comparison import Comparison, Measure, compared_lengths, local_span
from docmill.tasks.backends.encoder.converted.compiled import by_name
from docmill.tasks.backends.encoder.converted.openvino_encoder import Conversion, form, traced
from docmill.tasks.backends.encoder.converted.outlier_channels import N_CHANNELS, split_first_layer
from docmill.tasks.backends.tokens import Tokens, padded, padded_arrays
from docmill.tasks.errors import Unsuited
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Raised with every change of what is made below.
_FORMAT = 1
# Paragraphs of package descriptions in English and French, one a line, from every second row of the examples.
_TEXTS = Path(__file__).with_name("calibration.txt")
# How much of the outliers goes to the weights. NNCF's own is 0.95; on MiniLM 0.7 to 0.8 lost least, 0.5 most.
_SMOOTHING = 0.75
# Of the products behind an activation function the first loses most: in MiniLM as much as all others together.
_LEFT_ALONE = 1
_COMPARED_TEXTS = 8
# How far the mean state of a text may turn, as 1 - cosine. Measured: 0.002 for MiniLM, at most 0.0001 for small
# random models.
_TOLERANCE = 0.03


def quantization(
    model: PreTrainedModel, tokens: Tokens, limit_tokens: int, *, first_only: bool = False, split: bool = False
) -> Conversion:
    """The float32 transformers encoder in int8. ``first_only`` is as in ``openvino_encoder.tracing``.

    The product behind the first activation function stays in floating point. With ``split`` only its outlier channels
    do, which is faster and as near to float32. Raises Unsuited where NNCF is not installed.
    """
    try:
        nncf = version("nncf")
    except PackageNotFoundError as error:
        raise Unsuited(f"Encoders in int8 need NNCF: {install('openvino-int8')}.") from error
    numbers = f"{openvino.__version__.partition('-')[0]}-{nncf}-{version('transformers')}-{_FORMAT}"
    if local_span(model.config):
        numbers += f"-{form(model)}"
    if first_only:
        numbers += "-first"
    if split:
        numbers += "-split"
    texts = [
        one for one in tokens.encode(_TEXTS.read_text(encoding="utf-8").splitlines()) if one.tokens <= limit_tokens
    ]
    if len(texts) < _COMPARED_TEXTS:
        raise Unsuited("The model's windows are too short to measure its activations.")
    return Conversion(
        f"int8-{numbers}",
        lambda: _converted(model, tokens, texts, first_only=first_only, split=split),
        lambda: _measured(model, tokens, [*texts[:_COMPARED_TEXTS], _long(model.config, texts)], first_only),
    )


def _measured(model: PreTrainedModel, tokens: Tokens, texts: Sequence[Encoded], first_only: bool) -> Comparison:
    """Return the comparison of the mean or first states of texts with those by the model's own code."""
    with torch.inference_mode():
        states = [model(**padded([text], tokens)).last_hidden_state[0].float() for text in texts]
    if first_only:
        states = [one[:1].clone() for one in states]
    return Comparison(texts, states, _TOLERANCE, Measure.MEANS)


def _long(config: PretrainedConfig, texts: list[Encoded]) -> Encoded:
    """A text made of several, as long as a comparison has to have one."""
    longest = max(compared_lengths(config))
    joined: dict[str, list[int]] = {}
    for text in texts:
        for name in text.features:
            joined.setdefault(name, []).extend(text.feature(name))
    return Encoded(longest, {name: numbers[:longest] for name, numbers in joined.items()})


def _converted(
    model: PreTrainedModel, tokens: Tokens, texts: list[Encoded], *, first_only: bool, split: bool
) -> openvino.Model:
    if not split:
        made = traced(model, tokens, first_only=first_only)
        return _quantized(made, tokens, texts, _contracting(made)[:_LEFT_ALONE])
    with split_first_layer(model, texts):
        made = traced(model, tokens, first_only=first_only)
    return _quantized(made, tokens, texts, [name for name, inputs, _ in _products(made) if inputs == N_CHANNELS])


def _quantized(
    made: openvino.Model, tokens: Tokens, texts: list[Encoded], left_alone: Sequence[str]
) -> openvino.Model:
    """Return the model with all its products in int8 but those of these names."""
    names = [port.any_name for port in made.inputs]

    def given(text: Encoded) -> dict[str, npt.NDArray[np.int64]]:
        return by_name(padded_arrays([text], tokens), names)

    with _silent_nncf() as nncf:
        return nncf.quantize(
            made,
            nncf.Dataset(texts, given),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(texts),
            ignored_scope=nncf.IgnoredScope(names=[*left_alone], validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=_SMOOTHING)
            ),
        )


def _contracting(made: openvino.Model) -> list[str]:
    """The linear layers that have more inputs than outputs, from the first on."""
    return [name for name, inputs, outputs in _products(made) if inputs > outputs]


def _products(made: openvino.Model) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each linear layer with the numbers of its inputs and outputs, from the first on."""
    for node in made.get_ordered_ops():
        if node.get_type_name() == "MatMul" and node.input_value(1).get_node().get_type_name() == "Constant":
            shape = list(node.input_value(1).get_shape())
            outputs, inputs = shape[-2:] if node.get_attributes()["transpose_b"] else reversed(shape[-2:])
            yield node.get_friendly_name(), inputs, outputs


@contextmanager
def _silent_nncf() -> Iterator[ModuleType]:
    """The library, which is slow to import, talks on standard output and makes its own the class of all loggers."""
    of_loggers, console = logging.getLoggerClass(), rich.get_console()
    quiet = console.quiet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            console.quiet = True
            import nncf

            nncf.disable_logging()  # drops its handlers, whose level the next line would raise: some are not its own
            nncf.set_log_level(logging.ERROR)
            yield nncf
        finally:
            console.quiet = quiet
            logging.setLoggerClass(of_loggers)
