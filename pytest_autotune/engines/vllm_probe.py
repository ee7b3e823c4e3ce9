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


def where():
    """Return where vLLM is and which installation of it, or {} when there is none."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.origin:
        return {}
    package = os.path.dirname(found.origin)
    site = os.path.dirname(package)
    distributions = [name for name in os.listdir(site) if name.startswith("vllm") and name.endswith(".dist-info")]
    marks = [package, *(os.path.join(site, name) for name in sorted(distributions))]
    return {"installation": [[path, os.stat(path).st_mtime_ns] for path in marks]}


def flags():
    """Return vLLM's version, the platform it was built for, and every flag of its API server."""
    vllm = importlib.import_module("vllm")
    platform = importlib.import_module("vllm.platforms").current_platform
    make = first_of("make_arg_parser", "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
    parser = first_of("FlexibleArgumentParser", "vllm.utils.argparse_utils", "vllm.utils")
    actions = make(parser())._actions
    return {
        "version": vllm.__version__,
        "device": platform.device_type,
        "flags": [flag for action in actions for flag in described(action)],
    }


def first_of(name, *modules):
    """Return an object by name from the first module that has it; it moved between releases."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            last = error
    raise last


def described(action):
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
            "many": action.nargs in ("+", "*") or isinstance(action.nargs, int) and action.nargs > 1,
        }


def plain(default):
    """Return a default as JSON, or None when it is not a JSON value."""
    if default == argparse.SUPPRESS:
        return None
    try:
        return json.loads(json.dumps(default, allow_nan=False))
    except (TypeError, ValueError):
        return None


if __name__ == "__main__":
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM and what it imports print to stdout as well
    json.dump({"where": where, "flags": flags}[sys.argv[1]](), answer)
    answer.close()
