"""Orders of other programs: `docmill.enqueue` messages, held against the worker's settings and read into jobs.

The arguments of an order are named as the options of `docmill enqueue`. Orders may read files below some folders,
some kinds of URL, and models by their names.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from docmill.storage.core.database import Database
from docmill.storage.core.normalize import normalize
from docmill.storage.core.server import POSTGRESQL
from docmill.storage.errors import PASSING, DatabaseReadOnly, LeaseLost, RightMissing, SchemaOutOfDate, StorageError
from docmill.storage.readers import remote
from docmill.storage.readers.many_files import Pattern, is_pattern
from docmill.storage.readers.query import database_url
from docmill.storage.readers.sources import path_of, scheme_of
from docmill.tasks import kinds
from docmill.tasks.errors import HubUnreachable, TaskError
from docmill.tasks.kinds.options import WRONG_TYPE, is_list, key, sentence
from docmill.tasks.specs import pinning, plan
from docmill.worker.concurrency import hold_lease
from docmill.worker.errors import BadMessage, BrokerUnreachable, OrderBusy, WorkerError
from docmill.worker.queue.broker import Broker
from docmill.worker.queue.messages import VERSION, is_id
from docmill.worker.settings import Settings
from docmill.worker.submit.enqueue import UnderLease, enqueue, find_repeated
from docmill.worker.submit.options import Request, Work
from docmill.worker.submit.request import key_of, prepare

Model = TypeVar("Model", bound=BaseModel)

log = logging.getLogger("docmill.orders")

MOST_DEATHS = 3  # of processes that read one order
# Errors that the order did not cause: the store, the queue or the hub is unreachable, the store needs a repair, or
# another worker reads the source.
AWAY = (*PASSING, DatabaseReadOnly, RightMissing, SchemaOutOfDate, BrokerUnreachable, HubUnreachable, OrderBusy)
ORDER_ID = "order_id"
# The options of kinds by their names in messages.
_KIND_OPTIONS = {key(name, field).replace("-", "_"): name for name, field in kinds.OPTIONS.items()}
_MESSAGE_NAMES = {name: spelling for spelling, name in _KIND_OPTIONS.items()}
# The parameters that an order may set in a connection: they name no file of the worker and no other host, and do not
# weaken authentication.
_PARAMETERS = frozenset({"application_name", "connect_timeout", "sslmode", "target_session_attrs"})
_HOST = re.compile(r"[^:]*://(?:[^/?#\\]*@)?([^/?#\\@]*).*", re.DOTALL)  # and the port
_PORT = re.compile(r":\d+$")


def carry_out(
    settings: Settings,
    database: Database,
    broker: Broker,
    message_id: str,
    arguments: dict[str, Any],
    stop: threading.Event,
) -> int:
    """Read an order's source into its job and return the job's number. The same id returns the same job.

    Raises ValueError with the reason of a refusal, LeaseLost once `stop` is set, and the errors of `AWAY`.
    """
    try:
        return _read(settings, database, broker, _request(message_id, arguments), stop)
    except AWAY as error:
        log.warning("order_waits order=%s error=%s", message_id, error)
        raise
    except LeaseLost:
        log.warning("order_given_back order=%s", message_id)
        raise
    except (WorkerError, TaskError, StorageError, OSError) as error:
        reason = normalize(str(error))[0]
        log.error("order_refused order=%s reason=%r", message_id, reason)
    except Exception as error:  # a path that no system call takes, for example
        log.exception("order_failed order=%s", message_id)
        reason = f"{type(error).__name__} in the worker, whose log says more"
    raise ValueError(reason)  # a type that every sender has


def _request(message_id: str, arguments: dict[str, Any]) -> Request:
    request = parse_enqueue(arguments)
    order_id = request.idempotency_key or message_id
    return request.model_copy(update={"idempotency_key": order_id, "request_id": order_id})


def _read(settings: Settings, database: Database, broker: Broker, request: Request, stop: threading.Event) -> int:
    check(settings, request)
    if (known := find_repeated(database, key_of(request))) is not None:
        return known.id
    order_id = str(request.idempotency_key)
    with broker.attempt(order_id, settings.lease_s, stop) as (deaths, renew):
        if deaths >= MOST_DEATHS:
            raise WorkerError(f"{deaths} processes that read its source died; the log of their worker says more")
        with hold_lease(f"order {order_id}", renew, settings.lease_s, stop=stop) as held:
            held.check()
            done = enqueue(database, broker, prepare(settings, request), UnderLease(held, lambda _: True))
    log.info("order_done order=%s job=%d planned=%d", order_id, done.id, done.counts.planned)
    return done.id


def parse_enqueue(arguments: dict[str, Any]) -> Request:
    """Return the request in the arguments of a `docmill.enqueue` message, which are named as the command's options.

    Raises BadMessage for an unknown or missing name, or a wrong value.
    """
    values_left = dict(arguments)
    if values_left.pop("v", VERSION) != VERSION:
        raise BadMessage(f"docmill.enqueue takes v={VERSION}")
    order_id = values_left.pop(ORDER_ID, None)
    if order_id is not None and not (isinstance(order_id, str) and is_id(order_id)):
        raise BadMessage("docmill.enqueue: order_id is a text of at most 255 printable characters")
    for name, value in values_left.items():
        if isinstance(value, str) and normalize(value)[1]:
            raise BadMessage(f"docmill.enqueue: {name} has a NUL or half a character, which no database stores")
    of_kind = {_KIND_OPTIONS[name]: values_left.pop(name) for name in arguments if name in _KIND_OPTIONS}
    work = _valid(Work, values_left, "docmill.enqueue takes no argument {}")
    if work.source == "-":
        raise BadMessage("docmill.enqueue cannot read standard input")
    values = {name: value for name, value in of_kind.items() if value is not None}
    for name in filter(lambda name: is_list(kinds.OPTIONS[name]), values):
        values[name] = [values[name]]  # a message has plain values, so one text
    unknown = f"docmill.enqueue: {{}} has no meaning for {work.task}"
    options = _valid(kinds.kind(work.task).options, values, unknown)
    return Request(**dict(work), idempotency_key=order_id, options=options)


def _valid(model: type[Model], values: Mapping[str, Any], unknown: str) -> Model:
    """Return a model with these values. Raises BadMessage; ``unknown`` is its sentence about other names."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        named = [(error_of["type"], str(error_of["loc"][0])) for error_of in errors]
        if extra := sorted(_MESSAGE_NAMES.get(name, name) for kind, name in named if kind == "extra_forbidden"):
            raise BadMessage(unknown.format(", ".join(extra))) from error
        if missing := [name for kind, name in named if kind == "missing"]:
            raise BadMessage(f"docmill.enqueue needs {' and '.join(missing)}") from error
        kind, name = named[0]
        wrong_type = kind in WRONG_TYPE
        problem = "has a value of the wrong type" if wrong_type else sentence(errors[0], model.model_fields[name])
        raise BadMessage(f"docmill.enqueue: {_MESSAGE_NAMES.get(name, name)} {problem}") from error


