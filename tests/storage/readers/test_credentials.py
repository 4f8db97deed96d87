"""Secrets in a source are found and masked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.readers import SourceError, SourceOptions, open_source
from docmill.storage.readers.remote import describe_secret, mask_secrets
from tests.storage.readers.reading import refused
from tests.storage.readers.site import serving

SECRET = "kanarienvogel"
LINES = b'{"id": "1", "text": "a text"}\n'
WITH_SECRETS = {
    f"https://{SECRET}@host/c.jsonl": "~/.netrc",
    f"https://me:{SECRET}@host/c.jsonl": "~/.netrc",
    f"HTTPS://me:{SECRET}@host/c.jsonl": "~/.netrc",
    f"https://me:a/{SECRET}@host/c.jsonl": "~/.netrc",
    f"https://me:a@{SECRET}@host/c.jsonl": "~/.netrc",
    f"https://me:a?{SECRET}@host/c.jsonl": "~/.netrc",
    f"https://host/c.jsonl?page=1&api_key={SECRET}": "s3://BUCKET/KEY",
    f"https://host/c.jsonl?%74oken={SECRET}": "s3://BUCKET/KEY",
    f"https://host/c.jsonl?of-no-list={SECRET}": "s3://BUCKET/KEY",
    f"https://host/c.jsonl?{SECRET}=": "s3://BUCKET/KEY",
    f"https://b.s3.amazonaws.com/k.jsonl?X-Amz-Date=20260101&X-Amz-Signature={SECRET}": "AWS_ACCESS_KEY_ID",
    f"https://a.blob.core.windows.net/c/k.jsonl?sv=2022&sig={SECRET}": "AZURE_STORAGE_CONNECTION_STRING",
    f"https://storage.googleapis.com/b/k.jsonl?X-Goog-Signature={SECRET}": "GOOGLE_APPLICATION_CREDENTIALS",
    f"postgresql://me:{SECRET}@host/db?SELECT 'a' AS text": "PGPASSWORD",
    f"postgresql+psycopg://me:{SECRET}@host/db?SELECT 'a' AS text": "PGPASSWORD",
    f"postgresql://me:12/{SECRET}@host/db?SELECT 'a' AS text": "PGPASSWORD",
    f"postgresql://me@host/db?password={SECRET}?SELECT 'a' AS text": "~/.pgpass",
    f"postgresql://host/db?user=me&sslpassword={SECRET}?SELECT 'a' AS text": "~/.pgpass",
    f"sftp://me:{SECRET}@host/c.jsonl": "~/.config/fsspec",
    f"s3://KEY:{SECRET}@bucket/c.jsonl": "AWS_SECRET_ACCESS_KEY",
    f"sqlite:///x.db?SELECT 'postgresql://me:{SECRET}@host/db' AS text": "leave it out",
}
WITHOUT = [
    "articles.jsonl",
    "/srv/a:b@c/articles.jsonl",
    "data/**/*.csv",
    "https://host:8080/a@2x.jsonl",
    "https://host/c.jsonl?page=2&format=jsonl&version=",
    "https://[::1]:8080/c@d.jsonl",
    "postgresql://me@host/db?SELECT key, token AS text FROM t WHERE password='x' AND k=1",
    "postgresql://me@host/db?sslmode=verify-full?SELECT id, text FROM t WHERE token='x'",
    "postgresql://host:5432/db?SELECT id, text FROM t WHERE mail='a@b'",
    "postgresql://me@host/db?require_auth=md5?SELECT id, text FROM t",
    "sqlite:///x.db?SELECT id, text FROM t WHERE auth='x'",
    "sftp://me@host/c.jsonl",
    "abfs://container@account.dfs.core.windows.net/c.jsonl",
    "s3://bucket/prefix/c.jsonl",
    "github://owner:repository@main/c.jsonl",
    "datasets://owner/name?split=train",
    "hf://datasets/owner/name@main/c.jsonl",
]


@pytest.mark.parametrize(("source", "instead"), WITH_SECRETS.items())
def test_a_secret_in_a_source_is_masked_and_the_advice_says_how_to_give_it(source: str, instead: str) -> None:
    advice = describe_secret(source)
    assert advice is not None
    assert instead in advice
    assert SECRET not in advice
    assert SECRET not in mask_secrets(source)
    assert mask_secrets(source).partition("://")[0] == source.partition("://")[0].lower()
    assert mask_secrets(mask_secrets(source)) == mask_secrets(source)


def test_a_password_with_a_slash_masks_nothing_of_the_query() -> None:
    source = "postgresql://me:{}@host/db?SELECT text FROM t WHERE mail='a@b'"
    assert [mask_secrets(source.format(password)) for password in ("12/34", "ab/34")] == [source.format("***")] * 2


def test_masked_queries_have_different_names_unless_only_their_signature_differs() -> None:
    first, second, renewed = (
        mask_secrets(f"https://host/c.jsonl?doc={doc}&X-Amz-Date={day}&X-Amz-Signature={day}")
        for doc, day in ((1, 1), (2, 1), (1, 2))
    )
    assert first == renewed != second
    assert first.startswith("https://host/c.jsonl?***")


@pytest.mark.parametrize("source", WITHOUT)
def test_a_source_without_a_secret_is_accepted(source: str) -> None:
    assert describe_secret(source) is None


@given(st.text(), st.sampled_from(["https", "postgresql", "s3", "x"]))
def test_any_source_can_be_searched_for_secrets(rest: str, scheme: str) -> None:
    describe_secret(f"{scheme}://{rest}")
    mask_secrets(f"{scheme}://{rest}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write_netrc(home: Path, text: str) -> None:
    (home / ".netrc").write_text(text)
    (home / ".netrc").chmod(0o600)


def test_a_login_of_the_netrc_file_is_sent_to_its_host_alone(home: Path) -> None:
    with serving() as site, serving() as other_site:
        site.files["/c.jsonl"] = other_site.files["/c.jsonl"] = LINES
        site.leads_to["/away.jsonl"] = f"{other_site.url.replace('127.0.0.1', 'localhost')}/c.jsonl"
        write_netrc(home, f"machine 127.0.0.1 login me password p@ss/word-{SECRET}\n")
        source = open_source(f"{site.url}/c.jsonl", SourceOptions())
        assert len(list(source.records())) == 1
        assert {*site.logins} == {f"me:p@ss/word-{SECRET}"}
        assert SECRET not in source.name
        assert len(list(open_source(f"{site.url}/away.jsonl", SourceOptions()).records())) == 1
        assert {*other_site.logins} == {""}


@pytest.mark.parametrize(("mode", "more"), [(0o600, SECRET), (0o644, "")])
def test_an_unusable_netrc_file_is_named_and_not_quoted(home: Path, mode: int, more: str) -> None:
    write_netrc(home, f"machine 127.0.0.1 login me password mine {more}\n")
    (home / ".netrc").chmod(mode)
    with serving() as site:
        site.files["/c.jsonl"] = LINES
        message = refused(SourceError, f"{site.url}/c.jsonl")
    assert "the logins in ~/.netrc cannot be used" in message
    assert SECRET not in message
