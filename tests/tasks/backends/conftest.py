"""Small models, and texts that fit their windows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tasks import architectures
from tests.tasks.decoders import DECODERS
from tests.tasks.real_lines import real_lines


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    """Return the folder of a BERT without a head."""
    torch.manual_seed(7)
    return architectures.bert(tmp_path_factory.mktemp("bert") / "bert", descriptions[:40])


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    """Return the folder of a T5. Its weights are large, since small ones write the same token for every text."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("t5") / "t5"
    return architectures.t5(folder, descriptions[:40], initializer_factor=2.0, tie_word_embeddings=False)


@pytest.fixture(scope="session")
def decoders(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> dict[str, Path]:
    """Return the folders of small decoder-only models by the names of their architectures."""
    torch.manual_seed(11)
    folder = tmp_path_factory.mktemp("decoders")
    return {name: make(folder / name, descriptions[:40]) for name, make in DECODERS.items()}


@pytest.fixture(scope="session")
def gpt2(decoders: dict[str, Path]) -> Path:
    """Return the folder of a base model, which has no chat template."""
    return decoders["gpt2"]


@pytest.fixture(scope="session")
def llama(decoders: dict[str, Path]) -> Path:
    """Return the folder of a model with a chat template and a window of 256 tokens."""
    return decoders["llama"]


@pytest.fixture(scope="session")
def sentences(descriptions: list[str]) -> list[str]:
    """Return 16 lines of 2 to 33 words, so that some texts end while the model reads others."""
    lines = [text.replace("\n", " ") for text in descriptions]
    return [" ".join(line.split()[: 2 + 7 * number % 32]) for number, line in enumerate(lines[:16])]


@pytest.fixture(scope="session")
def lines(descriptions: list[str]) -> list[str]:
    """Return 40 lines that fit the window of a small model."""
    return real_lines(descriptions, 40, shorter_than=90)
