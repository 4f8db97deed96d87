"""Daft on Ray, with a checkpoint of the finished documents, and a Delta table that a retry does not change.

https://docs.daft.ai/en/stable/use-case/checkpointing/
https://docs.daft.ai/en/stable/ai-functions/embed/
https://docs.daft.ai/en/stable/api/dataframe/#daft.DataFrame.write_deltalake (checkpoint)
"""

import sys
from hashlib import sha256
from pathlib import Path

import daft
from daft.functions import embed_text

source, model, _dtype = sys.argv[1:]

daft.set_runner_ray()
store = daft.CheckpointStore(f"file://{Path('checkpoint').resolve()}")

texts = daft.read_json(f"{Path(source).resolve()}/*.jsonl", checkpoint=daft.CheckpointConfig(store, on="id"))
vectors = texts.select("id", embed_text(texts["text"], provider="transformers", model=model).alias("vector"))

# A retry has the same key. Other texts have another key.
content = b"".join(file.read_bytes() for file in sorted(Path(source).glob("*.jsonl")))
commit = daft.IdempotentCommit(store, idempotence_key=sha256(content).hexdigest())
vectors.write_deltalake(str(Path("out").resolve()), checkpoint=commit)
