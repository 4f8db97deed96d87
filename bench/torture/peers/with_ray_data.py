"""Ray Data with checkpoints. An error in a block does not end the job.

https://docs.ray.io/en/latest/data/batch_inference.html
https://docs.ray.io/en/latest/data/api/doc/ray.data.checkpoint.interfaces.CheckpointConfig.html
https://docs.ray.io/en/latest/data/api/doc/ray.data.DataContext.html (max_errored_blocks)
https://docs.ray.io/en/latest/ray-core/scheduling/resources.html (logical CPUs)
"""

import sys
from pathlib import Path

import ray
from ray.data.checkpoint import CheckpointConfig
from sentence_transformers import SentenceTransformer

source, model, dtype = sys.argv[1:]
# Two CPUs for the model, one for the filter that skips documents of the checkpoint, and one to read and write.
ray.init(num_cpus=4)


class Embed:
    def __init__(self):
        self.encoder = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": dtype})

    def __call__(self, batch):
        vectors = self.encoder.encode(list(batch["text"]), batch_size=32, show_progress_bar=False)
        return {"id": batch["id"], "vector": vectors}


context = ray.data.DataContext.get_current()
# The checkpoint stays after a success, so that the same command can be given again.
context.checkpoint_config = CheckpointConfig(
    id_column="id", checkpoint_path=f"file://{Path('checkpoint').resolve()}", delete_checkpoint_on_success=False
)
context.max_errored_blocks = -1

texts = ray.data.read_json(str(Path(source).resolve()), override_num_blocks=20)
vectors = texts.map_batches(Embed, batch_size=128, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=2)
vectors.write_parquet(str(Path("out").resolve()))
