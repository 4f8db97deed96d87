"""The commands of `make run`: `docmill` commands on the documents beside this file, as a user would type them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCMILL = Path(sys.executable).with_name("docmill")

COMMANDS = (
    "docmill run summarize examples/descriptions.jsonl",
    "docmill run translate examples/french.jsonl --from fr --to en",
    "docmill run embed examples/descriptions.jsonl",
    "docmill run entities examples/descriptions.jsonl --word-label average",
    "docmill run classify examples/descriptions.jsonl --top-k 1",
    "docmill run answer examples/descriptions.jsonl --question 'has=What does the package contain?'",
)
NEXT = """
docmill read the documents, computed each text once, and keeps the results in a SQL database. Run it again: it
computes nothing. To try next (JOB is the number that each run printed; the command is .venv/bin/docmill):

  docmill results JOB --out FILE                      all its results as JSON lines, with ids and metadata
  docmill status JOB                                  how far, how fast, what failed
  docmill run embed SOURCE                            documents of your own: .jsonl, .csv, or a folder of .txt and .md
  docmill run summarize SOURCE --model NAME           another model: a folder, or a model hub's id
  docmill enqueue embed SOURCE                        only store the work ...
  docmill worker                                      ... and do it here, or on as many machines as there are

The small models of this quick start know the language of software packages and little else: for documents of
your own, name a model with --model. docs/tutorial.md goes on from here; docker-compose.yml runs a fleet.
"""


def run(command: str) -> int:
    """The command's exit code. Ctrl-C reaches the command too, which then gives back what it has under way."""
    with subprocess.Popen([DOCMILL, *shlex.split(command)[1:]], cwd=ROOT) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return process.wait()


def main() -> int:
    for command in COMMANDS:
        print(f"\n$ {command}", flush=True)  # noqa: T201
        if code := run(command):
            return code
    print(NEXT)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
