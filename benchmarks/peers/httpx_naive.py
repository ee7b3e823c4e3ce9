"""A client as one writes it with httpx in ten minutes: lines of the answer, each parsed as it comes."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
from reading import Load


async def main():
    load = Load()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def send(load):
            sent, first, tokens = load.begun(), 0.0, 0
            async with client.stream("POST", f"{load.spec['url']}/v1/completions", json=load.body()) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {") and json.loads(line[6:])["choices"]:
                        now = time.monotonic()
                        first = first or now
                        tokens += 1
                        load.token(now)
            load.ended(sent, first, time.monotonic(), tokens)

        await load.drive(send)
    load.tell()


if __name__ == "__main__":
    asyncio.run(main())
