"""Learns how a server counts prompts: whether a word is one token, and how many its template adds."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.endpoint import path_of
from pytest_autotune.load.generator import Workload
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.load.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_autotune.load.generator import Target

    Ask = Callable[[Target, Mapping[str, object]], object]

TIMEOUT_S = 10.0  # of a question; a server that is slower with one token is not ready for load
_LENGTHS = (64, 128)  # tokens of the two prompts
_LONGEST_ANSWER = 2**20  # bytes; one token, or one embedding, takes a fraction


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a server's counts of two prompts tell."""

    target: Target  # with `template_tokens` if they are exact, else as it was
    exact: bool  # prompts of this target have as many tokens as asked for
    finding: str  # one line about it


def ask(target: Target, body: Mapping[str, object]) -> object:
    """Send one JSON request on a connection of its own and return the decoded answer.

    Raises `OSError`, `http.client.HTTPException` or `ValueError` when there is no such answer.
    """
    connection = _connection(target)
    try:
        headers = {"content-type": "application/json", "accept": "application/json"}
        headers |= {name.lower(): value for name, value in target.headers.items()}
        connection.request("POST", path_of(target), json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        raw = answer.read(_LONGEST_ANSWER)
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {raw[:200].decode(errors='replace')}")
        return json.loads(raw)
    finally:
        connection.close()


def calibrate(target: Target, ask: Ask = ask) -> Calibration:
    """Ask a server for one token after each of two prompts, and compare its counts with the lengths sent.

    Never raises for what the server does: whatever is not a sum of words and a constant leaves the
    target as it was.
    """
    plain = replace(target, template_tokens=0)
    counts = []
    for length in _LENGTHS:
        try:
            counts.append(_count(ask(target, _question(plain, length))))
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            return Calibration(target, exact=False, finding=f"prompt lengths not checked: {problem}")
    short, long = counts
    added = short - _LENGTHS[0]
    per_token = (long - short) / (_LENGTHS[1] - _LENGTHS[0])
    symbol = "token id" if target.token_ids and target.api in ("completions", "embeddings") else "word"
    if per_token != 1 or added < 0:
        finding = f"prompts of {_LENGTHS[0]} and {_LENGTHS[1]} {symbol}s counted as {short} and {long} tokens"
        return Calibration(target, exact=False, finding=f"{finding}: lengths are approximate")
    finding = f"a {symbol} is a token, and the server adds {added} to a prompt"
    return Calibration(replace(target, template_tokens=added), exact=True, finding=finding)


def _question(target: Target, length: int) -> Mapping[str, object]:
    """Return the body of a request as the load sends it, but for one token at once."""
    workload = Workload(Fixed(length), Fixed(1), 1.0, 0.0, TIMEOUT_S, documents=1)
    payload = Requests(target, workload).build(length).payload
    body: dict[str, object] = json.loads(payload.partition(b"\r\n\r\n")[2])
    return {name: value for name, value in body.items() if name not in ("stream", "stream_options")}


def _count(answer: object) -> int:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    for name in ("prompt_tokens", "total_tokens"):  # rerank may tell the total only; it generates nothing
        value = usage.get(name) if isinstance(usage, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise ValueError("the answer has no usage.prompt_tokens")


def _connection(target: Target) -> http.client.HTTPConnection:
    parts = urlsplit(target.url)
    if parts.scheme == "unix":
        return _SocketConnection(unquote(parts.path))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BenchmarkError(f"cannot load {target.url!r}: write http://, https:// or unix:///path/to/socket")
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    context = ssl.create_default_context() if target.verify_tls else ssl._create_unverified_context()  # noqa: S323, SLF001 -- the user's wish
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_S, context=context)


class _SocketConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)
