"""A pipeline as a TOML file: its text becomes values, or every error in it with its line. Pure, but for `read`.

Of a step's options only the names and types are checked here: what suits a model is known when the model is
(``tasks.specs.plan.build_spec``). docs/pipeline-file.md is the reference for those who write such a file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage import writers
from storage.core.flags import DOUBTS, Flagged
from storage.readers import credentials
from tasks import kinds
from tasks.errors import BadOption
from tasks.kinds.options import key, option
from tasks.kinds.validation import shown
from tasks.prompts import prompts
from tasks.specs import per_language
from worker.errors import WorkerError
from worker.pipelines import schedule
from worker.pipelines.files_in_steps import CannotRead, with_files
from worker.pipelines.schedule import BadSchedule, Schedule
from worker.pipelines.schema import DOCUMENT, TABLES, CorpusTable, JobTable, OutputTable, StepTable, Top, step_table
from worker.pipelines.toml_positions import Place, lines
from worker.pipelines.toml_schema import Notes, nearest, read_table
from worker.submit.escalation import Escalation


class PipelineInvalid(WorkerError):
    """The pipeline file has errors: one on each line of the message, as FILE:LINE: what is wrong and what to do."""


@dataclass(frozen=True)
class Step:
    """One task over what ``input`` gives: ``document``, or an earlier step by its name.

    ``flagged`` is a condition on the flags and numbers of that output, ``keep_first`` on the documents.
    ``escalation`` computes doubted results again.

    ``model`` is None for the task's own. Where the file names no precision, the options say ``auto``.
    """

    name: str
    task: str
    input: str
    model: str | None
    revision: str | None
    options: kinds.KindOptions
    flagged: Flagged | None = None
    escalation: Escalation | None = None
    keep_first: bool = False


@dataclass(frozen=True)
class Pipeline:
    """A file's content, its paths absolute; ``text`` is the file as written, with what its steps
    name in other files. ``path`` names the file in errors."""

    name: str
    corpus: CorpusTable
    steps: tuple[Step, ...]
    job: JobTable
    schedule: Schedule | None
    output: OutputTable
    text: str
    path: Path


def read(path: Path) -> Pipeline:
    """The pipeline in a file. Raises PipelineInvalid, also for a file that cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PipelineInvalid(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise PipelineInvalid(f"{path}:{line}: this is not UTF-8 text; save the file as UTF-8") from error
    try:
        return parse(with_files(text, path.absolute().parent), path)
    except CannotRead as error:
        raise PipelineInvalid(f"{path}:{error.line}: {error}") from error


def parse(text: str, path: Path) -> Pipeline:
    """The pipeline in a file's text; ``path`` says where relative paths start, and names the file in errors.

    Raises PipelineInvalid with all the errors, in the order of their lines.
    """
    try:
        given = tomllib.loads(text)
        notes = Notes(lines(text))
    except (ValueError, RecursionError) as error:  # beside its own errors: a number of a million digits
        raise PipelineInvalid(_no_toml(error, text, path)) from error
    written = _tables(given, notes)
    values = {name: value for name, value in given.items() if name not in (*TABLES, "step")}
    top = read_table(values, (), Top, notes, beside=(*TABLES, "step"))
    parts = {name: read_table(written.get(name, {}), (name,), table, notes) for name, table in TABLES.items()}
    steps = [
        read_table(step, ("step", place), step_table(str(step.get("task"))), notes)
        for place, step in enumerate(written.get("step", []))
    ]
    _check_required(given, notes)
    _check_names(steps, notes)
    inputs = _inputs(steps, notes)
    _check_conditions(steps, inputs, notes)
    _check_prompts(steps, notes)
    _check_pruning(parts["corpus"], notes)
    _check_schedule(parts["schedule"], notes)
    _check_output(parts["output"], notes)
    if notes.found:
        raise PipelineInvalid("\n".join(f"{path}:{line}: {sentence}" for line, sentence in sorted(notes.found)))
    folder, corpus, output = path.absolute().parent, parts["corpus"], parts["output"]
    if "://" not in corpus["source"]:
        corpus["source"] = str(folder / corpus["source"])
    if "file" in output:
        output["file"] = str(folder / output["file"])
    return Pipeline(
        name=top["name"],
        corpus=CorpusTable.model_validate({"name": top["name"], **corpus}),
        steps=tuple(_step(step, input_) for step, input_ in zip(steps, inputs, strict=True)),
        job=JobTable.model_validate(parts["job"]),
        schedule=Schedule(**parts["schedule"]) if "schedule" in given else None,
        output=OutputTable.model_validate(output),
        text=text,
        path=path,
    )


def refuse_secrets(pipeline: Pipeline) -> None:
    """Raise PipelineInvalid for a file that is not to be kept, since there is a password or token in its source."""
    if (problem := credentials.problem(pipeline.corpus.source)) is not None:
        raise PipelineInvalid(f"{place_of(pipeline, ('corpus', 'source'))}: source {problem}")


def place_of(pipeline: Pipeline, place: Place) -> str:
    """Return FILE:LINE of a key in the pipeline's file, or of the table that should hold it."""
    return f"{pipeline.path}:{Notes(lines(pipeline.text)).line(place)}"


def _no_toml(error: Exception, text: str, path: Path) -> str:
    if isinstance(error, RecursionError):
        return f"{path}:1: the brackets in this file are nested too deep"
    said = str(error)
    place = re.search(r" \(at line (\d+), column \d+\)$", said)
    line = int(place[1]) if place else text.count("\n") + 1  # it says "at end of document", or no place at all
    return f"{path}:{line}: this is not TOML: {said.removesuffix(place[0]) if place else said}"


def _tables(given: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """Return the tables of a file that are written as such; note the others."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "step":
            if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
                found[name] = value
            else:
                notes.add((name,), "step must be tables, each written [[step]], with two brackets")
        elif name in TABLES:
            if isinstance(value, dict):
                found[name] = value
            else:
                notes.add((name,), f"{name} must be a table, written [{name}], not {shown(value)}")
    return found


def _check_required(given: Mapping[str, Any], notes: Notes) -> None:
    """Note what has to be there and is not."""
    for name, example in (("name", 'name = "nightly"'), ("corpus", "[corpus]"), ("step", "[[step]]")):
        if name not in given:
            notes.add((), f"a pipeline needs a {name}: {example}")
    if isinstance(corpus := given.get("corpus"), dict) and "source" not in corpus:
        notes.add(("corpus",), 'a corpus needs a source: source = "articles.jsonl"')
    if isinstance(schedule := given.get("schedule"), dict) and "cron" not in schedule:
        notes.add(("schedule",), 'a schedule needs a cron expression: cron = "30 3 * * *"')
    steps = given.get("step")
    for place, step in enumerate(steps if isinstance(steps, list) else []):
        for name, example in (("name", 'name = "english"'), ("task", 'task = "translate"')):
            if isinstance(step, dict) and name not in step:
                notes.add(("step", place), f"a step needs a {name}: {example}")


def _check_names(steps: Sequence[Mapping[str, Any]], notes: Notes) -> None:
    first: dict[str, int] = {}
    for place, step in enumerate(steps):
        name = step.get("name")
        if name is None:
            continue
        if name in first:
            line = notes.line(("step", first[name], "name"))
            notes.add(("step", place, "name"), f"the step on line {line} is called {name} too; choose another name")
        first.setdefault(name, place)


def _inputs(steps: Sequence[Mapping[str, Any]], notes: Notes) -> list[str]:
    """Return the input of each step: the document or an earlier step, so that there are no cycles."""
    inputs = []
    tasks: dict[str, str | None] = {}
    later = {step.get("name") for step in steps}
    before: str | None = DOCUMENT  # None where the step before has no name that could be read
    for place, step in enumerate(steps):
        wanted = step.get("input", before)
        if wanted is not None and (problem := _input_problem(wanted, tasks, later, given="input" in step)):
            notes.add(("step", place, "input"), problem)
        inputs.append(wanted or DOCUMENT)
        before = step.get("name")
        if before is not None:
            tasks[before] = step.get("task")
    return inputs


def _input_problem(wanted: str, earlier: Mapping[str, str | None], all_names: set[Any], *, given: bool) -> str | None:
    if wanted == DOCUMENT:
        return None
    if wanted in earlier:
        task = earlier[wanted]
        if task is None or (output := kinds.kind(task).output).feeds_steps:
            return None
        which = f"{wanted} gives" if given else f"the step before, {wanted}, gives"
        return f'{which} {output.plural}, which no step can read; choose another input, such as input = "{DOCUMENT}"'
    if wanted in all_names:
        return f"input must be an earlier step, and {wanted} is not; put it before this one, or choose another"
    return f"input names no step: {shown(wanted)}; {nearest(wanted, [DOCUMENT, *earlier])}"


def _check_conditions(steps: Sequence[Mapping[str, Any]], inputs: Sequence[str], notes: Notes) -> None:
    """Note conditions on the flags of documents, which are no outputs, and others that go with nothing."""
    tasks = {step.get("name"): step.get("task") for step in steps}
    for place, (step, input_) in enumerate(zip(steps, inputs, strict=True)):
        if step.get("keep-first") and input_ != DOCUMENT:
            problem = f'keep-first is about documents; write it in the step that reads them, or input = "{DOCUMENT}"'
            notes.add(("step", place, "keep-first"), problem)
        for name in ("flagged", "unflagged"):
            if name in step and input_ == DOCUMENT:
                problem = f"{name} is about the output of an earlier step; name it: input"
                notes.add(("step", place, name), problem)
            elif isinstance(parts := step.get(name), list) and (task := tasks.get(input_)) is not None:
                output = kinds.kind(task).output
                for bound in Flagged.parse(parts).bounds:
                    if bound.number not in output.confidence:
                        known = ", ".join(output.confidence)
                        problem = f"{name}: {output.plural} have no {bound.number}, only {known}"
                        notes.add(("step", place, name), problem)
        if "flagged" in step and "unflagged" in step:
            notes.add(("step", place, "unflagged"), "flagged and unflagged exclude each other; leave one out")


def _check_prompts(steps: Sequence[Mapping[str, Any]], notes: Notes) -> None:
    """Note the names of files in place of templates, and the templates that are none."""
    templates = {key(name, field) for name, field in kinds.OPTIONS.items() if option(field).is_template}
    for place, step in enumerate(steps):
        for name in templates & step.keys():
            value = step[name]
            if value.startswith("@") and "{text}" not in value:
                advice = "put the text between ''' and '''"
                problem = f"{name} is the template itself in a pipeline, not a file's name; {advice}"
                notes.add(("step", place, name), problem)
                continue
            try:
                prompts.check(value)
            except BadOption as error:
                notes.add(("step", place, name), str(error).removeprefix("--"))


def _check_pruning(corpus: Mapping[str, Any], notes: Notes) -> None:
    """Note a sample that is to be pruned, and options of pruning without it."""
    if corpus.get("prune") and "limit" in corpus:
        problem = "prune and limit do not go together: what lies behind the limit has not vanished; leave one out"
        notes.add(("corpus", "prune"), problem)
    for name in ("prune-max", "prune-rejected"):
        if name in corpus and not corpus.get("prune"):
            notes.add(("corpus", name), f"{name} says how prune works; write prune = true, too")


def _check_schedule(given: Mapping[str, Any], notes: Notes) -> None:
    """Note an expression that never comes, which depends on the time zone."""
    if "cron" in given:
        try:
            schedule.check(given["cron"], given.get("timezone", "UTC"))
        except BadSchedule as error:
            notes.add(("schedule", "cron"), str(error))


def _check_output(output: Mapping[str, Any], notes: Notes) -> None:
    ending = Path(str(output.get("file", ""))).suffix.lower()
    if "format" not in output and ending in {*writers.suffixes()} - {*writers.suffixes(any_output=True)}:
        *first, last = writers.suffixes(any_output=True)
        endings = f"{', '.join(first)} or {last}"
        notes.add(("output", "file"), f"a {ending} file has no place for several steps; choose {endings}")
    if "part-documents" in output and "file" not in output:
        notes.add(("output", "part-documents"), 'parts need a folder; name it: file = "out"')


def _step(given: Mapping[str, Any], input_: str) -> Step:
    task = given["task"]
    table = step_table(task).model_validate(given)
    options, model = kinds.kind(task).options, table.model
    if isinstance(model, dict):
        model = per_language.written(model)
    chosen = table.model_dump(include={*options.model_fields}, exclude_none=True)  # a validator may refuse None
    again = getattr(table, "escalate", None)
    escalation = None if again is None else again.escalation
    return Step(
        name=table.name,
        task=task,
        input=input_,
        model=model,
        revision=table.revision,
        options=options(**chosen),
        flagged=_condition(table),
        escalation=escalation,
        keep_first=table.keep_first,
    )


def _condition(table: StepTable) -> Flagged | None:
    names = table.flagged if table.unflagged is None else table.unflagged
    if names is None:
        return None
    return Flagged.parse([DOUBTS] if names is True else names, lacking=table.unflagged is not None)
