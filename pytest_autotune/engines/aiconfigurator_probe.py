"""Asks aiconfigurator which degrees of parallelism it expects most of, and tells as JSON, best first.

It is started as ``python -c <this source> <question>``: it imports nothing of ours, and what the library
prints and loads stays in its own process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import sys
from typing import Any, NoReturn


def refuse(*_: object) -> NoReturn:
    """Stand in for a connection: a model that is not here has no prior, and nobody waits for a hub."""
    raise OSError("no connection is made for a prior")


def answer(question: dict[str, Any]) -> list[dict[str, int]]:
    """Return for each layout its parallel sizes, and the largest batch at which the limits are expected to hold."""
    socket.socket.connect = refuse  # type: ignore[method-assign]
    api = importlib.import_module("aiconfigurator.cli.api")
    with contextlib.redirect_stdout(sys.stderr):
        found = api.cli_default(**question)
    rows = found.best_configs["agg"]
    return [
        {name: int(row[name]) for name in ("tp", "pp", "dp", "bs")}
        for row in rows.to_dict("records")
        if not {name for name in ("moe_ep", "cp") if int(row.get(name) or 1) > 1}  # which need flags of their own
    ]


if __name__ == "__main__":
    json.dump(answer(json.loads(sys.argv[1])), sys.stdout)
