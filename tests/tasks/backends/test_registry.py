"""The registry offers the backends that compute a kind of task with a model on a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import registry
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.errors import BadOption, CannotServe
from docmill.tasks.models.families import Family
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning


def test_an_unknown_backend_is_an_error_that_lists_the_backends() -> None:
    with pytest.raises(BadOption, match=r"no backend named 'smalls'.*ctranslate2.*transformers"):
        registry.row("smalls")
    spec = Spec(kind="summarize", model="synopsis-ddtp", revision="sha256:00", quality="native")
    for family in (Family.SEQ2SEQ, None):
        with pytest.raises(BadOption, match="no backend named"):
            registry.candidates(spec.kind, family, quality=spec.quality, device="cpu", wanted="smalls")


def test_a_kind_without_a_head_for_the_family_has_no_offers(tmp_path: Path) -> None:
    assert registry.offers("translate", Family.ENCODER, quality="native", device="cpu") == {}
    folders = ModelFolders(None, tmp_path)
    encoder = pinning.pin("minilm", folders)
    spec = Spec(kind="translate", model=encoder.model, revision=encoder.revision, quality="native")
    with pytest.raises(CannotServe, match="translate needs an encoder-decoder"):
        open_backend(spec, device="cpu", folders=folders)


CPU, GPU = "cpu", "cuda:0"
# By kind, family, quality and device: the backends in the order of preference, and the extra of the first.
OFFERS = [
    ("summarize", Family.SEQ2SEQ, "native", GPU, ("ctranslate2", "transformers"), "ctranslate2"),
    ("translate", None, "int8", CPU, ("ctranslate2",), "ctranslate2"),
    ("answer", Family.SEQ2SEQ, "float16", CPU, ("ctranslate2", "transformers"), "ctranslate2"),
    ("generate", Family.DECODER, "native", GPU, ("vllm", "transformers"), "vllm"),
    ("answer", Family.DECODER, "bfloat16", CPU, ("vllm", "transformers"), "vllm-cpu"),
    ("generate", Family.DECODER, "int8", CPU, (), None),
    ("embed", Family.ENCODER, "native", CPU, ("openvino", "transformers"), "openvino"),
    ("classify", Family.ENCODER, "int8", CPU, ("openvino",), "openvino-int8"),
    ("entities", Family.ENCODER, "float16", CPU, ("transformers",), None),
    ("answer", Family.ENCODER, "float32", GPU, ("transformers",), None),
    ("embed", Family.ENCODER, "int8", GPU, (), None),
    ("embed", Family.DECODER, "native", CPU, ("transformers",), None),
    ("classify", None, "native", CPU, ("transformers",), None),
    ("entities", Family.GLINER, "bfloat16", GPU, ("gliner",), "gliner"),
    ("entities", Family.GLINER, "float16", CPU, (), None),
]


@pytest.mark.parametrize(("kind", "family", "quality", "device", "expected", "extra"), OFFERS)
def test_a_kind_is_offered_by_the_backends_that_compute_it(
    kind: str, family: Family | None, quality: str, device: str, expected: tuple[str, ...], extra: str | None
) -> None:
    place = {"quality": quality, "device": device}
    assert tuple(registry.offers(kind, family, **place)) == expected
    installed = tuple(name for name in expected if registry.row(name).is_installed)
    assert tuple(registry.candidates(kind, family, **place)) == installed
    for name in registry.names():
        alone = registry.offers(kind, family, wanted=name, **place)
        assert tuple(alone) == ((name,) if name in expected else ())
        needed = extra if name in expected and name != "transformers" else None
        assert registry.extra_for(kind, family, wanted=name, **place) == needed
    assert registry.extra_for(kind, family, wanted=registry.AUTO, **place) == extra
