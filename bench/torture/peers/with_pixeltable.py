"""Pixeltable with a computed column. An error is stored in its cell.

https://docs.pixeltable.com/tutorials/computed-columns
https://docs.pixeltable.com/sdk/latest/table (insert, batch_update, on_error)
"""

import json
import sys
from pathlib import Path

import pixeltable as pxt
from pixeltable.functions.huggingface import sentence_transformer

source, model, _dtype = sys.argv[1:]
CHUNK = 256

table = pxt.create_table(
    "texts", {"id": pxt.Required[pxt.String], "text": pxt.String}, primary_key="id", if_exists="ignore"
)
table.add_computed_column(vector=sentence_transformer(table.text, model_id=model), if_exists="ignore")

known = {row["id"]: row["text"] for row in table.select(table.id, table.text).collect()}
records = [
    json.loads(line) for file in sorted(Path(source).glob("*.jsonl")) for line in file.read_text().splitlines()
]
new = [record for record in records if record["id"] not in known]
changed = [record for record in records if known.get(record["id"], record["text"]) != record["text"]]

for start in range(0, len(new), CHUNK):  # each is a transaction
    table.insert(new[start : start + CHUNK], on_error="ignore")
if changed:
    table.batch_update(changed)

with Path("out.jsonl").open("w") as out:
    for row in table.select(table.id, table.vector).collect():
        out.write(json.dumps({"id": row["id"], "vector": row["vector"].tolist()}) + "\n")
