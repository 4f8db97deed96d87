"""The console blocks of the pages: run them, write their real output into a page, compare a page with it.

`make outputs PAGES="docs/search.md"` writes; without PAGES it writes all. A block titled `needs …` is left alone.
Lines of progress bars are left out. To show less of an output, pipe it through `head`, `tail` or `grep` in the
command, so that readers see it.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.worker.harness import EXAMPLES, ROOT, Docmill

PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "examples/README")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
NEEDS = "needs "  # begins the title of a block of commands that a test machine cannot run
EXIT = "exit code "  # begins the title of a block whose last command ends with another code than 0
WIDTH = 80
PROGRAMS = {"cat", "cp", "cut", "grep", "head", "ls", "mkdir", "mv", "rm", "sort", "tail", "wc"}
PIPE = re.compile(r""" \| (?=(?:[^'"]|'[^']*'|"[^"]*")*$)""")
FOLDER = "/home/ada/docs"  # as pages show it; commands run in a folder whose path is as long
BAR = "━"
CHANGING = [  # between machines and moments
    re.compile(r"\d[\d,.]*(?:e-\d+)?(?= (?:s|min|h|texts/s|tokens/s|documents/s|records/s|a second|[kMG]i?B)\b)"),
    re.compile(r"\d+(?=%)"),
    re.compile(r"\d+ (?:s|min|h)\b"),
    re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?:Z|[+-]\d\d:\d\d)?"),
    re.compile(r"\b\d{1,2}:\d\d:\d\d\b"),
    re.compile(r"\b[0-9a-f]{12,64}\b"),
]
FLOAT = re.compile(r"[+-]?\d+\.\d+(?:e-\d+)?")
TOLERANCE = 0.02  # of numbers with a fraction: another processor computes slightly other scores


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page."""

    language: str
    title: str
    text: str

    @property
    def runs(self) -> bool:
        return self.language == "console" and not self.title.startswith(NEEDS)


@dataclass(frozen=True)
class Command:
    """A command of a block as its page has it, in one line, and the lines of output that the page shows."""

    source: str
    line: str
    shown: list[str]


def fences(page: Path) -> list[Fence]:
    """Return the fenced blocks of a page."""
    return [Fence(*block) for block in FENCE.findall(page.read_text(encoding="utf-8"))]


def programs(page: Path) -> list[str]:
    """Return the Python programs of a page that a test machine can run."""
    return [fence.text for fence in fences(page) if fence.language == "python" and not fence.title.startswith(NEEDS)]


def commands(text: str) -> Iterator[Command]:
    """Yield the commands of a block."""
    lines = text.splitlines()
    while lines:
        source = [lines.pop(0)]
        assert source[0].startswith("$ "), f"no command: {source[0]}"
        while source[-1].endswith("\\"):
            source.append(lines.pop(0))
        line = " ".join(part.removesuffix("\\").strip() for part in source).removeprefix("$ ")
        shown = []
        while lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0).rstrip())
        yield Command("\n".join(source), line.split("    #")[0], shown)


def outputs(page: Path) -> Iterator[tuple[Fence, list[tuple[Command, list[str]]]]]:
    """Yield the blocks of a page that run, each with its commands and the lines that these print."""
    with _folder(page) as docmill:
        for fence in fences(page):
            if fence.runs:
                written = [*commands(fence.text)]
                codes = [0] * (len(written) - 1) + [int(fence.title.removeprefix(EXIT) or 0)]
                yield (
                    fence,
                    [(each, _run(docmill, each.line, code)) for each, code in zip(written, codes, strict=True)],
                )


@contextmanager
def _folder(page: Path) -> Iterator[Docmill]:
    """Make a folder with the examples and the files of a page, whose path is as long as the one that pages show."""
    folder = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    assert len(str(folder)) == len(FOLDER), folder
    try:
        shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("models"))
        (folder / "examples" / "models").symlink_to(EXAMPLES / "models")
        for fence in fences(page):
            if fence.title and fence.language != "console":
                (folder / fence.title).parent.mkdir(parents=True, exist_ok=True)
                (folder / fence.title).write_text(fence.text, encoding="utf-8")
        yield Docmill(folder, {"COLUMNS": str(WIDTH)})
    finally:
        shutil.rmtree(folder)


def _run(docmill: Docmill, line: str, code: int) -> list[str]:
    """Run a command, or several with pipes between them, and return the lines that a terminal shows at the end."""
    piped, talk = "", ""
    for stage in PIPE.split(line):
        words = shlex.split(stage)
        if words[0] == "docmill":
            together = words[-1] == "2>&1"
            done = docmill(*words[1 : -1 if together else None], code=code, stdin=piped.encode())
            said = "".join(f"{line}\n" for line in _without_bars(done.stderr.splitlines()))
            piped, talk = (said + done.stdout, talk) if together else (done.stdout, talk + said)
        else:
            assert words[0] in PROGRAMS, f"{line}: not a command of docmill; say what it needs in the block's title"
            piped = subprocess.run(
                stage, cwd=docmill.folder, input=piped, shell=True, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
    lines = (talk + piped).rstrip().splitlines()
    return [_with_folder(line.rstrip(), str(docmill.folder)) for line in lines]


def _without_bars(lines: list[str]) -> Iterator[str]:
    """Yield the lines without progress bars, and without the notes that are indented below these."""
    is_below = False
    for line in lines:
        is_below = BAR in line or (is_below and line.startswith("  "))
        if not is_below:
            yield line


def _with_folder(line: str, folder: str) -> str:
    """Return a line with the folder that pages show, also where a cell of a table cuts the path."""
    line = line.replace(folder, FOLDER)
    return re.sub(r"/tmp/d\w*(?=…)", lambda cut: FOLDER[: len(cut[0])], line)


def is_alike(shown: list[str], printed: list[str]) -> bool:
    """Return True if two outputs differ only in durations, dates and the like, or a little in a score."""
    return len(shown) == len(printed) and all(map(_is_alike, shown, printed))


def _is_alike(shown: str, printed: str) -> bool:
    here, there = map(_without_changing, (shown, printed))
    numbers = zip(map(float, FLOAT.findall(here)), map(float, FLOAT.findall(there)), strict=False)
    return FLOAT.sub("0.0", here) == FLOAT.sub("0.0", there) and all(
        math.isclose(*pair, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for pair in numbers
    )


def _without_changing(line: str) -> str:
    for pattern in CHANGING:
        line = pattern.sub("N", line)
    return " ".join(line.split())  # a column is as wide as its widest number


def write(page: Path) -> None:
    """Write what the commands of a page print into it. Output that only differs in what changes stays."""
    texts = []
    for _, done in outputs(page):
        parts = [(each, each.shown if is_alike(each.shown, printed) else printed) for each, printed in done]
        texts.append("".join(f"{line}\n" for each, kept in parts for line in (each.source, *kept)))
    page.write_text(replace_outputs(page.read_text(encoding="utf-8"), texts), encoding="utf-8")


def replace_outputs(page: str, texts: Iterable[str]) -> str:
    """Return a page whose blocks that run have these texts, in their order."""
    following = iter(texts)

    def written(block: re.Match[str]) -> str:
        fence = Fence(*block.groups(default=""))
        return block[0].replace(fence.text, next(following)) if fence.runs else block[0]

    return FENCE.sub(written, page)


def main() -> None:
    """Write the outputs of the pages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", default=PAGES)
    for page in parser.parse_args().pages:
        if any(fence.runs for fence in fences(page)):
            print(page)
            write(page)


if __name__ == "__main__":
    main()
