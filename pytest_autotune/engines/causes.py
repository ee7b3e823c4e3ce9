"""Why a model server did not start, or died: read from its log and exit status, for every engine."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune.engines.engine import Cause, CauseKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_LINES = 5
MAX_LENGTH = 400

# What loggers put before a message: vLLM's "(EngineCore pid=7) ERROR 11-22 20:05:24 [core.py:1510] ",
# older ones without the process, SGLang's "[2025-03-29 18:12:40 TP0] ", Ray's "(RayWorkerWrapper pid=1, ip=...) ".
_PREFIX = re.compile(
    r"^(?:\([\w-]+ pid=\d+[^)]*\)\s?)*"
    r"(?:(?P<level>[A-Z]{4,8}) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[?[\w.]+:\d+\] ?)?"
    r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^]]*\] )?"
)
_HARMLESS = {"DEBUG", "INFO", "WARNING"}
_EXCEPTION = re.compile(
    r"^(?:\[rank\d+\]: )?(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt))\b(?::\s*(?P<text>.*))?$"
)
_STARTED = re.compile(r"Application startup complete|The server is fired up|server is listening on")

_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError"
    r"|(?:CUDA|HIP|XPU|ROCm)\b.{0,40}out of memory"
    r"|No available memory for the cache blocks"
    r"|larger than the available KV cache memory"
    r"|larger than the maximum number of tokens that can be stored in (?:the )?KV cache"
    r"|Free memory on device.* is less than desired GPU memory utilization"
    r"|Available memory on node.* is less than (?:desired CPU memory utilization|requested memory for kv)"
    r"|Cannot auto-fit max_model_len"
    r"|Not enough memory\. Please try to (?:increase|decrease) --mem-fraction-static"
    r"|(?:not enough|can't allocate) memory: you tried to allocate"
    r"|cudaMalloc failed: out of memory"
    r"|^(?:\w+\.)*MemoryError\b"
    r"|\[Errno 12\]|Cannot allocate memory"
    r"|Out of memory: Killed process|oom-kill|OOMKilled",
    re.IGNORECASE,
)
_CROWDED = re.compile(  # what is free, or the host's memory: another start at another time may find more
    r"Free memory on device|Available memory on node"
    r"|(?:not enough|can't allocate) memory: you tried to allocate"
    r"|\bMemoryError\b|\[Errno 12\]|Cannot allocate memory"
    r"|Out of memory: Killed process|oom-kill|OOMKilled",
    re.IGNORECASE,
)
_PORT = re.compile(r"Address already in use|\bEADDRINUSE\b|address in use", re.IGNORECASE)
_MODEL = re.compile(
    r"gated repo|Repository Not Found|(?:Gated|RepositoryNotFound|RevisionNotFound|LocalEntryNotFound|EntryNotFound)"
    r"(?:Repo)?Error|OfflineModeIsEnabled|HFValidationError|Repo id must be "
    r"|is not a local folder and is not a valid model identifier"
    r"|Invalid repository ID or local directory"
    r"|does not appear to have a file named|couldn't connect to .*(?:load|files)"
    r"|Cannot find any model weights|No such file or directory: .*(?:config\.json|safetensors|tokenizer)"
    r"|Model architectures .*(?:not supported|failed to be inspected)|Error no file named",
    re.IGNORECASE,
)
_USAGE = re.compile(r"^[\w./-]+: error: (?P<text>.+)$")
_REFUSED = {
    "ValueError",
    "NotImplementedError",
    "AssertionError",
    "ArgumentError",
    "ArgumentTypeError",
    "SettingsError",
}
_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|EngineDeadError|EngineCore encountered an issue|Executor failed\."
    r"|WorkerProc initialization failed|Worker failed with error|please check the stack trace above"
    r"|Engine loop is not running|Initialization failed\. Please see the error messages above|KeyboardInterrupt"
    r"|CancelledError|ChildFailedError"
)
_CHILD = re.compile(r"(?:died|exited|terminated).*?exit ?code[:= ]+-(?P<signal>\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Line:
    text: str  # without what the logger put before it
    harmless: bool


def classify(log: str, returncode: int | None) -> Cause:
    """Say why a server died or never became ready.

    `returncode` is negative for a signal and None while the process lives. What a server says
    before it is up is about its configuration; afterwards only memory, signals and crashes count,
    because by then its log is also full of what single requests did wrong.
    """
    lines = [_read(line) for line in log.splitlines()]
    started = next((at for at, line in enumerate(lines) if _STARTED.search(line.text)), None)
    telling = [line.text for line in lines if not line.harmless]
    if found := _matching(telling, _OUT_OF_MEMORY):
        return _cause(CauseKind.OUT_OF_MEMORY, found)
    if started is None and (refusal := _refusal(telling)):
        return refusal
    if killed := _signalled(telling, returncode):
        return killed
    exceptions = [line for line in telling if _EXCEPTION.match(line)]
    roots = [line for line in exceptions if not _CONSEQUENCE.search(line)] or exceptions
    # Chained exceptions begin with the root; a running server's log begins with other requests' trouble.
    root = "" if not roots else roots[0] if started is None else roots[-1]
    if returncode is None and not root:
        last = next((line for line in reversed(telling) if line.strip()), "")
        return Cause(CauseKind.TIMEOUT, "no answer before the deadline", _shorten([last] if last else []))
    status = "" if returncode is None else f"exited with status {returncode}"
    if root:
        message = f"{root.strip()} ({status})" if status else root.strip()
        return Cause(CauseKind.CRASH, _one_line(message), _shorten([root]))
    return Cause(CauseKind.CRASH, status, _shorten([line for line in telling if line.strip()][-MAX_LINES:]))


def crowded_out(reason: str) -> bool:
    """Say whether a server that ran out of memory may have lacked only what other processes held at that time."""
    return _CROWDED.search(reason) is not None


def _read(line: str) -> _Line:
    prefix = _PREFIX.match(line)
    if prefix is None:
        return _Line(line.rstrip(), harmless=False)
    return _Line(line[prefix.end() :].rstrip(), harmless=prefix["level"] in _HARMLESS)


def _refusal(lines: Sequence[str]) -> Cause | None:
    if found := _matching(lines, _PORT):
        return _cause(CauseKind.PORT, found)
    if found := _matching(lines, _MODEL):
        return _cause(CauseKind.MODEL, found)
    for at, line in enumerate(lines):
        if usage := _USAGE.match(line):
            return Cause(CauseKind.BAD_ARGUMENT, _one_line(usage["text"]), _shorten([line]))
        exception = _EXCEPTION.match(line)
        if exception is None or _CONSEQUENCE.search(line):
            continue
        name = exception["type"].rpartition(".")[2]
        if name == "ValidationError":
            return _validation(lines[at:])
        if name in _REFUSED and exception["text"]:
            return _cause(CauseKind.BAD_ARGUMENT, [line])
    return None


def _validation(lines: Sequence[str]) -> Cause:
    """Read a pydantic report: the model's name, then fields and what is wrong with each."""
    _, _, model = lines[0].rpartition(" for ")
    detail: list[str] = []
    for line in lines[1:]:
        if line.strip().startswith("For further information"):
            continue
        if not line or _EXCEPTION.match(line) or line.startswith(("Traceback", "[W", "During ", "nanobind")):
            break
        detail.append(line)
    said = [re.sub(r"\s*\[type=\w+.*$", "", line.strip()).removeprefix("Value error, ") for line in detail]
    return Cause(CauseKind.BAD_ARGUMENT, _one_line(": ".join([model, *said])), _shorten([lines[0], *detail]))


