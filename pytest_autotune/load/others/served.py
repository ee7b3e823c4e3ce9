"""Which tokenizer a tool should load, asked of the server when nobody has said."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from pytest_autotune.errors import BenchmarkError

if TYPE_CHECKING:
    from pytest_autotune.load.generator import Target

_ASK_S = 10.0


def tokenizer_of(target: Target, named: str | None, tool: str) -> str:
    """Return `named`, else what the server says its model is: a name of the hub, or a directory.

    Servers list their model under the name that requests use, which need not be one that can be
    loaded; vLLM and SGLang tell as its `root` what they have loaded.
    """
    if named is not None:
        return named
    problem = "it lists no such model"
    try:
        for model in _models(target):
            if model.get("id") == target.model:
                return str(model.get("root") or target.model)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = str(error)
    raise BenchmarkError(
        f"{tool} needs a tokenizer, and {target.url}/v1/models does not tell the one of {target.model!r} "
        f"({problem}); name it where the load generator is made"
    )


def _models(target: Target) -> list[dict[str, object]]:
    request = urllib.request.Request(f"{target.url}/v1/models", headers=dict(target.headers))  # noqa: S310 - see `refuse`
    context = ssl.create_default_context()
    if not target.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with direct.open(request, timeout=_ASK_S) as answer:
        models: list[dict[str, object]] = json.loads(answer.read())["data"]
    return models
