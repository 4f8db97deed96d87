"""Encoder-only models on OpenVINO: several batches at once, from the converted model."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import openvino

from docmill.tasks.backends import Assignment, WindowSource, devices, machine
from docmill.tasks.backends.convert import is_whole
from docmill.tasks.backends.encoder.batches import BUDGETS, Streams, WarmUp, measure_rate, short_window
from docmill.tasks.backends.encoder.converted import ConvertedModel, folder_of
from docmill.tasks.backends.registry import version
from docmill.tasks.backends.static import Items
from docmill.tasks.errors import OutOfMemory
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")


class OpenVinoBackend:
    """One encoder-only model with its head on a CPU.

    Raises Unsuited if OpenVINO's outputs differ from those of the model's own code.
    """

    def __init__(self, assignment: Assignment) -> None:
        quality = assignment.spec.quality
        self._here = machine.read_processor(assignment.cache_dir)
        self._int8 = quality == "int8"
        # Sums and norms between the int8 products keep the precision that they have without int8.
        self._precision = self._here.native if quality in ("native", "int8") else quality
        self._model = self._open(assignment)
        self.limit_tokens, self.traits = self._model.limit_tokens, self._model.traits
        self._encode = self._model.tokens.encode  # threads may read texts while another closes the model
        self._loop = Streams(self._compute, BUDGETS["cpu"], self._here.threads)
        WarmUp(self._loop, short_window(self)).tune(assignment, type(self).__name__)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return self._encode(texts)

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        return self._loop.run(source)

    def tokens_per_s(self) -> float:
        """Return the rate with windows of many lengths, measured for about a second."""
        return measure_rate(self._loop, self)

    def runtime(self) -> dict[str, Any]:
        library = self._model.library
        versions = {"torch": self._here.torch, "python": platform.python_version()}
        versions |= {name: version(name) for name in ("transformers", library, *(["nncf"] if self._int8 else []))}
        return {
            "device": self._here.name,
            "precision": f"int8_{self._precision}" if self._int8 else self._precision,
            "backend": "openvino",
            "versions": {**versions, "openvino": openvino.__version__},
        }

    def close(self) -> None:
        self._loop.close()
        del self._model
        devices.release_freed()

    def _compute(self, items: Items) -> Sequence[Output]:
        try:
            batch = [item.encoded for item in items]
            return self._model.outputs(batch, self._model.states(batch))
        except (MemoryError, RuntimeError) as error:
            if devices.lacks_memory(error):
                raise OutOfMemory from error.with_traceback(None)
            raise

    def _open(self, assignment: Assignment) -> ConvertedModel:
        """Return the model in the cache. If it is missing or unusable, convert it first.

        If memory is too short to open it, the files stay and the error is raised.
        """
        folder, cache_dir, threads = folder_of(assignment), assignment.cache_dir, self._here.threads
        if is_whole(folder, cache_dir):
            try:
                model = ConvertedModel(folder, cache_dir, self._precision, threads)
            except Exception as error:  # whatever libraries raise on files that they do not know
                if devices.lacks_memory(error):
                    raise
                log.info("converted_again folder=%s error=%r", folder, error)
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with suppress(OSError):  # a read-only cache
                    os.utime(folder)  # the time of its last use
                return model
        from docmill.tasks.backends.encoder import conversion

        return conversion.convert(assignment, folder, self._precision, threads)
