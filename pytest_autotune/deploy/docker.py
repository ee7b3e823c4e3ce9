"""Deploying a server as a container of the Docker engine."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from pytest_autotune.deploy import cores, gpus, leftovers
from pytest_autotune.deploy.docker_errors import cause_of
from pytest_autotune.deploy.guarded import GuardedProcess
from pytest_autotune.deploy.guarded_server import GuardedServer, NotReady
from pytest_autotune.deploy.serverlog import open_log
from pytest_autotune.engines.engine import Address, Cause, CauseKind
from pytest_autotune.engines.requirements import environment_of, gpus_here, hub_cache, model_of
from pytest_autotune.errors import DeployError, Infeasible, MissingRequirement
from pytest_autotune.suite_docker import RUN
from pytest_autotune.variables import expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from docker import DockerClient

    from pytest_autotune.deploy.container import Spec
    from pytest_autotune.deploy.server import Launch
    from pytest_autotune.engines.installation import Run
    from pytest_autotune.suite import Suite

_logger = logging.getLogger(__name__)

LABEL = "pytest-autotune.owner"  # of every container: who deployed it, see `leftovers.owner_id`
PORT = 8000  # in the container, whose ports are its own
_REMOVAL_S = 10.0  # beyond the grace: for the engine to stop and remove a container
_PROXIES = re.compile(r"(?:https?|all|no)_proxy", re.IGNORECASE)
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # of gated models
_OPTIONS = {  # of docker-py, as ``docker run`` has them
    "shm_size": "shm-size",
    "mem_limit": "memory",
    "memswap_limit": "memory-swap",
    "ipc_mode": "ipc",
    "network": "network",
    "user": "user",
    "cpuset_cpus": "cpuset-cpus",
}
_CACHE = "/models"  # in the container: the cache of hub models
_WITHOUT_FILES = ("sim",)  # engines whose model is but a name
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


class DockerDeployer:
    """Runs each server in a container of its own, in the image that the suite names."""

    @contextlib.contextmanager
    def deploy(self, launch: Launch) -> Iterator[DockerServer]:
        """Start a container, wait until its server is ready, and remove it on exit."""
        with contextlib.ExitStack() as held:
            client = held.enter_context(contextlib.closing(connect()))
            taken = held.enter_context(gpus.leased(launch)), held.enter_context(cores.leased(launch))
            yield _start(client, launch, *taken, held)

    def missing(self, suite: Suite) -> tuple[str, ...]:
        """Say that there is no Docker engine here, or not the image that is not to be pulled."""
        try:
            with contextlib.closing(connect()) as client:
                return tuple(filter(None, [_missing_image(client, suite)]))
        except (DeployError, MissingRequirement) as error:
            return (str(error),)

    def sweep(self) -> tuple[str, ...]:
        """Remove the containers of dead runs; return one line for each. Nothing where there is no Docker engine."""
        try:
            client = connect()
        except (DeployError, MissingRequirement):
            return ()
        with contextlib.closing(client):
            found = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
            dead = [one for one in found if leftovers.owner_alive(one.labels[LABEL]) is False]
            for container in dead:
                _remove(client, container.id)
            return tuple(f"removed container {one.name}, left behind by the dead run {_run_of(one)}" for one in dead)


class DockerServer(GuardedServer):
    """A running server in a container; what is guarded is the process that stands in for it (`container`)."""

    def __init__(self, client: DockerClient, spec: Spec, launch: Launch, **started: Any) -> None:
        super().__init__(launch, url="", argv=_command_line(spec, launch.suite.env), **started)
        self._client = client
        self._name = spec.name

    def why_gone(self) -> Cause:
        """Classify the end; where Docker tells more of it than the log does, by that."""
        from pytest_autotune.deploy import container

        said = [line for line in self.log_tail().splitlines() if line.startswith(container.SAYS)]
        last = said[-1].removeprefix(container.SAYS) if said else ""
        if last.startswith(container.OUT_OF_MEMORY):
            said_of_it = last.removeprefix(container.OUT_OF_MEMORY)
            return Cause(CauseKind.OUT_OF_MEMORY, said_of_it, (said[-1],), of="container")
        if self.process.returncode == container.CANNOT_START and last:
            return cause_of(last, said[-1])
        if last.startswith(container.NO_ANSWER):
            return Cause(CauseKind.INFRASTRUCTURE, last, (said[-1],))
        return super().why_gone()

    def absent(self) -> str | None:
        """Say that the container does not run yet; its port on this machine is known from then on."""
        import docker.errors
        import requests

        try:
            attributes = self._client.containers.get(self._name).attrs
        except docker.errors.NotFound:
            return "there is no container yet"
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            return str(error)
        state = attributes["State"]["Status"]
        published = attributes["NetworkSettings"]["Ports"].get(f"{PORT}/tcp")
        if state != "running" or not published:
            return f"the container is {state}"
        self.url = f"http://{published[0]['HostIp']}:{published[0]['HostPort']}"
        return None


def connect() -> DockerClient:
    """Return a client of the Docker engine that the environment names (``DOCKER_HOST``); it is to be closed.

    Raises `MissingRequirement` without the library, `DeployError` when no engine answers.
    """
    try:
        import docker
    except ImportError:
        raise MissingRequirement("deploy: docker needs docker-py: pip install 'pytest-autotune[docker]'") from None
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        _knock(where)
        with contextlib.ExitStack() as undo:
            client = undo.enter_context(contextlib.closing(docker.from_env()))
            client.ping()
            undo.pop_all()
    except (OSError, docker.errors.DockerException) as error:
        raise DeployError(f"no Docker engine answers at {where}: {error}; start it, or set DOCKER_HOST") from error
    return client


def in_container(suite: Suite) -> Run:
    """Return what runs a command in a container of the suite's image, which is pulled if it has to be; it is removed.

    It raises `MissingRequirement` where there is no engine or image, `subprocess.TimeoutExpired` as on this machine.
    """

    def run(argv: Sequence[str], env: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        try:
            with contextlib.closing(connect()) as client:
                return _run_once(client, suite, argv, env, timeout_s)
        except DeployError as error:
            raise MissingRequirement(str(error)) from error

    return run


def _run_once(
    client: DockerClient, suite: Suite, argv: Sequence[str], env: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    import docker
    import requests

    if missing := _missing_image(client, suite):
        raise MissingRequirement(missing)
    name = image_of(suite)
    devices = [docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])] if gpus_here(suite) else []
    try:
        try:
            client.images.get(name)
        except docker.errors.ImageNotFound:
            _logger.warning("pulling %s", name)
            client.images.pull(name)
        container = client.containers.create(
            name,
            list(argv[1:]),
            entrypoint=[argv[0]],
            environment=dict(env),
            labels={LABEL: leftovers.owner_id("preflight")},
            volumes=_volumes(suite),
            device_requests=devices,
        )
    except docker.errors.DockerException as error:
        raise MissingRequirement(f"docker.image: {name}: {error}") from error
    try:
        container.start()
        status = container.wait(timeout=timeout_s)["StatusCode"]
        told = [container.logs(stdout=out, stderr=not out).decode(errors="replace") for out in (True, False)]
        return subprocess.CompletedProcess(list(argv), status, *told)
    except requests.exceptions.ReadTimeout:
        raise subprocess.TimeoutExpired(list(argv), timeout_s) from None
    except docker.errors.DockerException as error:
        raise MissingRequirement(f"docker.image: {name}: {error}") from error
    finally:
        _remove(client, container.id)


def _missing_image(client: DockerClient, suite: Suite) -> str | None:
    import docker.errors

    name = image_of(suite)
    if suite.docker.pull != "never":
        return None
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return f"docker.image: there is no image {name}, and docker.pull is never: docker pull {name}"
    return None


def image_of(suite: Suite) -> str:
    """Return the image of the suite's servers."""
    return expand(suite.docker.image or "", key="docker.image")


