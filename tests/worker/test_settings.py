"""Settings come from options, the environment and .env, and their errors are reported together."""

from __future__ import annotations

from errno import EACCES, EIO
from functools import partial
from pathlib import Path

import pytest

from docmill.worker.errors import WorkerError
from docmill.worker.settings import LANES, Settings, load_settings


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("DOCMILL_HOME", "DOCMILL_DATABASE_URL", "DOCMILL_REDIS_URL", "DOCMILL_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_settings_the_store_is_a_file_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    settings = load_settings()
    assert settings.store_url == f"sqlite:///{tmp_path}/data/docmill/docmill.db"
    assert settings.redis_url is None
    assert settings.lanes == LANES


def test_a_user_without_a_home_is_told_to_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def getpwuid(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    for change in (partial(monkeypatch.setenv, "HOME", ""), partial(monkeypatch.delenv, "HOME")):
        change()
        with pytest.raises(WorkerError, match="set DOCMILL_HOME"):
            load_settings()


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise PermissionError(EACCES, "Permission denied", name)

    def fail(_: str) -> None:
        raise OSError(EIO, "Input/output error")

    (tmp_path / ".env").touch()
    for reader, reason in ((refuse, "Permission denied"), (fail, "Input/output error")):
        monkeypatch.setattr("docmill.worker.settings.dotenv_values", reader)
        with pytest.raises(WorkerError, match=rf"^\.env cannot be read: {reason}"):
            load_settings()


def test_an_option_beats_the_environment_and_the_environment_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("DOCMILL_THREADS=5\nDOCMILL_LEASE_S=7\nDOCMILL_DTYPE=float32\n")
    monkeypatch.setenv("DOCMILL_THREADS", "6")
    monkeypatch.setenv("DOCMILL_LEASE_S", "8")
    settings = load_settings(threads=9)
    assert (settings.threads, settings.lease_s, settings.dtype) == (9, 8.0, "float32")


def test_the_variables_of_other_programs_may_stand_in_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / ".env").write_text(
        "OPENAI_API_KEY=k\nOTEL_EXPORTER_OTLP_ENDPOINT=http://file:4318\nOTEL_SDK_DISABLED\n"
    )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://environment:4318")
    settings = load_settings(endpoint="http://localhost:8000/v1")
    assert (settings.openai_api_key, settings.traces_endpoint) == ("k", "http://environment:4318")


def test_unknown_and_bad_settings_are_listed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("DOCMILL_MODLES_DIR=/models\nPOSTGRES_PASSWORD=not-ours\n")
    monkeypatch.setenv("DOCMILL_REDIS", "redis://localhost")
    monkeypatch.setenv("DOCMILL_REDIS_URL", "http://localhost")
    monkeypatch.setenv("DOCMILL_DTYPE", "float8")
    monkeypatch.setenv("DOCMILL_MODELS_DIR", "nowhere")
    monkeypatch.setenv("DOCMILL_ORDER_ROOTS", "~nobody-here/documents")
    monkeypatch.setenv("DOCMILL_PRICES", "~nobody-here/prices")
    monkeypatch.setenv("DOCMILL_LEASE_S", "inf")
    monkeypatch.setenv("DOCMILL_WEB_TOKEN", "short")
    with pytest.raises(WorkerError) as caught:
        load_settings(threads=0)
    message = str(caught.value)
    for part in (
        "unknown setting DOCMILL_REDIS in the environment",
        "unknown setting DOCMILL_MODLES_DIR in .env",
        "DOCMILL_REDIS_URL: a Redis URL is redis://",
        f"DOCMILL_MODELS_DIR: there is no folder {tmp_path}/nowhere",
        "DOCMILL_DTYPE: input should be 'auto'",
        "DOCMILL_ORDER_ROOTS: there is no user for ~nobody-here",
        "DOCMILL_PRICES: there is no user for ~nobody-here",
        "DOCMILL_LEASE_S: input should be a finite number",
        "DOCMILL_WEB_TOKEN: string should have at least 16 characters",
        "--threads: input should be greater than or equal to 1",
    ):
        assert part in message
    assert "POSTGRES_PASSWORD" not in message


@pytest.mark.parametrize("setting", ["database_url", "redis_url"])
@pytest.mark.parametrize("password", ["c4n/ary", "c4n@ary", "c4n@/ary"])
def test_a_password_that_would_be_taken_for_the_host_is_refused_and_not_shown(setting: str, password: str) -> None:
    scheme = "postgresql" if setting == "database_url" else "redis"
    with pytest.raises(WorkerError) as caught:
        load_settings(**{setting: f"{scheme}://docmill:{password}@host/0"})
    assert "@ is written %40, and / is written %2F" in str(caught.value)
    assert "c4n" not in str(caught.value)
    assert "ary" not in str(caught.value)
    load_settings(**{setting: f"{scheme}://docmill:c4n%2Fary%40@host/0"})


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_lanes_are_named_and_known() -> None:
    assert load_settings(lanes="embed, translate").lanes == ("embed", "translate")
    with pytest.raises(WorkerError, match="--lanes: unknown lane 'embedd'; there are summarize, translate, embed"):
        load_settings(lanes="embedd")


@pytest.mark.parametrize("name", ["lanes", "device", "redis_url", "database_url", "models_dir", "home", "threads"])
def test_an_empty_value_is_not_taken_for_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkerError, match=f"--{name.replace('_', '-')}: it is empty; leave it out"):
        load_settings(**{name: " "})
    monkeypatch.setenv(f"DOCMILL_{name.upper()}", "")
    with pytest.raises(WorkerError, match=f"DOCMILL_{name.upper()}: it is empty; leave it out"):
        load_settings()


def test_models_may_be_put_into_the_home_after_a_worker_has_started(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    assert settings.model_folders.models == tmp_path / "models"
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings, "as device processes get them"
    with pytest.raises(WorkerError, match="there is no folder"):
        load_settings(models_dir=str(tmp_path / "elsewhere"))


def test_settings_do_not_show_passwords() -> None:
    settings = load_settings(database_url="postgresql://u:s3cret@h/d", redis_url="redis://:s3cret@h/0")
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings)
