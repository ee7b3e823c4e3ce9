"""A server whose timing is known: builds, starts and controls truthserver.c, and reads what it wrote down."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

SOURCE = Path(__file__).with_name("truthserver.c")


class Truth(NamedTuple):
    """What the server wrote down about one request; times are seconds of `time.monotonic`."""

    received_s: float  # the request had arrived completely
    first_s: float  # first and last token were written
    last_s: float
    tokens: int
    end: str  # "ok", "client_abort", or the fault that ended it
    fault: str  # that it was given; "none"

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.first_s - self.received_s

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first."""
        return (self.last_s - self.first_s) / (self.tokens - 1)


def build(directory: Path) -> Path:
    """Compile the server into `directory` and return the executable."""
    executable = directory / "truthserver"
    command = ["gcc", "-O2", "-w", "-o", str(executable), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return executable


class TruthServer:
    """A running server, as a context manager; `settings` are the configuration keys named in truthserver.c."""

    def __init__(self, executable: Path, *, core: int | None = None, **settings: float | str) -> None:
        self._pin = [] if core is None else ["taskset", "-c", str(core)]
        self._executable = executable
        self._settings = settings
        self._directory = tempfile.TemporaryDirectory(prefix="truth-")
        self._log = Path(self._directory.name) / "truth.jsonl"
        self.url = ""

    def __enter__(self) -> Self:
        for _ in range(5):  # somebody may take the port between our look and the server's bind
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            command = [*self._pin, str(self._executable), "--port", str(port)]
            self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert self._process.stderr is not None
            if self._process.stderr.readline().startswith("truthserver"):
                break
            self._stop()
        else:
            raise OSError("no free port for the truth server")
        self.url = f"http://127.0.0.1:{port}"
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
        """The server's process id."""
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
        self._ask("/__flush")
        records = map(json.loads, self._log.read_text().splitlines())
        return {
            r["rid"]: Truth(r["t_recv"] / 1e9, r["t_first"] / 1e9, r["t_last"] / 1e9, r["n"], r["end"], r["fault"])
            for r in records
            if "rid" in r
        }

    def _ask(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
