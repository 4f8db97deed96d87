"""Plan a migration of a corpus to another model: the results that it replaces, the new spec, and its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from docmill.features.migrating import stored_migrations
from docmill.features.migrating.stored_migrations import ReplaceableStep
from docmill.storage.core.database import Database
from docmill.storage.core.lookups import is_current_document, pages, read_texts
from docmill.storage.core.schema import Document
from docmill.storage.core.specs import Spec
from docmill.storage.errors import StorageError
from docmill.storage.readers import Record, Rejection, Source
from docmill.storage.steps import lineage, replacements, steps
from docmill.storage.steps.fitted_risks import require_risks
from docmill.storage.steps.replacements import FILLING, IN_FORCE, SpecReplacement
from docmill.storage.steps.steps import OpenStep, StepRequest
from docmill.tasks import kinds
from docmill.tasks.models import families
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import options_of
from docmill.worker.jobs import Listener
from docmill.worker.jobs.follow import ingest_bar
from docmill.worker.settings import Settings
from docmill.worker.submit import dry_run
from docmill.worker.submit.dry_run import Forecast
from docmill.worker.submit.options import JobOptions, ReadingOptions
from docmill.worker.submit.request import Prepared, spec_of

PROMPTS = frozenset({"prompt", "prompt_name"})  # alternatives: a spec has at most one
LISTED = 10
_PAGE = 1_000


@dataclass(frozen=True)
class MigrationPlan:
    """A possible migration. `stored` is the row that it continues, if there is one.

    `requests` are the steps of the old job with the new spec. `left_out` are the options of the old spec that the new
    model does not take.
    """

    corpus_id: int
    corpus: str
    old: ReplaceableStep
    new: Spec
    requests: tuple[StepRequest, ...]
    left_out: tuple[str, ...]
    stored: SpecReplacement | None


def plan(
    database: Database, corpus_id: int, corpus: str, old: ReplaceableStep, new: Spec, left_out: tuple[str, ...]
) -> MigrationPlan:
    """Return a migration to a new spec. Raises StorageError if it is not possible."""
    if new == old.spec:
        raise StorageError(
            f"{new.model} with these options is the model that job {old.job_id} has; there is nothing to migrate"
        )
    migrations = stored_migrations.list_all(database, corpus_id)
    standing = replacements.specs_in_force(migrations).get(old.spec)
    if standing not in {None, new}:
        raise StorageError(f"the corpus {corpus} was migrated from {old.spec.model} to {standing.model} before")
    continued = {FILLING} if standing is None else {FILLING, *IN_FORCE}  # a migration that was undone begins anew
    stored = [
        migration
        for migration in migrations
        if (migration.old, migration.new) == (old.spec, new) and migration.state in continued
    ]
    _require_alike(old.spec, new)
    with database.read() as transaction:
        requests = replacements.with_specs(steps.read_requests(transaction, old.job_id), {old.spec: new})
    require_risks(database, requests)
    return MigrationPlan(corpus_id, corpus, old, new, requests, left_out, stored[-1] if stored else None)


def choose_step(
    database: Database, corpus_id: int, corpus: str, model: str, job: int | None = None, step: str | None = None
) -> ReplaceableStep:
    """Return the latest step that computed the corpus with a model. A job and a step's name narrow the choice.

    Raises StorageError if there is none, or if such steps have different specs.
    """
    candidates = stored_migrations.replaceable_steps(database, corpus_id, job)
    names = {model, str(Path(model).expanduser().resolve())}
    of_model = [
        candidate for candidate in candidates if candidate.spec.model in names and step in {None, candidate.step}
    ]
    latest = {candidate.spec_id: candidate for candidate in reversed(of_model)}
    if not latest:
        models = ", ".join(dict.fromkeys(candidate.spec.model for candidate in candidates))
        which = f"job {job}" if job else f"no job over the corpus {corpus}"
        verb = "has no step" if job else "has a step"
        raise StorageError(
            f"{which} {verb} with the model {model}; models of this corpus: "
            f"{models or 'none: no job has run over it'}"
        )
    if len(latest) > 1:
        listed = "; ".join(map(str, [*reversed(latest.values())][:LISTED]))
        raise StorageError(
            f"the corpus {corpus} has several kinds of results of {model}; choose by --job, --step or both: {listed}"
        )
    return next(iter(latest.values()))


def make_spec(
    settings: Settings, old: Spec, model: str, revision: str | None, chosen: Mapping[str, str]
) -> tuple[Spec, tuple[str, ...]]:
    """Return the spec of a model with the old spec's options, and the names of options that the model does not take.

    The `chosen` options replace the old ones. Raises ModelError and BadOption.
    """
    pinned = pinning.pin(model, settings.model_folders, revision=revision)
    family = families.family(pinning.read_config(pinned, settings.model_folders))
    options, left_out = options_of(old, family)
    kinds.require_options(old.kind, chosen)
    if chosen:
        options = options.model_copy(update={**dict.fromkeys(PROMPTS & type(options).model_fields.keys()), **chosen})
        left_out = tuple(name for name in left_out if name not in PROMPTS)
    return spec_of(settings, old.kind, model, revision, options), left_out


@dataclass
class StoredTexts(Source):
    """The texts that the last step of a path reads, of the current documents of a corpus that have one."""

    name: str
    database: Database
    corpus_id: int
    way: Sequence[OpenStep]

    def records(self) -> Iterator[Record | Rejection]:
        """Yield a record for each document, without the prompt around its text."""
        columns = (Document.id, Document.key, Document.content_id, Document.meta)
        query = select(*columns).where(Document.corpus_id == self.corpus_id, is_current_document())
        for page in pages(self.database, query, Document.id, _PAGE):
            with self.database.read() as transaction:
                inputs = lineage.read_inputs(transaction, self.way, {row.id: row.content_id for row in page})
                texts = read_texts(transaction, {*inputs.values()})
            for row in page:
                if row.id in inputs and inputs[row.id] in texts:  # others were removed meanwhile
                    yield Record(row.key, texts[inputs[row.id]], row.meta, (), row.key)


def _require_alike(old: Spec, new: Spec) -> None:
    """Raise StorageError if the results of two specs differ in their columns."""
    output = kinds.kind(old.kind).output
    columns = [[column.name for column in output.columns(spec.params)] for spec in (old, new)]
    if columns[0] != columns[1]:
        raise StorageError(f"the results of {new.model} have other columns than those of {old.model}")


def forecast(
    settings: Settings, database: Database, planned: MigrationPlan, device: str, listener: Listener
) -> Forecast:
    """Measure a sample of the texts that a migration computes, and return its cost. Stores nothing."""
    with database.read() as transaction:
        opened = steps.read_steps(transaction, planned.old.job_id)
    replaced = next(step for step in opened if step.spec_id == planned.old.spec_id)
    texts = StoredTexts(planned.corpus, database, planned.corpus_id, tuple(steps.find_way(opened, replaced)))
    step = StepRequest(planned.new.kind, planned.new)
    request = Prepared(ReadingOptions(), JobOptions(), (step,), texts, planned.corpus)
    with listener.computing(), ingest_bar(listener, texts) as progress:
        return dry_run.forecast(settings, database, request, device, progress)
