"""Runs inside the interpreter that has an engine, and tells as JSON what is installed there.

It is started as ``python -c <this source> <question> <engine>``: it imports nothing of ours, and speaks any
Python that the engines do. ``where`` answers at once; ``flags`` imports the engine, which may take seconds.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any, Iterator, get_args  # noqa: UP035 - also runs where collections.abc is not subscriptable

PACKAGES = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llama-cpp-python": "llama_cpp",
    "transformers": "transformers",
    "trtllm": "tensorrt_llm",
}
DISTRIBUTIONS = {"trtllm": "tensorrt_llm"}  # those that are not called as the engine is


def where(engine: str) -> dict[str, Any]:
    """Return where the engine's package is, of which version, and which installation of it; {} when there is none."""
    package = PACKAGES[engine]
    found = importlib.util.find_spec(package)
    if found is None or not found.origin:
        return {}
    origin = Path(found.origin)  # not its directory, which changes when a first import leaves its bytecode there
    marks = [origin, *sorted(origin.parents[1].glob(f"{package}*.dist-info"))]
    return {"installation": [[str(path), path.stat().st_mtime_ns] for path in marks], "version": version_of(engine)}


def version_of(engine: str) -> str:
    """Return the version of an engine's distribution; empty when it was installed under another name."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(engine, engine))
    except importlib.metadata.PackageNotFoundError:
        return ""


def flags(engine: str) -> dict[str, Any]:
    """Return the engine's version, the platform it was built for, and every flag of its API server."""
    tell = {
        "vllm": flags_of_vllm,
        "sglang": flags_of_sglang,
        "llama-cpp-python": flags_of_llama_cpp,
        "transformers": flags_of_transformers,
        "trtllm": flags_of_trtllm,
    }
    return tell[engine]()


def flags_of_vllm() -> dict[str, Any]:
    """Ask the argument parser of vLLM's API server."""
    vllm = importlib.import_module("vllm")
    platform = importlib.import_module("vllm.platforms").current_platform
    make = first_of("make_arg_parser", "vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
    parser = first_of("FlexibleArgumentParser", "vllm.utils.argparse_utils", "vllm.utils")
    return {"version": vllm.__version__, "device": platform.device_type, "flags": flags_in(make(parser()))}


def flags_of_sglang() -> dict[str, Any]:
    """Ask `ServerArgs` of SGLang."""
    server_args = importlib.import_module("sglang.srt.server_args").ServerArgs
    parser = argparse.ArgumentParser()
    server_args.add_cli_args(parser)
    return {"version": version_of("sglang"), "device": "", "flags": flags_in(parser)}


def flags_of_llama_cpp() -> dict[str, Any]:
    """Ask the settings of llama-cpp-python's server, whose switches are written with a value."""
    llama_cpp = importlib.import_module("llama_cpp")
    settings = importlib.import_module("llama_cpp.server.settings").Settings
    cli = importlib.import_module("llama_cpp.server.cli")
    parser = argparse.ArgumentParser()
    cli.add_args_from_model(parser, settings)
    told = flags_in(parser)
    switch = getattr(cli, "_parse_bool_arg", None)
    switches = {action.dest for action in parser._actions if action.type is switch and switch}  # noqa: SLF001
    for flag in told:
        field = settings.model_fields[flag["name"]]
        flag["default"] = None if field.is_required() else plain(field.default)
        flag["valued"] = flag["boolean"] = flag["name"] in switches
        words = get_args(field.annotation)
        flag["choices"] = list(words) if words and all(isinstance(word, str) for word in words) else []
    device = "gpu" if llama_cpp.llama_supports_gpu_offload() else "cpu"
    return {"version": llama_cpp.__version__, "device": device, "flags": told}


def flags_of_transformers() -> dict[str, Any]:
    """Ask the command ``transformers serve``; some releases wrap it in an application of typer's."""
    app = importlib.import_module("transformers.cli.transformers").app
    group = app if hasattr(app, "commands") else importlib.import_module("typer.main").get_command(app)
    # Its device is chosen when it starts, by what the machine has.
    return {"version": version_of("transformers"), "device": "", "flags": flags_in_click(group.commands["serve"])}


def flags_of_trtllm() -> dict[str, Any]:
    """Ask the command ``trtllm-serve serve``."""
    command = importlib.import_module("tensorrt_llm.commands.serve").serve
    return {"version": version_of("trtllm"), "device": "cuda", "flags": flags_in_click(command)}


def flags_in_click(command: Any) -> list[dict[str, Any]]:
    """Describe every long spelling of a click command's options; its arguments are none."""
    return [
        {
            "name": spelling[2:],
            "default": plain(option.default),
            "choices": [str(choice) for choice in getattr(option.type, "choices", ())],
            "boolean": bool(option.is_flag),
            "negatable": bool(option.is_flag) and f"--no-{spelling[2:]}" in option.secondary_opts,
            "many": False,  # click repeats the flag, where it takes several
        }
        for option in command.params
        if hasattr(option, "is_flag") and option.opts
        for spelling in option.opts
        if spelling.startswith("--") and spelling != "--help"
    ]


def flags_in(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """Describe every flag of a parser."""
    actions = parser._actions  # noqa: SLF001 - argparse has no public way to list them
    return [flag for action in actions for flag in described(action)]


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
        os.dup2(2, 1)  # engines and what they import print to stdout as well
        json.dump({"where": where, "flags": flags}[sys.argv[1]](sys.argv[2]), answer)
