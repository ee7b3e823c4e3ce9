"""A small server of the OpenAI API that misbehaves on request; run as a script, standard library only.

deploy_server.py PORT MODEL [behaviour...]
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, MODEL, BEHAVIOUR = int(sys.argv[1]), sys.argv[2], set(sys.argv[3:])
BORN = time.monotonic()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/health":
            if "no-health-page" in BEHAVIOUR:
                return self.answer(404, {})
            if "hang" in BEHAVIOUR:
                time.sleep(600)
            slow = "slow-start" in BEHAVIOUR and time.monotonic() - BORN < 1.0
            return self.answer(503 if slow or "never-healthy" in BEHAVIOUR else 200, {})
        name = "somebody-else" if "wrong-model" in BEHAVIOUR else MODEL
        names = [] if "no-model" in BEHAVIOUR else [name, "adapter"] if "two-models" in BEHAVIOUR else [name]
        return self.answer(200, {"data": [{"id": each} for each in names]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "die-on-request" in BEHAVIOUR:
            os._exit(7)
        if "needs-key" in BEHAVIOUR and self.headers.get("Authorization") != "Bearer sesame-open":
            return self.answer(401, {"error": "Unauthorized"})
        if "no-generation" in BEHAVIOUR:
            return self.answer(500, {"error": "engine"})
        return self.answer(200, {"choices": [{"text": "x"}], "usage": {"completion_tokens": request["max_tokens"]}})


def daemonise():
    """A grandchild in a session of its own whose parent is gone, and that ignores SIGTERM."""
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(600)
    os.wait()


def stopped_child():
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(600)
    os.kill(pid, signal.SIGSTOP)


def bare_daemon():
    """A daemon that has thrown its environment away."""
    code = "import os,time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
    subprocess.run([sys.executable, "-S", "-c", code], env={}, check=True)


def keep_forking(number, _):
    """Asked to stop, it brings new processes into the world, each of which does the same."""
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, keep_forking)
            for _ in range(3000):
                time.sleep(0.05)
            os._exit(0)


def main():
    print("arguments", sys.argv[1:], flush=True)
    print("environment", json.dumps(dict(os.environ)), flush=True)
    if "oom" in BEHAVIOUR:
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", file=sys.stderr)
        sys.exit(1)
    if "ignore-term" in BEHAVIOUR:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    if "daemon" in BEHAVIOUR:
        daemonise()
    if "stopped-child" in BEHAVIOUR:
        stopped_child()
    if "bare-daemon" in BEHAVIOUR:
        bare_daemon()
    if "keep-forking" in BEHAVIOUR:
        signal.signal(signal.SIGTERM, keep_forking)
    if "slow-start" in BEHAVIOUR:
        time.sleep(0.3)
    if "exit-with-daemon" in BEHAVIOUR:
        daemonise()
        sys.exit(3)
    if "never-listen" in BEHAVIOUR:
        time.sleep(600)
    print("prepared", flush=True)
    ThreadingHTTPServer.request_queue_size = 64
    try:
        server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    except OSError as error:
        print(f"[Errno 98] error while attempting to bind on address: {error}", file=sys.stderr)
        sys.exit(1)
    server.daemon_threads = True
    server.serve_forever()


main()
