"""Bounds of orders: they may read files below some folders, some kinds of URL, and models by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from storage.core.postgres_urls import POSTGRESQL
from storage.readers import credentials
from storage.readers.patterns import Pattern, is_pattern
from storage.readers.query import database_url
from storage.readers.sources import path_of, scheme_of
from tasks.specs import per_language, pinning
from worker.errors import WorkerError
from worker.settings import Settings
from worker.submit.options import Request

# Of a connection: no files of the worker's, no other host, and no weaker authentication.
_PARAMETERS = frozenset({"application_name", "connect_timeout", "sslmode", "target_session_attrs"})
_HOST = re.compile(r"[^:]*://(?:[^/?#\\]*@)?([^/?#\\@]*).*", re.DOTALL)  # and the port
_PORT = re.compile(r":\d+$")


class OrderRefused(WorkerError):
    """This worker may not do what the order asks for."""


def check(settings: Settings, request: Request) -> None:
    """Raise OrderRefused, with the setting that would allow it, for an order beyond the worker's settings."""
    source = request.source
    name = credentials.shown(source)
    if (problem := credentials.problem(source)) is not None:
        raise OrderRefused(f"the source {problem}")
    scheme = scheme_of(source)
    if scheme not in {None, "file"} and not allowed(source, settings.order_schemes):
        raise OrderRefused(
            f"{name}: orders may not read {scheme}:// here; to let them, name it in DOCMILL_ORDER_SCHEMES of the "
            f"workers that take orders ({_listed(settings.order_schemes)} now)"
        )
    if scheme in POSTGRESQL and (names := {*database_url(source).query} - _PARAMETERS):
        raise OrderRefused(
            f"{name}: orders may not set {_listed(sorted(names))} of a connection; leave it out. They may set "
            f"{_listed(sorted(_PARAMETERS))}"
        )
    path = path_of(source)
    if path is not None and not within(_root(path), settings.order_roots):
        raise OrderRefused(
            f"{name}: orders may not read it here; to let them, name its folder in DOCMILL_ORDER_ROOTS of the "
            f"workers that take orders ({_listed(settings.order_roots)} now)"
        )
    given = request.options.given()
    for model in (request.model, request.escalate, given.get("adapter"), given.get("tokenizer")):
        if model is not None:
            _check_model(settings, model)


def allowed(source: str, schemes: Iterable[str]) -> bool:
    """Return True if the kind of a URL is allowed, or its host; a driver after a + makes no other kind."""
    scheme = str(scheme_of(source))
    kinds = {scheme, scheme.partition("+")[0]}
    host = _host(source, scheme).lower()
    places = {f"{kind}://{place}" for kind in kinds for place in (host, _PORT.sub("", host))}
    return not (kinds | places).isdisjoint(schemes)


def _host(source: str, scheme: str) -> str:
    """Return the host of a URL as its reader reads it, with the port."""
    if scheme not in POSTGRESQL:
        return _HOST.sub(r"\1", source)
    url = database_url(source)
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
    return host if url.port is None else f"{host}:{url.port}"


def within(path: Path, roots: Iterable[Path]) -> bool:
    """Return whether a path, once its links are followed, is one of the roots or lies below one."""
    resolved = path.resolve()
    return any(resolved.is_relative_to(root.resolve()) for root in roots)


def _root(path: Path) -> Path:
    return Pattern(str(path)).root if is_pattern(str(path)) else path


def _check_model(settings: Settings, model: str) -> None:
    """A local model lies in the models directory or below a root. Names of ours and of the hub are free."""
    by_language = per_language.parse(model)
    places = (*settings.order_roots, *((settings.models_dir,) if settings.models_dir is not None else ()))
    for name in [model] if by_language is None else by_language.values():
        folder = Path(name).expanduser()
        leads_away = folder.is_absolute() or ".." in folder.parts or folder.exists()
        if settings.models_dir is not None and not folder.exists():
            folder = settings.models_dir / folder
        if name not in pinning.NAMES and leads_away and not within(folder, places):
            raise OrderRefused(
                f"{name}: orders may not use this folder as a model here; to let them, put it into the "
                "DOCMILL_MODELS_DIR of the workers that take orders, or name its folder in their DOCMILL_ORDER_ROOTS"
            )


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
