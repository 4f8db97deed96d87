"""The plain script after its first crash: it skips records that it cannot read, and texts that its output has.

https://sbert.net/docs/sentence_transformer/usage/efficiency.html (bfloat16 where the processor has it)
"""

import hashlib
import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

source, model, dtype = sys.argv[1:]
CHUNK = 256


def read(path):
    """The records of a file. A crash may have cut the last line."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            print(f"skipped a line of {path}: {error}", file=sys.stderr)


def digest(record):
    return hashlib.sha256(record["text"].encode()).hexdigest()


files = sorted(Path(source).glob("*.jsonl"))
records, out = {record["id"]: record for file in files for record in read(file)}, Path("out.jsonl")
out.touch()
stored = list(read(out))
done = {row["id"] for row in stored if row["id"] in records and row["hash"] == digest(records[row["id"]])}
todo = [record for key, record in records.items() if key not in done]
# What is old or cut goes, so that the output has each text once.
kept = {row["id"]: row for row in stored if row["id"] in done}
fresh = out.with_suffix(".new")
fresh.write_text("".join(json.dumps(row) + "\n" for row in kept.values()))
fresh.replace(out)

encoder = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": dtype})
with out.open("a") as file:
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        vectors = encoder.encode([record["text"] for record in chunk], batch_size=32)
        for record, vector in zip(chunk, vectors, strict=True):
            row = {"id": record["id"], "hash": digest(record), "vector": vector.tolist()}
            file.write(json.dumps(row) + "\n")
        file.flush()
