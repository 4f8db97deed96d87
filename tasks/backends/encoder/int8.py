"""Encoders in int8 on OpenVINO. NNCF measures the scales once, on texts that come with docmill.

Both sides of a product are int8, with fixed scales. NNCF first moves a share of the activations' outliers to the
weights (SmoothQuant, Xiao et al. 2022, section 4). bench/results/diary.md has the loss of quality.

All values that enter a product have one scale. In a feed-forward network, a few channels have values many times as
large as the others, which such a scale rounds to zero (Dettmers et al. 2022, LLM.int8(), section 3). So the product
after the first activation function stays in floating point.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import openvino
import rich

from docmill.storage.extras import install
from docmill.tasks.backends.encoder.converted import by_name
from docmill.tasks.backends.encoder.heads import Array, ReferenceStates
from docmill.tasks.backends.encoder.own_code import compared_lengths, compute_reference
from docmill.tasks.backends.tokens import Tokens, padded_arrays
from docmill.tasks.errors import Unsuited
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Raise this number with every change of the quantization.
_FORMAT = 2
# Paragraphs of package descriptions in English and French, one a line, from every second row of the examples.
_TEXTS = Path(__file__).with_name("calibration.txt")
# The share of the outliers that moves to the weights. NNCF's default is 0.95. On MiniLM, 0.7 to 0.8 lost least, and
# 0.5 most.
_SMOOTHING = 0.75
# The first product after an activation function loses most: in MiniLM, as much as all others together.
_N_FLOATING = 1
_COMPARED_TEXTS = 8
# The largest distance of a text's mean state, as 1 - cosine. Measured: 0.002 for MiniLM, at most 0.0001 for small
# random models.
_TOLERANCE = 0.03


# The version of an encoder's form on OpenVINO, with everything on which the result depends; the function that makes
# the form; and the function that computes the reference states by the model's own code.
Conversion = tuple[str, Callable[[], openvino.Model], Callable[[], ReferenceStates]]


def quantization(
    form: str,
    trace: Callable[[], openvino.Model],
    model: PreTrainedModel,
    tokens: Tokens,
    limit_tokens: int,
    *,
    first_only: bool = False,
) -> Conversion:
    """Return the conversion of an encoder to int8. ``trace`` returns it in float32; ``form`` is the version of that.

    Raises Unsuited if NNCF is not installed.
    """
    try:
        nncf = version("nncf")
    except PackageNotFoundError as error:
        raise Unsuited(f"Encoders in int8 need NNCF: {install('openvino-int8')}.") from error
    texts = [
        text for text in tokens.encode(_TEXTS.read_text(encoding="utf-8").splitlines()) if text.tokens <= limit_tokens
    ]
    if len(texts) < _COMPARED_TEXTS:
        raise Unsuited("The model's windows are too short to measure its activations.")

    def make() -> openvino.Model:
        made = trace()
        contracting = [name for name, inputs, outputs in _products(made) if inputs > outputs]
        return _quantize(made, tokens, texts, contracting[:_N_FLOATING])

    def compare() -> ReferenceStates:
        compared_texts = [*texts[:_COMPARED_TEXTS], _join_texts(model.config, texts)]
        return compute_reference(model, _TOLERANCE, compared_texts, first_only=first_only, means=True)

    return f"int8-{nncf}-{_FORMAT}-{form}", make, compare


def _join_texts(config: PretrainedConfig, texts: list[Encoded]) -> Encoded:
    """Return one long text from several, since a comparison needs one."""
    longest = max(compared_lengths(config))
    joined: dict[str, list[int]] = {}
    for text in texts:
        for name in text.features:
            joined.setdefault(name, []).extend(text.feature(name))
    return Encoded(longest, {name: numbers[:longest] for name, numbers in joined.items()})


def _quantize(made: openvino.Model, tokens: Tokens, texts: list[Encoded], floating: Sequence[str]) -> openvino.Model:
    """Return the model with its products in int8, except those with the names in ``floating``."""
    names = [port.any_name for port in made.inputs]

    def features(text: Encoded) -> dict[str, Array]:
        return by_name(padded_arrays([text], tokens), names)

    with _silent_nncf() as nncf:
        return nncf.quantize(
            made,
            nncf.Dataset(texts, features),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(texts),
            ignored_scope=nncf.IgnoredScope(names=[*floating], validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=_SMOOTHING)
            ),
        )


def _products(made: openvino.Model) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each linear layer, in order, with the numbers of its inputs and outputs."""
    for node in made.get_ordered_ops():
        if node.get_type_name() == "MatMul" and node.input_value(1).get_node().get_type_name() == "Constant":
            shape = list(node.input_value(1).get_shape())
            outputs, inputs = shape[-2:] if node.get_attributes()["transpose_b"] else reversed(shape[-2:])
            yield node.get_friendly_name(), inputs, outputs


@contextmanager
def _silent_nncf() -> Iterator[ModuleType]:
    """Yield NNCF without its output, and restore the class of loggers that it replaces. Importing it is slow."""
    of_loggers, console = logging.getLoggerClass(), rich.get_console()
    quiet = console.quiet
    with warnings.catch_warnings(action="ignore"):
        try:
            console.quiet = True
            import nncf

            nncf.disable_logging()  # drops its handlers: the next line would change the level of others' handlers
            nncf.set_log_level(logging.ERROR)
            yield nncf
        finally:
            console.quiet = quiet
            logging.setLoggerClass(of_loggers)
