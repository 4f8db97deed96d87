"""The commands of `make run`: `docmill` commands on the documents beside this file, as a user would type them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCMILL = Path(sys.executable).with_name("docmill")

PROGRAMS = "examples/programs.jsonl"
STEPS = (
    ("Search by meaning: embed 40 descriptions of programs, then ask", f"run embed {PROGRAMS} -q"),
    (None, f"search {PROGRAMS} 'keep track of my spending' --top 2 -q"),
    ("Find descriptions that are nearly the same", f"dedup find {PROGRAMS} --embeddings --threshold 0.8 -q"),
    ("Say what each program is for", f"run classify {PROGRAMS} --top-k 1"),
    ("Find the names of programs, languages and formats", f"run entities {PROGRAMS}"),
    ("Take personal data out of letters", "run redact examples/letters.jsonl"),
)
END = """
To translate your own texts, name a model of the Hugging Face hub:
$ docmill run translate FILE --from fr --to en --model Helsinki-NLP/opus-mt-fr-en

All results are kept: `.venv/bin/docmill web` shows them at http://127.0.0.1:8321.
"""


def run(command: str) -> int:
    """The command's exit code. Ctrl-C reaches the command too, which then gives back what it has under way."""
    with subprocess.Popen([DOCMILL, *shlex.split(command)], cwd=ROOT) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return process.wait()


def main() -> int:
    for sentence, command in STEPS:
        if sentence:
            print(f"\n# {sentence}")  # noqa: T201
        print(f"$ docmill {command}", flush=True)  # noqa: T201
        if code := run(command):
            return code
    print(END)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
