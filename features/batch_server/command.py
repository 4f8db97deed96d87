"""`docmill batch`: carry out a file of requests in OpenAI's batch format, here and now."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click

from docmill.features.batch_server import batches, writer
from docmill.features.batch_server.file import BodySettings, open_batch
from docmill.tasks.kinds import KindOptions
from docmill.worker import formatting
from docmill.worker.cli.options import BACKEND, DEVICE, ENDPOINT, OUT, complete_files, declared, number
from docmill.worker.cli.printing import OK, SOME_FAILED, SOME_REJECTED, answer, print_json
from docmill.worker.jobs.outputs import STDOUT, require_target
from docmill.worker.settings import load_settings
from docmill.worker.submit.options import Work


@click.command(
    "batch",
    epilog="Example: docmill batch requests.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct --out results.jsonl",
)
@click.argument("requests", metavar="FILE", shell_complete=complete_files)
@click.option("--out", type=OUT, help="File for the answers, or - for stdout.")
@click.option(
    "--errors",
    type=OUT,
    help="File for the errors. The file of --out gets them too if it is named here.  [default: NAME.errors.jsonl "
    "beside NAME.jsonl]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL|NAME=MODEL",
    help="Model for all requests, or for those that name NAME; may be repeated.  [default: the model that each "
    "request names]",
)
@declared(Work, "revision")
@click.option("--ignore", multiple=True, metavar="FIELD", help="Ignore this field of requests; may be repeated.")
@declared(KindOptions, "dtype")
@click.option(
    "--max-cost",
    type=number(0, min_open=True),
    help="Pause the jobs at this total cost, in the currency of DOCMILL_PRICES. Shards in progress end. The same "
    "command with a higher limit continues.",
)
@click.option(
    "--enqueue",
    is_flag=True,
    help="Leave the jobs to the workers of a fleet, and print their numbers. The same command with --out, once they "
    "are done, writes the answers.",
)
@DEVICE
@BACKEND
@ENDPOINT
@click.option("--json", "as_json", is_flag=True, help="Print the numbers of requests, and the jobs, as JSON.")
def batch_command(
    requests: str,
    out: Path | None,
    errors: Path | None,
    models: tuple[str, ...],
    revision: str | None,
    ignore: tuple[str, ...],
    dtype: str | None,
    max_cost: float | None,
    enqueue: bool,
    device: str | None,
    backend: str | None,
    endpoint: str | None,
    as_json: bool,
) -> int:
    """Carry out FILE, a file of requests in OpenAI's batch format, here and now.

    A line is {"custom_id", "method", "url", "body"}; the url is /v1/chat/completions, /v1/responses,
    /v1/completions or /v1/embeddings. FILE may be compressed (.gz or .zst), a URL, or - for standard input.

    Requests with the same url, model and parameters make a job. docmill computes every text once, and the same
    command continues an interrupted one. If it cannot carry out a request, it writes an error with the line.
    """
    if enqueue == (out is not None):
        raise click.UsageError("give --out FILE for the answers, or --enqueue to leave the work to a fleet")
    settings = load_settings(device=device, backend=backend, endpoint=endpoint)
    body_settings = BodySettings(dtype or settings.dtype, frozenset(ignore))
    if out is None:
        with open_batch(requests, body_settings) as file:
            jobs = batches.enqueue_batch(settings, batches.plan_batch(settings, file, models, revision), max_cost)
        if as_json:
            print_json([asdict(job) for job in jobs])
        else:
            for job in jobs:
                answer(job.id)
        return OK
    if errors is None:
        errors = batches.name_errors_file(out)
    elif errors.resolve() == out.resolve():
        errors = out  # one file by two names
    _check_files(requests, out, errors, as_json)
    with open_batch(requests, body_settings) as file:
        plan = batches.plan_batch(settings, file, models, revision)
        statuses, unserved = batches.run_batch(settings, plan, max_cost)
        plan = replace(plan, unfit={**plan.unfit, **unserved})
        counts = batches.write_answers(settings, plan, statuses, out, errors)
    batches.say_written(counts, out, errors)
    if as_json:
        failed = counts["refused"] + counts["failed"]
        request_counts = {"total": counts.total(), "completed": counts["completed"], "failed": failed}
        jobs_told = [formatting.as_json(status) for status in statuses.values()]
        print_json({"request_counts": request_counts, "out": str(out), "errors": str(errors), "jobs": jobs_told})
    return SOME_FAILED if counts["failed"] else SOME_REJECTED if counts["refused"] else OK


def _check_files(requests: str, out: Path, errors: Path, as_json: bool) -> None:
    if as_json and STDOUT in {out, errors}:
        option = "--out" if out == STDOUT else "--errors"
        raise click.UsageError(f"--json and {option} - both write to stdout; leave one out")
    for path, option in ((out, "--out"), (errors, "--errors")):
        require_target(path, writer.NAME, source=requests, name=option)
