"""Locust's FastHttpUser with a streaming task, run as a library so that it takes the same load as the others."""

from __future__ import annotations

import json
import time

import gevent
from locust import FastHttpUser, task
from locust.env import Environment
from reading import Load


class Reader(FastHttpUser):
    """A stream: its next request follows the end of the last one."""

    network_timeout = connection_timeout = 60.0
    load: Load

    @task
    def generate(self):
        load = self.load
        sent, first, tokens = load.begun(), 0.0, 0
        with self.client.post("/v1/completions", json=load.body(), stream=True, catch_response=True) as answer:
            # Its own iter_content waits until a block is full: it sees a first token when the fifth has come.
            while line := answer._response.readline(b"\n"):
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"]:
                    now = time.monotonic()
                    first = first or now
                    tokens += 1
                    load.token(now)
            load.ended(sent, first, time.monotonic(), tokens)


def main():
    load = Reader.load = Load()
    Reader.host = load.spec["url"]
    runner = Environment(user_classes=[Reader]).create_local_runner()
    streams = load.spec["streams"]
    runner.start(streams, spawn_rate=max(1, streams / min(max(load.spec["warmup_s"] / 2, 0.1), 1.0)))
    gevent.sleep(load.end_s - time.monotonic())
    while load.open and time.monotonic() < load.end_s + 60:
        gevent.sleep(0.05)
    runner.quit()
    load.tell()


if __name__ == "__main__":
    main()
