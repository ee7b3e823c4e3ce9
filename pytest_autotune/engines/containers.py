"""Which published image runs an engine's server, and which part of a command line its container gets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODULE = ("-m", "vllm.entrypoints.openai.api_server")
_ADDRESSED = ("--model", "--served-model-name", "--host", "--port")
_RELEASE = re.compile(r"(?P<public>\d+(?:\.\d+)+(?:rc\d+|\.post\d+)?)(?:\+[\w.]+)?")

# What the server needs to be measured, and what says something of one machine only.
LEFT_OUT = frozenset(
    (
        *(
            "VLLM_SERVER_DEV_MODE",
            "CUDA_VISIBLE_DEVICES",
            "HOME",
            "PATH",
            "PYTHONPATH",
            "LD_LIBRARY_PATH",
            "LD_PRELOAD",
        ),
        *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
    )
)


@dataclass(frozen=True, slots=True)
class Container:
    """How an engine's image starts its server.

    `entry` takes the place of the image's own entrypoint, which is another one in each generation of images.
    """

    repository: str
    tag: str  # empty where no image of that version was published
    entry: tuple[str, ...]
    token: str  # the variable that opens gated models
    cache: str  # where the image keeps what it downloads


def container_of(engine: str, version: str, *, gpus: int) -> Container | None:
    """Return the image for that version; None for an engine without one."""
    if engine != "vllm":
        return None
    release = _RELEASE.fullmatch(version)
    return Container(
        repository="vllm/vllm-openai" if gpus else "public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo",
        tag=f"v{release['public']}" if release else "",
        entry=("python3", *_MODULE),
        token="HF_TOKEN",  # noqa: S106 - the name of a variable
        cache="/root/.cache/huggingface",
    )


def settings_start(argv: Sequence[str]) -> int | None:
    """Return where the settings of a server begin that this package started; None for any other command line.

    Before them is what starts it, and the model, the name it is served under, host and port, each behind its flag.
    """
    for start in range(2, len(argv) - 2 * len(_ADDRESSED) + 1):
        if tuple(argv[start - 2 : start]) == _MODULE:
            end = start + 2 * len(_ADDRESSED)
            return end if tuple(argv[start:end:2]) == _ADDRESSED else None
    return None