def image_digest(suite: Suite) -> str:
    """Return what tells the image of the suite's servers from others that had its tag; its name where nobody tells.

    It is the registry's digest, else the id of an image that was made here. Where the next server would pull it, the
    registry is asked.
    """
    name = image_of(suite)
    if "@" in name:
        return name.partition("@")[2]
    try:
        client = connect()
    except (DeployError, MissingRequirement):
        return name  # what is wrong, the deployment tells
    with contextlib.closing(client):
        return _digest_here(client, name, suite.docker.pull) or name


def _digest_here(client: DockerClient, name: str, pull: str) -> str:
    import docker.errors
    import requests

    try:
        if pull == "always":
            return str(client.images.get_registry_data(name).id)
        try:
            image = client.images.get(name)
        except docker.errors.ImageNotFound:
            return "" if pull == "never" else str(client.images.get_registry_data(name).id)
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return ""
    digests = [one.partition("@") for one in image.attrs["RepoDigests"] or ()]
    ours = [digest for repository, _, digest in digests if name.startswith(repository)]
    return str(next(iter(ours or [digest for _, _, digest in digests]), image.id))


def _knock(where: str) -> None:
    """Raise `OSError` where nobody listens on a socket in the file system: docker-py would leave its own one open."""
    scheme, _, path = where.partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)


