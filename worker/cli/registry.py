"""The commands. A command, or a group of commands, is a function in `worker/cli/commands/` and one line here.

The function is NAME_command. Its module is named for the command, or the line names it. Help reads only these lines,
so it loads no module.
"""

from __future__ import annotations

from typing import NamedTuple

WORK, RESULTS, CORPORA = "Work", "Results", "Corpora"
PIPELINES, FLEET, ADMINISTRATION = "Pipelines", "Fleet", "Administration"
HEADINGS = (WORK, RESULTS, CORPORA, PIPELINES, FLEET, ADMINISTRATION)


class Command(NamedTuple):
    """A command's heading in the help, its line there, and its module if that has another name."""

    heading: str
    about: str
    module: str | None = None


COMMANDS = {
    "run": Command(WORK, "Run a task over a source, here and now."),
    "enqueue": Command(WORK, "Store a source as a job and leave the work to the workers.", "run"),
    "batch": Command(WORK, "Carry out a file of requests in OpenAI's batch format."),
    "jobs": Command(WORK, "List the latest jobs."),
    "status": Command(WORK, "Show a job's progress, and the reason if it makes none.", "jobs"),
    "wait": Command(WORK, "Wait for a job to end.", "jobs"),
    "retry": Command(WORK, "Try a job's failed documents again.", "jobs"),
    "pause": Command(WORK, "Pause a job until it is resumed.", "jobs"),
    "resume": Command(WORK, "Resume a paused job.", "jobs"),
    "priority": Command(WORK, "Change a job's priority.", "jobs"),
    "cancel": Command(WORK, "Stop a job; finished results stay.", "jobs"),
    "results": Command(RESULTS, "Write a job's results as JSON lines, CSV, Parquet or an array."),
    "report": Command(RESULTS, "Write a page about a job: cost, flags, failures, examples."),
    "failures": Command(RESULTS, "List the documents without a result, with the reasons.", "jobs"),
    "explain": Command(RESULTS, "Show how one result came to be."),
    "compare": Command(RESULTS, "Compare the results of two jobs over a corpus."),
    "review": Command(RESULTS, "Judge a sample of outputs; estimate the share of good ones."),
    "search": Command(RESULTS, "Find the documents of a corpus that are nearest to a text."),
    "corpus": Command(CORPORA, "List, show or remove corpora and documents; trace a text."),
    "dedup": Command(CORPORA, "Find near duplicates, and put them into clusters."),
    "index": Command(CORPORA, "Make, list or drop indexes of vectors, for large corpora."),
    "migrate": Command(CORPORA, "Compute a corpus with another model, and switch to its results."),
    "gc": Command(CORPORA, "Remove unreferenced texts, old results and old versions."),
    "pipeline": Command(PIPELINES, "Run several steps over a corpus, by hand or on a schedule."),
    "worker": Command(FLEET, "Start a worker."),
    "health": Command(FLEET, "Check that this machine's workers live and take work.", "installation"),
    "web": Command(FLEET, "Show jobs and results in a browser."),
    "top": Command(FLEET, "Watch jobs, lanes, workers and failures in the terminal."),
    "metrics": Command(FLEET, "Serve the fleet's metrics to Prometheus."),
    "models": Command(ADMINISTRATION, "List the models that have names, or check a model."),
    "db": Command(ADMINISTRATION, "Upgrade the store's schema, and correct its counts.", "installation"),
    "doctor": Command(ADMINISTRATION, "Check this installation, and say how to repair it.", "installation"),
    "completion": Command(
        ADMINISTRATION, "Print the script that completes docmill's commands in a shell.", "installation"
    ),
}
