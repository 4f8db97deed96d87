"""vLLM's runner of batch files with the embeddings endpoint, on a CPU.

https://docs.vllm.ai/en/stable/examples/offline_inference/openai_batch/
https://docs.vllm.ai/en/stable/getting_started/installation/cpu/
"""

import json
import os
import sys
from pathlib import Path

source, model, dtype = sys.argv[1:]

with Path("requests.jsonl").open("w") as requests:
    for file in sorted(Path(source).glob("*.jsonl")):
        for record in map(json.loads, file.read_text().splitlines()):
            body = {"model": model, "input": record["text"]}
            request = {"custom_id": record["id"], "method": "POST", "url": "/v1/embeddings", "body": body}
            requests.write(json.dumps(request) + "\n")

os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{os.cpu_count() - 1}"
runner = "-m vllm.entrypoints.openai.run_batch -i requests.jsonl -o out.jsonl --runner pooling --enforce-eager"
os.execv(sys.executable, [sys.executable, *runner.split(), "--dtype", dtype, "--model", model])
