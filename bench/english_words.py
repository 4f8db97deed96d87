"""Write the ordinary English words by which `names_changed` distinguishes names from other capitalised words.

A word is ordinary if at least five texts of the train split have it in small letters, and at most half as many have
it with a capital letter inside a sentence.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from bench.checks import read_rows
from docmill.tasks.checks import names

_LEAST_TEXTS = 5
_WIDTH = 120  # the longest line of the file
_WORD = re.compile(r"(?<![\w./:@-])[A-Za-z][a-z]{2,}(?![\w@-]|[./:]\w)")
_INSIDE = re.compile(r"[^.!?:*;-] \Z")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, action="append", required=True)
    small: Counter[str] = Counter()  # texts that have a word in small letters
    capital: Counter[str] = Counter()  # texts that have it with a capital letter inside a sentence
    for source in parser.parse_args().source:
        for row in read_rows(source):
            if row["split"] != "dev":
                text = row.get("reference") or row["text"]
                words = {
                    match.group()
                    for match in _WORD.finditer(text)
                    if match.group().islower() or _is_inside(text, match)
                }
                small.update(word for word in words if word.islower())
                capital.update(word.lower() for word in words if not word.islower())
    ordinary = sorted(word for word, count in small.items() if count >= max(_LEAST_TEXTS, 2 * capital[word]))
    lines = [""]
    for word in ordinary:
        if len(lines[-1]) + len(word) >= _WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    names.WORDS.write_text("\n".join(lines) + "\n")


def _is_inside(text: str, word: re.Match[str]) -> bool:
    """Return True if a word stands inside a sentence, not at its beginning."""
    return _INSIDE.search(text, max(0, word.start() - 2), word.start()) is not None


if __name__ == "__main__":
    main()
