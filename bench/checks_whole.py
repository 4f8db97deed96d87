"""Compare `docmill run` into SQLite with all checks of outputs and without any, on the same texts.

Both sides run the same command. They differ in a module that Python imports at the start of each process: on the side
without checks, it replaces the checks by a function that finds nothing. The rate is texts per CPU second of all
processes, since checks cost CPU time. The JSON file also has the seconds by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.checks import read_rows
from bench.pairs import Claim, Run, interleave, write

WITH, WITHOUT = "with all checks", "without checks"
_AT_START = {
    WITH: "import docmill.tasks.checks\n",
    WITHOUT: "import docmill.tasks.checks\ndocmill.tasks.checks.Checks.findings = lambda *_: []\n",
}
_SEARCHES = {
    "greedy on CTranslate2": ("--beams", "1"),
    "its own search on transformers": ("--backend", "transformers"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="JSON lines with `text`, which may be gzipped")
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--searches", nargs="*", choices=list(_SEARCHES), default=list(_SEARCHES))
    options = parser.parse_args()
    rows = [row for row in read_rows(options.source) if row.get("split", "dev") == "dev"][: options.texts]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "texts.jsonl"
        source.write_text("".join(json.dumps({"id": row["id"], "text": row["text"]}) + "\n" for row in rows))
        for number, (_, code) in enumerate(_AT_START.items()):
            (folder / str(number)).mkdir()
            (folder / str(number) / "sitecustomize.py").write_text(code)
        comparisons = [
            interleave(
                f"{len(rows):,} translations by marian-ddtp, {search}",
                "texts",
                {
                    side: partial(_run, folder, number, source, _SEARCHES[search])
                    for number, side in enumerate(_AT_START)
                },
                pairs=options.pairs,
                warm_up=options.warm_up,
            )
            for search in options.searches
        ]
    write("checks-whole", comparisons, [[Claim("with checks ÷ without", WITH, WITHOUT, 0.97)] for _ in comparisons])


def _run(folder: Path, number: int, source: Path, search_options: tuple[str, ...]) -> Run:
    """Translate all texts with one command into a new database."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        environment = {**os.environ, "DOCMILL_HOME": home, "PYTHONPATH": str(folder / str(number))}
        command = [str(Path(sys.executable).with_name("docmill")), "run", "translate", str(source)]
        began, cpu_s_before = time.perf_counter(), _read_children_cpu_s()
        subprocess.run([*command, *search_options], check=True, cwd=home, env=environment, stdout=subprocess.DEVNULL)
        units = len(source.read_text().splitlines())
        return Run(units, _read_children_cpu_s() - cpu_s_before, {"wall_s": round(time.perf_counter() - began, 2)})


def _read_children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