def check(settings: Settings, request: Request) -> None:
    """Raise WorkerError, with the setting that would allow it, for an order beyond the worker's settings."""
    source = request.source
    name = remote.mask_secrets(source)
    if (problem := remote.describe_secret(source)) is not None:
        raise WorkerError(f"the source {problem}")
    scheme = scheme_of(source)
    if scheme not in {None, "file"} and not allowed(source, settings.order_schemes):
        raise WorkerError(
            f"{name}: orders may not read {scheme}:// here; to let them, name it in DOCMILL_ORDER_SCHEMES of the "
            f"workers that take orders ({_listed(settings.order_schemes)} now)"
        )
    if scheme in POSTGRESQL and (names := {*database_url(source).query} - _PARAMETERS):
        raise WorkerError(
            f"{name}: orders may not set {_listed(sorted(names))} of a connection; leave it out. They may set "
            f"{_listed(sorted(_PARAMETERS))}"
        )
    path = path_of(source)
    if path is not None and not is_below(_root(path), settings.order_roots):
        raise WorkerError(
            f"{name}: orders may not read it here; to let them, name its folder in DOCMILL_ORDER_ROOTS of the "
            f"workers that take orders ({_listed(settings.order_roots)} now)"
        )
    options = request.options.to_params()
    for model in (request.model, request.escalate, options.get("adapter"), options.get("tokenizer")):
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
        authority = re.split("[/?#]", source.partition("://")[2], maxsplit=1)[0]
        return "" if "\\" in authority else _HOST.sub(r"\1", source)  # readers differ in where such a host begins
    url = database_url(source)
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
    return host if url.port is None else f"{host}:{url.port}"


def is_below(path: Path, roots: Iterable[Path]) -> bool:
    """Return True if a path, once its links are followed, is one of the roots or is below one."""
    resolved = path.resolve()
    return any(resolved.is_relative_to(root.resolve()) for root in roots)


def _root(path: Path) -> Path:
    return Pattern(str(path)).root if is_pattern(str(path)) else path


def _check_model(settings: Settings, model: str) -> None:
    """Refuse a local model outside the models directory and the roots. Names and hub ids are allowed."""
    by_language = plan.parse_models(model)
    places = (*settings.order_roots, *((settings.models_dir,) if settings.models_dir is not None else ()))
    for name in [model] if by_language is None else by_language.values():
        folder = Path(name).expanduser()
        leads_away = folder.is_absolute() or ".." in folder.parts or folder.exists()
        if settings.models_dir is not None and not folder.exists():
            folder = settings.models_dir / folder
        if name not in pinning.NAMES and leads_away and not is_below(folder, places):
            raise WorkerError(
                f"{name}: orders may not use this folder as a model here; to let them, put it into the "
                "DOCMILL_MODELS_DIR of the workers that take orders, or name its folder in their DOCMILL_ORDER_ROOTS"
            )


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
