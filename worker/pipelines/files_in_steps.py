"""Values of steps that stand in files of their own, written into the pipeline's text."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import kinds
from tasks.kinds.options import key, option
from worker.pipelines.toml_positions import lines

_NAMES = tuple(key(name, field) for name, field in kinds.OPTIONS.items() if option(field).in_file)


class CannotRead(Exception):
    """A file that a step names cannot be read: the line of its name, and the reason."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def with_files(text: str, folder: Path) -> str:
    """Return a pipeline's text with the JSON in place of the names of files that its steps take it from.

    A stored pipeline thus needs no file beside it. Lines stay where they are. Text that is no pipeline is returned as
    it is. Raises CannotRead.
    """
    try:
        given = tomllib.loads(text)
    except (ValueError, RecursionError):
        return text
    rows = text.split("\n")
    for place, name, file in _named(given):
        line = lines(text)[("step", place, name)]
        try:
            content = (folder / file).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise CannotRead(line, f"{name}: cannot read {folder / file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise CannotRead(line, f"{name}: {folder / file} is not UTF-8 text") from error
        written = re.compile(rf"""(\b{re.escape(name)}["']?\s*=\s*)("[^"]+"|'[^']+')""")
        if (match := written.search(rows[line - 1])) is None:
            raise CannotRead(line, f"{name}: write the file's name in quotes, on the line of the key")
        rows[line - 1] = rows[line - 1][: match.end(1)] + _quoted(content) + rows[line - 1][match.end() :]
    return "\n".join(rows)


def _named(given: dict[str, Any]) -> Iterator[tuple[int, str, str]]:
    """Yield the place of a step, a key of it, and the name of a file there."""
    steps = given.get("step")
    for place, step in enumerate(steps if isinstance(steps, list) else []):
        for name in _NAMES if isinstance(step, dict) else ():
            value = step.get(name)
            if isinstance(value, str) and value.strip() and not value.lstrip().startswith("{"):
                yield place, name, value


def _quoted(text: str) -> str:
    """Return a text as a TOML string on one line."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
