"""Damage in the cache of converted models: it is found when a model is opened, and the model is converted again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from docmill.storage.core.specs import Outcome
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from tests.tasks import architectures
from tests.tasks.conftest import Bench

TEXTS = [f"This is the text of package {n}, and it is short." for n in range(6)]
DAMAGED = "conversion.damaged"


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


CONVERTED = [
    pytest.param("embed", "bert", "openvino", "openvino/*/model.bin", id="the encoder for OpenVINO"),
    pytest.param("embed", "bert", "openvino", "opened/*/head.bin", id="the head for OpenVINO"),
    pytest.param("summarize", "marian", "ctranslate2", "ctranslate2/*/model.bin", id="CTranslate2"),
    pytest.param("summarize", "marian", "ctranslate2", "converted/*/model.safetensors", id="weights of a pickle"),
]


@pytest.mark.parametrize("damage", [flip_a_byte, pytest.param(truncate, marks=pytest.mark.long)])
@pytest.mark.parametrize(("kind", "model", "backend", "files"), CONVERTED)
def test_a_damaged_conversion_is_found_when_it_is_opened_and_made_again(
    kind: str,
    model: str,
    backend: str,
    files: str,
    damage: Callable[[Path], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = getattr(architectures, model)(tmp_path / "model", TEXTS)
    reference = compute(kind, folder, backend, tmp_path / "cache")
    [file] = (tmp_path / "cache").glob(files)
    damage(file)
    with caplog.at_level(logging.WARNING):
        assert compute(kind, folder, backend, tmp_path / "cache") == reference
        assert [record.message.split()[0] for record in caplog.records].count(DAMAGED) == 1
        assert str(file.parent) in caplog.text
        caplog.clear()
        assert compute(kind, folder, backend, tmp_path / "cache") == reference
        assert DAMAGED not in caplog.text


def compute(kind: str, folder: Path, backend: str, cache_dir: Path) -> list[Outcome]:
    """Return the outcomes of the texts by a process that opens the model anew."""
    opener = partial(open_backend, device="cpu", folders=ModelFolders(None, cache_dir), backend=backend)
    engine = Engine(opener, max_specs=1)
    engine.start()
    try:
        bench = Bench(engine, cache_dir, backend)
        return bench.run(bench.spec(kind, str(folder)), TEXTS)
    finally:
        engine.close()
