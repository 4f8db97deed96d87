"""Settings: the one place that reads the environment. `DOCMILL_*` variables, a `.env` file, or options."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from dotenv import dotenv_values
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from docmill.storage.core.server import ANSWER_S, Patience
from docmill.tasks import kinds
from docmill.tasks.backends import registry
from docmill.tasks.models import weightless
from docmill.tasks.models.weights import ModelFolders
from docmill.worker.errors import WorkerError


@dataclass(frozen=True)
class Shown:
    """The text of docs/settings.md on a setting, in place of its choices or default."""

    default: str = ""
    choices: tuple[str, ...] = ()


DAY_S = 86_400.0
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": DAY_S, "w": 7 * DAY_S, "y": 365 * DAY_S}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdwy])")
_LEAST_S, _MOST_S = 3_600.0, 1_000 * _UNITS_S["y"]


def parse_duration(value: str, form: str = "a duration; write 90s, 10m or 1h") -> float:
    """Return the seconds of a duration such as 90s, 12h or 6w. Raises ValueError, which says `form`."""
    match = _DURATION.fullmatch(value.strip().lower())
    if match is None:
        raise ValueError(f"{value!r} is not {form}")
    return float(match[1]) * _UNITS_S[match[2]]


def parse_age(value: str) -> float | None:
    """Return the seconds of an age such as 12h, 90d, 6w or 1y; None for `never`. Raises ValueError."""
    if value.strip().lower() == "never":
        return None
    age_s = parse_duration(value, "an age; write 12h, 90d, 6w, 1y or never")
    if not _LEAST_S <= age_s <= _MOST_S:
        raise ValueError(f"{value!r} is not an age from 1h to 1000y; write never to keep all")
    return age_s


def read_ages(text: str) -> dict[str, float | None]:
    """Return the ages in a text such as `results=1y, shards=30d`, by rule. Raises ValueError."""
    if not text:
        return {}
    from docmill.storage.deletion.retention import every_rule  # which brings SQLAlchemy along

    ages, rules = dict[str, float | None](), [rule.name for rule in every_rule()]
    for part in filter(None, _parts(text)):
        rule, _, age = part.partition("=")
        if rule not in rules:
            raise ValueError(f"unknown rule {rule!r}; the rules are {', '.join(rules)}")
        try:
            ages[rule] = parse_age(age)
        except ValueError as error:
            raise ValueError(f"{rule}: {error}") from error
    return ages


PREFIX = "DOCMILL_"
STORE, CACHE, MODELS = "docmill.db", "cache", "models"  # in the home
ANSWERS = "answers.db"  # of served models, until their outcomes are stored
_COLLECTOR, _OFF = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"
LANES = kinds.NAMES
ENQUEUE_LANE = "enqueue"  # the lane of `docmill.enqueue` messages, which a worker serves only if it is named


def _data_home() -> Path:
    if folder := os.environ.get("XDG_DATA_HOME"):
        return Path(folder) / "docmill"
    try:
        # An empty HOME would mean the root folder. The user's own is used then, as without HOME.
        home = Path.home() if os.environ.get("HOME", "set") else Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (KeyError, RuntimeError) as error:
        raise WorkerError("this user has no home folder; set DOCMILL_HOME") from error
    return home / ".local" / "share" / "docmill"


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no user for {path.parts[0]}; write the whole path") from error


class Settings(BaseSettings):
    """The settings of a docmill process. Each field is the variable `DOCMILL_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, allow_inf_nan=False
    )

    home: Annotated[
        Path,
        Field(description="Folder of the embedded store and of caches."),
        Shown(default="`docmill` in `XDG_DATA_HOME`, else `~/.local/share/docmill`"),
    ] = Field(default_factory=_data_home)
    database_url: Annotated[
        str | None,
        Field(description="SQL store: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`."),
        Shown(default="a SQLite file in the home"),
    ] = None
    database_answer_s: Annotated[
        float,
        Field(
            ge=0.5,
            description="Seconds without an answer until docmill asks a PostgreSQL server, over another connection, "
            "whether it still works. Connecting may take as long.",
        ),
    ] = ANSWER_S
    redis_url: Annotated[
        str | None,
        Field(description="Queue: `redis://HOST:PORT/DB`, `rediss://` (with TLS) or `unix:///SOCKET`."),
        Shown(default="an embedded server"),
    ] = None
    models_dir: Annotated[
        Path | None,
        Field(
            description="Folder with models; `--model NAME` looks there before it asks a hub.", validate_default=True
        ),
        Shown(default="`models` in the home"),
    ] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Field(description="Precision; `auto` is the device's native one, never int8."),
    ] = "auto"
    backend: Annotated[
        str,
        Field(description="Backend; `auto` is the best installed one that supports the model."),
        Shown(choices=registry.choices()),
    ] = registry.AUTO
    device: Annotated[
        str, Field(description="Devices: `auto`, `cpu`, `cuda`, or a list such as `cuda:0,cuda:1`.")
    ] = "auto"
    endpoint: Annotated[
        str | None,
        Field(description="Server of models named `openai:NAME`, such as `http://localhost:8000/v1`."),
    ] = None
    openai_api_key: Annotated[
        str | None,
        Field(repr=False, description="Key for that server. It is never stored, logged or shown."),
        Shown(default="`OPENAI_API_KEY`"),
    ] = None
    endpoint_requests: Annotated[
        int, Field(ge=1, le=4096, description="Most requests at a time to that server, from each process.")
    ] = 256
    endpoint_answer_s: Annotated[
        float, Field(gt=0, description="Seconds until a request that has no answer is sent again.")
    ] = 600.0
    endpoint_patience_s: Annotated[
        float,
        Field(
            gt=0,
            description="Seconds without any answer from that server until the job is `blocked`.",
        ),
    ] = 300.0
    prices: Annotated[
        Path | None,
        Field(description="TOML file with the prices of a million tokens by model, for the costs of jobs."),
    ] = None
    lanes: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Task kinds that a worker serves, separated by commas; `enqueue` stands for orders."),
        Shown(default="all but `enqueue`", choices=(*LANES, ENQUEUE_LANE)),
    ] = LANES
    order_roots: Annotated[
        tuple[Path, ...],
        NoDecode,
        Field(description="Folders that orders may read from, separated by commas."),
        Shown(default="none"),
    ] = ()
    order_schemes: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            description="Kinds of URL that orders may read, such as `https,s3`, or one host of a kind, such as "
            "`postgresql://db.example`."
        ),
        Shown(default="none"),
    ] = ()
    threads: Annotated[int, Field(ge=1, le=64, description="Shards in flight in each device process.")] = 8
    lease_s: Annotated[
        float, Field(ge=1, description="Seconds until other workers take over the shards of a silent worker.")
    ] = 60.0
    upkeep_s: Annotated[float, Field(gt=0, description="Seconds between two rounds of maintenance.")] = 5.0
    drain_s: Annotated[
        float, Field(gt=0, description="Seconds that a stopping worker has to finish its batches.")
    ] = 22.0
    batch_limit_s: Annotated[
        float,
        Field(
            gt=0,
            description="Most seconds of a batch; docmill then kills the process. Later batches have a lower limit, "
            "by the cost of earlier ones.",
        ),
    ] = 900.0
    hang_s: Annotated[float, Field(gt=0, description="Least seconds until a batch counts as hung.")] = 60.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Lowest level in the log on stderr.")
    ] = "warning"
    log_format: Annotated[
        Literal["text", "json"],
        Field(description="Format of the log on stderr."),
    ] = "text"
    metrics_port: Annotated[
        int | None, Field(ge=1, le=65535, description="Port of a worker's metrics for Prometheus."), Shown("none")
    ] = None
    metrics_host: Annotated[
        str, Field(description="Address to serve the metrics on; 0.0.0.0 lets other machines read them.")
    ] = "127.0.0.1"
    traces_endpoint: Annotated[
        str | None, Field(description="URL of a collector of traces, before `/v1/traces`."), Shown(f"`{_COLLECTOR}`")
    ] = None
    web_token: Annotated[
        str | None,
        Field(
            repr=False,
            min_length=16,
            description="Token that `docmill web` asks for, of 16 characters or more.",
        ),
        Shown(default="none on the loopback address without `--host-name`; otherwise a new one at each start"),
    ] = None
    retention_days: Annotated[
        float,
        Field(
            gt=0,
            description="Days for which docmill keeps ended runs of pipelines with their jobs, rejected records, and "
            "what `docmill retry` needs.",
        ),
    ] = 90.0
    retention: Annotated[
        str | None,
        Field(description="Ages at which retention rules remove rows, such as `results=1y,shards=30d`."),
    ] = None

    @field_validator("lanes", mode="before")
    @classmethod
    def _split_lanes(cls, value: str | Sequence[str]) -> tuple[str, ...]:
        names, known = _parts(value), (*LANES, ENQUEUE_LANE)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"unknown lane {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
        return names

    @field_validator("order_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: str | Sequence[str]) -> tuple[Path, ...]:
        roots = [_expanded(Path(name)) for name in _parts(value)]
        if any(not root.is_absolute() for root in roots):
            raise ValueError("each is an absolute path, such as /srv/documents")
        return tuple(roots)

    @field_validator("order_schemes", mode="before")
    @classmethod
    def _split_schemes(cls, value: str | Sequence[str]) -> tuple[str, ...]:
        schemes = tuple(name.lower() for name in _parts(value))
        form = re.compile(r"(?!file(:|$))[a-z][a-z0-9+._-]*(://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d+)?)?")
        if wrong := [name for name in schemes if not form.fullmatch(name)]:
            raise ValueError(
                f"{', '.join(map(repr, wrong))} is not a kind of URL; write the part before ://, such as https or "
                "s3, or this part and a host, such as https://example.org (files are allowed by DOCMILL_ORDER_ROOTS)"
            )
        return schemes

    @field_validator("*", mode="before")  # pydantic runs the last validator of this mode first
    @classmethod
    def _given(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is empty; leave it out to use the default")
        return value

    @field_validator("database_url", "redis_url")
    @classmethod
    def _encoded(cls, value: str | None) -> str | None:
        # Else a part of the password would be taken for the host, and shown.
        user, at, _ = (value or "").partition("://")[2].partition("?")[0].rpartition("@")
        if at and set(user) & set("@/"):
            raise ValueError("in a user's name or password @ is written %40, and / is written %2F")
        return value

    @field_validator("endpoint")
    @classmethod
    def _api(cls, value: str | None) -> str | None:
        return None if value is None else weightless.endpoint(value)

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str | None) -> str | None:
        if value is not None and (problem := find_redis_problem(value)):
            raise ValueError(problem)
        return value

    @field_validator("backend")
    @classmethod
    def _known_backend(cls, value: str) -> str:
        if value not in registry.choices():
            raise ValueError(f"unknown backend {value!r}; there are {', '.join(registry.choices())}")
        return value

    @field_validator("home", "models_dir", "prices")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else _expanded(value).absolute()

    @field_validator("models_dir")
    @classmethod
    def _folder(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        default = info.data["home"] / MODELS if "home" in info.data else None
        if value is None or value == default:
            return default  # a worker finds the models that are put there later
        if not value.is_dir():
            raise ValueError(f"there is no folder {value}")
        return value

    @field_validator("retention")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        read_ages(value or "")
        return value

    @property
    def server(self) -> weightless.Server | None:
        """The server of models named `openai:NAME`; None without an endpoint."""
        bounds = (self.endpoint_answer_s, self.endpoint_patience_s, self.endpoint_requests)
        return None if self.endpoint is None else weightless.Server(self.endpoint, self.openai_api_key, *bounds)

    @property
    def store_url(self) -> str:
        """The database's URL; that of the embedded SQLite file if none is set."""
        return self.database_url or f"sqlite:///{self.home / STORE}"

    @property
    def patience(self) -> Patience:
        """The time limits of commands for a silent PostgreSQL. They set none for a statement."""
        return Patience(self.database_answer_s)

    @property
    def ages(self) -> dict[str, float]:
        """The ages at which the retention rules remove rows, by rule.

        Rules that apply by default have the age of DOCMILL_RETENTION_DAYS.
        """
        from docmill.storage.deletion.retention import upkeep_ages

        every = {**upkeep_ages(self.retention_days * DAY_S), **read_ages(self.retention or "")}
        return {rule: age_s for rule, age_s in every.items() if age_s is not None}

    @property
    def takes_orders(self) -> bool:
        return ENQUEUE_LANE in self.lanes

    @property
    def cache_dir(self) -> Path:
        return self.home / CACHE

    @property
    def model_folders(self) -> ModelFolders:
        return ModelFolders(self.models_dir, self.cache_dir)

    def __repr__(self) -> str:
        return f"Settings(store={mask(self.store_url)}, redis={mask(self.redis_url or 'embedded')})"

    __str__ = __repr__


def _parts(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the parts of a text that are separated by commas, or the elements of a list."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else tuple(value)


def load_settings(**options: str | float | Path | None) -> Settings:
    """Return settings from options (those that are not None), then the environment, then `.env`, then the defaults.

    Raises WorkerError, which lists every unknown and every bad one.
    """
    values: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    problems = _unknown(os.environ, "the environment")
    try:
        file = dotenv_values(".env") if Path(".env").is_file() else {}
        problems += _unknown(file, ".env")
        settings = _with_usual(Settings(**values), {**file, **os.environ})
    except UnicodeDecodeError as error:
        raise WorkerError(".env is not UTF-8 text") from error
    except OSError as error:
        raise WorkerError(f"{error.filename or '.env'} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems += [_problem(detail, values) for detail in error.errors()]
    if problems:
        raise WorkerError("; ".join(problems))
    return settings


def _with_usual(settings: Settings, variables: Mapping[str, str | None]) -> Settings:
    """Return the settings with the key and the collector that other programs use, if they need and have none."""
    key, collector, off = ((variables.get(name) or "").strip() for name in ("OPENAI_API_KEY", _COLLECTOR, _OFF))
    more = {"openai_api_key": key} if key and settings.endpoint and settings.openai_api_key is None else {}
    if collector and settings.traces_endpoint is None and off.lower() != "true":
        more["traces_endpoint"] = collector
    return settings.model_copy(update=more)


def _unknown(names: Iterable[str], where: str) -> list[str]:
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    return [
        f"unknown setting {name} in {where}"
        for name in sorted(names)
        if name.upper().startswith(PREFIX) and name.upper() not in known and not name.startswith("DOCMILL_TEST_")
    ]


def _problem(detail: ErrorDetails, options: Container[str]) -> str:
    name = str(detail["loc"][0])
    shown = f"--{name.replace('_', '-')}" if name in options else f"{PREFIX}{name.upper()}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{shown}: {message[:1].lower()}{message[1:]}"


def visible_cuda_devices() -> int | None:
    """Return the number of devices in CUDA_VISIBLE_DEVICES; None if it is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if named is None else len([name for name in named.split(",") if name.strip() not in {"", "-1"}])


def read_variable(name: str) -> str | None:
    """Return the value of another program's variable in the environment; None if it is not set."""
    return os.environ.get(name)


def has_display() -> bool:
    """Return True if a program with windows can be started."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


_REDIS_SHAPE = "a Redis URL is redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///SOCKET"
_REDIS_QUERY = {
    "redis": set[str](),
    "rediss": {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"},
    "unix": {"db"},
}
_REDIS_VALUES = {"ssl_cert_reqs": {"required", "none"}, "ssl_check_hostname": {"true", "false"}}


def find_redis_problem(url: str) -> str | None:
    """Return the problem of a Redis URL, in words that show nothing of it; None if it has none."""
    try:
        parts = urlsplit(url)
        port, database = parts.port, parts.path.strip("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        return _REDIS_SHAPE
    if parts.scheme not in _REDIS_QUERY or port == 0:
        return _REDIS_SHAPE
    if parts.scheme == "unix":
        database = query.get("db", "")
        if not parts.path:
            return _REDIS_SHAPE
    if database and not database.isdecimal():
        return _REDIS_SHAPE
    if unknown := sorted(query.keys() - _REDIS_QUERY[parts.scheme]):
        known = ", ".join(sorted(_REDIS_QUERY[parts.scheme])) or "none"
        return f"a {parts.scheme}:// URL has no parameter {', '.join(unknown)}; there are: {known}"
    for name, values in _REDIS_VALUES.items():
        if query.get(name) not in {None, *values}:
            return f"{name} is one of {', '.join(sorted(values))}"
    return None


def mask(url: str) -> str:
    """Return a URL as it may be shown: its passwords replaced, in its query too."""
    parts = urlsplit(url)
    query = re.sub(r"(?i)(^|&)([^=&]*password)=[^&]*", r"\1\2=***", parts.query)
    netloc = parts.netloc
    if parts.password:
        netloc = f"{parts.username or ''}:***@{netloc.rpartition('@')[2]}"
    if (query, netloc) == (parts.query, parts.netloc):
        return url
    return urlunsplit(parts._replace(netloc=netloc, query=query))
