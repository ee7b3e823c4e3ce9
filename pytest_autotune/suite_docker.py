"""`docker:` of a suite: the image that its servers are containers of, and what a container gets of the machine."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pytest_autotune.fields import Block, PositiveSize, Text, Texts


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

    def options(self) -> dict[str, Any]:
        """Return what it comes to as keywords of docker-py's ``containers.create``."""
        given = {
            "shm_size": self.shm_bytes,
            "mem_limit": self.memory_bytes,
            "memswap_limit": self.memory_bytes,  # of both together: no swap
            "ipc_mode": self.ipc,
            "network": self.network,
            "user": self.user,
        }
        return {name: value for name, value in given.items() if value is not None}
