"""Runs one container in the foreground, as its guard wants it: ``python -m pytest_autotune.deploy.container SPEC``.

A container is no child of whoever asks for it, so it would outlive a guard's processes. This one stands in for it: it
writes what the container says to its own output from the first line, ends as the container does (with its exit status,
or by its signal), and stops and removes it on SIGTERM. What it says itself begins with ``[autotune]``.

SPEC is JSON, see `Spec`. Variables of the container are named in it; their values are in this process's environment
under other names, so that no secret stands on a command line, and none of them means anything to this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import threading
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import docker
import docker.errors
import requests
import urllib3

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


SAYS = "[autotune] "  # begins each line that is not the container's
OUT_OF_MEMORY = "out of memory: "
NO_ANSWER = "no answer of the Docker engine: "
CANNOT_START = 125  # exit status, as of ``docker run``: there was no container, or it could not be started
GIVEN = "PYTEST_AUTOTUNE_GIVES_"  # before the name of a variable of the container
GONE = 1  # exit status: the engine does not answer any more; of the container nothing is known
_LOG_S = 10.0  # for the rest of the output of a container that has ended
_SIGNALLED = 128  # plus a signal: the exit status of a container that one ended


@dataclass(frozen=True, slots=True)
class Spec:
    """What is run."""

    name: str
    image: str
    argv: Sequence[str]  # replaces the image's entrypoint
    variables: Sequence[str]  # names
    labels: Mapping[str, str]
    stop_s: float  # from SIGTERM to SIGKILL
    port: int  # in the container; published on the loopback interface, where Docker finds a free one
    pull: str = "missing"  # or "always", "never"
    gpus: int = 0  # how many of any
    devices: Sequence[str] = ()  # or these, by UUID
    volumes: Sequence[str] = ()  # source:target:mode
    options: Mapping[str, Any] = field(default_factory=dict)  # more of docker-py's ``containers.create``

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))


class _Stopped(Exception):
    """SIGTERM was received."""


def main(text: str) -> NoReturn:
    """Run the container of a `Spec`, and end as it does."""
    written: dict[str, Any] = json.loads(text)
    spec = Spec(**written)

    def stop(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Stopped

    signal.signal(signal.SIGTERM, stop)
    status = CANNOT_START
    try:
        client = docker.from_env()
        with contextlib.closing(client):
            status = _run(client, spec)
    except _Stopped:
        pass
    except docker.errors.ImageNotFound as error:
        _say(f"{_told(error)}: docker pull {spec.image}, or name another one (docker: image)")
    except docker.errors.DockerException as error:
        _say(_told(error))
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        _say(f"{NO_ANSWER}{error}")
        status = GONE
    _end(status)


def _run(client: docker.DockerClient, spec: Spec) -> int:
    _fetch(client, spec)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # half a creation could not be taken back
    container = client.containers.create(
        spec.image,
        list(spec.argv[1:]),
        entrypoint=[spec.argv[0]],
        name=spec.name,
        environment={name: os.environ[GIVEN + name] for name in spec.variables},
        labels=dict(spec.labels),
        ports={f"{spec.port}/tcp": ("127.0.0.1", None)},
        volumes=list(spec.volumes),
        device_requests=device_requests(spec),
        **{**spec.options, "ulimits": [_ulimit(text) for text in spec.options.get("ulimits", ())]},
    )
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        digests = ", ".join(container.image.attrs.get("RepoDigests") or ()) or "of no registry"
        _say(f"container {container.short_id} of {spec.image} ({container.image.id}; {digests})")
        # Attached before it runs: of one that is gone at once, no line is lost.
        follower = threading.Thread(target=_follow, args=[container.attach(stream=True, logs=True)], daemon=True)
        container.start()
        follower.start()
        status: int = container.wait()["StatusCode"]
        follower.join(_LOG_S)
        container.reload()
        if told := _ended(container.attrs):
            _say(told)
    except _Stopped:
        container.stop(timeout=max(round(spec.stop_s), 1))
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(docker.errors.NotFound, requests.exceptions.RequestException):
            container.remove(force=True, v=True)
    return status


def device_requests(spec: Spec) -> list[docker.types.DeviceRequest]:
    """Return what asks Docker for the GPUs of a container: certain ones, or a number of any; nothing for none."""
    if spec.devices:
        return [docker.types.DeviceRequest(device_ids=list(spec.devices), capabilities=[["gpu"]])]
    return [docker.types.DeviceRequest(count=spec.gpus, capabilities=[["gpu"]])] if spec.gpus else []


def _ulimit(text: str) -> docker.types.Ulimit:
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    return docker.types.Ulimit(name=name, soft=int(soft), hard=int(hard or soft))


def _fetch(client: docker.DockerClient, spec: Spec) -> None:
    """Pull the image where that is asked for; progress goes to the output."""
    if spec.pull != "always":
        try:
            client.images.get(spec.image)
        except docker.errors.ImageNotFound:
            if spec.pull == "never":
                raise
        else:
            return
    _say(f"pulling {spec.image}")
    shown = ""
    for event in client.api.pull(spec.image, stream=True, decode=True):
        if "error" in event:
            raise docker.errors.APIError(event["error"])
        line = " ".join(filter(None, (event.get("id"), event.get("status"))))
        if line != shown:
            shown = line
            _say(line)


def _follow(output: Any) -> None:
    with contextlib.suppress(requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError):
        for piece in output:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def _ended(attributes: Mapping[str, Any]) -> str:
    """Say what the state of a container that has ended tells beyond its exit status; empty for nothing."""
    state, limit = attributes["State"], attributes["HostConfig"].get("Memory") or 0
    if state.get("OOMKilled"):
        of = f" of {limit / 2**20:.0f} MiB" if limit else ""
        return f"{OUT_OF_MEMORY}it ran into its memory limit{of}"
    return f"the container ended: {state['Error']}" if state.get("Error") else ""


def _told(error: docker.errors.DockerException) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def _say(line: str) -> None:
    sys.stdout.write(f"{SAYS}{line}\n")
    sys.stdout.flush()


def _end(status: int) -> NoReturn:
    """End with the status of the container; by its signal, if one ended it, so that nobody has to know of Docker."""
    number = status - _SIGNALLED
    if number in signal.valid_signals():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(status)  # the thread that reads the log may wait for ever


if __name__ == "__main__":
    main(sys.argv[1])
