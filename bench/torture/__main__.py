"""Run the torture table: `python -m bench.torture`, or `make torture`."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
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
    parser.add_argument("--rows", nargs="*", default=rows.ROWS, metavar="ROW", help="some rows, by their names")
    parser.add_argument("--keep", action="store_true", help="keep what is not measured now")
    parser.add_argument("--name", default="torture", help="of the results' files")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no program stays behind
    chosen = [peer for peer in PEERS if peer.key in asked.peers]
    for peer in chosen:
        set_up(peer)
    target = RESULTS / f"{asked.name}.json"
    known: dict[str, Any] = json.loads(target.read_text())["tools"] if asked.keep and target.exists() else {}
    with tempfile.TemporaryDirectory(prefix="torture-") as work, quiet():
        table = Table(Path(work), asked.texts)
        for peer in chosen:
            known[peer.name] = tool = (
                {"rows": {}} | known.get(peer.name, {}) | {"lines": peer.lines, "versions": peer.pins()}
            )
            for row, result in table.measure(peer, asked.rows):
                tool["rows"][row] = asdict(result)
                print(f"{peer.name:20} {row:38} {cell(tool['rows'][row])}  {tool['rows'][row]}", flush=True)
                facts = {**machine(), "at": datetime.now(UTC).isoformat(timespec="minutes")}
                ordered = {peer.name: known[peer.name] for peer in PEERS if peer.name in known}
                write(target, {**facts, "texts": asked.texts, "tools": ordered})
    if asked.name == "torture":
        write_page(json.loads(target.read_text()))


class Table:
    """Measures rows, each in a work folder of its own."""

    def __init__(self, work: Path, texts: int) -> None:
        folders = ModelFolders(None, work)
        pinned = pinning.pin("minilm", folders)
        model = pinning.locate(pinned, folders)
        self._work = work
        self._dtype = str(dtype_for("native", "cpu")).removeprefix("torch.")
        self._texts = Texts.read(texts, model)
        self._sites = 0

    def measure(self, peer: Peer, wanted: Collection[str]) -> Iterator[tuple[str, Result]]:
        """Yield the results of these rows, or why there is none."""
        if any(row in wanted for row in rows.FIRST_THREE):
            yield from rows.first_three(self.site(peer))
        if not any(row in wanted for row in (rows.EQUAL, *rows.OTHERS)):
            return
        equal, extent = rows.equal_texts(self.site(peer))
        yield rows.EQUAL, equal
        for row, measure in rows.OTHERS.items():
            if row in peer.cannot:
                yield row, Result.missing(peer.cannot[row])
            elif row in wanted:
                yield row, measure(self.site(peer), extent)

    def site(self, peer: Peer) -> Site:
        """Return a new work folder."""
        self._sites += 1
        folder = self._work / str(self._sites)
        (folder / "work").mkdir(parents=True)
        return Site(peer, self._texts, self._dtype, folder / "work", folder / "computed.log")


def set_up(peer: Peer) -> None:
    """Make the environment of a peer, once."""
    folder = ENVIRONMENTS / peer.requirements
    if not peer.requirements or (folder / ".installed").exists():
        return
    print(f"Setting up {folder} (once; some minutes) ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "release.install", "-r", str(peer.listed())], check=True, cwd=RESULTS.parent.parent)
    # vLLM's package for CPUs brings builds that look for CUDA's libraries.
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchaudio", "torchcodec"], check=True)
    # A first import would compile for a minute.
    subprocess.run([python, "-m", "compileall", "-q", "-j", "0", str(folder / "lib")], stdout=subprocess.DEVNULL)
    (folder / ".installed").touch()


def cell(result: Mapping[str, Any]) -> str:
    """Return lost / doubled / recomputed, and a mark for what the user has to do."""
    if result["lost"] is None:
        return str(result["note"])
    mark = " ²" if rows.BY_HAND in result["actions"] else " ¹" if rows.AGAIN in result["actions"] else ""
    mark += " ³" if rows.HUNG in result["note"] else ""
    return " / ".join(f"{result[name]:,}" for name in ("lost", "doubled", "recomputed")) + mark


def write(target: Path, found: Mapping[str, Any]) -> None:
    """Write the results as JSON and as tables in Markdown. Notes from `## Notes` on are kept."""
    target.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    page = target.with_suffix(".md")
    notes = page.read_text().partition("## Notes")[2] if page.exists() else "\n"
    tools: Mapping[str, Any] = found["tools"]
    said = [
        "# The torture table\n",
        f"{described(found)}\n",
        f"{found['texts']:,} texts. A cell has the texts that are **lost / doubled / recomputed** in the end. ¹: the "
        "user has to give the same command again. ²: even then something has to be repaired by hand. ³: it hung, "
        "and was killed.\n",
        _row("", tools),
        _row("---", ["--:"] * len(tools)),
        *(
            _row(row, [cell(tool["rows"][row]) if row in tool["rows"] else "" for tool in tools.values()])
            for row in rows.ROWS
        ),
        _row("lines of user code", [str(tool["lines"]) for tool in tools.values()]),
        "\n## Seconds, with the start of the program\n",
        _row("", tools),
        _row("---", ["--:"] * len(tools)),
        *(_row(row, [_of(tool, row, "seconds") for tool in tools.values()]) for row in rows.FIRST_THREE),
        "\n## Exit codes, and what the user has to do\n",
        "Negative: by that signal.\n",
        *(
            f"- {name}, {row}: {_done(result)}"
            for name, tool in tools.items()
            for row, result in tool["rows"].items()
        ),
        "\n## Versions\n",
        *(f"- {name}: {tool['versions']}" for name, tool in tools.items()),
    ]
    page.write_text("\n".join(said) + "\n\n## Notes" + notes)


def write_page(found: Mapping[str, Any]) -> None:
    """Write the table into the page of benchmarks, without spaces around its cells."""
    tools: Mapping[str, Any] = found["tools"]
    table = [
        "||" + "|".join(tools) + "|",
        "|---|" + "--:|" * len(tools),
        *(
            "|".join(["", row, *(_short(tool["rows"].get(row, {})) for tool in tools.values()), ""])
            for row in rows.ROWS
        ),
        *(
            "|".join(["", f"seconds: {row}", *(_of(tool, row, "seconds") or "–" for tool in tools.values()), ""])
            for row in rows.FIRST_THREE[:2]
        ),
        "|".join(["", "lines of user code", *(str(tool["lines"]) for tool in tools.values()), ""]),
    ]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(table) + f"\n{END}{rest.partition(END)[2]}")


def _short(result: Mapping[str, Any]) -> str:
    return cell(result).replace(" ", "") if result.get("lost") is not None else "–"


def _row(name: str, cells: Any) -> str:
    return f"| {' | '.join([name, *cells])} |"


def _of(tool: Mapping[str, Any], row: str, name: str) -> str:
    value = tool["rows"].get(row, {}).get(name)
    return "" if value is None else str(value)


def _done(result: Mapping[str, Any]) -> str:
    codes = ", ".join(map(str, result["exit_codes"]))
    return "; ".join(filter(None, [codes, ", ".join(result["actions"]), result["note"]]))


if __name__ == "__main__":
    main()
