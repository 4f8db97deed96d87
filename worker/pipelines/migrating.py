"""A migration of a corpus to another model: what it compares, computes and switches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from docmill.storage.core import lookups
from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from docmill.storage.errors import StorageError
from docmill.storage.pipelines import pipelines, switching
from docmill.storage.pipelines.switching import KeptView
from docmill.storage.readers.stored import NoSource, StoredTexts
from docmill.storage.steps import replacements, steps
from docmill.storage.steps.replacements import CANCELLED, FILLING, IN_FORCE, UNDONE, Candidate, Replacement
from docmill.storage.steps.steps import StepRequest
from docmill.tasks import kinds
from docmill.tasks.models import families
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import options_of
from docmill.worker.pipelines.file import parse
from docmill.worker.pipelines.running import requests_of
from docmill.worker.settings import Settings
from docmill.worker.submit.options import JobOptions, ReadingOptions
from docmill.worker.submit.request import Prepared, check_corpus_name, require_possible_all, spec_of

PRIORITY = -100  # of a backfill: other jobs go first
PROMPTS = frozenset({"prompt", "prompt_name"})  # of which a model has one
LISTED = 10


@dataclass(frozen=True)
class Wanted:
    """The models of a migration as a user names them, and options that the new one has in place of the old one's."""

    old: str
    new: str
    revision: str | None = None
    job: int | None = None
    step: str | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A migration that can be made. `stored` is the row that it continues, if there is one.

    `left_out` are the options of the old spec that the new model does not take.
    """

    corpus_id: int
    corpus: str
    old: Candidate
    new: Spec
    left_out: tuple[str, ...]
    stored: Replacement | None

    @property
    def is_switched(self) -> bool:
        """True if the new model answers already."""
        return self.stored is not None and self.stored.state in IN_FORCE


def plan(
    settings: Settings, database: Database, corpus_id: int, corpus: str, wanted: Wanted, devices: Sequence[str]
) -> Planned:
    """Choose the old spec, make the new one, and find the migration that this continues.

    Raises StorageError, ModelError and BadOption for the new model.
    """
    migrations = replacements.every(database, corpus_id)
    old = _chosen(database, corpus_id, corpus, wanted)
    new, left_out = _new_spec(settings, old.spec, wanted)
    if new == old.spec:
        raise StorageError(
            f"{new.model} with these options is the model that job {old.job_id} has; there is nothing to migrate"
        )
    stored = next(
        (migration for migration in migrations[::-1] if (migration.old, migration.new) == (old.spec, new)), None
    )
    if stored is not None and (stored.state in {CANCELLED, UNDONE}):
        stored = None
    standing = replacements.specs_in_force(migrations).get(old.spec)
    if standing is not None and standing != new:
        raise StorageError(f"the corpus {corpus} was migrated from {old.spec.model} to {standing.model} before")
    if stored is not None and stored.state in IN_FORCE and standing is None:
        stored = None  # it was migrated back since
    under_way = next((migration for migration in migrations if migration.state == FILLING), None)
    if under_way is not None and under_way != stored:
        raise StorageError(
            f"a migration of {corpus} from {under_way.old.model} to {under_way.new.model} is under way; "
            "--cancel ends it"
        )
    _require_alike(old.spec, new)
    require_possible_all(settings, [new], devices)
    return Planned(corpus_id, corpus, old, new, left_out, stored)


def _chosen(database: Database, corpus_id: int, corpus: str, wanted: Wanted) -> Candidate:
    """Return the latest step that computed the corpus by the old model. Raises StorageError if there are several."""
    there = replacements.candidates(database, corpus_id, wanted.job)
    names = {wanted.old, str(Path(wanted.old).expanduser().resolve())}
    of_model = [
        candidate for candidate in there if candidate.spec.model in names and wanted.step in {None, candidate.step}
    ]
    latest = {candidate.spec_id: candidate for candidate in reversed(of_model)}
    if not latest:
        models = (
            ", ".join(dict.fromkeys(candidate.spec.model for candidate in there)) or "none: no job has run over it"
        )
        which = f"job {wanted.job}" if wanted.job else f"no job over the corpus {corpus}"
        verb = "has no step" if wanted.job else "has a step"
        raise StorageError(f"{which} {verb} with the model {wanted.old}; models of this corpus: {models}")
    if len(latest) > 1:
        listed = "; ".join(map(str, [*reversed(latest.values())][:LISTED]))
        raise StorageError(
            f"the corpus {corpus} has several sorts of results of {wanted.old}; choose by --job, --step or both: "
            f"{listed}"
        )
    return next(iter(latest.values()))


def _new_spec(settings: Settings, old: Spec, wanted: Wanted) -> tuple[Spec, tuple[str, ...]]:
    pinned = pinning.pin(
        wanted.new, models_dir=settings.models_dir, cache_dir=settings.cache_dir, revision=wanted.revision
    )
    family = families.family(pinning.read_config(pinned, models_dir=settings.models_dir))
    options, left_out = options_of(old, family)
    kinds.require_options(old.kind, wanted.options)
    if wanted.options:
        options = options.replaced(**dict.fromkeys(PROMPTS & type(options).model_fields.keys()) | wanted.options)
        left_out = tuple(name for name in left_out if name not in PROMPTS)
    return spec_of(settings, old.kind, wanted.new, wanted.revision, options), left_out


def _require_alike(old: Spec, new: Spec) -> None:
    """Raise StorageError if the results of two specs have other columns."""
    output = kinds.kind(old.kind).output
    columns = [[column.name for column in output.columns(spec.params)] for spec in (old, new)]
    if columns[0] != columns[1]:
        raise StorageError(f"the results of {new.model} have other columns than those of {old.model}")


def texts_of(database: Database, planned: Planned) -> StoredTexts:
    """Return the texts that a migration computes, as a source to forecast from."""
    with database.read() as transaction:
        requests = steps.requested(transaction, planned.old.job_id)
        opened = steps.opened(requests, lambda spec: lookups.spec_id(transaction, spec))
    last = next(step for step in opened if step.spec_id == planned.old.spec_id)
    return StoredTexts(planned.corpus, database, planned.corpus_id, tuple(steps.way_to(opened, last)))


def forecast_request(database: Database, planned: Planned) -> Prepared:
    """Return the request whose forecast is that of a migration."""
    step = StepRequest(planned.new.kind, planned.new)
    return Prepared(ReadingOptions(), JobOptions(), (step,), texts_of(database, planned), planned.corpus)


def backfill_request(database: Database, migration: Replacement) -> Prepared:
    """Return the request for the backfill of a migration: the steps of the old job over what the corpus has.

    Raises StorageError if the old job was removed.
    """
    requests = switching.requests_of(database, migration)
    job = JobOptions(priority=PRIORITY)
    return Prepared(ReadingOptions(), job, requests, NoSource(migration.source), migration.corpus)


def kept_views(settings: Settings, database: Database, corpus: str, specs: Collection[Spec]) -> list[KeptView]:
    """Return the views of stored pipelines over a corpus that have one of these specs. Raises PipelineInvalid."""
    views = []
    for row, _ in pipelines.every(database):
        pipeline = parse(row.text, Path(row.path))
        if pipeline.output.view and check_corpus_name(pipeline.corpus.name or pipeline.name) == corpus:
            requests = requests_of(settings, pipeline)
            if any(request.spec in specs for request in requests):
                views.append(KeptView(pipeline.name, corpus, requests))
    return views


def specs_of(database: Database, corpus_id: int) -> set[Spec]:
    """Return the specs of all migrations of a corpus."""
    return {spec for migration in replacements.every(database, corpus_id) for spec in (migration.old, migration.new)}
