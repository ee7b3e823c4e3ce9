"""Why a model server did not start, or died: read from its log and exit status, for every engine."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_autotune.engines import patterns
from pytest_autotune.engines.engine import Cause, CauseKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_autotune.engines.engine import Memory

MAX_LINES = 5
MAX_LENGTH = 400
READ_LENGTH = 2000  # of a line: what follows repeats prompts or settings, and no pattern may take long over it
FRAMES_BEFORE = 200  # lines of a traceback above its exception
_REPORTED = {  # signals that end a server by themselves: 128 and their number is no exit status of its own
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGKILL,
    signal.SIGSEGV,
    signal.SIGTERM,
}


@dataclass(frozen=True, slots=True)
class _Line:
    text: str  # without what the logger put before it
    harmless: bool


def classify(log: str, returncode: int | None) -> Cause:
    """Say why a server died or never became ready.

    `returncode` is negative for a signal (shells and containers say 128 more than its number) and None
    while the process lives. What a server says before it is up is about its configuration; afterwards only
    memory, signals, GPUs and crashes count, because by then its log is also full of what single requests did wrong.
    """
    lines = [_read(line[:READ_LENGTH]) for line in log.splitlines()]
    started = next((at for at, line in enumerate(lines) if patterns.STARTED.search(line.text)), None)
    telling = [line.text for line in lines if not line.harmless]
    if found := _matching(telling, patterns.OUT_OF_MEMORY):
        return replace(_cause(CauseKind.OUT_OF_MEMORY, found), of=_memory(telling, up=started is not None))
    if started is None and (refusal := _refusal(telling)):
        return refusal
    if found := _matching(telling, patterns.DRIVER):
        return _cause(CauseKind.DRIVER, found)
    if killed := _signalled(telling, returncode):
        return killed
    return _crash(telling, returncode, up=started is not None)


def crowded_out(reason: str) -> bool:
    """Say whether a server that ran out of memory may have lacked only what other processes held at that time."""
    return patterns.CROWDED.search(reason) is not None


def _read(line: str) -> _Line:
    prefix = patterns.PREFIX.match(line)
    assert prefix is not None, "everything in it is optional"
    level = next((level for level in prefix.groups() if level), "")
    return _Line(line[prefix.end() :].rstrip(), harmless=level in patterns.HARMLESS)


def _memory(lines: Sequence[str], *, up: bool) -> Memory | None:
    """Say which memory ran out: by the message, else by the frames above it, else by when it happened."""
    at = [number for number, line in enumerate(lines) if patterns.OUT_OF_MEMORY.search(line)]
    for of, pattern in patterns.MEMORY:
        if of and any(pattern.search(lines[number]) for number in at):
            return of
    for line in reversed(lines[max(0, at[0] - FRAMES_BEFORE) : at[0]]):
        for of, frame in patterns.FRAMES:
            if frame.search(line):
                return of
    return "activations" if up else None


def _refusal(lines: Sequence[str]) -> Cause | None:
    lasting = [line for line in lines if not patterns.RETRIED.search(line)]
    for kind, pattern in (
        (CauseKind.PORT, patterns.PORT),
        (CauseKind.INFRASTRUCTURE, patterns.INFRASTRUCTURE),
        (CauseKind.MODEL, patterns.MODEL),
        (CauseKind.DRIVER, patterns.DRIVER),
        (CauseKind.BAD_ARGUMENT, patterns.BAD_ARGUMENT),
    ):
        if found := _matching(lasting, pattern):
            return _cause(kind, found)
    for at, line in enumerate(lines):
        if usage := patterns.USAGE.match(line):
            return Cause(CauseKind.BAD_ARGUMENT, _one_line(usage["text"]), _shorten([line]))
        if patterns.VALIDATION.match(line):
            return _validation(lines[at:])
        exception = patterns.EXCEPTION.match(line)
        if exception is None or patterns.CONSEQUENCE.search(line):
            continue
        name = exception["type"].rpartition(".")[2]
        if name == "ValidationError":
            return _validation(lines[at:])
        if name in patterns.REFUSED and exception["text"]:
            return _cause(CauseKind.BAD_ARGUMENT, [line])
    return None


def _validation(lines: Sequence[str]) -> Cause:
    """Read a pydantic report: the model's name, then fields and what is wrong with each."""
    _, _, model = lines[0].rpartition(" for ")
    detail: list[str] = []
    for line in lines[1:]:
        if line.strip().startswith("For further information"):
            continue
        if (
            not line
            or patterns.EXCEPTION.match(line)
            or line.startswith(("Traceback", "usage: ", "[W", "During ", "nanobind"))
        ):
            break
        detail.append(line)
    said = [re.sub(r"\s*\[type=\w+.*$", "", line.strip()).removeprefix("Value error, ") for line in detail]
    return Cause(CauseKind.BAD_ARGUMENT, _one_line(": ".join([model, *said])), _shorten([lines[0], *detail]))


