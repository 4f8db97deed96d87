"""datatrove with a step that embeds and a task for each file. A second run skips completed tasks.

https://github.com/huggingface/datatrove#localpipelineexecutor
https://github.com/huggingface/datatrove#custom-blocks
"""

import sys
from functools import cache

from datatrove.data import DocumentsPipeline
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

source, model, dtype = sys.argv[1:]
FILES = 20


@cache
def encoder():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model, device="cpu", model_kwargs={"dtype": dtype})


class Embed(PipelineStep):
    name = "Embed"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        documents = list(data)
        vectors = encoder().encode([document.text for document in documents], batch_size=32, show_progress_bar=False)
        for document, vector in zip(documents, vectors, strict=True):
            document.metadata["vector"] = vector.tolist()
            yield document


def make_row(_writer, document):
    return {"id": document.id, "vector": document.metadata["vector"]}


if __name__ == "__main__":
    LocalPipelineExecutor(
        [JsonlReader(source), Embed(), JsonlWriter("out", compression=None, adapter=make_row)],
        tasks=FILES,
        workers=1,  # torch uses all cores
        logging_dir="logs",
    ).run()
