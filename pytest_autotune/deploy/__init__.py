"""Ways to run a model server, and to leave nothing of it behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.deploy.server import Deployer


BUILTIN = ("local", "docker", "endpoint")


def builtin_deployer(name: str) -> Deployer | None:
    """Return the deployer for ``deploy: name``, or None for a name that no built-in one has."""
    from pytest_autotune.deploy.docker import DockerDeployer
    from pytest_autotune.deploy.endpoint import EndpointDeployer
    from pytest_autotune.deploy.local import LocalDeployer

    makers: tuple[Callable[[], Deployer], ...] = (LocalDeployer, DockerDeployer, EndpointDeployer)
    return makers[BUILTIN.index(name)]() if name in BUILTIN else None
