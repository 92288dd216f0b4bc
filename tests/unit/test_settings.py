"""Settings that a client accepts, and settings that it refuses."""

from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from audiencelab_sdk import AudienceLab, ConfigurationError, InsecureURLWarning
from audiencelab_sdk._http import _urls
from tests.unit._samples import API_KEY, KEY, TOKEN, URL

VARIABLES = (
    "SUPABASE_URL",
    "SUPABASE_KEY",
    "SUPABASE_SECRET_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY", "AUDIENCELAB_API_KEY")
    for name in (*VARIABLES, *more):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://a.supabase.co", "https://a.supabase.co"),
        ("https://a.supabase.co/", "https://a.supabase.co"),
        ("https://a.supabase.co/rest/v1", "https://a.supabase.co"),
        (" https://a.supabase.co/rest/v1/\n", "https://a.supabase.co"),
        ("HTTPS://a.supabase.co", "https://a.supabase.co"),
        ("http://127.0.0.1:54321", "http://127.0.0.1:54321"),
        ("http://[::1]:54321/", "http://[::1]:54321"),
        ("https://host/supabase", "https://host/supabase"),
    ],
)
def test_url_is_normalized(given: str, url: str) -> None:
    with AudienceLab(given, KEY) as client:
        assert client.url == url


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        (None, "not NoneType"),
        ("", "must begin with https://"),
        ("a.supabase.co", "must begin with https://"),
        ("ftp://a.supabase.co", "must begin with https://"),
        ("postgresql://postgres:hunter2@db.a.supabase.co:5432/postgres", "address of a database"),
        ("POSTGRES://postgres:hunter2@db.a.supabase.co/postgres", "address of a database"),
        ("https://", "must be a host"),
        ("https://:8000", "must be a host"),
        ("https://host:port", "must be a host"),
        ("https://host:0", "must be a host"),
        ("https://[::1", "must be a host"),
        ("https://user:hunter2@host", "must be a host"),
        ("https://host?apikey=hunter2", "must be a host"),
        ("https://host#hunter2", "must be a host"),
        ("https://ho st", "must be a host"),
        ("https://host\nhunter2", "must be a host"),
        ("https://abc..supabase.co", "must be a host"),
        ("https://.supabase.co", "must be a host"),
        (f"https://{'a' * 64}.supabase.co", "must be a host"),
        ("https://xn--.co", "must be a host"),
        ("https://1.2.3.999", "must be a host"),
    ],
)
def test_invalid_url_error_gives_advice_and_quotes_no_secret(url: Any, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice) as caught:
        AudienceLab(url, KEY)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        (None, "key must be a str"),
        (b"bytes", "key must be a str"),
        ("", "key is empty"),
        (" \n", "key is empty"),
        (SecretStr(""), "key is empty"),
        ("two\nlines", "whitespace"),
        ("two words", "whitespace"),
        ("clé-secrète", "character"),
    ],
)
def test_invalid_key_or_token_is_rejected(key: Any, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        AudienceLab(URL, key)
    if key is not None:
        with pytest.raises(ConfigurationError, match=advice.replace("key", "access_token")):
            AudienceLab(URL, KEY, access_token=key)


SERVICE_ROLE_KEY = jwt.encode({"role": "service_role"}, "x" * 32)
ANON_KEY = jwt.encode({"role": "anon"}, "x" * 32)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"api_key": b"bytes"}, "api_key must be a str"),
        ({"api_key": ""}, "api_key is empty"),
        ({"api_key": "sk_ two"}, "whitespace"),
        ({"api_key": "hunter2"}, "does not have the format of an API key"),
        ({"api_key": API_KEY[:-1] + "x"}, "typing error"),
        ({"api_key": API_KEY, "access_token": TOKEN}, "not both"),
        ({"api_key": API_KEY, "headers": {"X-API-Key": "hunter2"}}, "must not contain x-api-key"),
    ],
)
def test_an_invalid_api_key_is_rejected_and_not_quoted(
    options: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ConfigurationError, match=advice) as caught:
        AudienceLab(URL, ANON_KEY, **options)
    assert "hunter2" not in str(caught.value)
    assert API_KEY not in str(caught.value)


