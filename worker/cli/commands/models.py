"""`docmill models`: list the models that have names, and check a model."""

from __future__ import annotations

from dataclasses import asdict, replace

import click

from docmill.tasks.kinds import kind
from docmill.tasks.models import weightless
from docmill.tasks.outputs import Head
from docmill.tasks.specs.pinning import ADAPTER, DEFAULTS, DESCRIPTIONS, NAMES, check
from docmill.worker.cli.options import JSON, complete_models, settings_from
from docmill.worker.cli.printing import OK, answer, listen, print_json, say
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.jobs.submission import say_conversions
from docmill.worker.submit.rehearsal import find_lacking


@click.group("models")
def models_command() -> None:
    """List the models that have names, or check a model."""


@models_command.command("list", epilog="Example: docmill models list")
@JSON
def list_command(as_json: bool) -> int:
    """List the names that --model accepts besides folders and hub ids."""
    defaults = {model: kind for kind, model in DEFAULTS.items()}
    found = [{"name": name, "default_for": defaults.get(name), "about": DESCRIPTIONS[name]} for name in NAMES]
    models_dir = settings_from().models_dir
    if models_dir is not None and models_dir.is_dir():
        found += [
            {"name": str(model.relative_to(models_dir)), "default_for": None, "about": f"in {models_dir}"}
            for model in sorted(
                [config.parent for config in models_dir.glob("**/config.json")] + [*models_dir.glob("**/*.gguf")]
            )
        ]
    if as_json:
        print_json(found)
        return OK
    for model in found:
        default = f" [default for {model['default_for']}]" if model["default_for"] else ""
        answer(f"{model['name']:<16} {model['about']}{default}")
    say("Any other --model is a folder, a name in DOCMILL_MODELS_DIR, package:PACKAGE/FOLDER, or a model hub's id.")
    return OK


@models_command.command("check", epilog="Example: docmill models check Helsinki-NLP/opus-mt-es-en")
@click.argument("model", shell_complete=complete_models)
@click.option("--revision", help="A hub model's branch, tag or commit.")
@JSON
def check_command(model: str, revision: str | None, as_json: bool) -> int:
    """Show the family of MODEL, the tasks that it suits, and its window."""
    settings = settings_from()
    say_conversions(settings, [model], listen())
    found = check(model, models_dir=settings.models_dir, cache_dir=settings.cache_dir, revision=revision)
    lacks, not_read = find_lacking(settings, found.pinned, found.kinds)
    if not_read is not None:
        say(not_read)
    if lacks:
        kinds = tuple(kind for kind in found.kinds if kind not in lacks)
        found = replace(found, kinds=kinds, unfit={**found.unfit, **lacks})
    if as_json:
        print_json(asdict(found))
        return OK
    elsewhere = "on a server" if weightless.is_served(found.pinned.model) else "not on this machine yet"
    size = f"{found.size_bytes / 1e6:,.0f} MB" if found.size_bytes is not None else elsewhere
    adapter = found.pinned.beside.get(ADAPTER)
    answer(f"model      {found.pinned.model}{f' with the adapter {adapter}' if adapter else ''}")
    answer(f"revision   {found.pinned.revision}")
    answer(f"is         {found.architecture} ({found.family}), {size}")
    heads = {one: {str(family): head for family, head in kind(one).families.items()} for one in found.kinds}
    pooling = [one for one in found.kinds if heads[one].get(found.family) is Head.POOLING]
    with_options = [f"{one} with --{option}" for one, option in found.with_options.items() if pooling]
    answer(f"suits      {', '.join([*found.kinds, *with_options]) or 'none of the tasks there are now'}")
    if found.head is not None and pooling:
        using = ", ".join(one for one in found.kinds if found.head in heads[one].values()) or "no task"
        answer(f"           {', '.join(pooling)} without its head for {found.head}, which {using} uses")
    for name, reason in found.unfit.items():
        answer(f"not        {name}: {reason}")
    window = f"{found.window_limit} tokens" if found.window_limit else "as long as its server says"
    answer(f"window     {window}; longer documents are cut and put back together")
    return OK if found.kinds else BAD_INPUT
