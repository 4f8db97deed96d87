"""CocoIndex with its own embedder, memoized, and a SQLite table as its target.

https://cocoindex.io/docs/programming_guide/processing_component/
https://cocoindex.io/docs/ops/sentence_transformers/
https://cocoindex.io/docs/connectors/sqlite/
"""

import json
import pathlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import cocoindex as coco
from cocoindex.connectors import localfs, sqlite
from cocoindex.ops.sentence_transformers import SentenceTransformerEmbedder
from cocoindex.resources.file import FileLike

source, model, _dtype = sys.argv[1:]
DATABASE = coco.ContextKey[sqlite.ManagedConnection]("database")
EMBEDDER = coco.ContextKey[SentenceTransformerEmbedder]("embedder")


@dataclass
class Vector:
    id: str
    vector: bytes


@coco.lifespan
async def lifespan(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
    builder.provide(DATABASE, sqlite.connect("out.db"))
    builder.provide(EMBEDDER, SentenceTransformerEmbedder(model, device="cpu"))
    yield


@coco.fn(memo=True)
async def embed(line: str, table: sqlite.TableTarget[Vector]) -> None:
    record = json.loads(line)
    vector = await coco.use_context(EMBEDDER).embed(record["text"])
    table.declare_row(row=Vector(record["id"], vector.tobytes()))


@coco.fn(memo=True)
async def embed_file(file: FileLike, table: sqlite.TableTarget[Vector]) -> None:
    lines = (await file.read_text()).splitlines()
    await coco.mount_each(embed, ((str(number), line) for number, line in enumerate(lines)), table)


@coco.fn
async def main(folder: pathlib.Path) -> None:
    schema = await sqlite.TableSchema.from_class(Vector, primary_key=["id"])
    table = await sqlite.mount_table_target(DATABASE, "vectors", schema)
    await coco.mount_each(embed_file, localfs.walk_dir(folder).items(), table)


coco.App(coco.AppConfig(name="vectors"), main, folder=pathlib.Path(source)).update_blocking()