def test_an_api_key_in_another_place_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match=r"key is an API key .* pass it as api_key"):
        AudienceLab(URL, API_KEY)
    with pytest.raises(ConfigurationError, match="access_token is an API key"):
        AudienceLab(URL, KEY, access_token=API_KEY)
    with pytest.raises(ConfigurationError, match="access_token is an API key"):
        AudienceLab(URL, KEY).as_user(API_KEY)


def test_from_env_rejects_an_empty_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", URL)
    monkeypatch.setenv("SUPABASE_KEY", SERVICE_ROLE_KEY)
    monkeypatch.setenv("AUDIENCELAB_API_KEY", "")
    with pytest.raises(ConfigurationError, match="api_key is empty"):
        AudienceLab.from_env()


@pytest.mark.parametrize("key", [SERVICE_ROLE_KEY, "sb_secret_abc"])
def test_a_secret_key_beside_an_api_key_is_rejected(key: str) -> None:
    with pytest.raises(ConfigurationError, match="key is a secret key of the project"):
        AudienceLab(URL, key, api_key=API_KEY)


@pytest.mark.parametrize("key", [ANON_KEY, "sb_publishable_abc", "a.b.c", "a.WzFd.c"])
def test_any_other_key_may_accompany_an_api_key(key: str) -> None:
    AudienceLab(URL, key, api_key=API_KEY).close()


def test_from_env_reads_an_api_key_and_the_publishable_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPABASE_URL", URL)
    monkeypatch.setenv("AUDIENCELAB_API_KEY", API_KEY)
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "sb_secret_abc")
    with pytest.raises(ConfigurationError, match="SUPABASE_PUBLISHABLE_KEY"):
        AudienceLab.from_env()
    for name in ("SUPABASE_KEY", "SUPABASE_ANON_KEY", "SUPABASE_PUBLISHABLE_KEY"):
        monkeypatch.setenv(name, f"value-of-{name}")
        with AudienceLab.from_env() as client:
            settings = client._settings
        assert settings.key.get_secret_value() == f"value-of-{name}"
        assert settings.api_key == SecretStr(API_KEY)


def test_the_arguments_of_from_env_precede_the_api_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = "sk_other"
    monkeypatch.setenv("SUPABASE_URL", URL)
    monkeypatch.setenv("SUPABASE_KEY", KEY)
    monkeypatch.setenv("AUDIENCELAB_API_KEY", API_KEY)
    with AudienceLab.from_env(access_token=TOKEN) as client:
        assert (client._settings.api_key, client._settings.token) == (None, SecretStr(TOKEN))
    with AudienceLab.from_env(api_key=other) as client:
        assert client._settings.api_key == SecretStr(other)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "10", None, True])
