"""A server whose timing is known: builds, starts and controls truthserver.c, and reads what it wrote down."""

from __future__ import annotations

import json
import subprocess
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

HERE = Path(__file__).parent


class Truth(NamedTuple):
    """What the server wrote down about one request; times are seconds of `time.monotonic`."""

    received_s: float  # the server had read it completely
    first_s: float  # first and last token were written
    last_s: float
    tokens: int
    end: str  # "ok", "client_abort", or the fault that ended it
    fault: str  # that it was given; "none"
    id: str  # the x-request-id; empty when it had none
    arrived_s: float  # it was in the kernel completely: received_s is later when the server was busy
    late_s: float  # the most that a token was written after it was due
    blocked: bool  # the client did not take what was written: the times are when it was ready

    @property
    def ttft_s(self) -> float:
        """Time to first token, waiting for the server to read the request included."""
        return self.first_s - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None when there was no second."""
        return None if self.tokens < 2 else (self.last_s - self.first_s) / (self.tokens - 1)


class Stall(NamedTuple):
    """When the server did nothing at all, in seconds of `time.monotonic`."""

    begin_s: float
    end_s: float


def build(directory: Path, name: str = "truthserver") -> Path:
    """Compile a program of this folder into `directory` and return the executable."""
    executable = directory / name
    command = ["gcc", "-O2", "-w", "-o", str(executable), str(HERE / f"{name}.c")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return executable


class TruthServer:
    """A running server, as a context manager; `settings` are the configuration keys named in truthserver.c.

    It listens on `url` and on `unix_url`.
    """

    def __init__(self, executable: Path, *, core: int | None = None, **settings: float | str) -> None:
        self._pin = [] if core is None else ["taskset", "-c", str(core)]
        self._executable = executable
        self._settings = settings
        self._directory = tempfile.TemporaryDirectory(prefix="truth-")
        self._log = Path(self._directory.name) / "truth.jsonl"
        self._socket = Path(self._directory.name) / "socket"
        self.unix_url = f"unix://{self._socket}"
        self.url = ""

    def __enter__(self) -> Self:
        command = [*self._pin, str(self._executable), "--port", "0", "--unix", str(self._socket)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        words = self._process.stderr.readline().split()
        if words[:1] != ["truthserver"]:
            self._stop()
            raise OSError(f"the truth server did not start: {' '.join(words)}")
        self.url = f"http://127.0.0.1:{words[-1]}"
        self.set(**self._settings)
        self.reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._directory.cleanup()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    def kill(self) -> None:
        """End the server at once."""
        self._process.kill()
        self._process.wait()

    def set(self, **settings: float | str) -> None:
        """Change the configuration."""
        self._ask(f"/__config?{urllib.parse.urlencode(settings)}")

    def reset(self) -> None:
        """Begin a new log."""
        self._ask(f"/__reset?log={urllib.parse.quote(str(self._log))}")

    def stats(self) -> dict[str, float]:
        """Return the server's counters since the last reset."""
        counters: dict[str, float] = json.loads(self._ask("/__stats"))
        return counters

    def log(self) -> dict[str, Truth]:
        """Return what was written down since the last reset, by request id."""
        return {truth.id: truth for truth in self.requests()}

    def requests(self) -> list[Truth]:
        """Return every generation that came after the last reset and has ended, in the order of arrival."""
        header, *lines = self._lines()
        truths = [_truth(line) for line in lines if "rid" in line and line["t_recv"] >= header["mono_ns"]]
        return sorted(truths, key=lambda truth: truth.arrived_s)

    def stalls(self) -> list[Stall]:
        """Return when the server stalled since the last reset."""
        return [Stall(line["t_begin"] / 1e9, line["t_end"] / 1e9) for line in self._lines() if "stall" in line]

    def tokens_between(self, begin_s: float, end_s: float) -> float:
        """Return how many tokens were written between two moments, to a millisecond."""
        last = [line for line in self._lines() if "per_ms" in line][-1]
        edges = [1e3 * (at_s - last["tokens_from"] / 1e9) for at_s in (begin_s, end_s)]
        before = [_before(last["per_ms"], edge) for edge in edges]
        return before[1] - before[0]

    def _lines(self) -> list[dict[str, Any]]:
        self._ask("/__flush")
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def _ask(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


def _truth(line: dict[str, Any]) -> Truth:
    return Truth(
        received_s=line["t_recv"] / 1e9,
        first_s=line["t_first"] / 1e9,
        last_s=line["t_last"] / 1e9,
        tokens=line["n"],
        end=line["end"],
        fault=line["fault"],
        id=line["rid"],
        arrived_s=(line["t_in"] or line["t_recv"]) / 1e9,
        late_s=line["late_max_us"] / 1e6,
        blocked=line["eagain"] > 0,
    )


def _before(per_ms: list[int], edge: float) -> float:
    """Return the tokens before a millisecond; those of the one it is in came evenly."""
    whole = min(max(int(edge), 0), len(per_ms))
    part = per_ms[whole] * max(edge - whole, 0.0) if whole < len(per_ms) else 0.0
    return sum(per_ms[:whole]) + part
