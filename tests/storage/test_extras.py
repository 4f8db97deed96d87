"""The advice to install an extra depends on how docmill was installed."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from docmill.storage.extras import command

EDITABLE = {"url": "file:///home/ann/my%20docmill", "dir_info": {"editable": True}}
FOLDER = {"url": "file:///home/ann/docmill", "dir_info": {}}
WHEEL = {"url": "file:///tmp/docmill-0.1.0-py3-none-any.whl", "archive_info": {}}


@pytest.mark.parametrize(
    ("origin", "receipt", "expected"),
    [
        (None, None, ["PREFIX/bin/pip", "install", "docmill[formats]"]),
        (EDITABLE, None, ["PREFIX/bin/pip", "install", "--editable", "/home/ann/my docmill[formats]"]),
        (FOLDER, None, ["PREFIX/bin/pip", "install", "/home/ann/docmill[formats]"]),
        (WHEEL, None, ["PREFIX/bin/pip", "install", f"docmill[formats] @ {WHEEL['url']}"]),
        (None, "pipx_metadata.json", ["pipx", "install", "--force", "docmill[formats]"]),
        (None, "uv-receipt.toml", ["uv", "tool", "install", "docmill[formats]"]),
    ],
)
def test_the_advice_installs_an_extra_as_docmill_was_installed(
    tmp_path: Path, origin: dict[str, Any] | None, receipt: str | None, expected: list[str]
) -> None:
    if receipt is not None:
        (tmp_path / receipt).write_text("")
    command_line = command("formats", origin, tmp_path, shell_knows=False)
    assert shlex.split(command_line) == [word.replace("PREFIX", str(tmp_path)) for word in expected]


def test_the_base_stays_light_and_all_names_each_compatible_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert len(project["dependencies"]) <= 18
    todo, named = ["all"], set[str]()
    while todo:
        named.add(name := todo.pop())
        inner = [Requirement(requirement) for requirement in extras[name]]
        todo += [
            extra
            for requirement in inner
            if requirement.name == "docmill"
            for extra in requirement.extras
            if extra not in named
        ]
    assert extras.keys() - named == {"bench", "dev", "docs", "gliner", "test", "vllm", "vllm-cpu"}
