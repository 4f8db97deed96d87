"""`docmill batch`: carry out a file of requests in OpenAI's batch format, here and now."""

from __future__ import annotations

from pathlib import Path

import click

from storage.writers import openai_batch
from tasks.kinds import KindOptions
from worker.cli import formatting, shell_completion
from worker.cli.context import settings_from
from worker.cli.declared_options import declared
from worker.cli.exit_codes import OK, SOME_FAILED, SOME_REJECTED
from worker.cli.interrupts import stop_as_interrupt
from worker.cli.options import BACKEND, DEVICE, ENDPOINT, OUT
from worker.cli.output_files import STDOUT, check_out, check_out_is_no_input
from worker.cli.printing import print_json
from worker.submit.options import Work


@click.command(
    "batch",
    epilog="Example: docmill batch requests.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct --out results.jsonl",
)
@click.argument("requests", metavar="FILE", shell_complete=shell_completion.files)
@click.option("--out", type=OUT, required=True, help="File for the answers, or - for stdout.")
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
@click.option("--ignore", multiple=True, metavar="FIELD", help="Pass over this field of requests; may be repeated.")
@declared(KindOptions, "dtype")
@DEVICE
@BACKEND
@ENDPOINT
@click.option("--json", "as_json", is_flag=True, help="Print the numbers of requests, and the jobs, as JSON.")
def batch_command(
    requests: str,
    out: Path,
    errors: Path | None,
    models: tuple[str, ...],
    revision: str | None,
    ignore: tuple[str, ...],
    dtype: str | None,
    device: str | None,
    backend: str | None,
    endpoint: str | None,
    as_json: bool,
) -> int:
    """Carry out FILE, a file of requests in OpenAI's batch format, here and now.

    A line is {"custom_id", "method", "url", "body"}; the url is /v1/chat/completions, /v1/completions or
    /v1/embeddings. FILE may be compressed (.gz or .zst), a URL, or - for standard input.

    Requests with the same url, model and parameters make a job. Every text is computed once, and the same command
    continues an interrupted one. A request that cannot be carried out becomes an error with its line.
    """
    from worker.batch.file import open_batch
    from worker.batch.requests import Dialect
    from worker.cli import batches

    if as_json and out == STDOUT:
        raise click.UsageError("--json and --out - both write to stdout; leave one out")
    errors = batches.errors_beside(out) if errors is None else errors
    _check_files(requests, out, errors)
    settings = settings_from(device=device, backend=backend, endpoint=endpoint)
    dialect = Dialect(dtype or settings.dtype, frozenset(ignore))
    stop_as_interrupt()
    with open_batch(requests, dialect) as file:
        plan = batches.planned(settings, file, models, revision)
        statuses = batches.carried_out(settings, plan, revision)
        written = batches.write_answers(settings, plan, statuses, out, errors)
    batches.say_written(written, out, errors)
    if as_json:
        counts = {
            "total": written.completed + written.errors,
            "completed": written.completed,
            "failed": written.errors,
        }
        jobs = [formatting.as_json(status) for status in statuses.values()]
        print_json({"request_counts": counts, "out": str(out), "errors": str(errors), "jobs": jobs})
    return SOME_FAILED if written.failed else SOME_REJECTED if written.refused else OK


def _check_files(requests: str, out: Path, errors: Path) -> None:
    for path, option in ((out, "--out"), (errors, "--errors")):
        check_out(path, openai_batch.NAME, option=option)
        check_out_is_no_input(path, openai_batch.NAME, requests)
