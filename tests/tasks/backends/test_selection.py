"""The backends that may carry a spec out: the table of every case, frozen before there was a registry."""

from __future__ import annotations

import itertools

import pytest

from docmill.tasks.backends import registry
from docmill.tasks.models.families import Family

CPU, GPU = "cpu", "cuda:0"
QUALITIES = ("native", "float32", "bfloat16", "float16", "int8")
KINDS: dict[str, tuple[Family | None, ...]] = {
    "summarize": (Family.SEQ2SEQ, Family.DECODER, None),
    "translate": (Family.SEQ2SEQ, Family.DECODER, None),
    "embed": (Family.ENCODER, Family.SEQ2SEQ, Family.DECODER, None),
    "generate": (Family.DECODER,),
    "classify": (Family.ENCODER, Family.SEQ2SEQ, None),
    "entities": (Family.ENCODER, None, Family.GLINER),
    "answer": (Family.ENCODER, None, Family.SEQ2SEQ, Family.DECODER),
}
HALVES = ("native", "float32", "bfloat16", "float16")


def candidates(kind: str, family: Family | None, quality: str, device: str) -> tuple[str, ...]:
    """Return the choice as it was before the registry, without ONNX Runtime, which was removed since."""
    if family is Family.GLINER:
        return ("gliner",) if quality in {"native", "float32", "bfloat16"} else ()
    writes = kind == "answer" and family in {Family.SEQ2SEQ, Family.DECODER}
    if writes or kind not in {"embed", "classify", "entities", "answer"}:
        if family is Family.DECODER:
            return ("vllm", "transformers") if quality != "int8" else ()
        return ("ctranslate2", "transformers") if quality != "int8" else ("ctranslate2",)
    encoder_on_cpu = family is Family.ENCODER and device == CPU
    return {
        "native": ("openvino", "transformers") if encoder_on_cpu else ("transformers",),
        "float32": ("openvino", "transformers") if encoder_on_cpu else ("transformers",),
        "bfloat16": ("openvino", "transformers") if encoder_on_cpu else ("transformers",),
        "float16": ("transformers",),
        "int8": ("openvino",) if encoder_on_cpu else (),
    }[quality]


CASES = [
    (kind, family, quality, device, candidates(kind, family, quality, device))
    for kind, families in KINDS.items()
    for family, quality, device in itertools.product(families, QUALITIES, (CPU, GPU))
]
EXTRAS = {
    "ctranslate2": {(quality, device): "ctranslate2" for quality in QUALITIES for device in (CPU, GPU)},
    "openvino": {("int8", CPU): "openvino-int8"} | {(quality, CPU): "openvino" for quality in HALVES},
    "vllm": {(quality, CPU): "vllm-cpu" for quality in HALVES} | {(quality, GPU): "vllm" for quality in HALVES},
    "gliner": {(quality, device): "gliner" for quality in HALVES[:3] for device in (CPU, GPU)},
    "transformers": {},
}


@pytest.mark.parametrize(("kind", "family", "quality", "device", "expected"), CASES)
def test_candidates_are_those_of_the_table_in_its_order(
    kind: str, family: Family | None, quality: str, device: str, expected: tuple[str, ...]
) -> None:
    names = [name for name in registry.choices() if name != registry.AUTO]
    for count in range(len(names) + 1):
        for present in itertools.combinations(names, count):
            found = registry.candidates(kind, family, quality=quality, device=device, present=present)
            assert found == tuple(name for name in expected if name in present)


@pytest.mark.parametrize(("kind", "family", "quality", "device", "expected"), CASES)
def test_a_backend_that_is_asked_for_is_alone_if_it_fits(
    kind: str, family: Family | None, quality: str, device: str, expected: tuple[str, ...]
) -> None:
    what = {"quality": quality, "device": device}
    for asked in (name for name in registry.choices() if name != registry.AUTO):
        found = registry.candidates(kind, family, present=registry.choices(), asked=asked, **what)
        assert found == ((asked,) if asked in expected else ())
        extra = EXTRAS[asked].get((quality, device)) if asked in expected else None
        assert registry.extra_for(kind, family, asked=asked, **what) == extra
    first = next((name for name in expected if name != "transformers"), None)
    assert registry.extra_for(kind, family, **what) == (EXTRAS[first][quality, device] if first else None)
