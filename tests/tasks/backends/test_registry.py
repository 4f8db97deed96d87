"""A backend is one module and one row of the registry; everything else derives from the row."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import registry
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.errors import BadOption, CannotServe
from docmill.tasks.models.families import Family
from docmill.tasks.specs import pinning


def test_an_unknown_backend_is_an_error_that_lists_the_backends() -> None:
    with pytest.raises(BadOption, match=r"no backend named 'smalls'.*ctranslate2.*transformers"):
        registry.row("smalls")
    spec = Spec(kind="summarize", model="synopsis-ddtp", revision="sha256:00", quality="native")
    for family in (Family.SEQ2SEQ, None):
        with pytest.raises(BadOption, match="no backend named"):
            registry.candidates(
                spec.kind, family, quality=spec.quality, device="cpu", present=registry.names(), wanted="smalls"
            )


def test_a_kind_without_a_head_for_the_family_has_no_candidates(tmp_path: Path) -> None:
    found = registry.candidates("translate", Family.ENCODER, quality="native", device="cpu", present=registry.names())
    assert found == ()
    encoder = pinning.pin("minilm", models_dir=None, cache_dir=tmp_path)
    spec = Spec(kind="translate", model=encoder.model, revision=encoder.revision, quality="native")
    with pytest.raises(CannotServe, match="translate needs an encoder-decoder"):
        open_backend(spec, device="cpu", models_dir=None, cache_dir=tmp_path)


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


def test_candidates_are_those_of_the_table_in_its_order() -> None:
    names = registry.names()
    for kind, family, quality, device, expected in CASES:
        for count in range(len(names) + 1):
            for present in itertools.combinations(names, count):
                found = registry.candidates(kind, family, quality=quality, device=device, present=present)
                assert found == tuple(name for name in expected if name in present), (kind, family, quality, device)


def test_a_backend_that_is_asked_for_is_alone_if_it_fits() -> None:
    for kind, family, quality, device, expected in CASES:
        what = {"quality": quality, "device": device}
        for asked in registry.names():
            found = registry.candidates(kind, family, present=registry.names(), wanted=asked, **what)
            assert found == ((asked,) if asked in expected else ()), (kind, family, asked, what)
            extra = EXTRAS[asked].get((quality, device)) if asked in expected else None
            assert registry.extra_for(kind, family, wanted=asked, **what) == extra
        first = next((name for name in expected if name != "transformers"), None)
        extra = EXTRAS[first][quality, device] if first else None
        assert registry.extra_for(kind, family, wanted=registry.AUTO, **what) == extra
