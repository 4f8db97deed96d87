"""The plain script after its first crash: it skips records that it cannot read, and texts that are in its output.

https://sbert.net/docs/sentence_transformer/usage/efficiency.html (bfloat16 where the processor has it)
"""

import hashlib
import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

source, model, dtype = sys.argv[1:]
CHUNK = 256


def read_records(path):
    """Yield the records of a file. A crash may have cut the last line."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            print(f"skipped a line of {path}: {error}", file=sys.stderr)


def hash_text(record):
    return hashlib.sha256(record["text"].encode()).hexdigest()


files = sorted(Path(source).glob("*.jsonl"))
records, out = {record["id"]: record for file in files for record in read_records(file)}, Path("out.jsonl")
out.touch()
stored = list(read_records(out))
done = {row["id"] for row in stored if row["id"] in records and row["hash"] == hash_text(records[row["id"]])}
todo = [record for key, record in records.items() if key not in done]
# Drop old and cut rows, so that the output has each text once.
done_rows = {row["id"]: row for row in stored if row["id"] in done}
new_out = out.with_suffix(".new")
new_out.write_text("".join(json.dumps(row) + "\n" for row in done_rows.values()))
new_out.replace(out)

encoder = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": dtype})
with out.open("a") as file:
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        vectors = encoder.encode([record["text"] for record in chunk], batch_size=32)
        for record, vector in zip(chunk, vectors, strict=True):
            row = {"id": record["id"], "hash": hash_text(record), "vector": vector.tolist()}
            file.write(json.dumps(row) + "\n")
        file.flush()
