"""The torture table's corpus in its variants, and the score of a tool's output: lost documents and doubled rows."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from bench.manpages import paragraphs
from bench.torture.counting.sitecustomize import make_key

Vectors = npt.NDArray[np.float32]
SHORTEST_CHARS, LONGEST_CHARS = 120, 260  # from 25 to 75 tokens
PARAGRAPHS_PER_TEXT = 4  # more than one in four paragraphs of the manual pages is that short
PARTS = 20  # files of the corpus: most tools divide their work by files
LEAST_COSINE = 0.98  # of the vectors of one text in two precisions
POISON = "This page kills the process that embeds it."
POISON_ID = "poison"
MALFORMED_LINE = '{"id": "cut", "text": "A record that was cut in the mid\n'


@dataclass(frozen=True)
class Texts:
    """The texts of a corpus, and ``replacements`` for a hundredth of them, with the model's folder.

    ``text_by_key`` has each text under the key by which its computation is logged. ``vectors`` has each text's vector
    in float32.
    """

    texts: Sequence[str]
    replacements: Sequence[str]
    model: Path
    text_by_key: Mapping[str, str]
    vectors: Mapping[str, Vectors]

    @classmethod
    def read(cls, count: int, model: Path) -> Texts:
        """Return different paragraphs of manual pages, the same each time. Raises SystemExit if there are too few."""
        n_replacements = max(count // 100, 1)
        pages = paragraphs(PARAGRAPHS_PER_TEXT * (count + n_replacements) + 100)
        short = [text for text in pages if SHORTEST_CHARS <= len(text) <= LONGEST_CHARS]
        embedded = [*short[: count + n_replacements], POISON]
        token_ids = AutoTokenizer.from_pretrained(model)(embedded)["input_ids"]
        text_by_key = {make_key(ids): text for ids, text in zip(token_ids, embedded, strict=True)}
        encoder = SentenceTransformer(str(model), device="cpu", local_files_only=True)
        vectors = dict(zip(embedded, encoder.encode(embedded, show_progress_bar=False), strict=True))
        return cls(short[:count], short[count : count + n_replacements], model, text_by_key, vectors)

    def make_corpus(self) -> dict[str, str]:
        """Return the texts by their ids."""
        return {f"{number:06}": text for number, text in enumerate(self.texts)}

    def make_changed_corpus(self) -> dict[str, str]:
        """Return the corpus with a hundredth of its texts replaced, at even distances."""
        corpus = self.make_corpus()
        step = len(corpus) // len(self.replacements)
        return corpus | {f"{number * step:06}": text for number, text in enumerate(self.replacements)}

    def make_repeating_corpus(self) -> dict[str, str]:
        """Return the corpus with each tenth text replaced by that of another document."""
        corpus = {}
        for number, (key, text) in enumerate(self.make_corpus().items()):
            corpus[key] = self.texts[number - 5] if number % 10 == 9 else text
        return corpus


def write_corpus(folder: Path, corpus: Mapping[str, str], *, inserted: str = "") -> None:
    """Write the corpus as files of JSON lines into a folder. ``inserted`` is a line in the middle."""
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"id": key, "text": text}) + "\n" for key, text in corpus.items()]
    size = -(-len(lines) // PARTS)
    for part in range(PARTS):
        content = lines[part * size : (part + 1) * size]
        if part == PARTS // 2:
            content.insert(len(content) // 2, inserted)
        (folder / f"part-{part:02}.jsonl").write_text("".join(content))


@dataclass(frozen=True)
class Score:
    """``lost``: documents without a row with their text's vector. ``doubled``: rows beyond one per document."""

    lost: int
    doubled: int


def score(folder: Path, corpus: Mapping[str, str], vectors: Mapping[str, Vectors]) -> Score:
    """Compare the output in a folder with the vectors of the corpus."""
    rows, correct = Counter[str](), set()
    for key, vector in read_rows(folder):
        rows[key] += 1
        if key in corpus and vector is not None and _compute_cosine(vector, vectors[corpus[key]]) >= LEAST_COSINE:
            correct.add(key)
    return Score(len(corpus.keys() - correct), sum(count - 1 for count in rows.values()))


def _compute_cosine(left: Vectors, right: Vectors) -> float:
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right) or 1.0))


def read_rows(folder: Path) -> Iterator[tuple[str, Vectors | None]]:
    """Yield the id and the vector of each row of the output. Skip the rows that cannot be read."""
    for path in _list_files(folder):
        for row in READERS[path.suffix](path):
            values = row.get("vector")
            # docmill's ids begin with the file: part-07.jsonl#001893
            key = str(row["id"]).rpartition("#")[2]
            yield key, None if values is None else np.asarray(values, dtype=np.float32)


def _list_files(folder: Path) -> list[Path]:
    """Return the files of the output. Of a Delta table, they are the files of its last version."""
    out = folder / "out"
    log = [
        json.loads(line) for path in sorted(out.glob("_delta_log/*.json")) for line in path.read_text().splitlines()
    ]
    if (out / "_delta_log").exists():
        removed = {entry["remove"]["path"] for entry in log if "remove" in entry}
        return [out / entry["add"]["path"] for entry in log if "add" in entry and entry["add"]["path"] not in removed]
    paths = sorted((*folder.glob("out.*"), *out.glob("**/*")))
    return [path for path in paths if path.is_file() and path.suffix in READERS and path.name[0] not in "._"]


def _read_lines(path: Path) -> Iterator[dict[str, object]]:
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        # vLLM writes responses in the format of OpenAI's batch files.
        if "custom_id" in row:
            body = (row.get("response") or {}).get("body") or {}
            row = {"id": row["custom_id"], "vector": (body.get("data") or [{}])[0].get("embedding")}
        yield row


def _read_parquet(path: Path) -> Iterator[dict[str, object]]:
    import pyarrow.parquet

    try:
        yield from pyarrow.parquet.read_table(path, columns=["id", "vector"]).to_pylist()
    except (OSError, pyarrow.ArrowInvalid):  # cut by a kill
        return


def _read_sqlite(path: Path) -> Iterator[dict[str, object]]:
    with closing(sqlite3.connect(path)) as database, suppress(sqlite3.OperationalError):  # without a table
        for key, vector in database.execute("SELECT id, vector FROM vectors"):
            yield {"id": key, "vector": np.frombuffer(vector, np.float32)}


READERS = {".jsonl": _read_lines, ".parquet": _read_parquet, ".db": _read_sqlite}
