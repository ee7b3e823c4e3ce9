"""The admin client of a server, apart from the load's connections: health, models, cache reset, metrics."""

from __future__ import annotations

import http.client
import io
import json
import logging
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_autotune.errors import AutotuneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.load.generator import Api

_logger = logging.getLogger(__name__)

_MOST_BYTES = 64 * 2**20  # of one answer; a metrics page of a large server has a few megabytes
_SMALLEST: dict[Api, tuple[str, dict[str, Any], str]] = {  # path, what is asked, what an answer must have
    "completions": ("/v1/completions", {"prompt": "Hello"}, "choices"),
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}, "choices"),
    "embeddings": ("/v1/embeddings", {"input": "Hello"}, "data"),
    "rerank": ("/v1/rerank", {"query": "Hello", "documents": ["Hello"]}, "results"),
}
_WANTED = {"choices": "a choice", "data": "an embedding", "results": "a ranking"}
_SHOWN = 200  # characters of an answer in an error


class ControlError(AutotuneError):
    """A control call was not answered as it must be; the message says what was asked and what came back.

    `status` is the HTTP status, or None when there was no complete answer. `refused` tells a server that is not there
    from one that misbehaves, `late` one whose answer was not complete in time.
    """

    def __init__(
        self,
        operation: str,
        problem: str,
        *,
        trace_id: str,
        wall_ms: float,
        status: int | None = None,
        refused: bool = False,
        late: bool = False,
    ) -> None:
        super().__init__(f"{operation}: {problem} (after {wall_ms:.0f} ms, x-request-id {trace_id})")
        self.operation = operation
        self.problem = problem
        self.trace_id = trace_id
        self.wall_ms = wall_ms
        self.status = status
        self.refused = refused
        self.late = late


@dataclass(frozen=True, slots=True)
class Answer:
    """What a control call brought back."""

    operation: str  # "GET http://.../health"
    status: int
    body: bytes
    trace_id: str  # as sent in x-request-id, to be found in the server's log
    wall_ms: float

    def json(self) -> Any:
        """Return the body as JSON; raise `ControlError` when it is not."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise self.error(f"answered {self.status} with something that is not JSON: {self.excerpt()}") from error

    def excerpt(self) -> str:
        """Return the beginning of the body on one line, for messages."""
        text = " ".join(self.body[: 4 * _SHOWN].decode(errors="replace").split())
        return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...") if text else "an empty body"

    def error(self, problem: str) -> ControlError:
        """Return (not raise) an error about this answer."""
        return ControlError(self.operation, problem, trace_id=self.trace_id, wall_ms=self.wall_ms, status=self.status)


@dataclass(frozen=True, slots=True)
class Control:
    """Control calls to one server, each on a connection of its own that is closed afterwards.

    `timeout_s` bounds a whole call, however slowly the server trickles. Proxy settings of the environment are not used.
    """

    url: str  # base URL without trailing slash and without /v1
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a key
    timeout_s: float = 10.0
    verify_tls: bool = True

    def health(self, path: str = "/health") -> Answer:
        """Ask for the health page; anything but 200 is an error."""
        return self.call("GET", path)

    def models(self) -> tuple[str, ...]:
        """Return the names of the models that the server lists."""
        answer = self.call("GET", "/v1/models")
        document = answer.json()
        entries = document.get("data") if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in entries
        ):
            raise answer.error(f"answered without a list of models: {answer.excerpt()}")
        return tuple(entry["id"] for entry in entries)

    def generate(
        self,
        model: str,
        max_tokens: int = 2,
        *,
        api: Api = "completions",
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask for one short generation, not streamed, embedding or ranking; an answer without one is an error."""
        path, of_api, wanted = _SMALLEST[api]
        request = {"model": model, **of_api}
        if wanted == "choices":
            request |= {"max_tokens": max_tokens, "temperature": 0, "stream": False}
        answer = self.call("POST", path, request, timeout_s=timeout_s)
        document = answer.json()
        if not isinstance(document, dict) or not document.get(wanted):
            raise answer.error(f"answered without {_WANTED[wanted]}: {answer.excerpt()}")
        return answer

    def reset_prefix_cache(self, path: str = "/reset_prefix_cache") -> Answer:
        """Empty the server's prefix cache."""
        return self.call("POST", path, {})

    def metrics(self, path: str = "/metrics") -> str:
        """Return the server's Prometheus page as text."""
        return self.call("GET", path).body.decode(errors="replace")

    def call(
        self, method: str, path: str, document: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Answer:
        """Make one request and return its answer; any status but 200 is a `ControlError`."""
        trace_id = secrets.token_hex(16)  # the digits of a UUID: some servers refuse other ids
        operation, began = f"{method} {self.url}{path}", time.monotonic()
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = began + limit_s
        status: int | None = None
        refused = late = False
        try:
            with _connect(self.url, deadline, verify_tls=self.verify_tls) as connection:
                connection.sendall(self._request(method, path, document, trace_id))
                with http.client.HTTPResponse(_Deadlined(connection, deadline), method=method) as response:  # type: ignore[arg-type]
                    response.begin()
                    status = response.status
                    body = response.read(_MOST_BYTES)
                    _refuse_part(body, response.length)
        except TimeoutError:
            problem, late = f"no complete answer within {limit_s:.3g} s", True
        except ConnectionRefusedError:
            problem, refused = "connection refused", True
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            wall_ms = (time.monotonic() - began) * 1000
            answer = Answer(operation, status, body, trace_id, wall_ms)
            _logger.debug("%s -> %d in %.1f ms [%s]", operation, status, wall_ms, trace_id)
            if status != 200:
                raise answer.error(f"answered {status} with {answer.excerpt()}")
            return answer
        wall_ms = (time.monotonic() - began) * 1000
        _logger.debug("%s -> %s in %.1f ms [%s]", operation, problem, wall_ms, trace_id)
        raise ControlError(
            operation, problem, trace_id=trace_id, wall_ms=wall_ms, status=status, refused=refused, late=late
        )

    def _request(self, method: str, path: str, document: Mapping[str, Any] | None, trace_id: str) -> bytes:
        parts = urlsplit(self.url)
        body = b"" if document is None else json.dumps(document).encode()
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Accept": "*/*",
            "User-Agent": "pytest-autotune",
            "Connection": "close",
            "x-request-id": trace_id,
            **({} if document is None else {"Content-Type": "application/json"}),
            **({} if method == "GET" else {"Content-Length": str(len(body))}),
            **self.headers,
        }
        lines = [f"{method} {parts.path}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class _Deadlined(io.RawIOBase):
    """The reading side of a socket, on which every wait ends at the same deadline."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self._deadline))
        return self._connection.recv_into(buffer)


def _connect(url: str, deadline: float, *, verify_tls: bool) -> socket.socket:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    connection = socket.create_connection((host, parts.port or (443 if secure else 80)), timeout=_left(deadline))
    try:
        _refuse_itself(connection)
        connection.settimeout(_left(deadline))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure:
            context = ssl.create_default_context()
            if not verify_tls:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            return context.wrap_socket(connection, server_hostname=host)
    except BaseException:  # Ctrl-C too: until it is returned nobody else closes the socket
        connection.close()
        raise
    return connection


def _refuse_itself(connection: socket.socket) -> None:
    """Where nobody listens and the kernel picks the very same port for our end, TCP connects to itself."""
    if connection.getsockname() == connection.getpeername():
        raise ConnectionRefusedError


def _refuse_part(body: bytes, missing: int | None) -> None:
    if missing:  # the standard library checks this only where no size is given
        raise http.client.IncompleteRead(body, missing)


def _left(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
