"""The best server in one container, as ``docker run`` and for Compose, and as a configuration file of its engine."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from pytest_autotune.reporting.command import PORT, script_words
from pytest_autotune.reporting.recipe import MOUNTED_MODEL, rendered
from pytest_autotune.reporting.yaml_text import one_line, yaml_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_autotune.reporting.command import Word
    from pytest_autotune.reporting.recipe import Recipe

_HEALTH_EVERY_S = 10


def docker_script(recipe: Recipe) -> str:
    """Return a POSIX shell script that runs the server's container in the foreground, on ``$HOST:$PORT``."""
    lines = ["#!/bin/sh", *(f"# {one_line(remark)}" for remark in recipe.remarks), "set -eu"]
    for name in dict.fromkeys([*recipe.secrets, *recipe.asked]):
        lines.extend((f': "${{{name}:?set {name}}}"', f"export {name}"))
    lines.append(f'PORT="${{PORT:-{PORT}}}"  # on this machine, reached from it alone unless HOST is set, too')
    command = [
        "docker run --rm",
        *([f"--gpus {recipe.gpus}"] if recipe.gpus else ()),
        "--ipc host",
        f'--publish "${{HOST:-127.0.0.1}}:$PORT:{PORT}"',
        _docker_mount(recipe),
        *(f"--env {name}" for name in recipe.tokens),
        *(f"--env {shlex.quote(f'{name}={value}')}" for name, value in recipe.env.items()),
        f"--entrypoint {recipe.container.entry[0]}",
        shlex.quote(recipe.image),
        *recipe.container.entry[1:],
        *script_words(recipe.arguments()),
    ]
    return "\n".join(lines) + "\nexec " + " \\\n  ".join(command) + "\n"


def compose_file(recipe: Recipe) -> str:
    """Return a Compose file of one service, which restarts when it dies and is healthy when the server answers."""
    environment: dict[str, str | None] = dict.fromkeys(recipe.tokens)  # null: from the environment, if it is there
    environment |= {name: f"${{{name}:?set {name}}}" for name in recipe.secrets}
    environment |= {name: _doubled(value) for name, value in recipe.env.items()}
    service: dict[str, Any] = {
        "image": recipe.image,
        "entrypoint": list(recipe.container.entry),
        "command": rendered(recipe.arguments(), _doubled, lambda name: f"${{{name}:?set {name}}}"),
        "environment": environment,
        "ports": [f"${{HOST:-127.0.0.1}}:${{PORT:-{PORT}}}:{PORT}"],
        "volumes": [_compose_mount(recipe)],
        "ipc": "host",
        "healthcheck": _compose_health(recipe),
        "restart": "unless-stopped",
    }
    if recipe.gpus:
        device = {"driver": "nvidia", "count": recipe.gpus, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return yaml_text(recipe.remarks, {"name": recipe.name, "services": {"server": service}})


def vllm_config(recipe: Recipe) -> str:
    """Return a file for ``vllm serve --config``, which makes of it the command line that was measured."""
    return _config(recipe, joined=True)


def sglang_config(recipe: Recipe) -> str:
    """Return a file for ``sglang.launch_server --config``, which makes of it the command line that was measured.

    Its reader (sglang/srt/utils/server_args_config_parser.py, 0.5.23) joins no value to its flag.
    """
    return _config(recipe, joined=False)


def _config(recipe: Recipe, *, joined: bool) -> str:
    """Return the settings by their flags; `joined` where a name may hold the text that begins with a dash."""
    model, served_as, host, port = (flag.removeprefix("--") for flag in recipe.container.addressed)
    settings: dict[str, Any] = {
        model: _config_value(recipe.model),
        served_as: _config_value(recipe.served_as),
        host: recipe.host,
        port: PORT,
    }
    remarks = list(recipe.remarks)
    if names := [*recipe.env, *recipe.secrets]:
        remarks.append(f"Set in its environment: {', '.join(names)}.")
    for flag, *values in _flags(recipe.settings):
        name, joins, text = (flag.prefix + flag.value).removeprefix("--").partition("=")
        if any(word.kind == "secret" for word in (flag, *values)):
            remarks.append(f"--{name} holds a secret: say it on the command line.")
        elif joins:
            value = _config_value(text)
            if not isinstance(value, str):
                settings[name] = value
            elif joined:
                settings[f"{name}={text}"] = True
            else:
                remarks.append(f"--{name}={text} cannot be told here: say it on the command line.")
        else:
            texts = [_config_value(word.prefix + word.value) for word in values]
            settings[name] = texts if len(texts) > 1 else texts[0] if texts else True
    return yaml_text(remarks, settings)


def _docker_mount(recipe: Recipe) -> str:
    if recipe.local:
        # The value is a line of CSV, in which a field with commas is quoted.
        source = '"source={}"'.format(recipe.model.replace('"', '""'))
        return f"--mount {shlex.quote(f'type=bind,{source},target={MOUNTED_MODEL},readonly')}"
    return f'--volume "${{HF_HOME:-$HOME/.cache/huggingface}}:{recipe.container.cache}"'


def _compose_mount(recipe: Recipe) -> dict[str, Any]:
    if recipe.local:
        return {"type": "bind", "source": _doubled(recipe.model), "target": MOUNTED_MODEL, "read_only": True}
    return {
        "type": "bind",
        "source": "${HF_HOME:-${HOME}/.cache/huggingface}",
        "target": recipe.container.cache,
        "bind": {"create_host_path": True},
    }


def _compose_health(recipe: Recipe) -> dict[str, Any]:
    """Ask from inside the container, past any proxy that its environment names."""
    url = f"http://127.0.0.1:{PORT}{recipe.health}"
    ask = f"import urllib.request as r; r.build_opener(r.ProxyHandler({{}})).open({url!r}, timeout=5)"
    return {
        "test": ["CMD", recipe.container.entry[0], "-c", ask],
        "interval": f"{_HEALTH_EVERY_S}s",
        "timeout": f"{_HEALTH_EVERY_S}s",
        "start_period": f"{round(recipe.start_s)}s",
    }


def _doubled(text: str) -> str:
    """Keep Compose from filling in variables."""
    return text.replace("$", "$$")


def _flags(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Group each flag with the values behind it; none of them begins with dashes, see `to_argv`."""
    group: list[Word] = []
    for word in words:
        if (word.prefix + word.value).startswith("--") and group:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _config_value(text: str) -> str | int | float:
    """Return a number for what an engine writes back as it stands; it takes every value for the text of an argument."""
    for number in (int, float):
        try:
            if str(number(text)) == text and re.fullmatch(r"-?\d+(?:\.\d+)?", text):
                return number(text)
        except ValueError:
            continue
    return text