def test_invalid_timeout_is_rejected(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        AudienceLab(URL, KEY, timeout=timeout)


@pytest.mark.parametrize("max_retries", [-1, 101, 1.5, "2", None, True])
def test_invalid_max_retries_is_rejected(max_retries: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_retries"):
        AudienceLab(URL, KEY, max_retries=max_retries)


def test_from_env_reads_the_url_and_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", URL)
    for name in reversed(VARIABLES[1:]):
        monkeypatch.setenv(name, f"value-of-{name}")
        with AudienceLab.from_env() as client:
            assert client.url == URL
            assert client._settings.key.get_secret_value() == f"value-of-{name}"


def test_from_env_names_all_missing_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AudienceLab.from_env()
    assert all(name in str(caught.value) for name in VARIABLES)

    monkeypatch.setenv("SUPABASE_URL", URL)
    monkeypatch.setenv("SUPABASE_KEY", "")
    with pytest.raises(ConfigurationError) as caught:
        AudienceLab.from_env()
    assert "SUPABASE_URL" not in str(caught.value)
    assert "SUPABASE_KEY" in str(caught.value)


@pytest.fixture
def no_warned_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_urls, "_warned_hosts", set())


@pytest.mark.usefixtures("no_warned_hosts")
def test_http_to_another_host_warns_once_per_host() -> None:
    for url in ("http://kong:8000", "http://10.0.0.1", "http://[2001:db8::1]:80"):
        with pytest.warns(InsecureURLWarning, match="in clear text") as caught:
            AudienceLab(url, KEY).close()
        assert [warning.filename for warning in caught] == [__file__]
        assert KEY not in str(caught[0].message)
        AudienceLab(url, KEY).close()  # a second warning would raise


@pytest.mark.usefixtures("no_warned_hosts")
def test_the_warning_points_to_the_line_that_calls_from_env(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPABASE_URL", "http://kong:8000")
    monkeypatch.setenv("SUPABASE_KEY", KEY)
    with pytest.warns(InsecureURLWarning) as caught:
        AudienceLab.from_env().close()
    assert caught[0].filename == __file__


@pytest.mark.usefixtures("no_warned_hosts")
@pytest.mark.parametrize(
    "url",
    [
        *("https://kong:8000", "http://localhost:1", "http://api.localhost", "http://127.9.9.9"),
        "http://[::1]",
    ],
)
def test_https_and_loopback_do_not_warn(url: str) -> None:
    AudienceLab(url, KEY).close()


@pytest.mark.usefixtures("no_warned_hosts")
def test_allow_http_suppresses_the_warning() -> None:
    AudienceLab("http://kong:8000", KEY, allow_http=True).close()


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("proxy", 1, "proxy must be a str or SecretStr, such as http://proxy"),
        ("proxy", "proxy.example.com:3128", "proxy must be the URL of an HTTP or SOCKS proxy"),
        ("proxy", "ftp://me:hunter2@proxy", "proxy must be the URL of an HTTP or SOCKS proxy"),
        ("proxy", "http://", "proxy must be the URL of an HTTP or SOCKS proxy"),
        ("proxy", "socks5://me:hunter2@127.0.0.1:1", "proxy cannot be used"),
        ("verify", False, "verify must be an ssl.SSLContext, not bool: to trust a private"),
        ("verify", "ca.pem", r"pass ssl\.create_default_context\(cafile=\.\.\.\)"),
        ("headers", [("X-A", "hunter2")], "headers must be a mapping, such as a dict, not list"),
        ("headers", {1: "hunter2"}, "headers has a name that no HTTP header may have"),
        ("headers", {"X A": "hunter2"}, "headers has a name that no HTTP header may have"),
        (
            "headers",
            {"X-A": b"hunter2"},
            "headers\\['X-A'\\] must be a str or SecretStr of printable ASCII",
        ),
        ("headers", {"X-A": "hunter2\r\nX-B: 1"}, "must be a str or SecretStr of printable ASCII"),
        ("headers", {"X-A": "hünter2"}, "must be a str or SecretStr of printable ASCII"),
        ("headers", {"X-A": " hunter2"}, "without whitespace around it"),
        ("headers", {"X-A": "hunter2", "x-a": "1"}, "headers contains x-a twice, in other cases"),
        ("headers", {"ApiKey": "hunter2"}, "must not contain ApiKey, which the SDK sets itself"),
        ("headers", {"authorization": "hunter2"}, "must not contain authorization"),
        ("on_response", "print", "on_response must be callable, not str"),
    ],
)
def test_invalid_options_are_rejected_and_not_quoted(option: str, value: Any, problem: str) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ConfigurationError, match=problem) as caught:
        AudienceLab(URL, KEY, **options)
    assert "hunter2" not in str(caught.value)
    assert "hünter2" not in str(caught.value)


def test_settings_show_neither_headers_nor_the_password_of_a_proxy() -> None:
    headers = {"X-Gateway": "hunter2"}
    client = AudienceLab(URL, KEY, headers=headers, proxy="http://me:hunter2@127.0.0.1:1")
    assert "hunter2" not in repr(client._settings)
    client.close()


@pytest.mark.parametrize(
    "url",
    [
        "https://supabase.com/dashboard/project/abcdefgh",
        "https://app.supabase.com/project/abcdefgh",
    ],
)
def test_the_url_of_the_dashboard_is_rejected(url: str) -> None:
    with pytest.raises(ConfigurationError, match="address of the dashboard; pass the project's"):
        AudienceLab(url, KEY)
