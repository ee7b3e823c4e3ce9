"""`docker:` of a suite: the image that its servers are containers of, and what a container gets of the machine."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from pytest_autotune.fields import Block, PositiveSize, Text, Texts, as_written, read_mapping, unknown_key
from pytest_autotune.problems import Collector
from pytest_autotune.spelling import show

if TYPE_CHECKING:
    from collections.abc import Mapping

Shape = Literal["list", "text", "switch"]

RUN: Mapping[str, tuple[str, Shape]] = MappingProxyType(
    {  # flags of ``docker run`` -> the keyword of docker-py's ``containers.create``, and what is given
        "cap-add": ("cap_add", "list"),
        "cap-drop": ("cap_drop", "list"),
        "security-opt": ("security_opt", "list"),
        "device": ("devices", "list"),
        "ulimit": ("ulimits", "list"),
        "group-add": ("group_add", "list"),
        "cpuset-cpus": ("cpuset_cpus", "text"),
        "cpuset-mems": ("cpuset_mems", "text"),
        "runtime": ("runtime", "text"),
        "hostname": ("hostname", "text"),
        "privileged": ("privileged", "switch"),
        "init": ("init", "switch"),
        "read-only": ("read_only", "switch"),
    }
)
_OURS = "set by the deployment, which finds, watches and removes the container by it"
_KEYS = {"memory": "memory", "shm-size": "shm", "ipc": "ipc", "network": "network", "user": "user", "volume": "volumes"}
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("name", "detach", "rm", "label", "publish", "publish-all", "entrypoint", "restart"), _OURS),
        **{flag: f"write docker: {{{key}: ...}}" for flag, key in _KEYS.items()},
        "pull": "write docker: {pull: ...}",
        "env": "write env: {NAME: value}",
        "gpus": "write gpus: ..., by which they are leased",
    }
)
_FORMS = {"list": "a list of texts, e.g. [SYS_NICE]", "text": "a text", "switch": "true or false"}


def read_run(value: Any) -> dict[str, tuple[str, ...] | str | bool]:
    """Return flags of ``docker run`` by their names without dashes; raise `Problems` for what may not be set."""
    collector = Collector()
    given = {}
    for flag, written in read_mapping(value).items():
        if flag in REFUSED:
            collector.note((flag,), f"not to be set here: {REFUSED[flag]}")
        elif flag not in RUN:
            collector.note((flag,), unknown_key(flag, tuple(RUN)))
        else:
            given[flag] = collector.read((flag,), lambda text, flag=flag: _read_value(flag, text), written)
    collector.finish()
    return given


def _read_value(flag: str, value: Any) -> tuple[str, ...] | str | bool:
    shape = RUN[flag][1]
    if shape == "list" and isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
        problem = next(filter(None, map(_ulimit_problem, value)), "") if flag == "ulimit" else ""
        if problem:
            raise ValueError(problem)
        return tuple(value)
    if shape == "text" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # cpuset-cpus: 3
    if (shape == "text" and isinstance(value, str) and value) or (shape == "switch" and isinstance(value, bool)):
        return value
    raise ValueError(f"{show(value)} is not {_FORMS[shape]}")


def _ulimit_problem(text: str) -> str:
    name, equals, limits = text.partition("=")
    numbers = limits.split(":")
    if name and equals and len(numbers) <= 2 and all(number.removeprefix("-").isdigit() for number in numbers):
        return ""
    return f"{show(text)} is no limit; write name=soft or name=soft:hard, e.g. memlock=-1"


Run = Annotated[
    dict[str, tuple[str, ...] | str | bool],
    as_written(read_run),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                flag: {
                    "list": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
                    "text": {"type": ["string", "integer"]},
                    "switch": {"type": "boolean"},
                }[shape]
                for flag, (_, shape) in RUN.items()
            },
            "additionalProperties": False,
        }
    ),
]


class DockerBlock(Block):
    """`docker:` of `deploy: docker`."""

    image: Text | None = Field(
        default=None,
        description="Image of the servers, with its tag or digest.",
        examples=["vllm/vllm-openai:v0.11.0"],
    )
    pull: Literal["missing", "always", "never"] = Field(
        default="missing", description="When the image is pulled: where it is missing, before each server, or never."
    )
    shm_bytes: PositiveSize = Field(
        default=16 * 2**30,
        alias="shm",
        description="Size of /dev/shm, through which the processes of a server talk. It takes what is used of it.",
        examples=["16GiB"],
    )
    memory_bytes: PositiveSize | None = Field(
        default=None, alias="memory", description="Limit of the container's memory.", examples=["64GiB"]
    )
    ipc: Text | None = Field(default=None, description="IPC namespace: host, or the engine's default.")
    network: Text | None = Field(
        default=None, description="Network that the container joins. Default: the engine's bridge."
    )
    user: Text | None = Field(default=None, description="User in the container, e.g. 1000:1000.")
    volumes: Texts = Field(
        default=(),
        description="Directories of this machine that the container sees: source:target or source:target:ro.",
        examples=[["/data/models:/data/models:ro"]],
    )

    run: Run = Field(
        default_factory=dict,
        description="More flags of docker run, without their dashes.",
        examples=[{"cap-add": ["SYS_NICE"], "ulimit": ["memlock=-1"]}],
    )

    def options(self) -> dict[str, Any]:
        """Return what it comes to as keywords of docker-py's ``containers.create``."""
        given = {
            "shm_size": self.shm_bytes,
            "mem_limit": self.memory_bytes,
            "memswap_limit": self.memory_bytes,  # of both together: no swap
            "ipc_mode": self.ipc,
            "network": self.network,
            "user": self.user,
            **{RUN[flag][0]: value for flag, value in self.run.items()},
        }
        return {name: value for name, value in given.items() if value is not None}
