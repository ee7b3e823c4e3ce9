"""Load generators under one interface: ours, the raw one, and peers where they are installed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
PEERS_PYTHON = Path(os.environ.get("PYTEST_AUTOTUNE_PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python")
VLLM_PYTHON = Path(os.environ.get("PYTEST_AUTOTUNE_VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python")


@dataclass(frozen=True, slots=True)
class Load:
    """What every client is asked to send: a closed loop of `streams`, or a Poisson process of `rate`."""

    url: str
    streams: int | None
    prompt_tokens: int
    output_tokens: int
    warmup_s: float
    window_s: float
    round_s: float  # how long a request takes: gives clients that count requests as many as fit
    rate: float | None = None
    count: int | None = None  # end after so many requests, if the window has not closed before
    processes: int = 1
    seed: int = 0
    model: str = "truth"
    prompts: str | None = None  # a file of them like ShareGPT's; None: made up, of so many tokens

    @property
    def requests(self) -> int:
        """How many requests to send, for a client that counts: about as many as warm-up and window have."""
        if self.count is not None:
            return self.count
        whole_s = self.warmup_s + self.window_s
        if self.streams is None:
            assert self.rate is not None
            return round(self.rate * whole_s)
        return self.streams * max(1, round(whole_s / self.round_s))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a client says; times in seconds."""

    requests: int
    failed: int
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_mean_s: float
    tokens_per_s: float
    window_s: tuple[float, float] | None = None  # on the monotonic clock; None: all that it sent counts
    ids: frozenset[str] = frozenset()  # of the requests that count, when the client knows them
    more: dict[str, Any] = field(default_factory=dict)


ANY = 1_000_000


class Client(Protocol):
    """A load generator."""

    name: str
    open_loop: bool  # whether it can send at a rate
    most_streams: int  # with more, its requests outlast any reasonable run

    def missing(self) -> str:
        """Return what is not installed and how to get it; empty when it can run."""

    def command(self, load: Load, directory: Path) -> Sequence[str]:
        """Return the command that sends this load; `directory` is its own, and empty."""

    def read(self, output: str, directory: Path) -> Reading:
        """Return what the client that ended has said."""


class Ours:
    """This package."""

    open_loop = True
    most_streams = ANY

    def __init__(self, processes: int = 1) -> None:
        self.name = "ours" if processes == 1 else f"ours, {processes} processes"
        self._processes = processes

    def missing(self) -> str:
        """Return nothing: it is here."""
        return ""

    def command(self, load: Load, directory: Path) -> Sequence[str]:
        """Return the command of benchmarks/ours.py."""
        asked = asdict(load) | {"processes": self._processes, "samples": str(directory / "samples.json")}
        script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.ours import main; main()"
        return [sys.executable, "-c", script, json.dumps(asked)]

    def read(self, output: str, directory: Path) -> Reading:
        """Return its figures and the ids of its requests."""
        told = json.loads(output)
        rows = json.loads((directory / "samples.json").read_text())
        return _reading(told, ids=frozenset(row[0] for row in rows), more=told | {"rows": rows})


class Raw:
    """A client in C, the floor of what a request costs."""

    name = "raw C"
    open_loop = False
    most_streams = ANY

    def __init__(self, executable: Path) -> None:
        self._executable = executable

    def missing(self) -> str:
        """Return nothing: it was built."""
        return ""

    def command(self, load: Load, directory: Path) -> Sequence[str]:  # noqa: ARG002
        """Return the command of rawclient.c."""
        shape = (load.streams, load.warmup_s, load.window_s, load.prompt_tokens, load.output_tokens)
        return [str(self._executable), str(urlsplit(load.url).port), *map(str, shape)]

    def read(self, output: str, directory: Path) -> Reading:  # noqa: ARG002
        """Return its figures."""
        told = json.loads(output)
        return _reading(told, window_s=(told["begin_s"], told["end_s"]))


