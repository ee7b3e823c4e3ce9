"""What the Docker engine says when there is no container, or no more of it, and what kind of failure that is.

The texts are those of the engine and of registries; ``tests/test_docker_errors.py`` names reports of some, and
``tests/test_deploy_docker.py`` provokes the others.
"""

from __future__ import annotations

import re

from pytest_autotune.engines.engine import Cause, CauseKind

_IMAGE = (  # a registry calls what it does not have denied, too
    r"manifest unknown|manifest .*not found|no such image|pull access denied|repository .* not found"
    r"|access to the (?:requested )?resource is denied|no basic auth credentials|unauthorized|authentication required"
    r"|invalid reference format|no matching manifest"
)
_PORT = r"port is already allocated|address already in use"
_DRIVER = r"could not select device driver|nvidia-container-cli|unknown device vendor"
_INFRASTRUCTURE = (
    r"no space left on device|connection refused|connection reset|no such host|i/o timeout|tls handshake timeout"
    r"|network is unreachable|temporary failure in name resolution|server misbehaving|context deadline exceeded"
    r"|request canceled|unexpected eof|: eof$|toomanyrequests|too many requests"
    r"|received unexpected http status: 5\d\d|service unavailable|bad gateway"
)
_KINDS = {  # the first that matches
    CauseKind.IMAGE: _IMAGE,
    CauseKind.PORT: _PORT,
    CauseKind.DRIVER: _DRIVER,
    CauseKind.INFRASTRUCTURE: _INFRASTRUCTURE,
}
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _KINDS.items())


def cause_of(said: str, line: str) -> Cause:
    """Return what kind of failure the engine speaks of; `line` is the one in the log that quotes it."""
    kind = next((kind for kind, pattern in _PATTERNS if pattern.search(said)), CauseKind.CRASH)
    return Cause(kind, f"no container: {said}", (line,))
