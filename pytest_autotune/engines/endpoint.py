"""A server that is already running: nothing is started, configured or stopped."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines.engine import Abilities, Cause, Command, Engine, Installed
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.load.plan import headers_of
from pytest_autotune.spelling import nearest
from pytest_autotune.variables import expand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

_ANSWER_S = 10.0


class EndpointEngine(Engine):
    """An OpenAI-compatible endpoint by its URL."""

    name = "endpoint"
    abilities = Abilities()
    memory_knobs: Mapping[str, Knob] = MappingProxyType({})

    def inspect(self, suite: Suite) -> Installed:
        """Ask the endpoint for its models."""
        try:
            listed_model(suite)
        except MissingRequirement as error:
            return Installed(missing=(str(error),))
        return Installed()

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:  # noqa: ARG002
        """Raise `SuiteError`: there is nothing to start."""
        raise suite.error("engine: endpoint starts no server: use deploy: endpoint")

    def gpus(self, suite: Suite, configuration: Configuration) -> int:  # noqa: ARG002
        """Return `suite.gpus`, else 0: an endpoint does not tell."""
        return suite.gpus or 0

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:  # noqa: ARG002
        """Return nothing: it runs."""
        return None


def listed_model(suite: Suite) -> str:
    """Return the model that the endpoint is to be asked for: `model_name`, else `model`, else the only one it lists.

    Raise `MissingRequirement` when it does not answer, or lists something else.
    """
    url = expand(suite.url or "", key="url").rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise suite.error(f"url: {url!r} does not begin with http:// or https://")
    try:
        request = urllib.request.Request(f"{url}/v1/models", headers=headers_of(suite.load))  # noqa: S310 - checked above
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310 - checked above
            listed = [str(model["id"]) for model in json.load(answer)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise MissingRequirement(f"no server lists its models at {url}/v1/models: {reason}") from error
    wanted = suite.model_name or suite.model
    if wanted is None and len(listed) == 1:
        return listed[0]
    if wanted in listed:
        return wanted
    if wanted is None:
        raise MissingRequirement(f"say model_name: which of {', '.join(listed)} at {url} is meant")
    raise MissingRequirement(f"{url} does not serve {wanted!r}{nearest(wanted, listed)}: it lists {', '.join(listed)}")
