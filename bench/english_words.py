"""Write the ordinary English words by which `names_changed` tells names from capitalised words.

A word is ordinary if at least five texts of the train split have it in small letters, and at most half as many have
it with a capital letter inside of a sentence.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from bench.checks import lines
from docmill.tasks.checks import names

_LEAST_TEXTS = 5
_WIDTH = 120
_WORD = re.compile(r"(?<![\w./:@-])[A-Za-z][a-z]{2,}(?![\w@-]|[./:]\w)")
_INSIDE = re.compile(r"[^.!?:*;-] \Z")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, action="append", required=True)
    small: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    for source in parser.parse_args().source:
        for row in lines(source):
            if row["split"] != "dev":
                text = row.get("reference") or row["text"]
                found = {
                    one.group() for one in _WORD.finditer(text) if one.group().islower() or _is_inside(text, one)
                }
                small.update(word for word in found if word.islower())
                capital.update(word.lower() for word in found if not word.islower())
    ordinary = sorted(word for word, count in small.items() if count >= max(_LEAST_TEXTS, 2 * capital[word]))
    written = [""]
    for word in ordinary:
        if len(written[-1]) + len(word) >= _WIDTH:
            written.append("")
        written[-1] = f"{written[-1]} {word}".lstrip()
    names.WORDS.write_text("\n".join(written) + "\n")


def _is_inside(text: str, word: re.Match[str]) -> bool:
    return _INSIDE.search(text, max(0, word.start() - 2), word.start()) is not None


if __name__ == "__main__":
    main()
