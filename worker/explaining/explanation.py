"""Assemble the explanation of a result from its provenance and from the windows that its kind cuts the text into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from docmill.tasks.kinds import Traits
from docmill.worker.explaining.flags import OF_DOCUMENT, Flag, meaning, of_output

if TYPE_CHECKING:
    from pathlib import Path

    from docmill.storage.core.specs import Spec
    from docmill.storage.results.provenance import Provenance, Recorded, StepRecord
    from docmill.tasks.engine.backend_factory import ReadWindow

NOT_KEPT = ("the output of each window", "the time of this document alone")
CLASSES: Mapping[str, str] = {
    "transient": "(class transient: a retry can help)",
    "document": "(class document: a retry gives the same, unless the text or the options change)",
    "model": "(class model: a retry gives the same with this model)",
}


@dataclass(frozen=True)
class Cut:
    """The windows of a text; `problem` says why they are not known here. `traits` are those of the model."""

    windows: tuple[ReadWindow, ...] = ()
    problem: str | None = None
    traits: Traits = field(default_factory=Traits)


@dataclass(frozen=True)
class Explanation:
    """The explanation of one result.

    `state` is the outcome's status, or `blocked` (an earlier step gave nothing), `removed`, `left out` or `to do`,
    and `said` a sentence about one that is not done. `note` tells of other steps with a result for the document.
    `not_kept` lists what no table has.
    """

    provenance: Provenance
    state: str
    said: str | None
    cut: Cut
    flags: tuple[Flag, ...]
    weights: Mapping[str, str]
    note: str | None = None
    not_kept: tuple[str, ...] = NOT_KEPT

    @property
    def step(self) -> StepRecord:
        return self.provenance.step


def explain(provenance: Provenance, cut: Callable[[Spec, str], Cut]) -> Explanation:
    """Return the explanation of a result; `cut` reads a text as the model of a spec does."""
    step = provenance.step
    state, said = _state(provenance)
    found = cut(step.spec, step.content) if step.content is not None and step.content.strip() else Cut()
    return Explanation(
        provenance=provenance,
        state=state,
        said=said,
        cut=found,
        flags=_flags(provenance, found.traits),
        weights=weights_of(step.spec),
        note=_note(provenance),
    )


def cutter(models_dir: Path | None, cache_dir: Path) -> Callable[[Spec, str], Cut]:
    """Return the function that cuts a text as the model of a spec on this machine would."""

    def cut(spec: Spec, text: str) -> Cut:
        from docmill.tasks.engine.backend_factory import open_reading, read
        from docmill.tasks.errors import TaskError

        try:
            reading = open_reading(spec, models_dir=models_dir, cache_dir=cache_dir)
            return Cut(tuple(read(reading, spec, text)), traits=reading.traits)
        except TaskError as error:
            return Cut(problem=str(error))

    return cut


def weights_of(spec: Spec) -> dict[str, str]:
    """Return what pins the weights: the model and its revision, and those of the adapter if there is one.

    A revision is a commit of the hub, or the hash of a local model's files.
    """
    found = {"model": spec.model, "revision": spec.revision}
    if "adapter" in spec.params:
        found |= {"adapter": spec.params["adapter"], "adapter_revision": spec.params["adapter_revision"]}
    return found


def _state(provenance: Provenance) -> tuple[str, str | None]:
    step = provenance.step
    if step.outcome is not None:
        return step.outcome.status, _of_outcome(step.outcome)
    if step.removed:
        return "removed", (
            "The result was removed since it was computed. "
            f"Run the source {provenance.source} again to compute it anew."
        )
    if provenance.left_out is not None:
        return "left out", f"It is {provenance.left_out}, and the step leaves such documents out."
    for one in provenance.way[:-1]:
        if one.outcome is not None and one.outcome.status != "done":
            return "blocked", f"The step {one.name} before it {one.outcome.status}: {one.outcome.reason}"
    return "to do", _to_do(provenance)


def _of_outcome(outcome: Recorded) -> str | None:
    if outcome.status == "done":
        return None
    if outcome.status == "skipped":
        return f"There was nothing to compute: {outcome.reason}"
    return f"{outcome.reason} {CLASSES.get(outcome.reason_class or '', '')}".strip()


def _to_do(provenance: Provenance) -> str:
    step = provenance.step
    if provenance.state in {"cancelled", "stopped"}:
        return f"It was not computed: the job was {provenance.state}. Run its source again to compute it."
    told = f"`docmill status {provenance.job}` says how the job stands."
    if step.content is None and step.reads is not None:
        return f"It is not computed yet: it waits for the step {step.reads}. {told}"
    where = "" if step.batch is None else f" (shard {step.batch.shard} is {step.batch.state})"
    return f"It is not computed yet{where}. {told}"


def _flags(provenance: Provenance, traits: Traits) -> tuple[Flag, ...]:
    of_document = [Flag(name, OF_DOCUMENT, meaning(name)) for name in provenance.flags]
    step, outcome = provenance.step, provenance.step.outcome
    if outcome is None:
        return tuple(of_document)
    sure = outcome.confidence.get("confidence")
    return (*of_document, *of_output(step.spec, traits, step.content or "", outcome.output, outcome.flags, sure))


def _note(provenance: Provenance) -> str | None:
    if not provenance.others:
        return None
    others = ", ".join(provenance.others)
    return f"The job has other steps with a result for this document: {others}. --step NAME explains one of them."