def _start(
    client: DockerClient, launch: Launch, taken: gpus.Lease, processors: cores.Lease, held: contextlib.ExitStack
) -> DockerServer:
    """Return a ready server whose teardown is pushed to `held`."""
    from pytest_autotune.deploy.container import GIVEN, Spec

    suite = launch.suite
    name = f"{suite.model_name or suite.name}-{secrets.token_hex(4)}"
    own_name = launch.engine.abilities.own_name
    served = own_name(model_of(suite)) if own_name else name
    # Every interface: what the engine publishes comes in from outside of the container.
    command = launch.engine.command(suite, launch.configuration, Address("0.0.0.0", PORT, served))  # noqa: S104
    variables = {
        "PYTHONUNBUFFERED": "1",
        **processors.variables,
        "HF_HUB_CACHE": _CACHE,
        **_inherited(),
        **suite.env,
        **command.env,
        **taken.note,
    }
    if taken.uuids:  # a container sees no others, and counts them anew
        variables.pop("CUDA_VISIBLE_DEVICES", None)
    spec = Spec(
        name=name,
        image=image_of(suite),
        argv=command.argv,
        variables=tuple(variables),
        labels={LABEL: launch.owner, "pytest-autotune.suite": suite.name},
        stop_s=suite.timeouts.stop_s,
        pull=suite.docker.pull,
        port=PORT,
        gpus=0 if taken.gpus else launch.gpus,
        devices=taken.uuids,
        volumes=_volumes(suite),
        options={**suite.docker.options(), **processors.options},
    )
    log = open_log(launch.log)
    held.callback(_await_removal, client, name)
    try:
        process = GuardedProcess(
            [sys.executable, "-m", "pytest_autotune.deploy.container", spec.text()],
            env={
                **os.environ,
                **{GIVEN + name: value for name, value in variables.items()},
                leftovers.OWNER: launch.owner,
            },
            output=log.fd,
            grace_s=suite.timeouts.stop_s + _REMOVAL_S,
            keep=(*taken.fds, *processors.fds),
        )
    finally:
        os.close(log.fd)
    held.enter_context(process)
    server = DockerServer(client, spec, launch, model_name=served, log=log, process=process, gpus=taken.real)
    try:
        server.await_ready()
    except NotReady as failure:
        cause = failure.cause or server.why_gone()
        error = Infeasible if cause.kind.finding else DeployError
        raise error(str(cause), log_tail=server.log_tail(), cause=cause) from failure.__cause__
    return server