def _signalled(lines: Sequence[str], returncode: int | None) -> Cause | None:
    number, found, who = _signal_of(returncode), [], "the server"
    for line in lines:
        if number:
            break
        if child := patterns.CHILD.search(line):
            number, found, who = _signal_in(child), [line], "a worker process of the server"
    if not number:
        return None
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        hint = "; the kernel does that when memory runs out" if number == signal.SIGKILL else ""
        return Cause(CauseKind.KILLED, f"{who} was killed by {name}{hint}", _shorten(found))
    return Cause(
        CauseKind.CRASH, f"{who} crashed with {name}", _shorten(found or [line for line in lines if line][-3:])
    )


def _signal_of(returncode: int | None) -> int:
    """Return the signal that an exit status stands for, 0 when it is none."""
    if returncode is None:
        return 0
    return -returncode if returncode < 0 else returncode - 128 if returncode - 128 in _REPORTED else 0


def _signal_in(child: re.Match[str]) -> int:
    if name := child["name"] or child["dumped"]:
        return signal.Signals[patterns.SIGNALS[name.lower()]].value
    return int(child["code"] or child["number"])


def _crash(lines: Sequence[str], returncode: int | None, *, up: bool) -> Cause:
    """Name the exception that a server ended with, if there is one."""
    exceptions = [line for line in lines if patterns.EXCEPTION.match(line)]
    roots = [line for line in exceptions if not patterns.CONSEQUENCE.search(line)] or exceptions
    # Chained exceptions begin with the root; a running server's log begins with other requests' trouble.
    root = "" if not roots else roots[-1] if up else roots[0]
    if returncode is None and not root:
        last = next((line for line in reversed(lines) if line.strip()), "")
        return Cause(CauseKind.TIMEOUT, "no answer before the deadline", _shorten([last] if last else []))
    status = "" if returncode is None else f"exited with status {returncode}"
    if root:
        message = f"{root.strip()} ({status})" if status else root.strip()
        return Cause(CauseKind.CRASH, _one_line(message), _shorten([root]))
    return Cause(CauseKind.CRASH, status, _shorten([line for line in lines if line.strip()][-MAX_LINES:]))


def _matching(lines: Sequence[str], pattern: re.Pattern[str]) -> list[str]:
    """Return the lines that match, the root cause first and what merely repeats it left out."""
    found = list(dict.fromkeys(line.strip() for line in lines if pattern.search(line)))
    told = [line for line in found if not patterns.CONSEQUENCE.search(line) and not line.startswith("raise ")]
    exceptions = [line for line in told if patterns.EXCEPTION.match(line)]
    return exceptions or told or found


def _cause(kind: CauseKind, found: Sequence[str]) -> Cause:
    first = patterns.EXCEPTION.match(found[0])
    message = (first["text"] if first else None) or found[0]
    return Cause(kind, _one_line(message), _shorten(found))


def _one_line(text: str) -> str:
    return _shorten([" ".join(text.split())])[0]


def _shorten(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        line if len(line) <= MAX_LENGTH else line[: MAX_LENGTH - 3] + "..." for line in list(lines)[:MAX_LINES]
    )
