"""What a server remembers of earlier batches: emptied before each, so that none is faster for what was sent before."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pytest_autotune.control import Control, ControlError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Abilities

log = logging.getLogger(__name__)

BUSY_S = 3.0  # for an answer, and for requests that were cut off to give back what they hold
_PAUSE_S = 0.05


def empty_prefix_cache(url: str, abilities: Abilities, *, headers: Mapping[str, str]) -> str:
    """Empty a server's prefix cache; return why it may still hold something, empty when it holds nothing.

    An engine refuses while a request holds blocks, and says so: ``{"success": false}`` (of vLLM, since
    vllm/entrypoints/serve/dev/cache/api_router.py has an answer). One that answers without a word is believed.
    """
    if abilities.reset_prefix_cache is None:
        return "this engine cannot empty its prefix cache"
    control, deadline = Control(url, headers=headers, timeout_s=BUSY_S), time.monotonic() + BUSY_S
    while True:
        try:
            answer = control.reset_prefix_cache(abilities.reset_prefix_cache)
            emptied = not answer.body.strip().startswith(b"{") or answer.json().get("success", True)
        except ControlError as error:
            log.warning("prefix cache not emptied: %s", error)
            return f"its prefix cache was not emptied: {error.problem}"
        if emptied:
            return ""
        if time.monotonic() >= deadline:
            return f"its prefix cache was not emptied: after {BUSY_S:g} s requests still held parts of it"
        time.sleep(_PAUSE_S)
