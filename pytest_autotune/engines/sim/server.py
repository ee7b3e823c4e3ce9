"""The server process: start-up as a real server's, with its log lines, and the HTTP routes."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from pytest_autotune.engines.sim import faults
from pytest_autotune.engines.sim.api import ApiError, Limits, dump, read_ask
from pytest_autotune.engines.sim.arguments import non_default, parse, resolve
from pytest_autotune.engines.sim.connection import Connection
from pytest_autotune.engines.sim.hardware import GIB, StartError, load_seconds
from pytest_autotune.engines.sim.metrics import Metrics
from pytest_autotune.engines.sim.runner import Runner, crash_report
from pytest_autotune.engines.sim.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_autotune.engines.sim.arguments import Settings
    from pytest_autotune.engines.sim.connection import Exchange

SPAM_TICK_S = 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server until it is told to stop; return the exit status."""
    settings = parse(arguments)
    _log(f"non-default args: {json.dumps(non_default(settings))}")
    injected = faults.Faults(settings.fault)
    if injected.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        settings = resolve(settings)
        listener = _bind(settings.host, settings.port)
        scheduler = Scheduler(settings)
    except StartError as error:
        sys.stderr.write(crash_report(error.line))
        return 1
    except OSError as error:
        sys.stderr.write(f"OSError: [Errno {error.errno}] {settings.host}:{settings.port}: {error.strerror}\n")
        return 1
    with listener:
        for pid in faults.daemonise_grandchildren(injected.grandchildren):
            _log(f"grandchild pid={pid}")
        return asyncio.run(_serve(settings, scheduler, injected, listener))


class Routes:
    """What each path answers."""

    def __init__(self, settings: Settings, scheduler: Scheduler, injected: faults.Faults, runner: Runner) -> None:
        self._scheduler = scheduler
        self._faults = injected
        self._runner = runner
        self._metrics = runner.metrics
        self._created = int(time.time())
        self._limits = Limits(
            model=injected.served_name(settings.name),
            max_model_len=settings.max_model_len,
            vocabulary=settings.hardware()[1].vocabulary,
        )
        self._routes = {
            "/health": ("GET", self._health),
            "/version": ("GET", self._version),
            "/metrics": ("GET", self._show_metrics),
            "/v1/models": ("GET", self._models),
            "/v1/completions": ("POST", self._completions),
            "/v1/chat/completions": ("POST", self._chat),
            "/reset_prefix_cache": ("POST", self._reset),
        }

    def handle(self, exchange: Exchange) -> None:
        """Answer one request, or take it up."""
        head = ""
        try:
            method, answer = self._find(exchange.request.path)
            if exchange.request.method == method:
                answer(exchange)
                return
            head = f"allow: {method}\r\n"
            error = ApiError(405, f"Method Not Allowed: {exchange.request.method}", kind="MethodNotAllowedError")
        except ApiError as refusal:
            error = refusal
        exchange.reply(error.status, error.payload, head=head)

    def _find(self, path: str) -> tuple[str, Callable[[Exchange], None]]:
        if self._faults.never_ready:
            raise ApiError(503, "not ready, on request", kind="ServiceUnavailable")
        if path not in self._routes:
            raise ApiError(404, f"Not Found: {path}", kind="NotFoundError")
        return self._routes[path]

    def _health(self, exchange: Exchange) -> None:
        exchange.reply(200, b"")

    def _version(self, exchange: Exchange) -> None:
        from pytest_autotune.engines.sim.engine import package_version  # not at every start

        exchange.reply(200, dump({"version": package_version()}))

    def _show_metrics(self, exchange: Exchange) -> None:
        page = self._metrics.render(self._scheduler, self._limits.model)
        exchange.reply(200, page.encode(), kind="text/plain; version=0.0.4; charset=utf-8")

    def _models(self, exchange: Exchange) -> None:
        model = {
            "id": self._limits.model,
            "object": "model",
            "created": self._created,
            "owned_by": "sim",
            "max_model_len": self._limits.max_model_len,
        }
        exchange.reply(200, dump({"object": "list", "data": [model]}))

    def _completions(self, exchange: Exchange) -> None:
        ask = read_ask(exchange.request.body, chat=False, limits=self._limits)
        self._runner.submit(exchange, ask, model=self._limits.model)

    def _chat(self, exchange: Exchange) -> None:
        ask = read_ask(exchange.request.body, chat=True, limits=self._limits)
        self._runner.submit(exchange, ask, model=self._limits.model)

    def _reset(self, exchange: Exchange) -> None:
        exchange.reply(200, dump({"success": self._scheduler.cache.reset()}))


async def _serve(settings: Settings, scheduler: Scheduler, injected: faults.Faults, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    if not injected.ignore_sigterm:
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    spam = loop.create_task(_spam(injected.spam_rate)) if injected.spam_rate else None
    await asyncio.sleep(injected.slow_start_s)
    _, shape = settings.hardware()
    seconds = load_seconds(shape, tp=settings.tensor_parallel_size)
    await asyncio.sleep(seconds * settings.time_scale)
    _log_capacity(settings, scheduler, seconds)
    runner = Runner(settings, scheduler, Metrics(), injected, loop)
    routes = Routes(settings, scheduler, injected, runner)
    connections: set[Connection] = set()
    server = await loop.create_server(
        lambda: Connection(routes.handle, connections, mute=not injected.accepts()), sock=listener, backlog=2048
    )
    host, port = listener.getsockname()[:2]
    _log(f"Starting the API server on http://{host}:{port}")
    _log("Application startup complete.")
    gc.collect()
    gc.freeze()  # nothing of the start-up is garbage; later collections need not look at it
    await stop.wait()
    server.close()
    for connection in tuple(connections):
        connection.transport.abort()
    if spam is not None:
        spam.cancel()
    _log("Application shutdown complete.")
    return 0


def _bind(host: str, port: int) -> socket.socket:
    """Reserve the port before anything slow is done, as vLLM does; connections are refused until it listens."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _log_capacity(settings: Settings, scheduler: Scheduler, load_s: float) -> None:
    memory = scheduler.memory
    tokens = memory.kv_blocks * settings.block_size
    _log(f"Model loading took {memory.weights / GIB:.2f} GiB memory and {load_s:.6f} seconds")
    _log(f"Available KV cache memory: {memory.kv_blocks * memory.kv_block_bytes / GIB:.2f} GiB")
    _log(
        f"GPU KV cache size: {tokens:,} tokens, Maximum concurrency for {settings.max_model_len:,} tokens per request: "
        f"{tokens / settings.max_model_len:.2f}x"
    )
    if memory.graphs:
        _log(f"Graph capturing finished, took {memory.graphs / GIB:.2f} GiB")


async def _spam(rate: int) -> None:
    started, written = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - started) * rate)
        lines = (f"INFO [spam] line {number} of a log that nobody reads\n" for number in range(written, due))
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
        written = due
        await asyncio.sleep(SPAM_TICK_S)


def _log(message: str) -> None:
    sys.stdout.write(f"INFO {time.strftime('%m-%d %H:%M:%S', time.gmtime())} [sim] {message}\n")
    sys.stdout.flush()