def _command_line(spec: Spec, named: Iterable[str]) -> tuple[str, ...]:
    """Return what starts the same server by hand; the variables that are `named` are taken from the environment."""
    options = [f"--publish=127.0.0.1:{PORT}:{spec.port}", f"--entrypoint={spec.argv[0]}"]
    options += [f"--env={name}" for name in named]
    options += [f"--volume={volume}" for volume in spec.volumes]
    options += [f"--env=HF_HUB_CACHE={_CACHE}"] if any(f":{_CACHE}:" in volume for volume in spec.volumes) else []
    options += [f"--gpus={spec.gpus}"] if spec.gpus else []
    options += [f'--gpus="device={",".join(spec.devices)}"'] if spec.devices else []
    options += [f"--{_OPTIONS[name]}={value}" for name, value in spec.options.items() if name in _OPTIONS]
    for name, value in spec.options.items():
        if name not in _OPTIONS:
            flag = next(flag for flag, (keyword, _) in RUN.items() if keyword == name)
            values = value if isinstance(value, list | tuple) else [value]
            options += [f"--{flag}={str(one).lower() if isinstance(one, bool) else one}" for one in values]
    return ("docker", "run", "--rm", *options, spec.image, *spec.argv[1:])


def _inherited() -> dict[str, str]:
    """Return what a container gets of our own environment: proxies, none of them for itself, and tokens of the hub."""
    found = {name: value for name, value in os.environ.items() if _PROXIES.fullmatch(name) or name in _TOKENS}
    if any(not name.lower().startswith("no_") for name in found if _PROXIES.fullmatch(name)):
        for name in ("NO_PROXY", "no_proxy"):
            found[name] = ",".join(dict.fromkeys([*filter(None, found.get(name, "").split(",")), *_LOOPBACK_NAMES]))
    return found


def _volumes(suite: Suite) -> list[str]:
    """Return the mounts, ``source:target:mode``: those of the suite, and a local model at its own path, read-only."""
    mounts = []
    for text in suite.docker.volumes:
        source, target, mode = (*expand(text, key="docker.volumes").split(":"), "rw")[:3]
        mounts.append(f"{(suite.path.parent / os.path.expanduser(source)).absolute()}:{target}:{mode}")  # noqa: PTH111
    model = model_of(suite)
    if model.startswith("/"):
        mounts.append(f"{model}:{model}:ro")
    elif model and suite.engine not in _WITHOUT_FILES:
        mounts.append(f"{_cache_of(suite)}:{_CACHE}:rw")
    return mounts


def _cache_of(suite: Suite) -> Path:
    """Return the cache of hub models on this machine, which is made: else Docker would, and as root."""
    cache = hub_cache({**os.environ, **environment_of(suite)})
    cache.mkdir(parents=True, exist_ok=True)
    return cache.absolute()


def _await_removal(client: DockerClient, name: str) -> None:
    """Make sure that the container is gone, whatever became of the process that stood in for it."""
    import docker.errors
    import requests

    deadline = time.monotonic() + _REMOVAL_S
    while time.monotonic() < deadline:
        try:
            container = client.containers.get(name)
            container.remove(force=True, v=True)
        except docker.errors.NotFound:
            return
        except requests.exceptions.RequestException as error:
            _logger.warning(
                "container %s is left to the sweep of a later run: no Docker engine answers: %s", name, error
            )
            return
        except docker.errors.APIError:  # its removal is in progress
            time.sleep(0.1)
    raise DeployError(f"container {name} could not be removed")


def _remove(client: DockerClient, name: str) -> None:
    import docker.errors

    with contextlib.suppress(docker.errors.APIError):  # somebody else removes it
        client.containers.get(name).remove(force=True, v=True)


def _run_of(container: Any) -> str:
    owner: str = container.labels[LABEL]
    return owner.rpartition("/")[0] or owner
