"""Which published image runs an engine's server, and which part of a command line its container gets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of each engine: the module that an interpreter runs, and the flags of model, served name, host and port behind it.
_SERVERS = {
    "vllm": (
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", "--served-model-name", "--host", "--port"),
    ),
    "sglang": (
        *("-m", "sglang.launch_server"),
        *("--model-path", "--served-model-name", "--host", "--port"),
    ),
}
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
    addressed: tuple[str, ...]  # the flags of model, served name, host and port


def container_of(engine: str, version: str, *, gpus: int) -> Container | None:
    """Return the image for that version; None for an engine without one.

    SGLang's are named by its documentation, docs/get-started/install: one for each release, for CUDA.
    """
    if engine not in _SERVERS:
        return None
    release = _RELEASE.fullmatch(version) if gpus or engine == "vllm" else None
    ours = "vllm/vllm-openai" if gpus else "public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo"
    return Container(
        repository="lmsysorg/sglang" if engine == "sglang" else ours,
        tag=f"v{release['public']}" if release else "",
        entry=("python3", *_SERVERS[engine][:2]),
        token="HF_TOKEN",  # noqa: S106 - the name of a variable
        cache="/root/.cache/huggingface",
        addressed=_SERVERS[engine][2:],
    )


def settings_start(argv: Sequence[str]) -> int | None:
    """Return where the settings of a server begin that this package started; None for any other command line.

    Before them is what starts it, and the model, the name it is served under, host and port, each behind its flag.
    """
    known = {server[:2]: server[2:] for server in _SERVERS.values()}
    for start in range(2, len(argv)):
        addressed = known.get((argv[start - 2], argv[start - 1]))
        if addressed is not None:
            end = start + 2 * len(addressed)
            return end if end <= len(argv) and tuple(argv[start:end:2]) == addressed else None
    return None
