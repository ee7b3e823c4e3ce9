"""Where the requests of a target go: the path of its API, and the head that all of them share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from pytest_autotune.errors import BenchmarkError

if TYPE_CHECKING:
    from pytest_autotune.load.generator import Api, Target

_PATHS: dict[Api, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
    "rerank": "/v1/rerank",  # as vLLM, Jina and Cohere have it
}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110
_OWN = frozenset({"connection", "content-length", "expect", "transfer-encoding", "x-request-id"})


def path_of(target: Target) -> str:
    """Return the path that requests to a target ask for, with the query of its base URL if there is one.

    The base URL may end in ``/v1``, as client libraries want it. The base path of a server on a Unix
    socket stands after a question mark: ``unix:///run/server.sock?/base``.
    """
    parts = urlsplit(target.url)
    on_socket = parts.scheme == "unix"
    base = "/" + (parts.query if on_socket else parts.path).strip("/")
    path = base.removesuffix("/v1").rstrip("/") + _PATHS[target.api]
    query = "" if on_socket or not parts.query else f"?{parts.query}"
    return quote(path + query, safe="/?%:@!$&'()*+,;=")


def head_of(target: Target, *, streamed: bool) -> bytes:
    """Return the request line and the header fields that all requests to a target share.

    Header fields of the target replace ours of the same name. Raises `BenchmarkError` for one that
    HTTP does not allow, or that each request sets itself.
    """
    fields = {
        "host": _host(target.url),
        "content-type": "application/json",
        "accept": "text/event-stream" if streamed else "application/json",
        **({} if target.keeps_connections else {"connection": "close"}),
    }
    for name, value in target.headers.items():
        if not _NAME.fullmatch(name):
            raise BenchmarkError(f"header name {name!r} holds a character that HTTP does not allow; correct it")
        if not (value.isascii() and value.isprintable()):  # the value may be a secret
            raise BenchmarkError(f"header {name!r} holds a character that HTTP does not allow; remove it")
        if name.lower() in _OWN:
            raise BenchmarkError(f"header {name!r} is set by the load generator for each request; remove it")
        fields[name.lower()] = value.strip()
    lines = [f"POST {path_of(target)} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, ""]).encode("ascii")


def _host(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "localhost"
    host = parts.netloc.rpartition("@")[2]
    if host.startswith("["):  # an address's zone means something on this machine only (RFC 6874)
        return re.sub(r"%[^]]*", "", host)
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise BenchmarkError(f"host {host!r} is no domain name; correct the URL {url!r}") from None
