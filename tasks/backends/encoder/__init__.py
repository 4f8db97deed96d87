"""Encoder-only models: embeddings."""

import sys

# OpenVINO's converter would report each use to its makers, from a process that it forks for that: out of a device
# process full of threads, which the fork inherits in whatever state they are, pipes and all. This package's absence
# is what the libraries look for.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