class Script:
    """A hand-written peer: a script in benchmarks/peers that takes the load and prints its figures as JSON."""

    def __init__(self, name: str, script: str, *, package: str, open_loop: bool, most_streams: int = ANY) -> None:
        self.name = name
        self.open_loop = open_loop
        self.most_streams = most_streams
        self._script = PEERS / script
        self._package = package

    def missing(self) -> str:
        """Return what is not there."""
        return missing_from(PEERS_PYTHON, self._package, "see benchmarks/README.md")

    def command(self, load: Load, directory: Path) -> Sequence[str]:  # noqa: ARG002
        """Return the command of the script."""
        return [str(PEERS_PYTHON), str(self._script), json.dumps(asdict(load))]

    def read(self, output: str, directory: Path) -> Reading:  # noqa: ARG002
        """Return its figures."""
        told = json.loads(output)
        return _reading(told, window_s=(told["begin_s"], told["end_s"]))


class VllmBench:
    """``vllm bench serve`` with its random data set; all of its requests count, as it has no window."""

    name = "vllm bench serve"
    open_loop = True
    most_streams = ANY

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer

    def missing(self) -> str:
        """Return what is not there."""
        return missing_from(VLLM_PYTHON, "vllm", "see docs/vllm-on-cpu.md")

    def command(self, load: Load, directory: Path) -> Sequence[str]:
        """Return the command; the tokenizer is that of the tiny model.

        Prompts of a file are sent with what our client sends beside a prompt: greedy decoding, which is not
        this client's default and less work for a server, and a floor on the output.
        """
        prompts: dict[str, object] = {
            "dataset-name": "random",
            "random-input-len": load.prompt_tokens,
            "random-output-len": load.output_tokens,
        }
        if load.prompts:
            prompts = {
                "dataset-name": "sharegpt",
                "dataset-path": load.prompts,
                "sharegpt-output-len": load.output_tokens,
                "temperature": 0,
                "extra-body": json.dumps({"min_tokens": load.output_tokens}),
            }
        options: dict[str, object] = {
            "backend": "openai",
            "base-url": load.url,
            "model": load.model,
            "tokenizer": self._tokenizer,
            "num-prompts": load.requests,
            "ready-check-timeout-sec": 0,  # else it sends one request more, before the others
            "request-id-prefix": "vllm-",
            "seed": load.seed,
            "percentile-metrics": "ttft,tpot",
            "metric-percentiles": "50,99",
            "result-filename": directory / "result.json",
        }
        options |= {"max-concurrency": load.streams} if load.rate is None else {"request-rate": load.rate}
        flags = [str(part) for name, value in (prompts | options).items() for part in (f"--{name}", value)]
        script = ROOT / "tests" / "real" / "bench_serve.py"
        return [str(VLLM_PYTHON), str(script), *flags, "--ignore-eos", "--save-result", "--disable-tqdm"]

    def read(self, output: str, directory: Path) -> Reading:  # noqa: ARG002
        """Return its figures."""
        told = json.loads((directory / "result.json").read_text())
        return Reading(
            requests=told["completed"],
            failed=told["failed"],
            ttft_p50_s=told["median_ttft_ms"] / 1000,
            ttft_p99_s=told["p99_ttft_ms"] / 1000,
            tpot_mean_s=told["mean_tpot_ms"] / 1000,
            tokens_per_s=told["output_throughput"],
            more=told,
        )


def _reading(
    told: dict[str, Any],
    *,
    window_s: tuple[float, float] | None = None,
    ids: frozenset[str] = frozenset(),
    more: dict[str, Any] | None = None,
) -> Reading:
    return Reading(
        requests=round(told["requests"]),
        failed=round(told["failed"]),
        ttft_p50_s=told["ttft_p50_s"],
        ttft_p99_s=told["ttft_p99_s"],
        tpot_mean_s=told["tpot_mean_s"],
        tokens_per_s=told["tokens_per_s"],
        window_s=window_s,
        ids=ids,
        more=more or told,
    )


def missing_from(python: Path, package: str, remedy: str) -> str:
    """Look for a package beside an interpreter, without starting it."""
    if python.exists() and list(python.parents[1].glob(f"lib/python*/site-packages/{package}/")):
        return ""
    return f"{package} is not installed for {python} ({remedy})"
