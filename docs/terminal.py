"""Draw docs/pictures/run.svg: commands of the quick start, run in a terminal of 80 columns (`make pictures`)."""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from examples.quickstart import DOCMILL, ROOT, STEPS

PICTURE = ROOT / "docs" / "pictures" / "run.svg"
WIDTH = 80
SHOWN = ("run embed", "search", "run redact")
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # from elsewhere in the web
MOVES = re.compile(r"(\r?\n|\r|\x1b\[\d*A|\x1b\[2K|\x1b\[\?\d+[hl])")


def main() -> int:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"DOCMILL_HOME": home, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
        os.chdir(ROOT)
        for command in (command for _, command in STEPS if command.startswith(SHOWN)):
            console.print(Text(f"$ docmill {command}", style="bold green"))
            for line in final_lines(run(command)):
                console.print(Text.from_ansi(line))
    picture = FONT.sub("", console.export_svg(title="docmill", unique_id="run"))
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


def run(command: str) -> str:
    """Run a command in a terminal and return what it writes there."""
    written = bytearray()

    def read(terminal: int) -> bytes:
        data = os.read(terminal, 65536)
        written.extend(data)
        return data

    pty.spawn([str(DOCMILL), *shlex.split(command)], read)
    return written.decode()


def final_lines(written: str) -> Iterable[str]:
    """Return the lines that stay on the screen, where progress bars are drawn again over themselves."""
    lines, row = [""], 0
    for part in MOVES.split(written):
        if part.endswith("\n"):
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row = max(row - int(part[2:-1] or 1), 0)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part != "\r" and not part.startswith("\x1b[?"):
            lines[row] += part
    return lines[:-1] if not lines[-1] else lines


if __name__ == "__main__":
    sys.exit(main())
