"""Runs inside the interpreter that has vLLM, and tells as JSON what is installed there.

It is started as ``python -c <this source> <question>``: it imports nothing of ours, and speaks any
Python that vLLM does. ``where`` answers at once; ``flags`` imports vLLM, which takes seconds.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any, Iterator  # noqa: UP035 - also runs where collections.abc is not subscriptable


def where() -> dict[str, Any]:
    """Return where vLLM is and which installation of it, or {} when there is none."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.origin:
        return {}
    origin = Path(found.origin)  # not its directory, which changes when a first import leaves its bytecode there
    marks = [origin, *sorted(origin.parents[1].glob("vllm*.dist-info"))]
    return {"installation": [[str(path), path.stat().st_mtime_ns] for path in marks]}


def flags() -> dict[str, Any]:
    """Return vLLM's version, the platform it was built for, and every flag of its API server."""
    vllm = importlib.import_module("vllm")
    platform = importlib.import_module("vllm.platforms").current_platform
    make = first_of("make_arg_parser", "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
    parser = first_of("FlexibleArgumentParser", "vllm.utils.argparse_utils", "vllm.utils")
    actions = make(parser())._actions  # noqa: SLF001 - argparse has no public way to list them
    return {
        "version": vllm.__version__,
        "device": platform.device_type,
        "flags": [flag for action in actions for flag in described(action)],
    }


def first_of(name: str, *modules: str) -> Any:
    """Return an object by name from the first module that has it; it moved between releases."""
    missing = ImportError(name)
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            missing = ImportError(f"{name}: {error}")
    raise missing


def described(action: argparse.Action) -> Iterator[dict[str, Any]]:
    """Yield one description for every long spelling of an argparse action."""
    negatable = isinstance(action, argparse.BooleanOptionalAction)
    for option in action.option_strings:
        if not option.startswith("--") or option == "--help" or (negatable and option.startswith("--no-")):
            continue
        yield {
            "name": option[2:],
            "default": plain(action.default),
            "choices": [str(choice) for choice in action.choices or () if choice is not None],
            "boolean": action.nargs == 0,
            "negatable": negatable,
            "many": action.nargs in ("+", "*") or (isinstance(action.nargs, int) and action.nargs > 1),
        }


def plain(default: Any) -> Any:
    """Return a default as JSON, or None when it is not a JSON value."""
    if default == argparse.SUPPRESS:
        return None
    try:
        return json.loads(json.dumps(default, allow_nan=False))
    except (TypeError, ValueError):
        return None


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # vLLM and what it imports print to stdout as well
        json.dump({"where": where, "flags": flags}[sys.argv[1]](), answer)
