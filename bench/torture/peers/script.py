"""A plain script with sentence-transformers. It reads all records, embeds them and writes all vectors.

https://sbert.net/docs/sentence_transformer/usage/efficiency.html (bfloat16 where the processor has it)
"""

import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

source, model, dtype = sys.argv[1:]

files = sorted(Path(source).glob("*.jsonl"))
records = [json.loads(line) for file in files for line in file.read_text().splitlines()]

encoder = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": dtype})
vectors = encoder.encode([record["text"] for record in records], batch_size=32)

with Path("out.jsonl").open("w") as out:
    for record, vector in zip(records, vectors, strict=True):
        out.write(json.dumps({"id": record["id"], "vector": vector.tolist()}) + "\n")
