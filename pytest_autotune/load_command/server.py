"""The server of a load test before it is loaded: whether it answers, and which model it has."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_autotune.control import Control, ControlError
from pytest_autotune.errors import BenchmarkError

if TYPE_CHECKING:
    from pytest_autotune.load.generator import Target

CONNECT_S = 5.0  # a server that takes longer to accept a connection is not there


def with_model(target: Target, *, label: str) -> Target:
    """Return a target whose model is known; raise `BenchmarkError` when the server does not answer or lists several.

    `label` is what the option that names a model is called.
    """
    require_reachable(target)
    if target.model:
        return target
    if target.url.startswith("unix:"):
        raise BenchmarkError(f"{label}: name the model; a server behind a socket is not asked for it")
    try:
        models = Control(target.url, target.headers, verify_tls=target.verify_tls).models()
    except ControlError as error:
        raise BenchmarkError(f"the server was asked for its model: {error}; name it with {label}") from error
    if len(models) != 1:
        listed = ", ".join(models) or "none"
        raise BenchmarkError(f"{target.url} lists {len(models)} models ({listed}); choose one with {label}")
    return replace(target, model=models[0])


def require_reachable(target: Target) -> None:
    """Raise `BenchmarkError` when nothing accepts connections at the target's address."""
    parts = urlsplit(target.url)
    try:
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CONNECT_S)
                connection.connect(parts.path)
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        cause = "no connection within 5 s" if isinstance(error, TimeoutError) else _cause(error)
        raise BenchmarkError(
            f"{target.url} cannot be reached: {cause}; start the server or correct the address"
        ) from error


def _cause(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]
