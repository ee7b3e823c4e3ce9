"""A client as one writes it with aiohttp in ten minutes: lines of the answer, each parsed as it comes."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
from reading import Load


async def main():
    load = Load()
    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=unlimited, timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def send(load):
            sent, first, tokens = load.begun(), 0.0, 0
            async with session.post(f"{load.spec['url']}/v1/completions", json=load.body()) as answer:
                async for line in answer.content:
                    if line.startswith(b"data: {") and json.loads(line[6:])["choices"]:
                        now = time.monotonic()
                        first = first or now
                        tokens += 1
                        load.token(now)
            load.ended(sent, first, time.monotonic(), tokens)

        await load.drive(send)
    load.tell()


if __name__ == "__main__":
    asyncio.run(main())