def _signalled(lines: Sequence[str], returncode: int | None) -> Cause | None:
    number, found, who = (-returncode, [], "the server") if returncode is not None and returncode < 0 else (0, [], "")
    for line in lines:
        if number:
            break
        if child := _CHILD.search(line):
            number, found, who = int(child["signal"]), [line], "a worker process of the server"
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


def _matching(lines: Sequence[str], pattern: re.Pattern[str]) -> list[str]:
    """Return the lines that match, the root cause first and what merely repeats it left out."""
    found = list(dict.fromkeys(line.strip() for line in lines if pattern.search(line)))
    told = [line for line in found if not _CONSEQUENCE.search(line) and not line.startswith("raise ")]
    exceptions = [line for line in told if _EXCEPTION.match(line)]
    return exceptions or told or found


def _cause(kind: CauseKind, found: Sequence[str]) -> Cause:
    first = _EXCEPTION.match(found[0])
    message = (first["text"] if first else None) or found[0]
    return Cause(kind, _one_line(message), _shorten(found))


def _one_line(text: str) -> str:
    return _shorten([" ".join(text.split())])[0]


def _shorten(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        line if len(line) <= MAX_LENGTH else line[: MAX_LENGTH - 3] + "..." for line in list(lines)[:MAX_LINES]
    )
