"""The corpus of the torture table in its variants, and what a tool's output lacks or has twice."""

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
from bench.torture.counting.sitecustomize import key_of

Vectors = npt.NDArray[np.float32]
SHORTEST_CHARS, LONGEST_CHARS = 120, 260  # from 25 to 75 tokens
SHARE = 4  # of as many paragraphs of the manual pages, more than one is that short
PARTS = 20  # files of the corpus: most tools divide their work by files
SAME = 0.98  # the least cosine of a vector with that of the same text in another precision
POISON = "This page kills the process that embeds it."
ID_OF_POISON = "poison"
CUT = '{"id": "cut", "text": "A record that was cut in the mid\n'


@dataclass(frozen=True)
class Texts:
    """``texts``, and ``others`` that replace a hundredth of them, with the model.

    ``keys`` has the text of each key under which a computed text is logged, ``vectors`` each text's in float32.
    """

    texts: Sequence[str]
    others: Sequence[str]
    model: Path
    keys: Mapping[str, str]
    vectors: Mapping[str, Vectors]

    @classmethod
    def read(cls, count: int, model: Path) -> Texts:
        """Return different paragraphs of manual pages, the same ones each time. Raises SystemExit for too many."""
        changed = _hundredth(count)
        pages = paragraphs(SHARE * (count + changed) + 100)
        short = [text for text in pages if SHORTEST_CHARS <= len(text) <= LONGEST_CHARS]
        known = [*short[: count + changed], POISON]
        ids = AutoTokenizer.from_pretrained(model)(known)["input_ids"]
        keys = {key_of(row): text for row, text in zip(ids, known, strict=True)}
        encoder = SentenceTransformer(str(model), device="cpu", local_files_only=True)
        vectors = dict(zip(known, encoder.encode(known, show_progress_bar=False), strict=True))
        return cls(short[:count], short[count : count + changed], model, keys, vectors)

    def corpus(self) -> dict[str, str]:
        """Return the texts by their ids."""
        return {f"{number:06}": text for number, text in enumerate(self.texts)}

    def changed(self) -> dict[str, str]:
        """Return the corpus with other texts for a hundredth of it, spread over all of it."""
        corpus = self.corpus()
        step = len(corpus) // len(self.others)
        return corpus | {f"{number * step:06}": text for number, text in enumerate(self.others)}

    def repeating(self) -> dict[str, str]:
        """Return the corpus with a tenth of texts that another document has, too."""
        corpus = {}
        for number, (key, text) in enumerate(self.corpus().items()):
            corpus[key] = self.texts[number - 5] if number % 10 == 9 else text
        return corpus


def _hundredth(count: int) -> int:
    return max(count // 100, 1)


def write_corpus(folder: Path, corpus: Mapping[str, str], *, inserted: str = "") -> None:
    """Write a folder of files of JSON lines. ``inserted`` is a line in the middle."""
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
    """``lost``: documents without the vector of their text; ``doubled``: rows beyond one a document."""

    lost: int
    doubled: int


def score(folder: Path, corpus: Mapping[str, str], vectors: Mapping[str, Vectors]) -> Score:
    """Compare the output in a folder with what it should have."""
    rows, right = Counter[str](), set()
    for key, vector in read_rows(folder):
        rows[key] += 1
        if key in corpus and vector is not None and _cosine(vector, vectors[corpus[key]]) >= SAME:
            right.add(key)
    return Score(len(corpus.keys() - right), sum(count - 1 for count in rows.values()))


def _cosine(one: Vectors, other: Vectors) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other) or 1.0))


def read_rows(folder: Path) -> Iterator[tuple[str, Vectors | None]]:
    """Yield id and vector of each row of the output. What cannot be read has no rows."""
    for path in _files(folder):
        for row in READERS[path.suffix](path):
            values = row.get("vector")
            # docmill's ids begin with the file: part-07.jsonl#001893
            key = str(row["id"]).rpartition("#")[2]
            yield key, None if values is None else np.asarray(values, dtype=np.float32)


def _files(folder: Path) -> list[Path]:
    """Return the files of the output: of a Delta table those of its last version, else all."""
    out = folder / "out"
    log = [
        json.loads(line) for path in sorted(out.glob("_delta_log/*.json")) for line in path.read_text().splitlines()
    ]
    if (out / "_delta_log").exists():
        gone = {entry["remove"]["path"] for entry in log if "remove" in entry}
        return [out / entry["add"]["path"] for entry in log if "add" in entry and entry["add"]["path"] not in gone]
    found = sorted((*folder.glob("out.*"), *out.glob("**/*")))
    return [path for path in found if path.is_file() and path.suffix in READERS and path.name[0] not in "._"]


def _of_lines(path: Path) -> Iterator[dict[str, object]]:
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        # vLLM answers in OpenAI's form.
        if "custom_id" in row:
            body = (row.get("response") or {}).get("body") or {}
            row = {"id": row["custom_id"], "vector": (body.get("data") or [{}])[0].get("embedding")}
        yield row


def _of_parquet(path: Path) -> Iterator[dict[str, object]]:
    import pyarrow.parquet

    try:
        yield from pyarrow.parquet.read_table(path, columns=["id", "vector"]).to_pylist()
    except (OSError, pyarrow.ArrowInvalid):  # cut by a kill
        return


def _of_sqlite(path: Path) -> Iterator[dict[str, object]]:
    with closing(sqlite3.connect(path)) as database, suppress(sqlite3.OperationalError):  # no table yet
        for key, vector in database.execute("SELECT id, vector FROM vectors"):
            yield {"id": key, "vector": np.frombuffer(vector, np.float32)}


READERS = {".jsonl": _of_lines, ".parquet": _of_parquet, ".db": _of_sqlite}
