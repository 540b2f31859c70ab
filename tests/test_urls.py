"""What may be shown of a URL, whoever says it and in whatever form."""

from __future__ import annotations

import traceback
from urllib.parse import quote, unquote

import pytest

from softtargets.errors import StoreError
from softtargets.urls import Secrets, is_url, redacted, schemes, without_credentials

SHOWN = {
    "s3://AKIA:hunter22@bucket/store": "s3://bucket/store",
    "s3://AKIA:hunt/er22@bucket/store": "s3://...@bucket/store",
    "s3://AKIA:hunt#er22@bucket/store": "s3://...",
    "s3://AKIA:hunt?er22@bucket/store": "s3://...",
    "s3://AKIA:hunt@er22@bucket/store": "s3://bucket/store",
    "s3://AKIA:hunt::er22@bucket/store": "s3://bucket/store",
    "s3://AKIA:hunt er22@bucket/store": "s3://bucket/store",
    "s3://AKIA:hunt%2Fer22@bucket/store?region=a": "s3://bucket/store",
    "s3://bucket/store?secret_key=hunter22": "s3://bucket/store",
    "https://hunter22@host/store": "https://host/store",
    "https://hunt/er22@host/store": "https://...@host/store",
    "https://host:8080/store?X-Amz-Signature=hunter22&X-Amz-Expires=9": "https://host:8080/store",
    "https://host/store?sv=2024&sig=hunt%2Ber22#part": "https://host/store",
    "https://host/store#access_token=hunter22": "https://host/store",
    "https://host/store?GoogleAccessId=me@host&Signature=hunter22": "https://...",
    "simplecache::http://me:hunter22@host/store": "simplecache::http://host/store",
    "zip://a.parquet::https://me:hunter22@host/b.zip?sig=hunter22": (
        "zip://a.parquet::https://host/b.zip"
    ),
    "abfs://box@account.dfs.core.windows.net/a": "abfs://account.dfs.core.windows.net/a",
    "hf://hunter22@datasets/me/store": "hf://datasets/me/store",
    "hf://me:hunter22@datasets/me/store@main": "hf://...@main",
    "http://me:hunter22@[::1/x": "http://[::1/x",
}
"""What is shown of each URL; the secret is hunter22, in all or in halves."""
UNCHANGED = (
    "",
    "bucket/path",
    "/directory/a@b?c#d",
    "hf://datasets/me/store@main/part",
    "memory://a/store",
    "file:///directory",
    "dir://",
    "://",
    "s3://",
)
SECRETS = ("hunter22", "hunt", "er22", "AKIA")


def tells(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize("url", SHOWN)
def test_a_url_is_shown_without_secrets(url: str) -> None:
    assert redacted(url) == SHOWN[url]
    assert redacted(SHOWN[url]) == SHOWN[url]
    assert not tells(redacted(url))


@pytest.mark.parametrize("text", UNCHANGED)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert redacted(text) == text
    assert without_credentials(text) == text
    assert Secrets(text).hide(f"cannot open '{text}'.") == f"cannot open '{text}'."


@pytest.mark.slow
@pytest.mark.parametrize("url", [url for url in SHOWN if " " not in url])
@pytest.mark.parametrize("sentence", ["{}", "cannot open '{}', of 3", "where={}: no", "a {} b {}"])
def test_urls_are_found_in_a_text(url: str, sentence: str) -> None:
    assert without_credentials(sentence.replace("{}", url)) == sentence.replace("{}", SHOWN[url])


@pytest.mark.parametrize("url", SHOWN)
def test_a_client_may_quote_them_in_any_form(url: str) -> None:
    secrets = Secrets(url)
    rest = url.partition("://")[2]
    for form in (url, url[3:], rest, repr(rest), quote(url), quote(rest, safe=""), unquote(rest)):
        for part in (form, form.partition("@")[0], form.partition("?")[2], form.partition("#")[2]):
            assert not tells(secrets.hide(f"HTTP 403 for {part} (retry)")), part


def test_options_that_are_no_secrets_stay_words() -> None:
    secrets = Secrets("s3://AKIA:hunter22@bucket/a?scheme=http&region=us-east-1")
    said = "http status 403 in us-east-1 of key AKIA"
    assert secrets.hide(said) == "http status 403 in us-east-1 of key ..."


def test_short_secrets_are_hidden_where_they_stand_alone() -> None:
    assert Secrets("http://u:p@host").hide("user u, pass p: no up") == "user ..., pass ...: no up"


def test_tokens_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hunter22")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter22/hunter22")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json")
    said = "Bearer hf_hunter22, key hunter22%2Fhunter22 of /home/me/key.json"
    assert Secrets("s3://bucket").hide(said) == "Bearer ..., key ... of /home/me/key.json"


def test_a_cause_that_tells_is_not_shown() -> None:
    secrets = Secrets("s3://AKIA:hunter22@bucket/a")

    def text_of(said: str) -> str:
        try:
            try:
                raise OSError(said)
            except OSError as error:
                raise StoreError("s3://bucket/a") from secrets.cause(error)
        except StoreError as error:
            return "".join(traceback.format_exception(error))

    assert "OSError: no such bucket" in text_of("no such bucket")
    assert "OSError" not in text_of("no key hunter22")


def test_what_is_a_url() -> None:
    assert all(map(is_url, SHOWN))
    assert is_url("simplecache::memory://a")
    assert not any(map(is_url, ("", "a:b", "run::1", "/a://b", "s3:/bucket", "[::1]")))
    assert schemes("zip://a::simplecache::HTTP://b") == ["zip", "simplecache", "http"]
