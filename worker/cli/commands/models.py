"""`docmill models`: list the named models, check a model, and get the models of the quick start."""

from __future__ import annotations

from dataclasses import asdict, replace

import click

from docmill.tasks.kinds import kind
from docmill.tasks.models import weightless
from docmill.tasks.outputs import Head
from docmill.tasks.specs.pinning import ADAPTER, DEFAULTS, DESCRIPTIONS, NAMES, check
from docmill.worker.cli.options import JSON, Choice, complete_models
from docmill.worker.cli.printing import OK, answer, print_json, say
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.settings import MODELS, load_settings
from docmill.worker.submit.rehearsal import find_lacking


@click.group("models")
def models_command() -> None:
    """List the named models, check a model, or get the models of the quick start."""


@models_command.command("list", epilog="Example: docmill models list")
@JSON
def list_command(as_json: bool) -> None:
    """List the names that --model accepts besides folders and hub ids."""
    defaults = {model: kind for kind, model in DEFAULTS.items()}
    models = [{"name": name, "default_for": defaults.get(name), "about": DESCRIPTIONS[name]} for name in NAMES]
    models_dir = load_settings().models_dir
    if models_dir is not None and models_dir.is_dir():
        folders = {config.parent for config in models_dir.glob("*/**/config.json")}
        models += [
            {"name": str(model.relative_to(models_dir)), "default_for": None, "about": f"in {models_dir}"}
            for model in sorted(folders)
            if model.name not in NAMES and folders.isdisjoint(model.parents)  # a part of a model may have a config
        ]
    if as_json:
        print_json(models)
        return
    for model in models:
        default = f" [default for {model['default_for']}]" if model["default_for"] else ""
        answer(f"{model['name']:<16} {model['about']}{default}")
    say("Any other --model is a folder, a name in DOCMILL_MODELS_DIR, package:PACKAGE/FOLDER, or a model hub's id.")


@models_command.command("get", epilog="Example: docmill models get quickstart --from docmill-0.1.0-quickstart.zip")
@click.argument("collection", type=Choice(["quickstart"]), metavar="quickstart", expose_value=False)
@click.option("--from", "source", help="Folder, archive or URL.  [default: the archive of this release]")
def get_command(source: str | None) -> None:
    """Copy the small models of the quick start into the models directory.

    docmill's release has the archive. The command verifies the hash of each model.
    """
    from docmill.tasks.specs.pinning import copy_own_models

    settings = load_settings()
    folder = settings.models_dir or settings.home / MODELS
    names = copy_own_models(source, folder, settings.cache_dir)
    say(f"Copied {', '.join(names)} to {folder}.")


@models_command.command("check", epilog="Example: docmill models check Helsinki-NLP/opus-mt-es-en")
@click.argument("model", shell_complete=complete_models)
@click.option("--revision", help="A hub model's branch, tag or commit.")
@JSON
def check_command(model: str, revision: str | None, as_json: bool) -> int:
    """Show the family of MODEL, the tasks that it suits, and its window."""
    settings = load_settings()
    checked = check(model, settings.model_folders, revision=revision)
    if lacks := find_lacking(settings, checked.pinned, checked.kinds):
        kinds = tuple(kind for kind in checked.kinds if kind not in lacks)
        checked = replace(checked, kinds=kinds, unfit={**checked.unfit, **lacks})
    code = OK if checked.kinds else BAD_INPUT
    if as_json:
        print_json(asdict(checked))
        return code
    elsewhere = "on a server" if weightless.is_served(checked.pinned.model) else "not on this machine yet"
    size = f"{checked.size_bytes / 1e6:,.0f} MB" if checked.size_bytes is not None else elsewhere
    adapter = checked.pinned.beside.get(ADAPTER)
    answer(f"model      {checked.pinned.model}{f' with the adapter {adapter}' if adapter else ''}")
    answer(f"revision   {checked.pinned.revision}")
    answer(f"is         {checked.architecture} ({checked.family}), {size}")
    heads = {task: {str(family): head for family, head in kind(task).families.items()} for task in checked.kinds}
    pooling = [task for task in checked.kinds if heads[task].get(checked.family) is Head.POOLING]
    with_options = [f"{task} with --{option}" for task, option in checked.with_options.items() if pooling]
    answer(f"suits      {', '.join([*checked.kinds, *with_options]) or 'none of the tasks there are now'}")
    if checked.head is not None and pooling:
        using = ", ".join(task for task in checked.kinds if checked.head in heads[task].values()) or "no task"
        answer(f"           {', '.join(pooling)} without its head for {checked.head}, which {using} uses")
    for name, reason in checked.unfit.items():
        answer(f"not        {name}: {reason}")
    window = f"{checked.window_limit} tokens" if checked.window_limit else "as long as its server says"
    answer(f"window     {window}; longer documents are cut and put back together")
    return code
