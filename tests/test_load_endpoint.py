"""Paths and headers of requests: base URLs of every form, and header fields that HTTP allows."""

from __future__ import annotations

import pytest

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.endpoint import head_of, path_of
from pytest_autotune.load.generator import Target


def fields_of(target):
    first, *lines, end = head_of(target, streamed=True).decode("ascii").split("\r\n")
    assert (first, end) == (f"POST {path_of(target)} HTTP/1.1", "")
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize(
    ("url", "path", "host"),
    [
        ("http://h:8000", "/v1/completions", "h:8000"),
        ("http://h:8000/", "/v1/completions", "h:8000"),
        ("https://h/v1", "/v1/completions", "h"),
        ("https://h/v1/", "/v1/completions", "h"),
        ("https://h/base/path", "/base/path/v1/completions", "h"),
        ("https://h/base/v1", "/base/v1/completions", "h"),
        ("https://h/basev1", "/basev1/v1/completions", "h"),
        ("https://h/base?version=1", "/base/v1/completions?version=1", "h"),
        ("https://h/ä b%20c", "/%C3%A4%20b%20c/v1/completions", "h"),
        ("http://user:word@h:1", "/v1/completions", "h:1"),
        ("http://[::1]:8000", "/v1/completions", "[::1]:8000"),
        ("http://[fe80::1%eth0]:8000/v1", "/v1/completions", "[fe80::1]:8000"),
        ("http://bücher.example:80", "/v1/completions", "xn--bcher-kva.example:80"),
        ("unix:///run/server.sock", "/v1/completions", "localhost"),
        ("unix:///run/v1?/base", "/base/v1/completions", "localhost"),
        ("unix:///run/server.sock?base/v1/", "/base/v1/completions", "localhost"),
    ],
)
def test_base_urls_lead_to_the_path_and_the_host(url, path, host):
    target = Target(url, "m")
    assert path_of(target) == path
    assert fields_of(target)["host"] == host


@pytest.mark.parametrize(
    ("api", "path"),
    [("chat", "/v1/chat/completions"), ("embeddings", "/v1/embeddings"), ("rerank", "/v1/rerank")],
)
def test_each_api_has_its_path(api, path):
    assert path_of(Target("http://h", "m", api=api)) == path


def test_header_fields_of_the_target_replace_ours_whatever_their_case():
    fields = fields_of(Target("http://h", "m", headers={"Authorization": "Bearer x", "HOST": "other", "Accept": "*/*"}))
    assert fields == {
        "host": "other",
        "content-type": "application/json",
        "accept": "*/*",
        "authorization": "Bearer x",
    }


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"x-key": "a\r\nb: c"}, "header 'x-key' holds a character that HTTP does not allow; remove it"),
        ({"x-key": "ä"}, "header 'x-key' holds a character"),
        ({"x key": "a"}, "header name 'x key' holds a character"),
        ({"": "a"}, "header name '' holds a character"),
        ({"Content-Length": "3"}, "header 'Content-Length' is set by the load generator for each request"),
        ({"x-request-id": "3"}, "header 'x-request-id' is set by the load generator for each request"),
    ],
)
def test_a_header_that_would_break_the_request_is_refused(headers, message):
    with pytest.raises(BenchmarkError) as caught:
        head_of(Target("http://h", "m", headers=headers), streamed=True)
    assert str(caught.value).startswith(message)


def test_the_value_of_a_refused_header_is_not_told():
    with pytest.raises(BenchmarkError) as caught:
        head_of(Target("http://h", "m", headers={"authorization": "Bearer sécret"}), streamed=True)
    assert "cret" not in str(caught.value)


def test_a_host_that_is_no_name_is_refused():
    with pytest.raises(BenchmarkError, match=r"host 'ä\.\.b' is no domain name"):
        head_of(Target("http://ä..b", "m"), streamed=True)
