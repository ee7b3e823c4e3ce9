"""The server of a load test before it is loaded: whether it answers, its model, and how it counts prompts."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_autotune.control import Control, ControlError
from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.calibrate import calibrate
from pytest_autotune.masking import mask_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.load.generator import Target
    from pytest_autotune.load_command.loadtest import LoadTest

CONNECT_S = 5.0  # a server that takes longer to accept a connection is not there


def prepared(test: LoadTest, *, label: Callable[[str], str]) -> LoadTest:
    """Return the load test with what only the server knows: its model, and how it counts prompts.

    Raises `BenchmarkError` when the server does not answer, or lists several models and none was
    named. `label` says how an option is called.
    """
    require_reachable(test.target)
    target = test.target if test.target.model else replace(test.target, model=_only_model(test.target, label("model")))
    if not test.made_up:
        return replace(test, target=target)
    calibration = calibrate(target)
    return replace(test, target=calibration.target, prompt_lengths=mask_text(calibration.finding, test.secrets))


def _only_model(target: Target, option: str) -> str:
    if target.url.startswith("unix:"):
        raise BenchmarkError(f"{option}: name the model; a server behind a socket is not asked for it")
    try:
        models = Control(target.url, target.headers, verify_tls=target.verify_tls).models()
    except ControlError as error:
        raise BenchmarkError(f"the server was asked for its model: {error}; name it with {option}") from error
    if len(models) != 1:
        listed = ", ".join(models) or "none"
        raise BenchmarkError(f"{target.url} lists {len(models)} models ({listed}); choose one with {option}")
    return models[0]


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
